"""A tiny speaker model with random weights on disk."""

from pathlib import Path

import pytest
import torch
from helpers import tiny_frontend

from wesp_lap.coerce import Section
from wesp_lap.model import ModelSettings, SpeakerModel


@pytest.fixture(scope="session")
def make_model(tmp_path_factory):
    """Return a function from a seed to the directory of a model with these random weights."""

    def make(seed: int) -> Path:
        torch.manual_seed(seed)
        frontend = Section("transformer", {"config": tiny_frontend()})
        backend = Section("lap_astp", {"heads": 4, "pooled_dim": 32, "embed_dim": 16})
        folder = tmp_path_factory.mktemp("model")
        SpeakerModel(ModelSettings(frontend, backend)).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def model_dir(make_model) -> Path:
    return make_model(0)
