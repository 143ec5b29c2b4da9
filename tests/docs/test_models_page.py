"""docs/models.md says what the code says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from wesp_lap.backends import BACKENDS
from wesp_lap.backends.layer_pool import LAYER_POOLS
from wesp_lap.coerce import Section, parse_yaml
from wesp_lap.config import check_section
from wesp_lap.frontends import FRONTENDS
from wesp_lap.frontends.families import FAMILIES
from wesp_lap.model_sizes import sizes

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
GIVEN = ("num_layers", "input_dim")


def rows(title: str, columns: int) -> list[list[str]]:
    """The rows of the first table whose header begins with ``title``."""
    lines = PAGE[PAGE.index(f"| {title} |") :].splitlines()
    table = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    assert {len(row) for row in table} == {columns}
    return table


def listed(constructor: Callable) -> str:
    parameters = inspect.signature(constructor).parameters.values()
    return ", ".join(
        f"`{parameter.name}` {written(parameter.default)}"
        for parameter in parameters
        if parameter.name not in GIVEN
    )


def written(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else f"{value}"


@pytest.mark.parametrize("title, table", [("`layer_pool.name`", LAYER_POOLS)])
def test_layer_pools(title: str, table: Mapping[str, Callable]) -> None:
    assert rows(title, 2) == [[f"`{name}`", listed(table[name])] for name in table]


def test_frontends_and_backends() -> None:
    frontends = rows("name", 2)
    start = PAGE.index("## Backends")
    backends = PAGE[start:]
    assert frontends == [[f"`{name}`", listed(FRONTENDS[name])] for name in sorted(FRONTENDS)]
    for name, constructor in BACKENDS.items():
        assert f"| `{name}` | {listed(constructor)} |" in backends
    assert re.findall(r"^\| `(\w+)` \| `", backends, re.M)[: len(BACKENDS)] == list(BACKENDS)


def test_model_types() -> None:
    assert {row[0].strip("`") for row in rows("`model_type`", 4)} == set(FAMILIES)


def test_sections_of_the_papers_are_valid() -> None:
    found = re.findall(r"`(\{name: .*?\}|\w+: [^`{]*)`", PAGE[PAGE.index("| paper |") :])
    assert len(found) > 15
    for text in found:
        section = parse_yaml(text if text.startswith("{") else f"{{name: transformer, {text}}}")
        name = section.pop("name")
        table = FRONTENDS if name in FRONTENDS else BACKENDS
        given = () if table is FRONTENDS else GIVEN
        check_section(table, Section(name, section), "page", given)


def test_the_table_of_sizes() -> None:
    expected = [
        [
            size.combination.model,
            size.combination.frontend,
            f"{size.parameters:,}",
            f"{size.frontend_parameters:,}",
            size.combination.paper,
        ]
        for size in sizes()
    ]
    assert rows("model", 5) == expected
