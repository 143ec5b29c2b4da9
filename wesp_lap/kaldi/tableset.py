"""All tables of a data directory as text, to be cut, joined and written elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wesp_lap.errors import ConfigError
from wesp_lap.files import PathLike
from wesp_lap.kaldi.datadir import DataDir, locate
from wesp_lap.kaldi.pipes import is_pipe
from wesp_lap.kaldi.tables import invert, read_table, write_table
from wesp_lap.kaldi.vad import Pieces, write_vad
from wesp_lap.log import get_logger

_NAMED = re.compile(r"(utt2|spk2|reco2)\w+")
_OWN = ("wav.scp", "utt2spk", "spk2utt", "utt2dur", "segments", "vad")
_LEFT_BEHIND = ("feats.scp", "cmvn.scp", "vad.scp", "text")
_STAMP = "prepare.json"  # of prepare_data, whose work is overwritten


def further_tables(folder: Path) -> list[Path]:
    """Return the utt2*, spk2* and reco2* tables that the toolkit only carries along."""
    return sorted(
        path
        for path in folder.iterdir()
        if _NAMED.fullmatch(path.name) and path.name not in _OWN and path.is_file()
    )


def table_files(folder: Path) -> list[Path]:
    """Return all tables of a folder that the toolkit reads or carries along."""
    own = [folder / name for name in _OWN if (folder / name).is_file()]
    return own + (further_tables(folder) if folder.is_dir() else [])


def key_kind(name: str) -> str:
    """Return what the keys of a table are: "utterance", "speaker" or "recording"."""
    if name == "wav.scp" or name.startswith("reco2"):
        return "recording"
    return "speaker" if name.startswith("spk2") else "utterance"


@dataclass
class TableSet:
    """The tables of a data directory, values as they stand in the files.

    ``tables`` holds wav.scp, utt2spk and, where present, segments, utt2dur and all other utt2*,
    spk2* and reco2* tables by file name. spk2utt is not among them, it follows from utt2spk.
    """

    path: Path
    tables: dict[str, dict[str, str]]
    vad: dict[str, Pieces] = field(default_factory=dict)

    @classmethod
    def load(cls, path: PathLike) -> TableSet:
        """Read a data directory, audio paths made absolute (commands stay as they are).

        Raises:
            DataError: the directory is not a valid one; see ``DataDir.load``.
        """
        data = DataDir.load(path)
        tables = {"wav.scp": {k: _absolute(entry, data.path) for k, entry in data.wav.items()}}
        tables["utt2spk"] = data.utt2spk
        for name, present in (("segments", data.segments), ("utt2dur", data.utt2dur)):
            if present:
                tables[name] = read_table(data.path / name)
        tables.update({one.name: read_table(one) for one in further_tables(data.path)})
        left = [name for name in _LEFT_BEHIND if (data.path / name).exists()]
        if left:
            get_logger().warning("%s: %s left behind", data.path, ", ".join(left))
        return cls(data.path, tables, data.vad)

    @property
    def utt2spk(self) -> dict[str, str]:
        """Speaker of each utterance."""
        return self.tables["utt2spk"]

    def recording(self, utterance: str) -> str:
        """Return the wav.scp key that holds an utterance."""
        segments = self.tables.get("segments")
        return segments[utterance].split(None, 1)[0] if segments else utterance

    def keep(self, utterances: Iterable[str]) -> TableSet:
        """Return the rows of some utterances, of their speakers and of their recordings."""
        chosen = sorted(utterances)
        keys = {
            "utterance": chosen,
            "speaker": sorted({self.utt2spk[key] for key in chosen}),
            "recording": sorted({self.recording(key) for key in chosen}),
        }
        tables = {
            name: {key: table[key] for key in keys[key_kind(name)] if key in table}
            for name, table in self.tables.items()
        }
        vad = {key: self.vad[key] for key in chosen if key in self.vad}
        return TableSet(self.path, {name: table for name, table in tables.items() if table}, vad)

    def rename(self, rename: dict[str, Callable[[str], str]]) -> TableSet:
        """Return the tables with keys renamed by kind; values of utt2spk are speakers, too.

        Without segments an utterance is a recording, and recordings are renamed like utterances.
        """
        utterance, speaker = rename["utterance"], rename["speaker"]
        renamed = dict(rename)
        renamed["recording"] = str if "segments" in self.tables else utterance
        tables = {
            name: {renamed[key_kind(name)](key): value for key, value in table.items()}
            for name, table in self.tables.items()
        }
        tables["utt2spk"] = {key: speaker(one) for key, one in tables["utt2spk"].items()}
        vad = {utterance(key): pieces for key, pieces in self.vad.items()}
        return TableSet(self.path, tables, vad)

    def write(self, path: PathLike) -> None:
        """Write all tables and remove those that an earlier run left in the folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        # First: a directory without wav.scp is not taken for a finished one.
        (folder / "wav.scp").unlink(missing_ok=True)
        for old in [*table_files(folder), folder / _STAMP]:
            old.unlink(missing_ok=True)
        for name, table in self.tables.items():
            if name != "wav.scp":
                write_table(folder / name, table)
        spk2utt = {speaker: " ".join(keys) for speaker, keys in invert(self.utt2spk).items()}
        write_table(folder / "spk2utt", spk2utt)
        if self.vad:
            write_vad(folder / "vad", self.vad)
        write_table(folder / "wav.scp", self.tables["wav.scp"])


def refuse_source(target: PathLike, sources: Sequence[PathLike]) -> None:
    """Raise a ConfigError when a directory to be written is one that is read, or no directory."""
    path = Path(target)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is no directory; give another one to write to")
    for source in map(Path, sources):
        if path.exists() and source.exists() and path.samefile(source):
            raise ConfigError(f"{path} is read and cannot be written to; give another directory")


def _absolute(entry: str, folder: Path) -> str:
    if is_pipe(entry) or os.path.isabs(entry):
        return entry
    return os.path.abspath(locate(entry, folder))
