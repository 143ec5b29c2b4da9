"""Calibrate scores to LLRs: python -m wesp_lap.bin.calibrate --help."""

from __future__ import annotations

from typing import Literal

from wesp_lap.cli import run_command
from wesp_lap.scoring.calibration_data import PairSettings
from wesp_lap.scoring.calibration_lists import FitSettings, TrainingFiles, calibrate_lists
from wesp_lap.scoring.lists import TrialFiles


def calibrate(
    trials: list[str],
    scores_dir: str,
    enroll_scp: str,
    cohort_scp: str,
    cohort_utt2spk: str,
    out_dir: str,
    test_utt2dur: str | None = None,
    cohort_utt2dur: str | None = None,
    cohort_utt2session: str | None = None,
    test_scp: str | None = None,
    mean_scp: str | None = None,
    enroll_map: str | None = None,
    score: Literal["asnorm", "cosine"] = "asnorm",
    top_n: int = 300,
    std_ddof: int = 1,
    features: Literal["qmf9", "qmf7", "wespeaker13", "wespeaker9", "score"] = "qmf9",
    objective: Literal["logistic", "cllr"] = "logistic",
    prior: float = 0.5,
    pairs: Literal["random", "duration_balanced"] = "random",
    pair_durations: tuple[float, float] = (2.0, 6.0),
    num_pairs: int = 30_000,
    cohort_disjoint: bool = False,
    seed: int = 7,
    p_target: tuple[float, ...] = (0.01, 0.05, 0.5),
    decide: float | None = None,
) -> None:
    """Fit a quality-aware calibration and write LLRs to OUT_DIR/<list file name>.qmf.score.

    The map is fitted on pairs of training (cohort) utterances and saved as
    OUT_DIR/calibration.json, which the apply_calibration command takes for other lists.

    Args:
        trials: trial list, or several with commas between them.
        scores_dir: directory with <list file name>.asnorm.score.
        enroll_scp: as given to the score command.
        cohort_scp: embeddings of the training utterances, whose speaker means are the cohort.
        cohort_utt2spk: their speakers.
        out_dir: directory for calibration.json and the score files.
        test_utt2dur: seconds of the utterances of both columns, for features with durations; a
            model of enroll_map lasts as long as its utterances together.
        cohort_utt2dur: seconds of the training utterances, for features with durations and
            duration-balanced pairs.
        cohort_utt2session: recording or session of the training utterances: pairs of one session
            are left out.
        test_scp: as given to the score command.
        mean_scp: as given to the score command.
        enroll_map: as given to the score command.
        score: asnorm, or cosine for <list file name>.score, without normalisation.
        top_n: as given to the score_norm command.
        std_ddof: as given to the score_norm command.
        features: qmf9 (score, durations, norms of both embeddings), wespeaker13 (score, and min,
            max, difference, ratio of durations, norms and cohort means); qmf7 and wespeaker9 are
            these without durations; score is the score alone.
        objective: logistic (L2-penalised) or cllr (least expected cost at --prior).
        prior: share of targets that cllr weighs for.
        pairs: random, or duration_balanced: as many short-short, short-long and long-long.
        pair_durations: seconds from which an utterance is short, and from which it is long.
        num_pairs: training pairs, half target and half non-target.
        cohort_disjoint: take pairs from a fifth of the speakers and the cohort from the others.
        seed: seed of the pairs and of the solver.
        p_target: target priors whose thresholds are written to calibration.json.
        decide: target prior at which trials are accepted or rejected in
            OUT_DIR/<list file name>.qmf.decisions.
    """
    settings = FitSettings(
        features,
        objective,
        prior,
        PairSettings(num_pairs, seed, pairs, pair_durations, cohort_disjoint),
        score,
        top_n,
        std_ddof,
    )
    written = calibrate_lists(
        trials,
        scores_dir,
        TrialFiles(enroll_scp, test_scp, mean_scp, enroll_map),
        test_utt2dur,
        TrainingFiles(cohort_scp, cohort_utt2spk, cohort_utt2dur, cohort_utt2session),
        out_dir,
        settings,
        p_target,
        decide,
    )
    for path in written:
        print(path)


if __name__ == "__main__":
    run_command(calibrate)
