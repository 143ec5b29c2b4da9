"""Settings with which a recipe takes a minute."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from helpers import tiny_frontend


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings whose phases take seconds, laid out like those of the recipes."""
    tree = {
        "frontend": {"name": "transformer", "config": tiny_frontend()},
        "backend": {"name": "lap_astp", "heads": 4, "pooled_dim": 32, "embed_dim": 16},
        "loss": {"name": "aam"},
        "margin": {"final": 0.2, "ramp_epochs": 1},
        "data": {
            "batch_size": 8,
            "crop_seconds": 1.0,
            "num_workers": 0,
            "augment": {"noise_prob": 0.5},
        },
        "optimizer": {"name": "adam"},
        "lr_schedule": {"name": "warmup_cosine", "max_lr": 1e-3},
        "training": {"log_every": 2},
        "phases": {
            "frozen": {
                "data": {"augment": {"speed_perturb": True}},
                "training": {"epochs": 1, "freeze_frontend": True},
            },
            "joint": {
                "data": {"augment": {"speed_perturb": False}},
                "training": {"epochs": 2, "freeze_frontend": False},
            },
            "large_margin": {
                "loss": {"topk": 0},
                "margin": {"final": 0.5, "ramp_epochs": 0, "penalty": 0.0},
                "training": {"epochs": 1},
            },
        },
    }
    path = tmp_path_factory.mktemp("conf") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path
