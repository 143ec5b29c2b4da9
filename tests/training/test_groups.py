"""Parameter groups: who learns how fast, what decays, what waits."""

import re

import pytest
import torch

from wesp_lap.backends import BACKENDS
from wesp_lap.coerce import Section, from_mapping
from wesp_lap.config import build, merge
from wesp_lap.errors import ConfigError
from wesp_lap.losses.margin_softmax import AamSoftmax
from wesp_lap.model import ModelSettings, SpeakerModel
from wesp_lap.tensors import load_tensors
from wesp_lap.training import trainer
from wesp_lap.training.groups import (
    GroupSettings,
    drop_early_gradients,
    parameter_groups,
    set_learning_rates,
)
from wesp_lap.training.optimizers import OPTIMIZERS
from wesp_lap.training.run import train

SGD = Section("sgd", {"weight_decay": 0.5, "momentum": 0.0, "nesterov": False})


@pytest.fixture
def build_model(tiny_model_settings):
    """Return a function from changes of the frontend to a tiny model and its classifier."""

    def make(**frontend):
        tree = merge(tiny_model_settings, {"frontend": frontend})
        model = SpeakerModel(from_mapping(ModelSettings, tree))
        return model, AamSoftmax(model.embed_dim, 8)

    return make


def named(model, classifier):
    yield from model.named_parameters()
    for name, parameter in classifier.named_parameters():
        yield f"classifier.{name}", parameter


def where(groups, model, classifier):
    """Return the group of each parameter by name; none may be in two."""
    found = {}
    for group in groups:
        for parameter in group["params"]:
            assert parameter not in found
            found[parameter] = group
    return {name: found[p] for name, p in named(model, classifier) if p in found}


def layer_by_name(name, layers, pre_norm=False):
    """Say by the name of a frontend's parameter to which layer it belongs."""
    inside = re.search(r"\blayers\.(\d+)\.", name)
    if inside:
        return int(inside[1]) + 1
    behind = pre_norm and name.split("model.")[1].startswith(("encoder.layer_norm", "layer_norm"))
    return layers if behind else 0


def test_without_settings_there_is_one_group_per_part(build_model):
    model, classifier = build_model()
    groups = parameter_groups(GroupSettings(), model, classifier)
    assert [group["name"] for group in groups] == ["backend", "classifier", "frontend"]
    for group in groups:
        assert (group["lr_factor"], group["first_epoch"]) == (1.0, 0.0)
        assert "weight_decay" not in group
    trained = {name for name, p in named(model, classifier) if p.requires_grad}
    assert set(where(groups, model, classifier)) == trained
    assert "frontend.model.masked_spec_embed" not in trained


def test_what_is_frozen_is_in_no_group(build_model):
    model, classifier = build_model(frozen_below="projection")
    found = where(parameter_groups(GroupSettings(), model, classifier), model, classifier)
    assert not [name for name in found if "feature_" in name]
    model.frontend.freeze()
    groups = parameter_groups(GroupSettings(layer_decay=0.5), model, classifier)
    assert [group["name"] for group in groups] == ["backend", "classifier"]


@pytest.mark.parametrize(
    "config, pre_norm",
    [
        ({}, False),
        ({"do_stable_layer_norm": True}, True),
        ({"model_type": "hubert"}, False),
        ({"model_type": "wav2vec2-conformer"}, True),
        ({"model_type": "wav2vec2-bert"}, False),
        ({"model_type": "whisper"}, True),
    ],
    ids=lambda value: value if isinstance(value, bool) else value.get("model_type", "wavlm"),
)
def test_layers_learn_the_slower_the_lower_they_are(tiny_model_settings, config, pre_norm):
    from helpers import tiny_frontend

    kind = config.get("model_type", "wavlm")
    layers = {"encoder_layers" if kind == "whisper" else "num_hidden_layers": 3}
    section = Section("transformer", {"config": tiny_frontend(**{**config, **layers})})
    tree = {**tiny_model_settings, "frontend": section.as_mapping()}
    model = SpeakerModel(from_mapping(ModelSettings, tree))
    classifier = AamSoftmax(16, 8)
    factors = {"frontend": 0.1, "backend": 3.0, "classifier": 5.0}
    settings = GroupSettings(
        **{f"{part}_lr_factor": factor for part, factor in factors.items()}, layer_decay=0.5
    )
    found = where(parameter_groups(settings, model, classifier), model, classifier)
    assert set(found) == {name for name, p in named(model, classifier) if p.requires_grad}
    for name, group in found.items():
        if name.startswith("frontend."):
            layer = layer_by_name(name, 3, pre_norm)
            expected = [0.0125, 0.025, 0.05, 0.1][layer]
        else:
            expected = 3.0 if name.startswith("backend.") else 5.0
        assert group["lr_factor"] == pytest.approx(expected), name
    names = [f"frontend.layer_{number:02d}" for number in range(4)]
    assert {group["name"] for group in found.values()} == {"backend", "classifier", *names}


