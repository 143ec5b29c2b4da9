"""Means of checkpoints: which ones, of what, and with which batch norm statistics."""

import pytest
import torch

from wesp_lap.bin.average_model import main
from wesp_lap.data.index import load_utterances
from wesp_lap.data.stream import make_stream
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import read_json, write_json
from wesp_lap.model import SpeakerModel
from wesp_lap.tensors import load_tensors
from wesp_lap.training import average
from wesp_lap.training.average import average_models, best_epochs, last_epochs, renew_statistics
from wesp_lap.training.batch_statistics import estimate_statistics
from wesp_lap.training.checkpoint_files import read_speakers
from wesp_lap.training.checkpoint_writer import state_digest
from wesp_lap.training.run import train

HELD = {"speakers": 3, "utterances": 4, "seconds": 1, "at_start": False}


@pytest.fixture
def phase(make_settings, tmp_path):
    """Three epochs with validation and a moving average; the second is made the best."""
    settings = make_settings(
        validation=HELD, data={"batch_size": 10}, training={"epochs": 3, "ema_decay": 0.9}
    )
    train(settings, tmp_path / "phase")
    for epoch, rate in ((1, 20.0), (2, 10.0), (3, 15.0)):
        path = checkpoint(tmp_path / "phase", epoch) / "state.json"
        state = read_json(path)
        state["validation"]["eer"] = rate
        state["digest"] = state_digest(state)
        write_json(path, state)
    return tmp_path / "phase"


def checkpoint(exp_dir, epoch):
    return exp_dir / "checkpoints" / f"epoch_{epoch:03d}"


def names(folders):
    return [folder.name for folder in folders]


def test_the_last_and_the_best_are_chosen(phase):
    assert names(last_epochs(phase, 2)) == ["epoch_002", "epoch_003"]
    assert names(best_epochs(phase, 1)) == ["epoch_002"]
    assert names(best_epochs(phase, 2)) == ["epoch_002", "epoch_003"]
    assert names(best_epochs(phase, 3)) == ["epoch_001", "epoch_002", "epoch_003"]


def test_what_cannot_be_averaged_is_named(phase, make_settings, tmp_path):
    with pytest.raises(DataError, match=r"3 of the kept checkpoints have a .* result, 4 are asked"):
        best_epochs(phase, 4)
    train(make_settings(training={"epochs": 1}), tmp_path / "plain")
    with pytest.raises(DataError, match=r"0 of the kept .*train with validation.*keep_best 1"):
        best_epochs(tmp_path / "plain", 1)
    for choose in (last_epochs, best_epochs):
        with pytest.raises(DataError, match="at least 1 checkpoint must be averaged, got 0"):
            choose(phase, 0)
    with pytest.raises(DataError, match=r"epoch_001: no moving averages.*training\.ema_decay"):
        average_models(last_epochs(tmp_path / "plain", 1), ema=True)
    (checkpoint(phase, 2) / "classifier.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"damaged checkpoints \(1 problem"):
        best_epochs(phase, 1)


def test_moving_averages_take_the_place_of_weights(phase):
    model = average_models(last_epochs(phase, 1), ema=True).state_dict()
    mean = load_tensors(checkpoint(phase, 3) / "ema.safetensors")
    weights = load_tensors(checkpoint(phase, 3) / "model.safetensors")
    for name, tensor in model.items():
        assert torch.equal(tensor, mean.get(name, weights[name])), name
    both = average_models(last_epochs(phase, 2), ema=True).state_dict()
    name = "backend.time_pool.embedding.weight"
    before = load_tensors(checkpoint(phase, 2) / "ema.safetensors")
    torch.testing.assert_close(both[name], (mean[name] + before[name]) / 2)


def moments_of_inputs(model, norm, batches):
    """Return mean and variance of what a batch norm gets, averaged over batches by hand."""
    seen = []
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double()))
    with torch.no_grad():
        for waves in batches:
            model(waves)
    handle.remove()
    values = [x.transpose(0, 1).flatten(1) if x.dim() == 3 else x.T for x in seen]
    mean = torch.stack([x.mean(dim=1) for x in values]).mean(dim=0)
    return mean, torch.stack([x.var(dim=1, unbiased=True) for x in values]).mean(dim=0)


def test_estimated_statistics_are_those_of_a_plain_pass():
    torch.manual_seed(0)
    dropped = torch.nn.Dropout(0.5)
    network = torch.nn.Sequential(torch.nn.Linear(6, 5), dropped, torch.nn.BatchNorm1d(5))
    batches = [torch.randn(7, 6) + shift for shift in (0.0, 3.0, -1.0)]
    network.train()
    for waves in batches:  # statistics of another kind, to be forgotten
        network(10 * waves)
    weights = {name: p.clone() for name, p in network.named_parameters()}
    assert estimate_statistics(network, network, batches) == 3
    mean, variance = moments_of_inputs(network.eval(), network[2], batches)
    torch.testing.assert_close(network[2].running_mean.double(), mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(network[2].running_var.double(), variance, atol=1e-6, rtol=1e-5)
    assert network[2].momentum == 0.1 and network[2].num_batches_tracked == 3
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())
    with pytest.raises(ConfigError, match="at least one batch"):
        estimate_statistics(network, network, [])
    with pytest.raises(ConfigError, match="no batch norm"):
        estimate_statistics(network, network[0], batches)


def test_statistics_of_a_mean_come_from_training_crops(phase, make_settings):
    """The first batch norm after the frontend sees the same with any statistics."""
    model = average_models(last_epochs(phase, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert renew_statistics(model, phase, None, 100) == 2
    settings = make_settings(data={"batch_size": 10})
    utterances = load_utterances(settings.data.shards)
    classes = read_speakers(checkpoint(phase, 3))
    rows = [r for r in range(32) if utterances.speakers[utterances.speaker[r]] in classes]
    stream = make_stream(utterances.take(rows), classes, settings.data, settings.seed)
    batches = [batch.waves for batch in stream.epoch(3)]
    norm = model.backend.layer_pool.input_norm
    frames = []
    with torch.no_grad():
        for waves in batches:
            states = torch.stack(model.frontend(waves)).double()
            frames.append(states.flatten(0, 2))
    mean = torch.stack([x.mean(dim=0) for x in frames]).mean(dim=0)
    variance = torch.stack([x.var(dim=0, unbiased=True) for x in frames]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean.double(), mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var.double(), variance, atol=1e-5, rtol=1e-4)
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed and all(
        n.endswith(("running_mean", "running_var", "batches_tracked")) for n in changed
    )


def test_speakers_that_were_not_trained_on_make_no_statistics(phase, monkeypatch):
    monkeypatch.setattr(average, "read_speakers", lambda _: {"nobody": 0, "somebody": 1})
    model = average_models(last_epochs(phase, 1))
    with pytest.raises(DataError, match=r"shard\.list: none of its speakers was trained on in"):
        renew_statistics(model, phase, None, 1)


def test_the_command_says_what_it_averaged(phase, tmp_path, capsys):
    out = tmp_path / "model"
    main(str(phase), str(out), best=2, ema=True, batches=1)
    assert capsys.readouterr().out == (
        f"{out}: mean of moving averages of epoch_002, epoch_003; batch norm statistics of "
        "1 batches\n"
    )
    assert SpeakerModel.from_pretrained(out).embed(torch.randn(16000)).shape == (16,)
    main(str(phase), str(out))
    assert capsys.readouterr().out == f"{out}: mean of epoch_001, epoch_002, epoch_003\n"
