"""A miniature training set and settings that train on it within seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from wesp_lap.coerce import from_mapping
from wesp_lap.config import merge
from wesp_lap.data.shards import make_shards
from wesp_lap.training.settings import TrainSettings


@pytest.fixture(scope="session")
def shard_list(tiny_corpus, tmp_path_factory) -> Path:
    """Shards of the tiny corpus: 32 utterances of 8 speakers in two tars."""
    folder = tmp_path_factory.mktemp("shards")
    make_shards(tiny_corpus.data, folder / "shards", folder / "shard.list", 16)
    return folder / "shard.list"


@pytest.fixture
def make_settings(shard_list, tiny_model_settings):
    """Return a function from changes to checked TrainSettings: 4 steps per epoch, 2 epochs."""
    tree = {
        **tiny_model_settings,
        "loss": {"name": "aam"},
        "margin": {"final": 0.2, "ramp_epochs": 1},
        "data": {
            "shards": str(shard_list),
            "batch_size": 8,
            "crop_seconds": 0.5,
            "num_workers": 0,
        },
        "optimizer": {"name": "adam"},
        "lr_schedule": {"name": "warmup_cosine", "max_lr": 1e-3},
        "training": {"epochs": 2, "log_every": 2},
    }

    def make(**changes) -> TrainSettings:
        settings = from_mapping(TrainSettings, merge(tree, changes))
        settings.check()
        return settings

    return make
