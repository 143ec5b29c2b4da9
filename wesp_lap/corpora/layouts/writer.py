"""Files of a miniature, and the table that says what each of them was made of."""

from __future__ import annotations

import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from wesp_lap.audio.ffmpeg import GET_FFMPEG, find_ffmpeg
from wesp_lap.audio.io import encode
from wesp_lap.corpora.layouts.source import Utterance
from wesp_lap.errors import DataError
from wesp_lap.files import atomic_write

LAYOUT_TABLE = "layout.tsv"
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # of a zip file; with it, equal content makes equal archives
_PART_NAMES = "abcdefgh"


class Writer:
    """Writes the files of one miniature below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = 0
        self._rows: list[tuple[str, ...]] = []

    def audio(
        self, name: str, wave: np.ndarray, rate: int, speaker: str, made_of: Sequence[Utterance]
    ) -> None:
        """Write samples (S,) or (S, channels) in the form of the name's suffix.

        Args:
            name: path below the folder.
            wave: float samples.
            rate: sampling rate in Hz.
            speaker: who speaks, by the new name; empty for noise.
            made_of: the utterances of the source, in their order in the file.
        """
        suffix = Path(name).suffix[1:]
        content = encode(wave, rate, "wav" if suffix == "m4a" else suffix)
        if suffix == "m4a":
            content = _as_m4a(name, content)
        with atomic_write(self.folder / name, "wb") as stream:
            stream.write(content)
        self.files += 1
        self._rows += [(one.key, one.speaker, name, speaker) for one in made_of]

    def text(self, name: str, lines: Iterable[str]) -> None:
        """Write a text file of lines."""
        with atomic_write(self.folder / name) as stream:
            stream.writelines(f"{line}\n" for line in lines)

    def pack(self, folder: str, inside: str, archive: str, parts: int = 1) -> None:
        """Replace what lies below ``folder`` by a zip archive, whole or cut into parts.

        Args:
            folder: what to pack, below the miniature's folder.
            inside: what ``folder`` is called in the archive.
            archive: name of the archive without ``.zip``.
            parts: 1 for ARCHIVE.zip, or how many parts ARCHIVE_partaa, ARCHIVE_partab, ...
        """
        packed = self.folder / f"{archive}.zip"
        root = self.folder / folder
        files = sorted(path for path in root.rglob("*") if path.is_file())
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as stream:
            for path in files:
                name = f"{inside}/{path.relative_to(root).as_posix()}"
                stream.writestr(zipfile.ZipInfo(name, _EARLIEST), path.read_bytes())
                path.unlink()
        for empty in sorted((path for path in root.rglob("*")), reverse=True):
            empty.rmdir()
        while root != self.folder and not any(root.iterdir()):
            root.rmdir()
            root = root.parent
        if parts > 1:
            content = packed.read_bytes()
            packed.unlink()
            size = -(-len(content) // parts)  # as split does: only the last part is smaller
            for number in range(parts):
                name = f"{archive}_parta{_PART_NAMES[number]}"
                (self.folder / name).write_bytes(content[number * size : (number + 1) * size])

    def finish(self) -> None:
        """Write the table of all utterances; the last file of a miniature."""
        head = ("utterance", "speaker", "file", "new_speaker")
        self.text(LAYOUT_TABLE, ("\t".join(row) for row in (head, *self._rows)))


def _as_m4a(name: str, wav: bytes) -> bytes:
    """Encode WAV bytes as AAC in an MPEG-4 file, equal for equal input."""
    program = find_ffmpeg()
    if program is None:
        raise DataError(f"{name}: an .m4a file needs ffmpeg: {GET_FFMPEG}, or write --audio wav")
    words = ["-nostdin", "-v", "error", "-f", "wav", "-i", "pipe:0", "-c:a", "aac", "-b:a", "64k"]
    words += ["-fflags", "+bitexact", "-flags:a", "+bitexact"]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "encoded.m4a"
        command = [program, *words, str(target)]
        done = subprocess.run(command, input=wav, capture_output=True, check=False)
        if done.returncode != 0 or not target.is_file():
            reason = done.stderr.decode(errors="replace").strip()
            raise DataError(f"{name}: ffmpeg cannot write it: {reason or 'nothing came out'}")
        return target.read_bytes()
