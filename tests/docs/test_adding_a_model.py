"""The worked example of docs/adding_a_model.md, taken from the page and run."""

from __future__ import annotations

import re
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch

import wesp_lap.backends
import wesp_lap.model
from wesp_lap.bin.train import main as train
from wesp_lap.data.shards import make_shards
from wesp_lap.errors import ConfigError
from wesp_lap.model import SpeakerModel
from wesp_lap.training.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding_a_model.md").read_text(encoding="utf-8")
SMALL = {
    "data.batch_size": "8",
    "data.crop_seconds": "0.5",
    "data.augment.noise_prob": "0",
    "training.epochs": "1",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> type:
    """Do what the page says: the module, the import and the table."""
    backend, table, _ = blocks("python")
    module = types.ModuleType("wesp_lap.backends.mean_pooling")
    exec(compile(backend, "mean_pooling.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    room = dict(vars(wesp_lap.backends))
    exec(compile(table, "__init__.py", "exec"), room)
    missing = set(wesp_lap.backends.BACKENDS) - set(room["BACKENDS"])
    assert not missing, f"the table on the page lacks {missing}"
    monkeypatch.setattr(wesp_lap.backends, "BACKENDS", room["BACKENDS"])
    monkeypatch.setattr(wesp_lap.model, "BACKENDS", room["BACKENDS"])
    return module.MeanPooling


@pytest.fixture
def phase(tmp_path: Path) -> Path:
    """The YAML file of the page beside the phases of the mini recipe."""
    shutil.copytree(ROOT / "egs" / "mini" / "conf", tmp_path / "conf")
    (text,) = blocks("yaml")
    path = tmp_path / "conf" / "mean.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_backend_is_the_mean_over_layers_and_frames(registered: type) -> None:
    backend = registered(num_layers=3, input_dim=4, embed_dim=2).eval()
    states = [torch.randn(5, 7, 4) for _ in range(3)]
    mean = sum(state.sum(dim=1) for state in states) / 21
    weight, bias = backend.embedding.weight, backend.embedding.bias
    torch.testing.assert_close(backend(states), mean @ weight.T + bias)


def test_the_yaml_trains_and_the_model_loads_again(
    registered: type, phase: Path, tmp_path: Path, tiny_corpus
) -> None:
    make_shards(tiny_corpus.data, tmp_path / "shards", tmp_path / "shard.list")
    options = {**SMALL, "data.shards": str(tmp_path / "shard.list")}
    assert load_settings(phase, options).backend.options == {"embed_dim": 64, "dropout": 0.1}
    train(str(phase), str(tmp_path / "exp"), **options)
    model = SpeakerModel.from_pretrained(tmp_path / "exp" / "final")
    assert isinstance(model.backend, registered)
    assert model.embed(torch.zeros(16000)).shape == (64,)


def test_the_python_example_builds_the_model(registered: type) -> None:
    example = blocks("python")[2].replace(
        '"num_hidden_layers": 2', '"num_hidden_layers": 2, "hidden_size": 48'
    )
    scope: dict = {}
    exec(compile(example, "example.py", "exec"), scope)
    assert scope["model"].embed_dim == 64
    assert scope["model"].backend.embedding.in_features == 48


def test_options_of_the_new_backend_are_checked(registered: type, phase: Path) -> None:
    with pytest.raises(ConfigError, match=r"mean_pooling.*did you mean 'dropout'"):
        load_settings(phase, {"data.shards": "shard.list", "backend.droput": "0.5"})
