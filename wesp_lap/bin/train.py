"""Train one phase, in this process or in those that torchrun starts."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.training.interruption import REQUEUE_EXIT_CODE
from wesp_lap.training.run import train
from wesp_lap.training.settings import load_settings


def main(config: str, exp_dir: str, phase: str | None = None, **overrides: str) -> int:
    """Train one phase; the same command again resumes it. Any setting: --section.key value.

    SIGTERM, SIGUSR1, SIGUSR2 and SIGINT save the state at the end of a step; exit code 75 then.

    Args:
        config: YAML file with the settings.
        exp_dir: Directory for config.yaml, train.log, metrics.jsonl and checkpoints/.
        phase: Which of the phases of the file; leave it out for a file without "phases".
    """
    settings = load_settings(config, overrides, phase)
    return 0 if train(settings, exp_dir) else REQUEUE_EXIT_CODE


if __name__ == "__main__":
    run_command(main)
