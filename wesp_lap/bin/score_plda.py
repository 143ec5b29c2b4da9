"""Score trial lists by PLDA: python -m wesp_lap.bin.score_plda --help."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.scoring.kaldi_plda import load_backend
from wesp_lap.scoring.lists import TrialFiles
from wesp_lap.scoring.plda_backend import EnrollCount
from wesp_lap.scoring.plda_lists import score_plda_lists


def score_plda(
    plda: str,
    trials: list[str],
    enroll_scp: str,
    out_dir: str,
    test_scp: str | None = None,
    enroll_map: str | None = None,
    enroll_count: EnrollCount = "book",
    transform: str | None = None,
    mean: str | None = None,
    length_norm: bool = True,
    normalize_length: bool = True,
) -> None:
    """Write the PLDA scores of trial lists to OUT_DIR/<list file name>.plda.score.

    Args:
        plda: directory of train_plda, or a plda file of Kaldi.
        trials: trial list, or several with commas between them.
        enroll_scp: embeddings of the first column (or of the utterances in enroll_map).
        out_dir: directory for the score files.
        test_scp: embeddings of the second column; by default the same file.
        enroll_map: lines "model utt1 utt2 ..." when the first column names models.
        enroll_count: book, a model of n utterances counts as n of them, or one, as a single
            utterance that is their mean.
        transform: Kaldi only, transform.mat (LDA).
        mean: Kaldi only, mean.vec, subtracted first.
        length_norm: Kaldi only, --nolength_norm leaves out ivector-normalize-length.
        normalize_length: Kaldi only, as the option of ivector-plda-scoring.
    """
    backend = load_backend(plda, transform, mean, length_norm, normalize_length)
    files = TrialFiles(enroll_scp, test_scp, None, enroll_map)
    for path in score_plda_lists(trials, backend, files, out_dir, enroll_count):
        print(path)


if __name__ == "__main__":
    run_command(score_plda)
