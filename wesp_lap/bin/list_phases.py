"""Print the phases of a settings file, one a line."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.config import phase_names


def main(config: str) -> None:
    """Print the names of the phases in their order; nothing for a file without "phases".

    Args:
        config: YAML file with the settings.
    """
    for name in phase_names(config):
        print(name)


if __name__ == "__main__":
    run_command(main)
