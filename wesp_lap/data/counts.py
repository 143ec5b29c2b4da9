"""What a list of shards holds, in figures: ``shard.json`` beside ``shard.list``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wesp_lap.data.index_file import Columns, Entry
from wesp_lap.errors import DataError, problem_list
from wesp_lap.files import PathLike, write_json
from wesp_lap.log import get_logger

_SHOWN = 1000


class ShardCounts(NamedTuple):
    """What one shard holds.

    Attributes:
        utterances: Number of them.
        speakers: Their speakers, as UTF-8 bytes.
        seconds: Duration of the audio.
        size: Bytes of the tar.
        bad: Utterances that were left out, one sentence each.
        broken: Why the shard cannot be used at all.
    """

    utterances: int
    speakers: frozenset[bytes]
    seconds: float
    size: int
    bad: list[str]
    broken: list[str]


def unusable(broken: list[str]) -> ShardCounts:
    """Return the counts of a shard that cannot be used."""
    return ShardCounts(0, frozenset(), 0.0, 0, [], broken)


def count(tar: PathLike, columns: Columns, bad: Sequence[str] = ()) -> ShardCounts:
    """Count what the index of a whole shard says."""
    seconds = float((columns.numbers[2] / columns.numbers[4]).sum())
    speakers = frozenset(columns.speakers.tolist())
    size = os.path.getsize(tar)
    return ShardCounts(len(columns.keys), speakers, seconds, size, list(bad), [])


def sum_counts(
    source: PathLike, parts: Sequence[ShardCounts], max_bad: int, what: str, mend: str = ""
) -> dict[str, float]:
    """Add up the counts of all shards.

    Args:
        source: Where the utterances come from, for messages.
        parts: One for each shard.
        max_bad: How many utterances may be left out.
        what: What is wrong with those, such as "utterances that cannot be packed".
        mend: What to do about broken shards, when their own sentences do not say it.

    Raises:
        DataError: broken shards, more than ``max_bad`` bad utterances, or no good one; all faults
            are named.
    """
    broken = [fault for part in parts for fault in part.broken]
    bad = [fault for part in parts for fault in part.bad]
    messages = []
    if broken:
        messages.append(problem_list(f"{source}: broken shards", broken, mend, _SHOWN))
    if len(bad) > max_bad:
        allow = f"Mend or remove them, or allow them with --max_bad {len(bad)}."
        messages.append(problem_list(f"{source}: {what}", bad, allow, _SHOWN))
    elif bad:
        get_logger().warning("%s", problem_list(f"{source}: left out", bad, limit=_SHOWN))
    utterances = sum(part.utterances for part in parts)
    if not messages and not utterances:
        messages.append(f"{source}: holds no utterance that can be used")
    if messages:
        raise DataError("\n".join(messages))
    return {
        "shards": len(parts),
        "utterances": utterances,
        "speakers": len(frozenset().union(*(part.speakers for part in parts))),
        "seconds": round(sum(part.seconds for part in parts), 3),
        "bad": len(bad),
        "bytes": sum(part.size for part in parts),
    }


def count_files(entries: Sequence[Entry]) -> dict[str, float]:
    """Return the counts of a raw list, whose utterances are files of their own."""
    return {
        "shards": 0,
        "utterances": len(entries),
        "speakers": len({entry.speaker for entry in entries}),
        "seconds": round(sum(entry.samples / entry.rate for entry in entries), 3),
        "bad": 0,
        "bytes": sum(entry.size for entry in entries),
    }


def write_counts(shard_list: PathLike, counts: dict[str, float]) -> None:
    """Write the counts beside a list."""
    path = Path(shard_list)
    # A list that is itself called NAME.json must not be overwritten.
    write_json(path.with_suffix(".counts.json" if path.suffix == ".json" else ".json"), counts)


def format_counts(shard_list: PathLike, counts: dict[str, float]) -> str:
    """Return the line that commands print."""
    return (
        f"{shard_list}: {counts['shards']} shards, {counts['utterances']} utterances, "
        f"{counts['speakers']} speakers, {counts['seconds'] / 3600:.2f} h, "
        f"{counts['bytes'] / 1e9:.2f} GB"
    )
