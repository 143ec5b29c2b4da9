"""Checks before pre-training: settings that load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wesp_lap.config import phase_names
from wesp_lap.corpora.checks import Check, guarded, ok
from wesp_lap.files import PathLike


def check_settings(
    config: PathLike, phases: Sequence[str] = (), overrides: Mapping[str, str] | None = None
) -> list[Check]:
    """Check the settings of iterations of pre-training.

    Args:
        config: YAML file.
        phases: its phases that will be run; none for all.
        overrides: settings of the command line.
    """

    def load() -> list[Check]:
        from wesp_lap.pretraining.settings import load_settings  # brings torch, which is slow

        names: Sequence[str | None] = phases or phase_names(config) or [None]
        for phase in names:
            # Recipes give shards and labels when they are made.
            given = {"data.shards": "to be made", "labels": "to be made", **(overrides or {})}
            load_settings(config, given, phase)
        return [ok("pre-training", f"{config}: {', '.join(filter(None, names)) or 'loads'}")]

    return guarded("pre-training", f"mend {config} or the options that change it", load)
