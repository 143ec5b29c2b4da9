"""One step: torch.compile, fp16's scaler, and the order of what happens to a gradient."""

import dataclasses
import functools
import itertools

import pytest
import torch
from torch.amp import GradScaler

from wesp_lap.coerce import Section
from wesp_lap.tensors import load_tensors
from wesp_lap.training import phase
from wesp_lap.training.classification import SpeakerTask
from wesp_lap.training.run import train

FILES = ("model.safetensors", "classifier.safetensors", "optimizer.safetensors")


def end(exp_dir):
    return {name: load_tensors(exp_dir / "final" / name) for name in FILES}


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_checkpoints(make_settings, tmp_path, monkeypatch):
    """Traced by torch.compile, but run as it is: the compiler itself takes minutes."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def settings(**training):
        return dataclasses.replace(
            make_settings(training={"epochs": 1, "tensorboard": False, **training}),
            frontend=Section("fbank"),
            backend=Section("xvector", {"embed_dim": 16}),
        )

    train(settings(), tmp_path / "plain")
    compiler = functools.partial(torch.compile, backend=backend)
    monkeypatch.setattr(torch, "compile", compiler)
    train(settings(compile=True), tmp_path / "compiled")
    assert graphs
    plain, compiled = end(tmp_path / "plain"), end(tmp_path / "compiled")
    for name in FILES:
        assert plain[name].keys() == compiled[name].keys()
        for key, tensor in plain[name].items():
            torch.testing.assert_close(compiled[name][key], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [2.0**10, 2.0**-6])
def test_a_scaled_gradient_is_pulled_and_clipped_as_it_is(
    make_settings, tmp_path, monkeypatch, scale
):
    """A power of two scales without rounding: with the scaler all is the same, bit for bit."""
    settings = make_settings(pull={"weight": 0.1}, training={"grad_clip": 1.0, "epochs": 1})
    train(settings, tmp_path / "plain")
    made = []

    def scaler(device, enabled):
        made.append(GradScaler(device, init_scale=scale, growth_interval=2))
        return made[-1]

    monkeypatch.setattr(phase, "GradScaler", scaler)
    train(settings, tmp_path / "scaled")
    assert made[0].get_scale() == 4 * scale  # it has grown twice in four steps
    plain, scaled = end(tmp_path / "plain"), end(tmp_path / "scaled")
    for name in FILES:
        for key, tensor in plain[name].items():
            assert torch.equal(scaled[name][key], tensor), key


def test_a_gradient_that_overflows_under_the_scaler_only_lowers_the_scale(
    make_settings, tmp_path, monkeypatch
):
    """Like fp16: the update is left out, and it does not count as a bad step."""
    scalers = []

    def scaler(device, enabled):
        scalers.append(GradScaler(device, init_scale=2.0**126, growth_interval=1000))
        return scalers[-1]

    monkeypatch.setattr(phase, "GradScaler", scaler)
    train(make_settings(training={"epochs": 1, "max_bad_steps": 0}), tmp_path)
    assert scalers[0].get_scale() < 2.0**126
    weights = load_tensors(tmp_path / "final" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_a_loss_that_is_not_finite_under_the_scaler_is_skipped_once(
    make_settings, tmp_path, monkeypatch
):
    """Like fp16: the steps after it are taken."""
    scalers = []

    def scaler(device, enabled):
        scalers.append(GradScaler(device, init_scale=16.0, growth_interval=1000))
        return scalers[-1]

    compute, calls = SpeakerTask.compute, itertools.count()

    def spoilt(self, network, waves, labels, plan):
        outcome = compute(self, network, waves, labels, plan)
        return outcome._replace(loss=outcome.loss * (torch.nan if next(calls) == 1 else 1))

    monkeypatch.setattr(phase, "GradScaler", scaler)
    monkeypatch.setattr(SpeakerTask, "compute", spoilt)
    train(make_settings(training={"epochs": 1, "max_bad_steps": 1}), tmp_path)
    assert next(calls) == 4
    assert scalers[0].get_scale() == 8
    optimizer = end(tmp_path)["optimizer.safetensors"]
    assert {int(t) for name, t in optimizer.items() if name.endswith(".step")} == {3}
