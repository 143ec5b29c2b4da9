"""Miniatures of corpora: any speech, in the folders and lists of a corpus as it is published.

What a recipe does with a corpus of a terabyte can be tried with some megabytes of other speech:
the names of files and folders, the lists and their quirks are those of the published corpus.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from wesp_lap.corpora.layouts.cnceleb import cnceleb1, cnceleb2
from wesp_lap.corpora.layouts.noises import musan, rirs
from wesp_lap.corpora.layouts.read_speech import librispeech, vctk
from wesp_lap.corpora.layouts.source import LayoutOptions
from wesp_lap.corpora.layouts.voxceleb import voxceleb1, voxceleb2
from wesp_lap.corpora.layouts.writer import LAYOUT_TABLE, Writer
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import PathLike, Stamp
from wesp_lap.log import get_logger

__all__ = ["LAYOUTS", "LAYOUT_TABLE", "LayoutOptions", "lay_out"]

_STAMP = ".layout.json"
_TABLES = ("wav.scp", "utt2spk", "utt2ses", "spk2gender", "segments", "text")

LAYOUTS: Mapping[str, Callable[[Writer, LayoutOptions], None]] = {
    "voxceleb1": voxceleb1,
    "voxceleb2": voxceleb2,
    "musan": musan,
    "rirs": rirs,
    "cnceleb1": cnceleb1,
    "cnceleb2": cnceleb2,
    "librispeech": librispeech,
    "vctk": vctk,
}


def lay_out(layout: str, out: PathLike, options: LayoutOptions) -> bool:
    """Write a miniature of a corpus; equal input makes equal files.

    It is made beside ``out`` and renamed, so ``out`` is whole or absent. OUT/layout.tsv says which
    utterance of the source became which file.

    Args:
        layout: a key of ``LAYOUTS``.
        out: folder that does not exist yet, or holds the same miniature.
        options: the source and how much of it to take.

    Returns:
        False when ``out`` holds this miniature already.

    Raises:
        ConfigError: unknown layout, or no source where one is needed.
        DataError: ``out`` holds something else, or the source is too small or faulty.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"unknown layout {layout!r}; there are {', '.join(LAYOUTS)}")
    target = Path(out)
    folders = [Path(name) for name in (options.data, options.test_data) if name]
    inputs = [folder / name for folder in folders for name in _TABLES]
    inputs += [Path(options.trials)] if options.trials else []
    settings = {"layout": layout, **asdict(options)}
    stamp = Stamp(target / _STAMP, settings, inputs)
    if stamp.is_fresh():
        get_logger().info("%s: up to date", target)
        return False
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: there already, and something else; remove it or give another")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    writer = Writer(partial)
    LAYOUTS[layout](writer, options)
    writer.finish()
    Stamp(partial / _STAMP, settings, inputs).write(
        path for path in partial.rglob("*") if path.is_file()
    )
    if target.is_dir():
        target.rmdir()
    os.replace(partial, target)
    get_logger().info("%s: %s, %d audio files", target, layout, writer.files)
    return True
