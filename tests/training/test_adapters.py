"""Phases with adapters and with parts of the frontend fixed: what learns, what is handed on."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from wesp_lap.coerce import from_mapping
from wesp_lap.errors import ConfigError, WespError
from wesp_lap.model import ModelSettings, SpeakerModel
from wesp_lap.tensors import load_tensors
from wesp_lap.training.average import average_models
from wesp_lap.training.run import train

LORA = {"rank": 2, "alpha": 4.0}


def checkpoint(exp_dir, epoch):
    return exp_dir / "checkpoints" / f"epoch_{epoch:03d}"


def weights(exp_dir, epoch):
    return load_tensors(checkpoint(exp_dir, epoch) / "model.safetensors")


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture
def adapted(make_settings, tmp_path):
    """A finished phase with adapters on a frozen frontend."""
    settings = make_settings(frontend={"lora": LORA}, training={"freeze_frontend": True})
    train(settings, tmp_path / "adapted")
    return tmp_path / "adapted"


def test_adapters_learn_on_a_frozen_frontend(adapted):
    names = changed(weights(adapted, 0), weights(adapted, 2))
    inside = {name for name in names if name.startswith("frontend.")}
    assert inside == {name for name in weights(adapted, 0) if "lora_" in name}
    assert len(inside) == 8
    trained = sum(weights(adapted, 0)[name].numel() for name in inside)
    assert trained == 2 * 2 * 2 * (2 * 32)  # factors, targets, layers; rank times width
    rest = sum(t.numel() for n, t in weights(adapted, 0).items() if n.startswith("backend."))
    statistics = sum(
        t.numel()
        for n, t in weights(adapted, 0).items()
        if "running_" in n or "num_batches_tracked" in n
    )
    classifier = load_tensors(checkpoint(adapted, 0) / "classifier.safetensors")["weight"].numel()
    counted = f"{trained + rest - statistics + classifier:,} trained"
    assert counted in (adapted / "train.log").read_text()


def test_the_next_phase_merges_them_and_trains_everything(adapted, make_settings, tmp_path):
    train(make_settings(init_from=str(adapted)), tmp_path / "joint")
    assert "adapters of" in (tmp_path / "joint" / "train.log").read_text()
    before, after = (
        SpeakerModel.from_pretrained(checkpoint(folder, epoch))
        for folder, epoch in ((adapted, 2), (tmp_path / "joint", 0))
    )
    waves = torch.randn(2, 8000)
    with torch.no_grad():
        torch.testing.assert_close(after(waves), before(waves), atol=1e-5, rtol=1e-4)
    assert after.frontend.lora is None
    assert not any("lora" in name for name in weights(tmp_path / "joint", 0))
    still = weights(tmp_path / "joint", 0).keys() - changed(
        weights(tmp_path / "joint", 0), weights(tmp_path / "joint", 2)
    )
    assert still == {"frontend.model.masked_spec_embed"}


def test_the_average_is_that_of_the_merged_weights(adapted):
    folders = [checkpoint(adapted, epoch) for epoch in (1, 2)]
    merged = []
    for folder in folders:
        model = SpeakerModel.from_pretrained(folder)
        model.merge_lora()
        merged.append(model.state_dict())
    average = average_models(folders).state_dict()
    assert average.keys() == merged[0].keys()
    assert not any("lora" in name for name in average)
    for name, tensor in average.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (merged[0][name] + merged[1][name]) / 2)


def test_the_next_phase_goes_on_with_them(adapted, make_settings, tmp_path):
    settings = make_settings(frontend={"lora": LORA}, init_from=str(adapted))
    train(settings, tmp_path / "more")
    assert changed(weights(adapted, 2), weights(tmp_path / "more", 0)) == set()
    names = changed(weights(tmp_path / "more", 0), weights(tmp_path / "more", 2))
    assert {n for n in names if n.startswith("frontend.")} == {n for n in names if "lora_" in n}


def test_other_adapters_are_refused(adapted, make_settings, tmp_path):
    settings = make_settings(frontend={"lora": {"rank": 4}}, init_from=str(adapted))
    with pytest.raises(ConfigError, match=r"lora: .*'rank': 4.* trained with .*'rank': 2.* merged"):
        train(settings, tmp_path / "more")


def test_adapters_on_the_weights_of_a_phase_without_any(make_settings, tmp_path):
    train(make_settings(training={"epochs": 1}), tmp_path / "joint")
    settings = make_settings(
        frontend={"lora": LORA},
        init_from=str(tmp_path / "joint"),
        training={"freeze_frontend": True},
    )
    train(settings, tmp_path / "adapted")
    before, start = weights(tmp_path / "joint", 1), weights(tmp_path / "adapted", 0)
    same = {name.replace(".base_layer", ""): t for name, t in start.items() if "lora_" not in name}
    assert changed(before, same) == set()
    end = weights(tmp_path / "adapted", 2)
    assert all("lora_" in n or n.startswith("backend.") for n in changed(start, end))


def test_from_pretrained_weights_through_all_phases(make_settings, tmp_path, tiny_model_settings):
    from wesp_lap.frontends.transformer import TransformerFrontend

    config = tiny_model_settings["frontend"]["config"]
    TransformerFrontend(config=config).model.save_pretrained(tmp_path / "weights")
    frontend = {"config": None, "weights": str(tmp_path / "weights")}
    first = make_settings(
        frontend={**frontend, "lora": LORA, "keep_layers": 1}, training={"freeze_frontend": True}
    )
    train(first, tmp_path / "adapted")
    second = make_settings(
        frontend={**frontend, "keep_layers": 1, "frozen_below": "projection"},
        init_from=str(tmp_path / "adapted"),
    )
    train(second, tmp_path / "joint")
    moved = changed(weights(tmp_path / "joint", 0), weights(tmp_path / "joint", 2))
    assert moved and not any(".feature_" in name for name in moved)
    model = SpeakerModel.from_pretrained(tmp_path / "joint" / "final")
    assert model.frontend.num_layers == 2


def test_a_resumed_phase_equals_one_that_was_not_interrupted(make_settings, tmp_path):
    settings = {
        "frontend": {"lora": {**LORA, "dropout": 0.1}},
        "training": {"freeze_frontend": True, "checkpoint_every": 2},
    }
    train(make_settings(**settings), tmp_path / "whole")
    train(make_settings(**settings), tmp_path / "parts")
    import shutil

    shutil.rmtree(checkpoint(tmp_path / "parts", 2))
    (tmp_path / "parts" / "final").unlink()
    train(make_settings(**settings), tmp_path / "parts")
    assert changed(weights(tmp_path / "whole", 2), weights(tmp_path / "parts", 2)) == set()


def test_a_change_of_what_is_fixed_is_an_error(make_settings, tmp_path, monkeypatch):
    from wesp_lap.training.trainer import Trainer

    step = Trainer._step

    def touch(self, epoch, number, batch):
        step(self, epoch, number, batch)
        with torch.no_grad():
            self._state.model.frontend.model.feature_projection.projection.bias[0] += 1

    monkeypatch.setattr(Trainer, "_step", touch)
    settings = make_settings(frontend={"frozen_below": "projection"}, training={"epochs": 1})
    with pytest.raises(WespError, match=r"has changed: model.feature_projection.projection.bias"):
        train(settings, tmp_path)


@pytest.mark.parametrize(
    "options, frozen",
    [
        ({"lora": LORA}, True),
        ({"lora": LORA}, False),
        ({"lora": LORA, "layerdrop": 0.6, "spec_augment": True}, False),
        ({"lora": LORA, "gradient_checkpointing": True}, True),
        ({"frozen_below": "convolutions", "spec_augment": True}, False),
        ({"frozen_below": 1, "layerdrop": 0.6}, False),
        ({"gradient_checkpointing": True, "layerdrop": 0.6}, False),
        ({"keep_layers": 1, "cls_token": True}, False),
    ],
    ids=str,
)
def test_no_parameter_is_missed_when_gradients_are_exchanged(
    tiny_model_settings, options, frozen, tmp_path
):
    """A process that waits for a gradient that never comes fails in its second step."""
    frontend = {**tiny_model_settings["frontend"], **options}
    model = SpeakerModel(from_mapping(ModelSettings, {**tiny_model_settings, "frontend": frontend}))
    model.frontend.freeze(frozen)
    torch.manual_seed(0)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        unused = model.frontend.has_random_depth
        network = DistributedDataParallel(model.train(), find_unused_parameters=unused)
        for _ in range(6):
            network(torch.randn(4, 8000)).square().sum().backward()
        del network
    finally:
        dist.destroy_process_group()
