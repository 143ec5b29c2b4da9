"""A finished system as one directory that another machine can use."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from wesp_lap.data.utterance import load_utterance
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, atomic_write, sha256, write_json
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.model import SAMPLE_RATE, SpeakerModel
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.lists import read_mean

MEAN_FILE = "mean_vec.npy"
MANIFEST_FILE = "manifest.json"
_CHECKED = 5
_MIN_COSINE = 0.99999


def export_package(
    model_dir: PathLike,
    out: PathLike,
    mean_scp: PathLike,
    calibration: PathLike,
    results: PathLike,
    check_scp: PathLike,
    check_data: PathLike,
) -> float:
    """Write model, embedding mean, calibration, card with results, and digests; then try it.

    The written model is loaded again and must give, for some utterances of ``check_data``, the
    embeddings that ``check_scp`` holds. Adapters of the frontend are merged into its weights.

    Returns:
        The smallest cosine met in that check.

    Raises:
        DataError: files are missing, or the package gives other embeddings than the ones that were
            scored; it then has no manifest.
    """
    target = Path(out)
    lost = [f"{path}: no such file" for path in (calibration, results) if not Path(path).is_file()]
    raise_problems("nothing to export", lost)
    (target / MANIFEST_FILE).unlink(missing_ok=True)
    model = SpeakerModel.from_pretrained(model_dir)
    model.merge_lora()
    table = Path(results).read_text(encoding="utf-8")
    model.save_pretrained(target, model.model_card(_results_section(table)))
    with atomic_write(target / MEAN_FILE, "wb") as stream:
        np.save(stream, read_mean(mean_scp), allow_pickle=False)
    shutil.copyfile(calibration, target / "calibration.json")
    cosine = _check(SpeakerModel.from_pretrained(target), Embeddings.read(check_scp), check_data)
    files = sorted(path for path in target.iterdir() if path.name != MANIFEST_FILE)
    write_json(target / MANIFEST_FILE, {path.name: sha256(path) for path in files})
    return cosine


def _check(model: SpeakerModel, expected: Embeddings, data_dir: PathLike) -> float:
    data = DataDir.load(data_dir)
    cosines: dict[str, float] = {}
    for key in expected.keys[:_CHECKED]:
        wave = load_utterance(data.resolve(key), data.segments.get(key), SAMPLE_RATE)
        embedding = model.embed(torch.from_numpy(wave)).numpy().astype(np.float64)
        wanted = expected.matrix[expected.index[key]].astype(np.float64)
        norms = np.linalg.norm(embedding) * np.linalg.norm(wanted)
        cosines[key] = float(embedding @ wanted / norms)
    _refuse_others(cosines)
    return min(cosines.values())


def _refuse_others(cosines: Mapping[str, float]) -> None:
    worst = min(cosines, key=lambda key: cosines[key])
    if cosines[worst] < _MIN_COSINE:
        raise DataError(
            f"the exported model gives another embedding for '{worst}' than the one that was "
            f"scored (cosine {cosines[worst]:.6f}); extract and score again, then export"
        )


def _results_section(table: str) -> str:
    """Turn results.tsv into a Markdown table."""
    rows = [line.split("\t") for line in table.strip().splitlines()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return (
        f"\n## Scores\n\nScores are cosines after `{MEAN_FILE}` has been subtracted from both "
        "embeddings; `calibration.json` holds the map from normalised scores to log-likelihood "
        "ratios and the thresholds that go with them.\n\n"
        "## Results\n\nEER in per cent, minDCF normalised.\n\n" + "\n".join(lines) + "\n"
    )
