"""One data directory of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from wesp_lap.errors import ConfigError, DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.kaldi.durations import measure
from wesp_lap.kaldi.tableset import TableSet, refuse_source
from wesp_lap.log import get_logger


def combine_data_dirs(out: PathLike, sources: Sequence[PathLike]) -> int:
    """Write one data directory that holds the utterances of several.

    Rows with the same key must be equal. A table that only some directories have is left out with
    a warning, except two that are completed as Kaldi does: in segments, whole recordings stand
    for the utterances of a directory without (their lengths are read from utt2dur or the audio
    headers); in utt2uniq, an utterance stands for itself.

    Returns:
        Number of utterances.

    Raises:
        DataError: an invalid directory, or keys with different content; all of them are named.
    """
    if not sources:
        raise ConfigError("name at least one data directory to combine")
    refuse_source(out, sources)
    sets = [_only_used(TableSet.load(path)) for path in sources]
    _complete(sets)
    names = _common([set(one.tables) for one in sets], [str(path) for path in sources])
    conflicts: list[str] = []
    tables = {
        name: _union(name, [(one, one.tables[name]) for one in sets], conflicts) for name in names
    }
    vad: dict[str, list[tuple[float, float]]] = {}
    if all(one.vad for one in sets):
        vad = _union("vad", [(one, one.vad) for one in sets], conflicts)
    elif any(one.vad for one in sets):
        _warn("vad", [str(one.path) for one in sets if not one.vad])
    raise_problems(
        f"{out}: the directories contradict each other",
        conflicts,
        "Correct one of them, or make keys differ: python -m wesp_lap.bin.copy_data_dir "
        "--src DIR --out NEW_DIR --utt_prefix NAME- --spk_prefix NAME-",
    )
    TableSet(sets[0].path, tables, vad).write(out)
    return len(tables["utt2spk"])


def _only_used(source: TableSet) -> TableSet:
    """Leave out recordings without utterance, which would be utterances beside segments."""
    return source.keep(source.utt2spk)


def _complete(sets: list[TableSet]) -> None:
    if any("segments" in one.tables for one in sets):
        for one in sets:
            if "segments" not in one.tables:
                get_logger().info("%s: whole recordings become its segments", one.path)
                one.tables["segments"] = _whole(one)
    if any("utt2uniq" in one.tables for one in sets):
        for one in sets:
            one.tables.setdefault("utt2uniq", {key: key for key in one.utt2spk})


def _whole(source: TableSet) -> dict[str, str]:
    seconds = source.tables.get("utt2dur", {})
    if source.utt2spk.keys() - seconds.keys():
        measured = measure(source.path)
        seconds = {key: f"{measured[key]:.3f}" for key in source.utt2spk}
    return {key: f"{key} 0 {seconds[key]}" for key in source.utt2spk}


def _common(tables: list[set[str]], paths: list[str]) -> list[str]:
    common = set.intersection(*tables)
    for name in sorted(set.union(*tables) - common):
        _warn(name, [path for path, has in zip(paths, tables, strict=True) if name not in has])
    return sorted(common)


def _warn(name: str, lacking: Iterable[str]) -> None:
    get_logger().warning("%s is left out: not in %s", name, ", ".join(lacking))


def _union(
    name: str, parts: Sequence[tuple[TableSet, Mapping[str, object]]], conflicts: list[str]
) -> dict:
    table: dict[str, object] = {}
    for source, rows in parts:
        for key in sorted(table.keys() & rows.keys()):
            if table[key] != rows[key]:
                first = next(one.path for one, other in parts if key in other)
                conflicts.append(
                    f"{name}: {key}: {table[key]!r} in {first}, {rows[key]!r} in {source.path}"
                )
        table.update((key, rows[key]) for key in rows.keys() - table.keys())
    if not table:
        raise DataError(f"{name}: no rows to combine")
    return table
