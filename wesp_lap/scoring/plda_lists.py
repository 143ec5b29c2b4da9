"""PLDA from files to files: what the PLDA commands do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wesp_lap.files import PathLike
from wesp_lap.kaldi.scores import write_scores
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import read_trials
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.lists import TrialFiles, list_names
from wesp_lap.scoring.plda import AdaptMethod, Start
from wesp_lap.scoring.plda_backend import DEFAULT_CHAIN, EnrollCount, PldaBackend, train_backend


@dataclass(frozen=True)
class Adaptation:
    """Unlabelled embeddings of another domain, and how to adapt to them; see ``plda.adapt``."""

    scp: PathLike
    method: AdaptMethod = "kaldi"
    within_scale: float = 0.3
    between_scale: float = 0.7
    mean_diff_scale: float = 1.0


def train_plda_files(
    scp: PathLike,
    utt2spk: PathLike,
    out: PathLike,
    chain: str = DEFAULT_CHAIN,
    iterations: int = 10,
    start: Start = "moments",
    adaptation: Adaptation | None = None,
) -> PldaBackend:
    """Fit chain and PLDA on the embeddings of ``scp``, adapt them, and save them as ``out``."""
    backend = train_backend(Embeddings.read(scp), read_table(utt2spk), chain, iterations, start)
    if adaptation is not None:
        backend = backend.adapted(
            Embeddings.read(adaptation.scp),
            adaptation.method,
            adaptation.within_scale,
            adaptation.between_scale,
            adaptation.mean_diff_scale,
        )
    backend.save(out)
    return backend


def score_plda_lists(
    lists: Sequence[PathLike],
    backend: PldaBackend,
    files: TrialFiles,
    out_dir: PathLike,
    enroll_count: EnrollCount = "book",
) -> list[Path]:
    """Write the log-likelihood ratios of every trial list to ``out_dir/NAME.plda.score``.

    Args:
        lists: trial lists.
        backend: the PLDA.
        files: the embeddings; the mean is the business of the back-end's chain.
        out_dir: directory to write to.
        enroll_count: how much a model of several utterances knows, see ``PldaBackend.score``.
    """
    names = list_names(lists)
    all_trials = [read_trials(path) for path in lists]
    enroll = Embeddings.read(files.enroll_scp)
    same = files.test_scp is None or Path(files.test_scp) == Path(files.enroll_scp)
    test = enroll if same or files.test_scp is None else Embeddings.read(files.test_scp)
    models = files.models()
    written = []
    for name, trials in zip(names, all_trials, strict=True):
        path = Path(out_dir) / f"{name}.plda.score"
        write_scores(path, trials, backend.score(trials, enroll, test, models, enroll_count))
        written.append(path)
    return written
