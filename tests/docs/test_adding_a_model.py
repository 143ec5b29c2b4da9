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
import wesp_lap.frontends
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


def register(monkeypatch: pytest.MonkeyPatch, room: types.ModuleType, number: int) -> type:
    """Do what the page says: the module, the import and the line in the room's table."""
    code, change = blocks("python")[2 * number], blocks("diff")[number]
    added = [line[1:] for line in change.splitlines() if line.startswith("+")]
    statement, entry = added
    name, cls = re.fullmatch(r"from (\S+) import (\w+)", statement).groups()
    module = types.ModuleType(name)
    exec(compile(code, f"{name}.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    ((key, value),) = re.findall(r'^    "(\w+)": (\w+),$', entry)
    assert value == cls
    (table,) = re.findall(r"^ (\w+): Mapping", change, re.M)
    known = re.findall(r'^     ("\w+": \w+),$', change, re.M)
    text = Path(room.__file__).read_text(encoding="utf-8")
    assert all(f"    {line},\n" in text for line in known), "the page shows other lines"
    entries = {**getattr(room, table), key: getattr(module, cls)}
    monkeypatch.setattr(room, table, entries)
    monkeypatch.setattr(wesp_lap.model, table, entries)
    return entries[key]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> type:
    return register(monkeypatch, wesp_lap.backends, 0)


@pytest.fixture
def frontend(monkeypatch: pytest.MonkeyPatch) -> type:
    return register(monkeypatch, wesp_lap.frontends, 1)


@pytest.fixture
def phases(tmp_path: Path) -> list[Path]:
    """The YAML files of the page beside the phases of the mini recipe."""
    shutil.copytree(ROOT / "egs" / "mini" / "conf", tmp_path / "conf")
    paths = []
    for number, text in enumerate(blocks("yaml")):
        paths.append(tmp_path / "conf" / f"page_{number}.yaml")
        paths[-1].write_text(text, encoding="utf-8")
    return paths


@pytest.fixture
def phase(phases: list[Path]) -> Path:
    return phases[0]


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
    settings = load_settings(phase, options, "frozen")
    assert settings.backend.options == {"embed_dim": 64, "dropout": 0.1}
    train(str(phase), str(tmp_path / "exp"), phase="frozen", **options)
    model = SpeakerModel.from_pretrained(tmp_path / "exp" / "final")
    assert isinstance(model.backend, registered)
    assert model.embed(torch.zeros(16000)).shape == (64,)


def test_the_python_example_builds_the_model(registered: type) -> None:
    example = blocks("python")[1].replace(
        '"num_hidden_layers": 2', '"num_hidden_layers": 2, "hidden_size": 48'
    )
    scope: dict = {}
    exec(compile(example, "example.py", "exec"), scope)
    assert scope["model"].embed_dim == 64
    assert scope["model"].backend.embedding.in_features == 48


def test_options_of_the_new_backend_are_checked(registered: type, phase: Path) -> None:
    with pytest.raises(ConfigError, match=r"mean_pooling.*did you mean 'dropout'"):
        load_settings(phase, {"data.shards": "x", "backend.droput": "0.5"}, "frozen")


def test_the_frontend_trains_and_the_model_loads_again(
    frontend: type, phases: list[Path], tmp_path: Path, tiny_corpus
) -> None:
    make_shards(tiny_corpus.data, tmp_path / "shards", tmp_path / "shard.list")
    train(
        str(phases[1]),
        str(tmp_path / "exp"),
        phase="joint",
        **{**SMALL, "data.shards": str(tmp_path / "shard.list")},
    )
    model = SpeakerModel.from_pretrained(tmp_path / "exp" / "final")
    assert isinstance(model.frontend, frontend)
    waves, lengths = torch.randn(3, 16000), [16000, 5000, 9000]
    alone = [model.embed(wave[:length]) for wave, length in zip(waves, lengths, strict=True)]
    torch.testing.assert_close(model.embed(waves, lengths), torch.stack(alone))
    assert model.embed(torch.zeros(100)).shape == (32,)


def test_the_members_that_a_frontend_must_have(frontend: type) -> None:
    table = PAGE[PAGE.index("| member |") : PAGE.index("Two more are optional")]
    cells = [line.split("|")[1] for line in table.splitlines()[2:] if line]
    names = [
        re.match(r"\w+", code).group() for cell in cells for code in re.findall("`(.*?)`", cell)
    ]
    assert len(names) == 11
    for name in names:
        for one in (frontend(), wesp_lap.frontends.FRONTENDS["fbank"]()):
            assert hasattr(one, name), name
