"""The moving average of the weights: its formula, its place in checkpoints, its resumption."""

import copy

import pytest
import torch

from wesp_lap.errors import DataError
from wesp_lap.files import read_json
from wesp_lap.model import SpeakerModel
from wesp_lap.tensors import load_tensors
from wesp_lap.training import trainer, validation
from wesp_lap.training.ema import WeightAverage
from wesp_lap.training.run import train

HELD = {"speakers": 3, "utterances": 4, "seconds": 1}


@pytest.fixture
def network():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    module.append(torch.nn.Linear(4, 2).requires_grad_(False))
    return module


def ema_of(exp_dir, epoch):
    return load_tensors(exp_dir / "checkpoints" / f"epoch_{epoch:03d}" / "ema.safetensors")


def test_the_average_follows_its_formula(network):
    average = WeightAverage(network, 0.5)
    assert set(average.state()) == {
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"
    }  # fmt: skip
    expected = {name: tensor.clone() for name, tensor in average.state().items()}
    optimizer = torch.optim.SGD(network[:2].parameters(), lr=0.1)
    for step in range(20):
        network(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        average.update(step)
        old = min(0.5, (1 + step) / (10 + step))
        live = network.state_dict()
        expected = {n: old * mean + (1 - old) * live[n] for n, mean in expected.items()}
    for name, mean in average.state().items():
        torch.testing.assert_close(mean, expected[name])
    assert not torch.equal(average.state()["0.weight"], network[0].weight)


def test_while_applied_the_model_holds_the_average_and_then_its_own_weights(network):
    average = WeightAverage(network, 0.9)
    with torch.no_grad():
        network[0].weight.add_(1)
    average.update(1000)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InterruptedError), average.applied():
        assert torch.equal(network[0].weight, average.state()["0.weight"])
        raise InterruptedError
    assert all(torch.equal(tensor, before[n]) for n, tensor in network.state_dict().items())


def test_averages_of_another_model_are_refused(network):
    average = WeightAverage(network, 0.9)
    for tensors in (None, {}, {**average.state(), "0.bias": torch.zeros(5)}):
        with pytest.raises(DataError, match="epoch_001: no moving averages of this model"):
            average.restore(tensors, "epoch_001")


def test_checkpoints_hold_it_and_training_does_not_notice(make_settings, tmp_path):
    train(make_settings(), tmp_path / "without")
    train(make_settings(training={"ema_decay": 0.9}), tmp_path / "with")
    end = "checkpoints/epoch_002/model.safetensors"
    plain, weights = (load_tensors(tmp_path / name / end) for name in ("without", "with"))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in plain.items())
    mean = ema_of(tmp_path / "with", 2)
    assert all(mean[name].shape == weights[name].shape for name in mean)
    assert any(not torch.equal(mean[name], weights[name]) for name in mean)
    assert not (tmp_path / "without" / "checkpoints" / "epoch_002" / "ema.safetensors").exists()


def test_a_fixed_frontend_has_no_average(make_settings, tmp_path):
    settings = make_settings(training={"ema_decay": 0.9, "freeze_frontend": True, "epochs": 1})
    train(settings, tmp_path)
    names = set(ema_of(tmp_path, 1))
    assert names and all(name.startswith("backend.") for name in names)


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_it_goes_on_bit_for_bit_after_an_interruption(make_settings, tmp_path, stop, monkeypatch):
    settings = make_settings(training={"ema_decay": 0.9, "checkpoint_every": 2})
    train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        step, steps = trainer.Trainer._step, iter(range(stop, -1, -1))

        def interrupted(self, *arguments):
            if next(steps) == 0:
                raise InterruptedError
            return step(self, *arguments)

        patch.setattr(trainer.Trainer, "_step", interrupted)
        with pytest.raises(InterruptedError):
            train(settings, tmp_path / "parts")
    train(settings, tmp_path / "parts")
    whole, parts = ema_of(tmp_path / "whole", 2), ema_of(tmp_path / "parts", 2)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_validation_measures_the_average(make_settings, tmp_path, monkeypatch):
    seen = []
    embed = validation.Validator._embed

    def spy(self, model):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return embed(self, model)

    monkeypatch.setattr(validation.Validator, "_embed", spy)
    settings = make_settings(
        training={"ema_decay": 0.9, "epochs": 1}, validation=HELD, data={"batch_size": 5}
    )
    train(settings, tmp_path)
    mean = ema_of(tmp_path, 1)
    assert len(seen) == 2 and all(torch.equal(seen[1][name], mean[name]) for name in mean)
    assert read_json(tmp_path / "checkpoints/epoch_001/state.json")["validation"]["trials"] == 36
    model = SpeakerModel.from_pretrained(tmp_path / "final").state_dict()
    assert any(not torch.equal(model[name], mean[name]) for name in mean)


def test_the_decay_is_checked(make_settings):
    with pytest.raises(Exception, match="ema_decay must be at least 0 and below 1, got 1"):
        make_settings(training={"ema_decay": 1.0})
