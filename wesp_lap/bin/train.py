"""Train one phase, in this process or in those that torchrun starts."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.training.run import train
from wesp_lap.training.settings import load_settings


def main(config: str, exp_dir: str, **overrides: str) -> None:
    """Train one phase; the same command again resumes it. Any setting: --section.key value.

    Args:
        config: YAML file with the settings of the phase.
        exp_dir: Directory for config.yaml, train.log, metrics.jsonl and checkpoints/.
    """
    train(load_settings(config, overrides), exp_dir)


if __name__ == "__main__":
    run_command(main)
