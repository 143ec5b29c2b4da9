"""Calibrate normalised scores to LLRs: python -m wesp_lap.bin.calibrate --help."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.scoring.calibration_lists import TrainingFiles, calibrate_lists
from wesp_lap.scoring.lists import TrialFiles


def calibrate(
    trials: list[str],
    scores_dir: str,
    enroll_scp: str,
    test_utt2dur: str,
    cohort_scp: str,
    cohort_utt2spk: str,
    cohort_utt2dur: str,
    out_dir: str,
    test_scp: str | None = None,
    mean_scp: str | None = None,
    enroll_map: str | None = None,
    top_n: int = 300,
    num_pairs: int = 30_000,
    seed: int = 7,
    std_ddof: int = 1,
) -> None:
    """Fit a quality-aware calibration and write LLRs to OUT_DIR/<list file name>.qmf.score.

    The map is fitted on pairs of training (cohort) utterances and saved as
    OUT_DIR/calibration.json.

    Args:
        trials: trial list, or several with commas between them.
        scores_dir: directory with <list file name>.asnorm.score.
        enroll_scp: as given to the score command.
        test_utt2dur: seconds of the utterances of both columns; a model of enroll_map lasts as
            long as its utterances together.
        cohort_scp: embeddings of the training utterances, whose speaker means are the cohort.
        cohort_utt2spk: their speakers.
        cohort_utt2dur: their durations in seconds.
        out_dir: directory for calibration.json and the score files.
        test_scp: as given to the score command.
        mean_scp: as given to the score command.
        enroll_map: as given to the score command.
        top_n: as given to the score_norm command.
        num_pairs: training pairs, half target and half non-target.
        seed: seed of the pairs and of the solver.
        std_ddof: as given to the score_norm command.
    """
    written = calibrate_lists(
        trials,
        scores_dir,
        TrialFiles(enroll_scp, test_scp, mean_scp, enroll_map),
        test_utt2dur,
        TrainingFiles(cohort_scp, cohort_utt2spk, cohort_utt2dur),
        out_dir,
        top_n,
        num_pairs,
        seed,
        std_ddof,
    )
    for path in written:
        print(path)


if __name__ == "__main__":
    run_command(calibrate)
