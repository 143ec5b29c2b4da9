"""What the pages say about the code, compared with the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from wesp_lap.training.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
SOURCES = sorted((ROOT / "wesp_lap").rglob("*.py"))
_MADE_BY_THE_READER = (
    "wesp_lap/bin/NAME.py",
    "wesp_lap/backends/mean_pooling.py",
    "wesp_lap/frontends/log_spectrum.py",
)


def read(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def anchors(page: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        goal = page.parent / name if name else page
        assert goal.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(goal.read_text(encoding="utf-8")), f"{page.name}: {target}"


def test_cited_sections_of_the_methods_exist() -> None:
    sections = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", read("methods.md"), re.MULTILINE))
    texts = [*SOURCES, *PAGES, *(ROOT / "egs").rglob("*.yaml")]
    cited: dict[str, Path] = {}
    for path in texts:
        for number in re.findall(
            r"methods\.md[`)]*,\s+section\s+(\d+(?:\.\d+)?)", path.read_text(encoding="utf-8")
        ):
            cited[number] = path
    assert len(cited) > 5, "the pattern has stopped finding citations"
    assert {n: p for n, p in cited.items() if n not in sections} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"wesp_lap\.bin\.([a-z_]+)", text):
        assert (ROOT / "wesp_lap" / "bin" / f"{name}.py").is_file(), name
    for name in re.findall(r"`((?:egs|tools|tests|wesp_lap)/[\w/.]+)`", text):
        made_by_the_reader = name in _MADE_BY_THE_READER
        made_by_a_run = name.startswith(("egs/mini/exp", "egs/mini/data"))
        assert made_by_the_reader or made_by_a_run or (ROOT / name).exists(), name


def test_the_phases_on_the_recipe_page_are_valid(tmp_path: Path) -> None:
    first, second = re.findall(r"^```yaml\n(.*?)^```", read("recipes.md"), re.DOTALL | re.MULTILINE)
    (tmp_path / "wavlm_base_plus_lap.yaml").write_text(first, encoding="utf-8")
    (tmp_path / "mhfa.yaml").write_text(second, encoding="utf-8")
    joint = load_settings(tmp_path / "mhfa.yaml", phase="joint")
    assert joint.frontend.options == {"weights": "microsoft/wavlm-base-plus"}
    assert joint.backend.options == {"heads": 64}
    assert joint.training.epochs == 5
    assert joint.optimizer.options == {"weight_decay": 1e-5}
    assert not joint.data.augment.speed_perturb


def test_every_training_setting_is_on_the_recipe_page() -> None:
    from dataclasses import fields

    from wesp_lap.training.settings import LoopSettings

    page = read("recipes.md")
    assert [f.name for f in fields(LoopSettings) if f"| `{f.name}` |" not in page] == []


def test_every_setting_of_the_data_is_on_the_data_page() -> None:
    from dataclasses import fields
    from inspect import signature

    from wesp_lap.audio.augment import AugmentSettings
    from wesp_lap.data.access import AccessSettings
    from wesp_lap.data.sampling import SAMPLINGS
    from wesp_lap.data.settings import StreamSettings

    names = {f.name for kind in (StreamSettings, AugmentSettings) for f in fields(kind)}
    names |= {f"access.{f.name}" for f in fields(AccessSettings)}
    for sampling in SAMPLINGS.values():
        options = signature(sampling).parameters.values()
        names |= {option.name for option in options if option.kind is option.KEYWORD_ONLY}
    written = set(re.findall(r"[`\s{]([\w.]+)(?=[`:])", read("data.md")))
    assert len(names) > 25 and sorted(names - written) == []


def test_rooms_import_only_what_the_architecture_page_allows() -> None:
    table = re.findall(r"^\| (\d) \| (.+) \|$", read("architecture.md"), re.MULTILINE)
    row = {room: int(number) for number, names in table for room in re.findall(r"`(\w+)`", names)}
    last = max(row.values())  # the rooms of the last row know each other
    faults = []
    for path in SOURCES:
        parts = path.relative_to(ROOT / "wesp_lap").with_suffix("").parts
        if parts[0].startswith("_"):
            continue
        assert parts[0] in row, f"{parts[0]} is on no row of the page"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wesp_lap."):
                room = str(node.module).split(".")[1]
                below = row[room] > row[parts[0]] or row[room] == row[parts[0]] == last
                if room != parts[0] and not below:
                    faults.append(f"{'/'.join(parts)} imports {node.module}")
    assert faults == []
