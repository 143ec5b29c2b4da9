"""Plain values: read from YAML, written to it, and checked against type annotations."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import yaml

from wesp_lap.errors import ConfigError

Settings = TypeVar("Settings")
# Longer lists of valid names would bury the hint.
_LISTED = 40


@dataclasses.dataclass(frozen=True)
class Section:
    """A component by name with its options, as written in the YAML."""

    name: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def as_mapping(self) -> dict[str, Any]:
        """Return the section as it stands in a YAML file."""
        return {"name": self.name, **self.options}


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and reads 1e-5 as a number, as YAML 1.2 does."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that puts quotes around text that _Loader would read as a number."""


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    if any(isinstance(key, (list, dict)) for key in keys):
        raise ConfigError(f"line {node.start_mark.line + 1}: a key is a list or a mapping")
    repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
    if repeated:
        line = node.start_mark.line + 1
        raise ConfigError(f"line {line}: key given twice: {', '.join(repeated)}")
    return dict(
        zip(
            keys,
            (loader.construct_object(value, deep=True) for _, value in node.value),
            strict=True,
        )
    )


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def parse_yaml(text: str) -> Any:
    """Parse YAML with safe types only; numbers such as 1e-5 are floats."""
    return yaml.load(text, Loader=_Loader)


def format_yaml(value: Any) -> str:
    """Return the YAML of plain mappings, lists and scalars; parse_yaml gives them back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def from_text(text: str, annotation: Any, where: str) -> Any:
    """Turn a command-line word into a value of the annotated type.

    Raises:
        ConfigError: the word does not fit; the message starts with ``where``.
    """
    if annotation is str:
        return text
    if annotation is bool and text in ("True", "False"):  # what fire makes of --flag and --noflag
        return text == "True"
    options = typing.get_args(annotation) or (annotation,)
    sequence = next((one for one in (annotation, *options) if _is_sequence(one)), None)
    if sequence is not None and not text.startswith("["):
        if typing.get_args(sequence)[:1] == (str,):
            return coerce(text.split(","), annotation, where)
        text = f"[{text}]"
    elif sequence is None and _accepts(annotation, str) and not _accepts(annotation, bool):
        return None if text in ("None", "null", "") and _accepts(annotation, type(None)) else text
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: cannot read {text!r}") from error
    return coerce(value, annotation, where)


def coerce(value: Any, annotation: Any, where: str) -> Any:
    """Return ``value`` as the annotated type or raise a ConfigError that names ``where``.

    Known annotations: bool, int, float, str, None, unions, Literal, list[X], tuple[X, ...],
    dict[str, X], dataclasses (built from mappings), Any.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or (annotation is None and value is None):
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(value, arguments, annotation, where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}")
    if _is_sequence(annotation):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        item = arguments[0] if arguments else Any
        items = [coerce(entry, item, f"{where}[{i}]") for i, entry in enumerate(value)]
        return items if origin in (list, Sequence) else tuple(items)
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a mapping, got {value!r}")
        item = arguments[1] if len(arguments) == 2 else Any
        return {key: coerce(entry, item, f"{where}.{key}") for key, entry in value.items()}
    if dataclasses.is_dataclass(annotation):
        return from_mapping(typing.cast(type, annotation), value, where)
    return _coerce_scalar(value, annotation, where)


def _coerce_union(value: Any, options: tuple[Any, ...], annotation: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    for option in options:
        if option is type(None):
            continue
        try:
            return coerce(value, option, where)
        except ConfigError:
            if len([one for one in options if one is not type(None)]) == 1:
                raise
    raise ConfigError(f"{where}: {value!r} does not fit {annotation}")


def _coerce_scalar(value: Any, annotation: Any, where: str) -> Any:
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    fits = isinstance(value, annotation) and not (
        isinstance(value, bool) and annotation in (int, float)
    )
    if not fits:
        wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise ConfigError(
            f"{where}: expected {wanted.get(annotation, annotation.__name__)}, got {value!r}"
        )
    return value


def _is_sequence(annotation: Any) -> bool:
    return (typing.get_origin(annotation) or annotation) in (list, tuple, Sequence)


def _accepts(annotation: Any, kind: type) -> bool:
    return annotation is kind or kind in typing.get_args(annotation)


def from_mapping(cls: type[Settings], mapping: Any, where: str = "") -> Settings:
    """Build the dataclass ``cls`` from a plain mapping, checking every key and type."""
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where or 'settings'}: expected 'key: value' entries, got {mapping!r}")
    if cls is Section:
        return typing.cast(Settings, _section(mapping, where))
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    prefix = f"{where}." if where else ""
    check_names(mapping, fields, where)
    hints = typing.get_type_hints(cls)
    missing = [
        name
        for name, field in fields.items()
        if name not in mapping
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(
            f"{where or 'settings'}: missing {', '.join(prefix + m for m in missing)}"
        )
    values = {key: coerce(value, hints[key], prefix + key) for key, value in mapping.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{where or 'settings'}: {error}") from error


def _section(mapping: Mapping[str, Any], where: str) -> Section:
    if not isinstance(mapping.get("name"), str):
        raise ConfigError(f"{where}: expected a section with a 'name'")
    return Section(mapping["name"], {k: v for k, v in mapping.items() if k != "name"})


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise a ConfigError for names that are not ``known``, with the nearest spelling."""
    known = list(known)
    unknown = [name for name in given if name not in known]
    if not unknown:
        return
    hints = []
    for name in unknown:
        near = difflib.get_close_matches(str(name), known, n=1)
        hints.append(f"'{name}'" + (f" (did you mean '{near[0]}'?)" if near else ""))
    listed = ", ".join(sorted(known)) if len(known) <= _LISTED else f"{len(known)} other names"
    raise ConfigError(f"{where or 'settings'}: unknown {', '.join(hints)}; known: {listed}")
