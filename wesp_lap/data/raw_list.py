"""WeSpeaker's raw.list: one JSON object per utterance, audio in files of their own.

Training needs an index of it, ``raw.index`` beside ``raw.list``: one line per utterance, in the
order of the list, made from exactly this list.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from wesp_lap.data.index_file import Columns, header_digest, index_path, parse_index
from wesp_lap.data.shard_list import locate
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, atomic_write
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.pipes import is_pipe
from wesp_lap.kaldi.vad import read_vad
from wesp_lap.log import get_logger

_MEND = "python -m wesp_lap.bin.index_shards --list"


class RawItem(NamedTuple):
    """One line of a raw.list."""

    key: str
    speaker: str
    path: str


def is_raw_list(path: PathLike) -> bool:
    """Say whether a list is a raw.list: its first line that is not blank is a JSON object."""
    source = Path(path)
    if not source.is_file():
        return False
    with open(source, "rb") as stream:
        return next((line.strip()[:1] for line in stream if line.strip()), b"") == b"{"


def read_raw_list(path: PathLike) -> list[RawItem]:
    """Read a raw.list of audio files.

    Raises:
        DataError: all lines that are no JSON objects with key, spk and wav, repeated keys, and
            what cannot be read at random places: pipes and speech pieces.
    """
    return _parse(path, Path(path).read_bytes())


def raw_digest(path: PathLike) -> str:
    """Return the digest of a raw.list that its index names."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read_indexed_raw_list(path: PathLike) -> tuple[list[str], Columns]:
    """Return the audio files of a raw.list and the columns of its index, row by row.

    Raises:
        DataError: as read_raw_list; or the index is missing, broken or of another list.
    """
    content = Path(path).read_bytes()
    items = _parse(path, content)
    index = index_path(path)
    if not os.path.isfile(index):
        raise DataError(f"{path}: no index beside it ({os.path.basename(index)}): {_MEND} {path}")
    lines = Path(index).read_bytes()
    columns = parse_index(index, lines)
    made_from = header_digest(lines.partition(b"\n")[0].decode())
    if made_from != hashlib.sha256(content).hexdigest() or len(columns.keys) != len(items):
        raise DataError(f"{index}: made from another {os.path.basename(path)}: {_MEND} {path}")
    return [item.path for item in items], columns


def _parse(path: PathLike, content: bytes) -> list[RawItem]:
    folder = os.path.dirname(os.fspath(path))
    items: dict[str, RawItem] = {}
    problems = []
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), 1):
        try:
            item = _item(line, folder)
            if item.key in items:
                raise DataError(f"utterance '{item.key}' stands there twice")
            items[item.key] = item
        except DataError as error:
            problems.append(f"{path}:{number}: {error}")
    raise_problems(f"{path}: lines that cannot be used", problems)
    return list(items.values())


def _item(line: bytes, folder: str) -> RawItem:
    try:
        fields = json.loads(line)
        key, speaker, wav = (fields[name] for name in ("key", "spk", "wav"))
        vad = fields.get("vad")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError("expected a JSON object with key, spk and wav") from error
    if not all(isinstance(value, str) and value for value in (key, speaker, wav)):
        raise DataError("key, spk and wav must be text")
    if re.search(r"\s", key, re.ASCII):
        raise DataError("key: white space is not allowed")
    if re.search("[\t\r\n]", speaker):
        raise DataError("spk: a tab or line end is not allowed")
    if is_pipe(wav):
        raise DataError(
            f"'{wav}' is a command, not a file; pack shards instead: make_shards --allow_pipe"
        )
    if vad is not None:
        raise DataError(
            "speech pieces (vad) would be cut at every reading; pack shards instead: make_shards "
            "--vad"
        )
    return RawItem(key, speaker, locate(wav, folder))


def make_raw_list(data: PathLike, path: PathLike, vad: bool | PathLike = False) -> bool:
    """Write the raw.list of a data directory, as WeSpeaker's make_raw_list.py does.

    Args:
        data: Data directory without segments.
        path: List to write.
        vad: Name the speech pieces of the utterances: True for the directory's own ``vad``, or a
            file. Utterances without any are left out.

    Returns:
        True when training here can use the list: without speech pieces and without commands.

    Raises:
        DataError: the directory has segments, files are missing, or there is no ``vad``.
    """
    source = DataDir.load(data)
    if source.segments:
        raise DataError(f"{data}: a raw.list cannot hold segments; make_shards cuts them out")
    pieces = speech_pieces(source, vad)
    lines, problems, plain = [], [], not pieces
    for key, speaker in source.utt2spk.items():
        if pieces and key not in pieces:
            continue
        entry = source.wav[key]
        plain = plain and not is_pipe(entry)
        try:
            wav = entry if is_pipe(entry) else str(source.resolve(key))
        except DataError as error:
            problems.append(str(error))
            continue
        item: dict[str, object] = {"key": key, "spk": speaker, "wav": wav}
        if pieces:
            item["vad"] = [[str(start), str(end)] for start, end in pieces[key]]
        lines.append(json.dumps(item, ensure_ascii=False) + "\n")
    raise_problems(f"{data}: files that are not there", problems)
    if not lines:
        raise DataError(f"{data}: no utterance has speech pieces")
    if len(lines) < len(source.utt2spk):
        left = len(source.utt2spk) - len(lines)
        get_logger().warning("%d utterances without speech pieces are left out", left)
    with atomic_write(path) as stream:
        stream.writelines(lines)
    return plain


def speech_pieces(data: DataDir, vad: bool | PathLike) -> dict[str, list[tuple[float, float]]]:
    """Return the speech pieces of a data directory: its own, those of a file, or none.

    Raises:
        DataError: they are asked for and not there.
    """
    if vad is True and not data.vad:
        raise DataError(f"{data.path / 'vad'}: no such file; --vad FILE names one elsewhere")
    if not vad and data.vad:
        get_logger().info("%s is there but not used; --vad cuts speech by it", data.path / "vad")
    return data.vad if vad is True else read_vad(vad) if vad else {}
