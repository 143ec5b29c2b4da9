"""The pull towards the first weights, against autograd, and across resumes and phases."""

import pytest
import torch
from torch import nn

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.tensors import load_tensors, save_tensors
from wesp_lap.training import trainer
from wesp_lap.training.pull import Pull, begin_pull, resume_pull
from wesp_lap.training.run import train


class Net(nn.Module):
    """A frontend and a backend in float64, with a loss that depends on both."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.frontend = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        self.backend = nn.Linear(3, 2).double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.x = torch.randn(7, 4, generator=generator, dtype=torch.float64)

    def loss(self):
        return self.backend(self.frontend(self.x)).square().mean()


@pytest.fixture
def net():
    return Net()


def start_of(net, shift):
    """Return theta_0: where the frontend would have been before a move."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: p.detach() - shift * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in net.frontend.named_parameters()
    }


def gradients(net):
    return {name: p.grad.clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("shift", [0.3, 1e-3])
def test_gradient_is_that_of_the_loss_as_published(net, shift):
    start = start_of(net, shift)
    cross_entropy = net.loss()
    total = sum(torch.norm(p - start[n], 2) for n, p in net.frontend.named_parameters())
    loss = cross_entropy / cross_entropy.detach() + 0.01 * total / (total.detach() + 1e-5)
    loss.backward()
    expected = gradients(net)
    net.zero_grad()
    cross_entropy = net.loss()
    cross_entropy.backward()
    pull = Pull(0.01, dict(net.frontend.named_parameters()), start)
    assert pull.distance().item() == pytest.approx(total.item())
    pull.apply(cross_entropy.detach(), net.parameters())
    for name, gradient in gradients(net).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12)


def test_at_the_start_there_is_nothing_to_pull(net):
    cross_entropy = net.loss()
    cross_entropy.backward()
    expected = {name: g / cross_entropy.item() for name, g in gradients(net).items()}
    Pull(0.5, dict(net.frontend.named_parameters()), start_of(net, 0.0)).apply(
        cross_entropy.detach(), net.parameters()
    )
    for name, gradient in gradients(net).items():
        torch.testing.assert_close(gradient, expected[name])


def test_what_the_step_did_not_reach_is_pulled_all_the_same(net):
    """A layer that was dropped has no gradient of the cross-entropy."""
    start = start_of(net, 0.1)
    cross_entropy = net.loss()
    cross_entropy.backward()
    net.frontend[0].weight.grad = None
    parameters = dict(net.frontend.named_parameters())
    pull = Pull(0.01, parameters, start)
    pull.apply(cross_entropy.detach(), net.parameters())
    away = parameters["0.weight"].detach() - start["0.weight"]
    expected = 0.01 / (pull.distance() + 1e-5) * away / away.norm()
    torch.testing.assert_close(net.frontend[0].weight.grad, expected)


def test_the_pull_alone_leads_straight_back(net):
    """Every tensor by the same length, whatever its size, towards where it began."""
    start = start_of(net, 0.5)
    parameters = dict(net.frontend.named_parameters())
    pull = Pull(1.0, parameters, start)
    total = pull.distance().item()
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pull.apply(torch.tensor(1.0), net.parameters())
    for name, parameter in parameters.items():
        away = parameter.detach() - start[name]
        back = -total * parameter.grad
        assert back.norm().item() == pytest.approx(1, rel=1e-4)
        assert torch.cosine_similarity(away.flatten(), back.flatten(), dim=0).item() == (
            pytest.approx(-1)
        )