def test_layers_are_those_that_are_left_and_adapters_belong_to_theirs(build_model):
    pytest.importorskip("peft")
    model, classifier = build_model(
        config={"num_hidden_layers": 5}, keep_layers=3, lora={"rank": 2, "alpha": 4.0}
    )
    settings = GroupSettings(layer_decay=0.5)
    found = where(parameter_groups(settings, model, classifier), model, classifier)
    adapters = {name: g["lr_factor"] for name, g in found.items() if name.startswith("frontend.")}
    assert len(adapters) == 3 * 2 * 2
    for name, factor in adapters.items():
        assert factor == [0.25, 0.5, 1.0][layer_by_name(name, 3) - 1], name


def test_a_step_by_hand(build_model):
    """Plain SGD: each weight moves by lr * factor * (gradient + decay * weight)."""
    model, classifier = build_model()
    settings = GroupSettings(
        frontend_lr_factor=0.1,
        backend_lr_factor=2.0,
        layer_decay=0.5,
        frontend_weight_decay=0.25,
        classifier_weight_decay=0.0,
    )
    groups = parameter_groups(settings, model, classifier)
    optimizer = build(OPTIMIZERS, SGD, "optimizer", parameters=groups, lr=0.0)
    rates = {
        "frontend.model.feature_projection.projection.weight": (0.1 * 0.25, 0.25),
        "frontend.model.encoder.layers.0.attention.q_proj.weight": (0.1 * 0.5, 0.25),
        "frontend.model.encoder.layers.1.attention.q_proj.weight": (0.1, 0.25),
        "backend.time_pool.embedding.weight": (2.0, 0.5),  # the optimizer's decay
        "classifier.weight": (1.0, 0.0),
    }
    parameters = dict(named(model, classifier))
    before = {name: parameters[name].detach().clone() for name in rates}
    for parameter in parameters.values():
        parameter.grad = torch.full_like(parameter, 3.0)
    set_learning_rates(optimizer, 0.01, 0.0)
    optimizer.step()
    for name, (factor, decay) in rates.items():
        expected = before[name] - 0.01 * factor * (3.0 + decay * before[name])
        torch.testing.assert_close(parameters[name].detach(), expected)


def test_scales_of_norms_and_biases_do_not_decay(build_model):
    model, classifier = build_model()
    settings = GroupSettings(no_decay_norms=True, layer_decay=0.5, backend_weight_decay=0.1)
    found = where(parameter_groups(settings, model, classifier), model, classifier)
    spared = {name for name, group in found.items() if group.get("weight_decay") == 0}
    scales = {
        name
        for name, _ in named(model, classifier)
        if name.endswith(".weight") and "norm" in name.split(".")[-2]
    }
    biases = {name for name in found if name.endswith("bias")}
    assert len(scales) > 10 and len(biases) > 20
    assert spared == scales & set(found) | biases
    assert all(found[name]["name"].endswith(".no_decay") for name in spared)
    weight = found["backend.time_pool.embedding.weight"]
    assert (weight["name"], weight["weight_decay"]) == ("backend", 0.1)
    # What differs in its decay only still learns as fast as its layer.
    norm = found["frontend.model.encoder.layers.0.layer_norm.weight"]
    assert norm["lr_factor"] == 0.5


@pytest.mark.parametrize("name", BACKENDS)
def test_norms_of_every_backend_are_found(name):
    """Scales of norms are what begins as ones."""
    model = torch.nn.Module()
    model.frontend = torch.nn.Module()
    model.backend = build(BACKENDS, Section(name), "backend", num_layers=3, input_dim=768)
    groups = parameter_groups(GroupSettings(no_decay_norms=True), model, torch.nn.Module())
    spared = {p for group in groups if group.get("weight_decay") == 0 for p in group["params"]}
    for parameter_name, parameter in model.backend.named_parameters():
        expected = bool((parameter == 1).all()) or parameter_name.endswith("bias")
        assert expected == (parameter in spared), parameter_name


