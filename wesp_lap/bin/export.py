"""Export a finished system as one directory and check that it works."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.export import export_package


def main(
    model: str,
    out: str,
    mean_scp: str,
    calibration: str,
    results: str,
    check_scp: str,
    check_data: str,
) -> None:
    """Write model, embedding mean, calibration and model card to OUT, then load and try them.

    Args:
        model: Directory of the speaker model.
        out: Directory to write.
        mean_scp: Embeddings whose mean is subtracted before scoring.
        calibration: calibration.json of the calibrate command.
        results: results.tsv, for the model card.
        check_scp: Embeddings that the exported model must reproduce.
        check_data: Data directory of those embeddings.
    """
    cosine = export_package(model, out, mean_scp, calibration, results, check_scp, check_data)
    print(f"{out}: checked against {check_scp}, smallest cosine {cosine:.7f}")


if __name__ == "__main__":
    run_command(main)
