"""Embeddings of whole utterances, from a data directory to ark/scp."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from wesp_lap.data.utterance import load_utterance
from wesp_lap.errors import DataError, problem_list
from wesp_lap.files import PathLike, Stamp
from wesp_lap.kaldi.ark import VectorWriter
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.log import get_logger, progress
from wesp_lap.model import CONFIG_FILE, SAMPLE_RATE, WEIGHTS_FILE, SpeakerModel


def extract(
    model_dir: PathLike, data_dir: PathLike, out: PathLike, device: str | None = None
) -> int:
    """Write ``out``/xvector.{ark,scp,json}: one embedding per utterance, uncropped, one at a time.

    Embeddings that were made from the same model and data are kept.

    Args:
        model_dir: A SpeakerModel directory.
        data_dir: A Kaldi data directory.
        out: Where the embeddings go.
        device: torch device; a GPU when there is one by default.

    Returns:
        The number of embeddings.

    Raises:
        DataError: utterances that cannot be read, all of them named; nothing is written then.
    """
    data = DataDir.load(data_dir)
    stamp = Stamp(Path(out) / "done.json", {"data": str(data.path)}, _inputs(model_dir, data))
    if stamp.is_fresh():
        get_logger().info("%s: up to date", out)
        return len(data.utterances)
    model = SpeakerModel.from_pretrained(model_dir)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    problems: list[str] = []
    prefix = Path(out) / "xvector"
    with VectorWriter(prefix) as writer:
        for key, wave in progress(
            _waves(data, problems), f"embeddings of {data.path.name}", len(data.utterances)
        ):
            try:
                embedding = model.embed(torch.from_numpy(wave)).cpu().numpy()
            except DataError as error:
                problems.append(f"{key}: {error}")
                continue
            if not problems:
                writer.write(key, embedding)
        if problems:
            mend = "Mend these files or take them out of the data directory."
            raise DataError(problem_list(f"{data.path}: no embedding possible", problems, mend))
    stamp.write([prefix.with_suffix(suffix) for suffix in (".ark", ".scp", ".json")])
    return len(data.utterances)


def _inputs(model_dir: PathLike, data: DataDir) -> list[Path]:
    tables = [data.path / name for name in ("wav.scp", "utt2spk", "segments")]
    return [Path(model_dir) / CONFIG_FILE, Path(model_dir) / WEIGHTS_FILE, *tables]


def _waves(data: DataDir, problems: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the utterances; note those that cannot be read."""
    for key in data.utterances:
        try:
            yield key, load_utterance(data.resolve(key), data.segments.get(key), SAMPLE_RATE)
        except DataError as error:
            problems.append(f"{key}: {error}")
