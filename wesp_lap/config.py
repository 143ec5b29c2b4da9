"""YAML files to checked settings.

A section ``{name: X, **options}`` is a call: ``name`` picks an entry of a room's table and the
options are its keyword arguments, so the constructor's signature is the schema. ``base: FILE``
inherits from another file (relative to this one); ``phases`` holds what each phase of training
changes; ``--a.b.c value`` overrides on the command line.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from wesp_lap.coerce import Section, check_names, coerce, format_yaml, parse_yaml
from wesp_lap.errors import ConfigError
from wesp_lap.files import PathLike, atomic_write

Built = TypeVar("Built")
Table = Mapping[str, Callable[..., Built]]


def load_yaml(path: PathLike) -> dict[str, Any]:
    """Read a YAML mapping and everything it inherits through ``base``.

    Mappings merge key by key; a section whose ``name`` changes drops the inherited options;
    lists and scalars replace.
    """
    return _load(Path(path), ())


def _load(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: inherits from itself through 'base'")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        child = f" (named as 'base' in {seen[-1]})" if seen else ""
        raise ConfigError(f"{path}: no such file{child}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines at the top level")
    base = tree.pop("base", None)
    if base is None:
        return tree
    return merge(_load(path.parent / str(base), (*seen, path.resolve())), tree)


def phase_names(path: PathLike) -> list[str]:
    """Return the names of a file's phases in their order; empty without a ``phases`` section."""
    return list(_phases(load_yaml(path), path))


def load_phase(path: PathLike, phase: str | None = None) -> dict[str, Any]:
    """Read the settings of one phase.

    A phase has the settings of the file, those that the phases before it change, and its own.

    Args:
        path: YAML file; everything it inherits is read too.
        phase: A name of its ``phases`` section; None for a file without one.

    Raises:
        ConfigError: no such phase, or none given where there are several.
    """
    tree = load_yaml(path)
    phases = _phases(tree, path)
    known = ", ".join(phases)
    if phase is None:
        if phases:
            raise ConfigError(f"{path}: has several phases; name one of them: --phase {known}")
        return tree
    if phase not in phases:
        raise ConfigError(f"{path}: no phase '{phase}'; its phases: {known or 'none'}")
    tree.pop("phases")
    for name, change in phases.items():
        tree = merge(tree, change)
        if name == phase:
            break
    return tree


def _phases(tree: Mapping[str, Any], path: PathLike) -> dict[str, Mapping[str, Any]]:
    """Return the phases in order; one that an inheriting file sets to null is gone."""
    phases = tree.get("phases", {})
    if not isinstance(phases, Mapping):
        raise ConfigError(f"{path}: phases: expected 'name: settings' lines, not {phases!r}")
    kept = {str(name): change for name, change in phases.items() if change is not None}
    for name, change in kept.items():
        if not isinstance(change, Mapping):
            raise ConfigError(f"{path}: phases.{name}: expected settings, not {change!r}")
    return kept


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``change`` laid over it; see load_yaml for the rules."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            renamed = "name" in value and value["name"] != old.get("name")
            merged[key] = dict(value) if renamed else merge(old, value)
        else:
            merged[key] = value
    return merged


def apply_overrides(tree: Mapping[str, Any], overrides: Mapping[str, str]) -> dict[str, Any]:
    """Lay ``{"a.b.c": "text"}`` from the command line over ``tree``; the text is read as YAML.

    Names of sections come first, so that the options given with a new name stay in any order.
    """
    for dotted, text in sorted(overrides.items(), key=lambda item: not item[0].endswith(".name")):
        try:
            value: Any = text if _is_path(text) else parse_yaml(text)
        except (yaml.YAMLError, ConfigError) as error:
            raise ConfigError(f"--{dotted}: cannot read {text!r} as YAML") from error
        for part in reversed(dotted.split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return dict(tree)


def _is_path(text: str) -> bool:
    """Say whether a command-line word is a path, whose colons and hashes mean nothing."""
    return "/" in text and text[0] not in "[{\"'"


def check_section(table: Table, section: Section, where: str, given: Iterable[str] = ()) -> dict:
    """Check a section against its constructor's signature and return the coerced options.

    Args:
        table: The room's names and constructors.
        section: What the YAML says.
        where: Path of the section in the settings, for messages.
        given: Parameters that the code supplies and a YAML may not.
    """
    check_names([section.name], table, where)
    constructor = table[section.name]
    hints = typing.get_type_hints(
        constructor.__init__ if inspect.isclass(constructor) else constructor
    )
    given = set(given)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(constructor).parameters.items()
        if name not in given
    }
    label = f"{where} '{section.name}'"
    check_names(section.options, parameters, label)
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in section.options
    ]
    if missing:
        raise ConfigError(f"{label}: missing {', '.join(missing)}")
    return {
        key: coerce(value, hints.get(key, Any), f"{where}.{key}")
        for key, value in section.options.items()
    }


def build(
    table: Mapping[str, Callable[..., Built]], section: Section, where: str, **given: Any
) -> Built:
    """Call the constructor that ``section`` names with its options and the ``given`` arguments."""
    options = check_section(table, section, where, given)
    try:
        return table[section.name](**options, **given)
    except ValueError as error:
        raise ConfigError(f"{where} '{section.name}': {error}") from error


def to_plain(value: Any) -> Any:
    """Turn settings back into plain mappings, lists and scalars, as a YAML file holds them."""
    if isinstance(value, Section):
        return to_plain(value.as_mapping())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(entry) for entry in value]
    return value


def save_yaml(path: PathLike, settings: Any) -> None:
    """Write resolved settings so that load_yaml gives them back."""
    with atomic_write(path) as stream:
        stream.write(format_yaml(to_plain(settings)))
