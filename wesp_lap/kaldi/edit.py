"""Subsets, splits and renamed copies of data directories, with every table carried along."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import PathLike
from wesp_lap.kaldi.balance import cut
from wesp_lap.kaldi.problems import command, some
from wesp_lap.kaldi.tables import invert, read_lines
from wesp_lap.kaldi.tableset import TableSet, refuse_source
from wesp_lap.log import get_logger

How = Literal[
    "first", "last", "random", "per_speaker", "speakers", "shortest", "spk_list", "utt_list"
]


def subset_data_dir(
    src: PathLike, out: PathLike, how: How, what: int | PathLike, seed: int = 0
) -> tuple[int, int]:
    """Write a part of a data directory.

    Which utterances are chosen depends on the utterances and the seed, never on the order of
    lines.

    Args:
        src: data directory.
        out: data directory to write; tables of an earlier run are replaced.
        how: "first" and "last" N utterances in the order of the C locale; "random" N; N
            "per_speaker", spread evenly over the speaker's list (all where there are fewer);
            random "speakers" until there are at least N utterances; the N "shortest"; those whose
            speaker or key is the first word of a line of "spk_list" or "utt_list".
        what: the number N, or the list.
        seed: seed of the random choices. The N utterances of one seed are among its N + 1.

    Returns:
        Number of utterances in the new directory and in the source.

    Raises:
        DataError: the source is not valid, holds fewer than N utterances, or none of the list.
    """
    refuse_source(out, [src])
    source = TableSet.load(src)
    if how in ("spk_list", "utt_list"):
        chosen = _listed(source, how, Path(str(what)))
    else:
        # Of each speaker there may be fewer.
        available = len(source.utt2spk) if how != "per_speaker" else None
        chosen = _counted(source, how, _count(what, available, src), seed)
    source.keep(chosen).write(out)
    return len(chosen), len(source.utt2spk)


def _count(what: int | PathLike, available: int | None, src: PathLike) -> int:
    if not isinstance(what, int) or what < 1:
        raise ConfigError(f"{what!r} is not a number of utterances; give 1 or more")
    if available is not None and what > available:
        raise DataError(f"{src}: holds {available} utterances, {what} are asked for; ask for fewer")
    return what


def _counted(source: TableSet, how: How, number: int, seed: int) -> list[str]:
    utterances = sorted(source.utt2spk)
    if how == "first":
        return utterances[:number]
    if how == "last":
        return utterances[-number:]
    if how == "random":
        return _ranked(utterances, seed)[:number]
    speakers = invert(source.utt2spk)
    if how == "per_speaker":
        return [one for keys in speakers.values() for one in _spread(keys, number)]
    if how == "speakers":
        names = _ranked(list(speakers), seed)
        before = accumulate((len(speakers[name]) for name in names), initial=0)
        taken = [name for name, so_far in zip(names, before, strict=False) if so_far < number]
        return [key for name in taken for key in speakers[name]]
    seconds = _seconds(source)
    return sorted(utterances, key=lambda key: (seconds[key], key))[:number]


def _ranked(keys: Sequence[str], seed: int) -> list[str]:
    """Return keys in an order that each key's place depends on the key and the seed alone."""
    salt = str(seed).encode().ljust(16, b"\0")[:16]
    return sorted(keys, key=lambda key: hashlib.blake2b(key.encode(), salt=salt).digest())


def _spread(keys: list[str], number: int) -> list[str]:
    step = max(1, len(keys) // number)
    return keys[: number * step : step]


def _seconds(source: TableSet) -> dict[str, float]:
    segments = source.tables.get("segments")
    if segments:
        times = {key: segments[key].split()[1:] for key in source.utt2spk}
        return {key: float(end) - float(start) for key, (start, end) in times.items()}
    durations = source.tables.get("utt2dur", {})
    lost = [key for key in source.utt2spk if key not in durations]
    if lost:
        raise DataError(
            f"{source.path}: {len(lost)} utterances of unknown length: {some(lost)}\n"
            f"Measure them first: {command('get_utt2dur', source.path)}"
        )
    return {key: float(durations[key]) for key in source.utt2spk}


def _listed(source: TableSet, how: How, path: Path) -> list[str]:
    wanted = {line.split()[0].decode() for line in read_lines(path) if line.split()}
    name_of: Callable[[str], str] = source.utt2spk.__getitem__ if how == "spk_list" else str
    chosen = [key for key in source.utt2spk if name_of(key) in wanted]
    unknown = sorted(wanted - {name_of(key) for key in chosen})
    if not chosen:
        kind = "speakers" if how == "spk_list" else "utterances"
        raise DataError(f"{path}: none of its {len(wanted)} {kind} is in {source.path}")
    if unknown:
        text = "%s: %d names are not in %s: %s"
        get_logger().warning(text, path, len(unknown), source.path, some(unknown))
    return chosen


def copy_data_dir(
    src: PathLike,
    out: PathLike,
    utt_prefix: str = "",
    utt_suffix: str = "",
    spk_prefix: str = "",
    spk_suffix: str = "",
) -> int:
    """Copy a data directory, with other names where asked for.

    Recordings keep their names when there are segments. Renamed utterances get a ``utt2uniq``
    table that names the original ones, as in Kaldi, unless the source has one.

    Returns:
        Number of utterances.
    """
    refuse_source(out, [src])
    for word in (utt_prefix, utt_suffix, spk_prefix, spk_suffix):
        if word.split() != ([word] if word else []):
            raise ConfigError(f"{word!r} holds white space, which separates the fields of a table")
    source = TableSet.load(src)
    if utt_prefix or utt_suffix:
        source.tables.setdefault("utt2uniq", {key: key for key in source.utt2spk})
    copy = source.keep(source.utt2spk).rename(
        {
            "utterance": lambda key: f"{utt_prefix}{key}{utt_suffix}",
            "speaker": lambda key: f"{spk_prefix}{key}{spk_suffix}",
        }
    )
    copy.write(out)
    return len(copy.utt2spk)


def split_data_dir(data: PathLike, parts: int, per_utt: bool = False) -> list[Path]:
    """Split a data directory into DATA/splitN/1 to N, or DATA/splitNutt/1 to N with ``per_utt``.

    Parts are consecutive in the order of the C locale and hold every utterance once; the largest
    exceeds an equal share by less than the utterances of one speaker, or by less than one.

    Args:
        data: data directory.
        parts: number N of parts.
        per_utt: let the utterances of a speaker fall into several parts.

    Returns:
        The directories of the parts.

    Raises:
        DataError: there are fewer speakers, or utterances, than parts.
    """
    source = TableSet.load(data)
    groups = _groups(source.utt2spk, per_utt)
    if not 1 <= parts <= len(groups):
        kind, advice = "utterances", "ask for fewer parts"
        if not per_utt:
            kind, advice = "speakers", "ask for fewer parts, or split by utterance (--per_utt)"
        raise DataError(f"{data}: {len(groups)} {kind} cannot be split into {parts}; {advice}")
    base = Path(data) / (f"split{parts}utt" if per_utt else f"split{parts}")
    folders = []
    for number, part in enumerate(cut([len(group) for group in groups], parts), 1):
        folders.append(base / str(number))
        source.keep(key for index in part for key in groups[index]).write(folders[-1])
    return folders


def _groups(utt2spk: Mapping[str, str], per_utt: bool) -> list[list[str]]:
    return [[key] for key in sorted(utt2spk)] if per_utt else list(invert(utt2spk).values())
