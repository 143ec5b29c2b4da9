"""Optimizers: what reaches torch, what is refused, and that saving them loses nothing."""

import copy
import json

import pytest
import torch

from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError
from wesp_lap.training.optimizers import OPTIMIZERS


def make(name, parameters, **options):
    groups = [{"params": parameters}]
    return build(OPTIMIZERS, Section(name, options), "optimizer", parameters=groups, lr=0.1)


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (7,))]


def step(optimizer, number):
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.sin(number + parameter.detach())
    optimizer.step()


def run(name, first, steps, **options):
    tensors = parameters()
    optimizer = make(name, tensors, **options)
    for number in range(first, first + steps):
        step(optimizer, number)
    return tensors, optimizer


@pytest.mark.parametrize(
    "name, options, reference",
    [
        ("adam", {"weight_decay": 5e-5}, lambda p: torch.optim.Adam(p, 0.1, weight_decay=5e-5)),
        ("adamw", {}, lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.01)),
        (
            "sgd",
            {},
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
        ),
    ],
)
@pytest.mark.parametrize("fused", [None, False, True])
def test_equals_torch(name, options, reference, fused):
    got, _ = run(name, 0, 5, fused=fused, **options)
    expected = parameters()
    optimizer = reference(expected)
    for number in range(5):
        step(optimizer, number)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_decay_is_part_of_the_gradient_in_adam_only():
    """After one step without a gradient, AdamW has shrunk the weight and Adam moved it by lr."""
    moved = {}
    for name in ("adam", "adamw"):
        weight = torch.nn.Parameter(torch.tensor([2.0]))
        optimizer = make(name, [weight], weight_decay=0.5)
        weight.grad = torch.zeros(1)
        optimizer.step()
        moved[name] = weight.item()
    assert moved == pytest.approx({"adam": 2.0 - 0.1, "adamw": 2.0 * (1 - 0.1 * 0.5)})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_null_is_not_fused_on_a_cpu(name):
    optimizer = make(name, parameters())
    assert not optimizer.param_groups[0]["fused"]
    # torch would take False for a wish to have no fast way at all.
    assert optimizer.param_groups[0]["foreach"] is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_null_is_fused_on_a_gpu(name):
    on_gpu = [torch.nn.Parameter(p.detach().cuda()) for p in parameters()]
    assert make(name, on_gpu).param_groups[0]["fused"]
    assert not make(name, on_gpu, fused=False).param_groups[0]["fused"]
    assert not make(name, [*on_gpu, *parameters()]).param_groups[0]["fused"]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_saved_goes_on_bit_for_bit(name, fused):
    """Through JSON for the settings, by an optimizer that would have chosen otherwise."""
    whole, _ = run(name, 0, 6, fused=fused)
    part, before = run(name, 0, 3, fused=fused)
    state = copy.deepcopy(before.state_dict())
    state["param_groups"] = json.loads(json.dumps(state["param_groups"]))
    after = make(name, part)
    after.load_state_dict(state)
    assert bool(after.param_groups[0]["fused"]) is fused
    for number in range(3, 6):
        step(after, number)
    for one, other in zip(part, whole, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("adam", {"betas": [0.9]}, "betas must be two numbers"),
        ("adam", {"momentum": 0.9}, "unknown 'momentum'"),
        ("sgd", {"momentum": 0.0}, "Nesterov"),
        ("adamw", {"fused": "yes"}, r"optimizer\.fused"),
        ("lion", {}, "unknown 'lion'"),
    ],
)
def test_impossible_settings_are_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make(name, parameters(), **options)
