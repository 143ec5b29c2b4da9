"""Score trial lists by cosine: python -m wesp_lap.bin.score --help."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.scoring.lists import TrialFiles, score_lists


def score(
    trials: list[str],
    enroll_scp: str,
    out_dir: str,
    test_scp: str | None = None,
    mean_scp: str | None = None,
    enroll_map: str | None = None,
) -> None:
    """Write the cosine scores of trial lists to OUT_DIR/<list file name>.score.

    Args:
        trials: trial list, or several with commas between them.
        enroll_scp: embeddings of the first column (or of the utterances in enroll_map).
        out_dir: directory for the score files.
        test_scp: embeddings of the second column; by default the same file.
        mean_scp: embeddings whose mean is subtracted first, usually the training set's; or a .npy
            file with the mean itself, such as mean_vec.npy of an export package.
        enroll_map: lines "model utt1 utt2 ..." when the first column names models: a model is the
            mean of the length-normalised embeddings of its utterances, after mean subtraction.
    """
    files = TrialFiles(enroll_scp, test_scp, mean_scp, enroll_map)
    for path in score_lists(trials, files, out_dir):
        print(path)


if __name__ == "__main__":
    run_command(score)
