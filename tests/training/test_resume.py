"""Interrupted and resumed training equals training in one go, bit for bit."""

import pytest
import torch

from wesp_lap.errors import ConfigError
from wesp_lap.tensors import load_tensors
from wesp_lap.training import trainer
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.run import train

NAMES = ("model.safetensors", "classifier.safetensors", "optimizer.safetensors")


class InterruptionError(Exception):
    """Stands for a kill."""


def state(exp_dir):
    end = exp_dir / "checkpoints" / "epoch_002"
    return {name: load_tensors(end / name) for name in NAMES}


def assert_equal_states(one, other):
    for name in NAMES:
        assert one[name].keys() == other[name].keys()
        for key, tensor in one[name].items():
            assert torch.equal(tensor, other[name][key]), f"{name}: {key}"


@pytest.fixture
def settings(make_settings):
    """Dropout, LayerDrop and speed perturbation on: everything that draws random numbers."""
    return make_settings(
        frontend={"config": {"layerdrop": 0.3, "apply_spec_augment": True, "mask_time_length": 2}},
        data={"augment": {"speed_perturb": True}},
        training={"checkpoint_every": 2},
    )


@pytest.fixture
def uninterrupted(settings, tmp_path):
    train(settings, tmp_path / "whole")
    return state(tmp_path / "whole")


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 5, 7], ids=lambda n: f"after_step_{n}")
def test_resumed_equals_uninterrupted(settings, uninterrupted, tmp_path, monkeypatch, stop):
    with monkeypatch.context() as patch:
        steps = iter(range(stop, -1, -1))
        whole = trainer.Trainer._step

        def step(self, *arguments):
            if next(steps) == 0:
                raise InterruptionError
            whole(self, *arguments)

        patch.setattr(trainer.Trainer, "_step", step)
        with pytest.raises(InterruptionError):
            train(settings, tmp_path / "parts")
    assert CheckpointFolder(tmp_path / "parts" / "checkpoints").newest() == Moment(
        stop // 4, stop % 4 // 2 * 2
    )
    train(settings, tmp_path / "parts")
    assert_equal_states(state(tmp_path / "parts"), uninterrupted)


def test_a_kill_during_a_checkpoint_costs_only_that_checkpoint(
    settings, uninterrupted, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        from wesp_lap.training import checkpoint_writer

        saves = iter(range(3, -1, -1))
        whole = checkpoint_writer.write_json

        def write(*arguments):
            if next(saves) == 0:
                raise InterruptionError
            whole(*arguments)

        patch.setattr(checkpoint_writer, "write_json", write)
        with pytest.raises(InterruptionError):
            train(settings, tmp_path / "parts")
    train(settings, tmp_path / "parts")
    assert_equal_states(state(tmp_path / "parts"), uninterrupted)


def test_the_number_of_loader_workers_changes_nothing(
    make_settings, settings, uninterrupted, tmp_path
):
    import dataclasses

    workers = dataclasses.replace(settings, data=dataclasses.replace(settings.data, num_workers=2))
    train(workers, tmp_path / "workers")
    assert_equal_states(state(tmp_path / "workers"), uninterrupted)


def test_another_seed_changes_the_weights(make_settings, uninterrupted, tmp_path):
    train(make_settings(seed=43, training={"checkpoint_every": 2}), tmp_path / "other")
    key = "backend.time_pool.embedding.weight"
    other = load_tensors(tmp_path / "other" / "checkpoints" / "epoch_002" / NAMES[0])
    assert not torch.equal(other[key], uninterrupted[NAMES[0]][key])


def test_accumulation_equals_one_batch_without_batch_norm(make_settings, tmp_path):
    """With batch norm the chunks have statistics of their own; this backend has none."""

    def run(name, **training):
        settings = make_settings(
            frontend={
                "config": {
                    "hidden_dropout": 0.0,
                    "attention_dropout": 0.0,
                    "activation_dropout": 0.0,
                    "feat_proj_dropout": 0.0,
                }
            },
            backend={"name": "mhfa", "heads": 4, "compressed_dim": 16, "embed_dim": 16},
            optimizer={"name": "sgd"},
            training={"epochs": 1, **training},
        )
        train(settings, tmp_path / name)
        return load_tensors(tmp_path / name / "checkpoints" / "epoch_001" / "model.safetensors")

    whole, chunks = run("whole"), run("chunks", accumulate=4)
    for key, tensor in whole.items():
        torch.testing.assert_close(chunks[key], tensor, atol=1e-5, rtol=1e-4)
    started = load_tensors(tmp_path / "whole/checkpoints/epoch_000/model.safetensors")
    assert any((whole[key] - tensor).abs().max() > 1e-3 for key, tensor in started.items())


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(make_settings, tmp_path):
    settings = make_settings(training={"epochs": 1})
    train(settings, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "ema_decay" not in line))
    train(settings, tmp_path / "run")
    other = make_settings(training={"epochs": 1, "ema_decay": 0.9})
    with pytest.raises(ConfigError, match=r"training.ema_decay: 0.0 there, 0.9 now"):
        train(other, tmp_path / "run")