def test_a_loss_of_zero_gives_finite_gradients(net):
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Pull(0.1, dict(net.frontend.named_parameters()), start_of(net, 0.1)).apply(
        torch.tensor(0.0), net.parameters()
    )
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_without_weight_or_trained_parameters_there_is_no_pull(net, tmp_path):
    assert begin_pull(0.0, net.frontend, tmp_path, None, True) is None
    net.frontend.requires_grad_(False)
    assert begin_pull(0.1, net.frontend, tmp_path, None, True) is None
    assert resume_pull(0.1, net.frontend, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_one_process_writes(net, tmp_path):
    begin_pull(0.1, net.frontend, tmp_path, None, False)
    assert list(tmp_path.iterdir()) == []


def test_what_has_changed_on_disk_is_refused(net, tmp_path):
    path = tmp_path / "pull.safetensors"
    with pytest.raises(DataError, match=r"pull\.safetensors: no such file"):
        resume_pull(0.1, net.frontend, tmp_path)
    begin_pull(0.1, net.frontend, tmp_path, None, True)
    with pytest.raises(DataError, match="not the weights that this phase trains"):
        resume_pull(0.1, nn.Linear(2, 2), tmp_path)
    tensors = load_tensors(path)
    tensors["0.bias"] += 1
    save_tensors(path, tensors)
    with pytest.raises(DataError, match="does not match its digest; bring it back"):
        resume_pull(0.1, net.frontend, tmp_path)


def test_a_negative_weight_is_refused(make_settings):
    with pytest.raises(ConfigError, match="pull: weight must not be negative"):
        make_settings(pull={"weight": -0.1})


# Training itself.


class InterruptionError(Exception):
    """Stands for a kill."""


@pytest.fixture
def settings(make_settings):
    return make_settings(
        pull={"weight": 0.5},
        frontend={"config": {"layerdrop": 0.3}},
        training={"checkpoint_every": 2, "accumulate": 2},
    )


def tensors_of(exp_dir, epoch, name="model"):
    return load_tensors(exp_dir / "checkpoints" / f"epoch_{epoch:03d}" / f"{name}.safetensors")


def test_the_first_weights_are_kept_and_a_resumed_run_equals_an_uninterrupted_one(
    settings, tmp_path, monkeypatch
):
    train(settings, tmp_path / "whole")
    first = tensors_of(tmp_path / "whole", 0)
    kept = load_tensors(tmp_path / "whole" / "pull.safetensors")
    assert len(kept) > 40
    assert all(torch.equal(tensor, first[f"frontend.{name}"]) for name, tensor in kept.items())
    with monkeypatch.context() as patch:
        left = iter(range(5, -1, -1))
        whole = trainer.Trainer._step

        def step(self, *arguments):
            if next(left) == 0:
                raise InterruptionError
            whole(self, *arguments)

        patch.setattr(trainer.Trainer, "_step", step)
        with pytest.raises(InterruptionError):
            train(settings, tmp_path / "parts")
    train(settings, tmp_path / "parts")
    for name in ("model", "classifier", "optimizer"):
        whole, parts = (tensors_of(tmp_path / run, 2, name) for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(tensor, parts[key]) for key, tensor in whole.items())


def test_a_stronger_pull_keeps_the_frontend_nearer(make_settings, tmp_path):
    moved = []
    for weight in (0.0, 20.0):
        settings = make_settings(
            optimizer={"name": "sgd", "weight_decay": 0.0},
            lr_schedule={"name": "constant", "lr": 0.01},
            pull={"weight": weight},
            training={"epochs": 2, "grad_clip": 5.0},
        )
        folder = tmp_path / str(weight)
        train(settings, folder)
        before, after = tensors_of(folder, 0), tensors_of(folder, 2)
        moved.append(sum((after[n] - before[n]).norm() for n in before if n.startswith("front")))
    assert moved[1] < 0.5 * moved[0]


def test_a_later_phase_is_pulled_towards_the_first_weights_of_all(make_settings, tmp_path):
    frozen = make_settings(pull={"weight": 0.5}, training={"freeze_frontend": True, "epochs": 1})
    train(frozen, tmp_path / "frozen")
    assert not (tmp_path / "frozen" / "pull.safetensors").exists()
    joint = make_settings(
        pull={"weight": 0.5},
        frontend={"frozen_below": "projection"},
        init_from=str(tmp_path / "frozen"),
        training={"epochs": 1},
    )
    train(joint, tmp_path / "joint")
    last = make_settings(
        pull={"weight": 0.5}, init_from=str(tmp_path / "joint"), training={"epochs": 1}
    )
    train(last, tmp_path / "last")
    begun, end = tensors_of(tmp_path / "frozen", 1), tensors_of(tmp_path / "joint", 1)
    kept = load_tensors(tmp_path / "last" / "pull.safetensors")
    assert any(not torch.equal(begun[f"frontend.{n}"], end[f"frontend.{n}"]) for n in kept)
    assert all(torch.equal(tensor, begun[f"frontend.{name}"]) for name, tensor in kept.items())
    assert len(kept) > len(load_tensors(tmp_path / "joint" / "pull.safetensors"))
