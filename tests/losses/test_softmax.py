"""Plain softmax, and what all losses have in common."""

import math

import pytest
import torch
import torch.nn.functional as F

from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.losses import LOSSES
from wesp_lap.losses.softmax import Softmax


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 8, generator=generator), torch.tensor([0, 3, 9, 2, 2, 5])


@pytest.fixture(params=LOSSES)
def loss(request):
    return build(LOSSES, Section(request.param), "loss", embed_dim=8, num_classes=10)


def test_worked_cross_entropy():
    loss = Softmax(2, 3).double()
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[1, 0, -1], [0, 2, 1]]))
        loss.bias.copy_(torch.tensor([0.5, 0, 0]))
    output = loss(torch.tensor([[3.0, 1.0]]).double(), torch.tensor([1]))
    assert output.scores.tolist() == [[3.5, 2.0, -2.0]]
    assert output.loss.item() == pytest.approx(math.log(math.exp(1.5) + 1 + math.exp(-4)))


def test_equals_a_linear_layer(batch):
    x, labels = batch
    loss, linear = Softmax(8, 10), torch.nn.Linear(8, 10)
    with torch.no_grad():
        loss.weight.copy_(linear.weight.T)
        loss.bias.copy_(linear.bias)
    torch.testing.assert_close(loss(x, labels).loss, F.cross_entropy(linear(x), labels))


def test_margin_and_penalty_have_no_effect(batch):
    x, labels = batch
    loss = Softmax(8, 10, bias=False)
    assert [name for name, _ in loss.named_parameters()] == ["weight"]
    assert torch.equal(loss(x, labels, 0.5, 0.06).loss, loss(x, labels).loss)


def test_lengths_count(batch):
    x, labels = batch
    loss = Softmax(8, 10)
    assert not torch.isclose(loss(2 * x, labels).loss, loss(x, labels).loss)


def test_the_first_classes_of_any_loss_are_a_loss_of_their_own(loss, batch):
    """What a phase does that leaves the classes of perturbed speeds behind."""
    x, labels = batch
    few = build(LOSSES, Section(_name(loss)), "loss", embed_dim=8, num_classes=6)
    few.load_state_dict({name: t[..., :6] for name, t in loss.state_dict().items()})
    torch.testing.assert_close(few(x, labels % 6).scores, loss(x, labels).scores[:, :6])


def test_any_loss_is_the_mean_over_the_batch(loss, batch):
    x, labels = batch
    rows = [loss(x[i : i + 1], labels[i : i + 1], 0.2, 0.04).loss for i in range(6)]
    torch.testing.assert_close(loss(x, labels, 0.2, 0.04).loss, torch.stack(rows).mean())


def test_any_loss_falls_and_its_scores_find_the_classes(loss):
    """A few steps down the gradient from embeddings that are told apart easily."""
    generator = torch.Generator().manual_seed(3)
    means = 3 * torch.randn(10, 8, generator=generator)
    labels = torch.arange(200) % 10
    x = means[labels] + 0.1 * torch.randn(200, 8, generator=generator)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    first = loss(x, labels, 0.2, 0.06).loss.item()
    for _ in range(60):
        optimizer.zero_grad()
        output = loss(x, labels, 0.2, 0.06)
        output.loss.backward()
        optimizer.step()
    assert output.loss.item() < 0.2 * first
    assert (output.scores.argmax(dim=1) == labels).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_single_class_is_refused(name):
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        LOSSES[name](embed_dim=8, num_classes=1)


def _name(loss):
    return next(name for name, kind in LOSSES.items() if type(loss) is kind)
