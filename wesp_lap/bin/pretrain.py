"""Pre-train an encoder by masked prediction, in this process or in those that torchrun starts."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.pretraining.run import pretrain
from wesp_lap.pretraining.settings import load_settings
from wesp_lap.training.interruption import REQUEUE_EXIT_CODE


def main(
    config: str,
    exp_dir: str,
    phase: str | None = None,
    labels: str | None = None,
    **overrides: str,
) -> int:
    """Pre-train an encoder; the same command again resumes it. Any setting: --section.key value.

    SIGTERM, SIGUSR1, SIGUSR2 and SIGINT save the state at the end of a step; exit code 75 then.

    Args:
        config: YAML file with the settings.
        exp_dir: Directory for config.yaml, train.log, metrics.jsonl, checkpoints/ and, at the end,
            encoder/, which a frontend takes as its weights.
        phase: Which of the phases of the file; leave it out for a file without "phases".
        labels: Directory written by make_labels.
    """
    given = {"labels": labels} if labels is not None else {}
    settings = load_settings(config, {**overrides, **given}, phase)
    return 0 if pretrain(settings, exp_dir) else REQUEUE_EXIT_CODE


if __name__ == "__main__":
    run_command(main)
