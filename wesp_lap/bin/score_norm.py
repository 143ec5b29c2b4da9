"""Normalise scores against a cohort: python -m wesp_lap.bin.score_norm --help."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.scoring.lists import TrialFiles, normalise_lists
from wesp_lap.scoring.norm import NormMethod


def score_norm(
    trials: list[str],
    scores_dir: str,
    enroll_scp: str,
    cohort_scp: str,
    cohort_utt2spk: str | None = None,
    test_scp: str | None = None,
    mean_scp: str | None = None,
    enroll_map: str | None = None,
    top_n: int = 300,
    method: NormMethod = "asnorm",
    std_ddof: int = 1,
    device: str = "cpu",
) -> None:
    """Write normalised scores to SCORES_DIR/<list file name>.<method>.score.

    Lines: enroll test score label |e| |t| mean_e mean_t, where |.| is the length of the
    mean-subtracted embedding and mean_. the mean of its cohort scores.

    Args:
        trials: trial list, or several with commas between them.
        scores_dir: directory with <list file name>.score, to which the results go too.
        enroll_scp: as given to the score command.
        cohort_scp: embeddings of the cohort.
        cohort_utt2spk: when given, the cohort is the means of these speakers.
        test_scp: as given to the score command.
        mean_scp: as given to the score command.
        enroll_map: as given to the score command.
        top_n: how many of the largest cohort scores count; not used by snorm.
        method: asnorm or snorm.
        std_ddof: 1 divides squared deviations by n - 1, 0 by n.
        device: cpu, or cuda to compute the cohort scores of large cohorts on a GPU.
    """
    files = TrialFiles(enroll_scp, test_scp, mean_scp, enroll_map)
    for path in normalise_lists(
        trials, scores_dir, files, cohort_scp, cohort_utt2spk, top_n, method, std_ddof, device
    ):
        print(path)


if __name__ == "__main__":
    run_command(score_norm)