def test_waiting_groups_have_no_rate_and_are_passed_over(build_model):
    """Momentum of earlier steps and weight decay would move them in spite of a zero gradient."""
    model, classifier = build_model()
    settings = GroupSettings(unfreeze_after=1.0, unfreeze_every=0.5)
    groups = parameter_groups(settings, model, classifier)
    optimizer = build(
        OPTIMIZERS, Section("adam", {"weight_decay": 0.1}), "o", parameters=groups, lr=0.0
    )
    first = {group["name"]: group["first_epoch"] for group in groups}
    assert first == {
        "backend": 0.0,
        "classifier": 0.0,
        "frontend.layer_00": 2.0,
        "frontend.layer_01": 1.5,
        "frontend.layer_02": 1.0,
    }
    for epoch in (0.0, 0.9, 1.0, 1.4, 1.5, 1.9, 2.0, 7.0):
        for parameter in dict(named(model, classifier)).values():
            parameter.grad = torch.ones_like(parameter)
        set_learning_rates(optimizer, 1e-3, epoch)
        drop_early_gradients(optimizer, epoch)
        before = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
        optimizer.step()
        after = [p.detach() for group in optimizer.param_groups for p in group["params"]]
        moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        waits = [epoch < group["first_epoch"] for group in groups for _ in group["params"]]
        assert moved == [not wait for wait in waits]
        for group in optimizer.param_groups:
            assert group["lr"] == (0.0 if epoch < group["first_epoch"] else 1e-3)
            if epoch < group["first_epoch"]:
                assert not any(p in optimizer.state for p in group["params"])


def test_layers_of_a_frontend_that_has_none_are_refused(build_model):
    class Plain(torch.nn.Linear):
        kind = "plain"

    model, classifier = build_model()
    model.frontend = Plain(2, 2)
    with pytest.raises(ConfigError, match="plain has no layers; leave out layer_decay"):
        parameter_groups(GroupSettings(layer_decay=0.9), model, classifier)
    assert len(parameter_groups(GroupSettings(), model, classifier)) == 3


@pytest.mark.parametrize(
    "groups, message",
    [
        ({"layer_decay": 0.0}, "layer_decay must be positive"),
        ({"backend_lr_factor": -1.0}, "backend_lr_factor must not be negative"),
        ({"unfreeze_every": -1.0}, "unfreeze_every must not be negative"),
        ({"frontend_weight_decay": -1.0}, "frontend_weight_decay must not be negative"),
        ({"layerdecay": 0.9}, "did you mean 'layer_decay'"),
    ],
)
def test_impossible_settings_are_named(make_settings, groups, message):
    with pytest.raises(ConfigError, match=message):
        make_settings(groups=groups)


# Training itself.


class InterruptionError(Exception):
    """Stands for a kill."""


def weights(exp_dir, epoch):
    return load_tensors(exp_dir / "checkpoints" / f"epoch_{epoch:03d}" / "model.safetensors")


def moved_layers(exp_dir, epoch):
    """Return the layers of the frontend that changed in an epoch, counted from 1."""
    before, after = weights(exp_dir, epoch - 1), weights(exp_dir, epoch)
    names = {
        n for n in before if n.startswith("frontend.") and not torch.equal(before[n], after[n])
    }
    return {layer_by_name(name, 2) for name in names}


def interrupt_after(patch, steps):
    left = iter(range(steps, -1, -1))
    whole = trainer.Trainer._step

    def step(self, *arguments):
        if next(left) == 0:
            raise InterruptionError
        whole(self, *arguments)

    patch.setattr(trainer.Trainer, "_step", step)


@pytest.fixture
def unfreezing(make_settings):
    return make_settings(
        optimizer={"weight_decay": 0.1},
        lr_schedule={"name": "step", "initial_lr": 1e-3},
        groups={"unfreeze_after": 1, "unfreeze_every": 1, "layer_decay": 0.7},
        training={"epochs": 4, "checkpoint_every": 2, "grad_clip": 1.0},
    )


def test_the_frontend_is_unfrozen_from_the_top(unfreezing, tmp_path):
    train(unfreezing, tmp_path)
    assert [moved_layers(tmp_path, epoch) for epoch in (1, 2, 3, 4)] == [
        set(),
        {2},
        {1, 2},
        {0, 1, 2},
    ]


@pytest.mark.parametrize("stop", [3, 6, 13])
def test_a_resumed_unfreezing_equals_an_uninterrupted_one(unfreezing, tmp_path, monkeypatch, stop):
    train(unfreezing, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, stop)
        with pytest.raises(InterruptionError):
            train(unfreezing, tmp_path / "parts")
    train(unfreezing, tmp_path / "parts")
    for name in ("model", "classifier", "optimizer"):
        whole, parts = (
            load_tensors(tmp_path / run / "checkpoints" / "epoch_004" / f"{name}.safetensors")
            for run in ("whole", "parts")
        )
        assert whole.keys() == parts.keys()
        assert all(torch.equal(tensor, parts[key]) for key, tensor in whole.items())


def test_layers_that_are_never_reached_are_named(make_settings, tmp_path):
    settings = make_settings(groups={"unfreeze_every": 1}, training={"epochs": 1})
    train(settings, tmp_path)
    log = (tmp_path / "train.log").read_text()
    assert "never trained in 1 epochs: frontend.layer_00, frontend.layer_01\n" in log
