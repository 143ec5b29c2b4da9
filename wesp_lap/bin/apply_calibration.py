"""Turn scores into LLRs by a saved map: python -m wesp_lap.bin.apply_calibration --help."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.scoring.calibration_lists import apply_calibration
from wesp_lap.scoring.lists import TrialFiles


def main(
    trials: list[str],
    scores_dir: str,
    enroll_scp: str,
    calibration: str,
    out_dir: str,
    test_utt2dur: str | None = None,
    test_scp: str | None = None,
    mean_scp: str | None = None,
    enroll_map: str | None = None,
    decide: float | None = None,
) -> None:
    """Write LLRs to OUT_DIR/<list file name>.qmf.score by a calibration that was fitted before.

    Scores that were normalised otherwise, or embeddings of another model, are refused.

    Args:
        trials: trial list, or several with commas between them.
        scores_dir: directory with <list file name>.asnorm.score, or .score where the calibration
            was fitted on cosines.
        enroll_scp: as given to the score command.
        calibration: calibration.json of the calibrate command.
        out_dir: directory for the score files.
        test_utt2dur: seconds of the utterances of both columns, for features with durations.
        test_scp: as given to the score command.
        mean_scp: as given to the score command.
        enroll_map: as given to the score command.
        decide: target prior at which trials are accepted or rejected in
            OUT_DIR/<list file name>.qmf.decisions.
    """
    written = apply_calibration(
        trials,
        scores_dir,
        TrialFiles(enroll_scp, test_scp, mean_scp, enroll_map),
        calibration,
        out_dir,
        test_utt2dur,
        decide,
    )
    for path in written:
        print(path)


if __name__ == "__main__":
    run_command(main)
