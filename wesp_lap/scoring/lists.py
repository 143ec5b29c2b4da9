"""Whole trial lists from files to files: what the scoring commands do.

The scores of a list stand in files that begin with the list's file name: ``NAME.score``,
``NAME.asnorm.score``, ``NAME.qmf.score``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import PathLike, write_json
from wesp_lap.kaldi.scores import read_scores, write_scores
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import Trials, read_trials
from wesp_lap.scoring.cosine import score_trials
from wesp_lap.scoring.embeddings import EmbeddingFile, Embeddings, EmbeddingSource, enrolment_models
from wesp_lap.scoring.norm import NormMethod, score_norm


@dataclass(frozen=True)
class TrialFiles:
    """Where the embeddings of a trial list come from.

    Attributes:
        enroll_scp: embeddings of the first column, or of the utterances in ``enroll_map``.
        test_scp: embeddings of the second column; None for the same file.
        mean_scp: embeddings whose mean is subtracted from all, or a .npy file with the mean
            itself; None to subtract nothing.
        enroll_map: lines ``model utterance utterance ...`` when the first column names models.
    """

    enroll_scp: PathLike
    test_scp: PathLike | None = None
    mean_scp: PathLike | None = None
    enroll_map: PathLike | None = None

    def load(self) -> tuple[Embeddings, Embeddings, np.ndarray | None]:
        """Return the embeddings of both columns and the mean."""
        utterances = Embeddings.read(self.enroll_scp)
        test = utterances
        if self.test_scp is not None and Path(self.test_scp) != Path(self.enroll_scp):
            test = Embeddings.read(self.test_scp)
        mean = None if self.mean_scp is None else read_mean(self.mean_scp)
        models = self.models()
        return enrolment_models(utterances, models, mean) if models else utterances, test, mean

    def models(self) -> dict[str, list[str]]:
        """Return the utterances of every enrolment model; empty without ``enroll_map``."""
        if self.enroll_map is None:
            return {}
        return {model: line.split() for model, line in read_table(self.enroll_map).items()}


def read_mean(path: PathLike) -> np.ndarray:
    """Return the mean of the embeddings of an scp table, or the one stored in a .npy file, (E,).

    Raises:
        DataError: the embeddings cannot be used, or the file does not hold one finite vector.
    """
    if Path(path).suffix != ".npy":
        return EmbeddingFile(path).mean()
    try:
        mean = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an array: {error}. Write it again.") from error
    numbers = np.issubdtype(mean.dtype, np.floating)
    if mean.ndim != 1 or not mean.size or not numbers or not np.isfinite(mean).all():
        raise DataError(
            f"{path}: expected one finite vector, found {mean.dtype} {mean.shape}. Give "
            "mean_vec.npy of an export package or of WeSpeaker, or an scp file."
        )
    return mean.astype(np.float32)


def score_lists(lists: Sequence[PathLike], files: TrialFiles, out_dir: PathLike) -> list[Path]:
    """Write the cosine scores of every trial list to ``out_dir/NAME.score``."""
    names = list_names(lists)
    all_trials = [read_trials(path) for path in lists]
    enroll, test, mean = files.load()
    written = []
    for name, trials in zip(names, all_trials, strict=True):
        path = Path(out_dir) / f"{name}.score"
        write_scores(path, trials, score_trials(trials, enroll, test, mean))
        written.append(path)
    return written


def normalise_lists(
    lists: Sequence[PathLike],
    scores_dir: PathLike,
    files: TrialFiles,
    cohort_scp: PathLike,
    cohort_utt2spk: PathLike | None = None,
    top_n: int = 300,
    method: NormMethod = "asnorm",
    std_ddof: int = 1,
    device: str = "cpu",
) -> list[Path]:
    """Write normalised scores of every list to ``scores_dir/NAME.METHOD.score``.

    The lines have WeSpeaker's columns: ids, score, label, the lengths of both centred embeddings,
    and both cohort means. How they were made is remembered in ``NAME.METHOD.json``. Utterances
    that several lists share meet the cohort once.

    Args:
        lists: trial lists with scores in ``scores_dir/NAME.score``.
        scores_dir: directory of the score files.
        files: the embeddings that the scores were made from.
        cohort_scp: embeddings of the cohort, which are read block by block.
        cohort_utt2spk: when given, the cohort is the means of these speakers.
        top_n: how many of the largest cohort cosines count.
        method: "asnorm" or "snorm".
        std_ddof: 1 for the unbiased standard deviation, 0 for the population's.
        device: "cpu", or the torch device that meets the cohort.
    """
    names = list_names(lists)
    all_trials = [read_trials(path) for path in lists]
    scores = [
        matching_scores(scores_dir, name, "score", t) for name, t in _pairs(names, all_trials)
    ]
    enroll, test, mean = files.load()
    cohort: EmbeddingSource = EmbeddingFile(cohort_scp)
    if cohort_utt2spk is not None:
        cohort = cohort.speaker_means(read_table(cohort_utt2spk))
    normalised, statistics = score_norm(
        np.concatenate(scores),
        _joined(all_trials),
        enroll,
        test,
        cohort,
        mean,
        top_n,
        method,
        std_ddof,
        device,
    )
    columns = np.column_stack(
        [
            statistics.enroll_norm,
            statistics.test_norm,
            statistics.enroll_mean,
            statistics.test_mean,
        ]
    )
    record = {"method": method, "top_n": top_n, "std_ddof": std_ddof, "cohort": cohort.source}
    written, start = [], 0
    for name, trials in _pairs(names, all_trials):
        part = slice(start, start + len(trials))
        start = part.stop
        path = Path(scores_dir) / f"{name}.{method}.score"
        write_scores(path, trials, normalised[part], columns[part])
        write_json(path.with_suffix(".json"), record)
        written.append(path)
    return written


def list_names(lists: Sequence[PathLike]) -> list[str]:
    """Return the file names of trial lists, which must differ: outputs are called after them."""
    if not lists:
        raise ConfigError("no trial list given")
    names = [Path(path).name for path in lists]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"trial lists of equal file name: {', '.join(repeated)}; rename one")
    return names


def _pairs(names: list[str], trials: list[Trials]) -> list[tuple[str, Trials]]:
    return list(zip(names, trials, strict=True))


def _joined(all_trials: Sequence[Trials]) -> Trials:
    return Trials(
        [key for trials in all_trials for key in trials.enroll],
        [key for trials in all_trials for key in trials.test],
        None,
    )


def matching_scores(scores_dir: PathLike, name: str, kind: str, trials: Trials) -> np.ndarray:
    """Read the scores of a list and make sure that they are of this very list."""
    path = Path(scores_dir) / f"{name}.{kind}"
    if not path.exists():
        command = "score_norm" if kind == "asnorm.score" else "score"
        raise DataError(f"{path}: no such file; run python -m wesp_lap.bin.{command} first")
    scored, scores = read_scores(path)
    if scored.enroll != trials.enroll or scored.test != trials.test:
        raise DataError(f"{path}: its trials are not those of the list {name}; score it again")
    return scores
