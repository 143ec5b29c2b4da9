"""AAM-Softmax against logits worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError
from wesp_lap.losses import LOSSES
from wesp_lap.losses.margin_softmax import AamSoftmax

ANGLES = [[30, 60, 90], [45, 120, 150], [100, 170, 130], [80, -95, 175]]  # class by sub-centre


def on_circle(degrees):
    radians = math.radians(degrees)
    return torch.tensor([math.cos(radians), math.sin(radians)], dtype=torch.float64)


def worked_loss(**options):
    loss = AamSoftmax(2, 4, **{"topk": 2, **options}).double()
    with torch.no_grad():
        for klass, angles in enumerate(ANGLES):
            for center, degrees in enumerate(angles):
                loss.weight[center, :, klass] = 3.7 * on_circle(degrees)
    return loss


def evaluate(loss, target, margin, penalty, degrees=0):
    x = 2.5 * on_circle(degrees).unsqueeze(0)
    label = torch.tensor([target])
    cosine = loss.cosine(x)
    logits = loss.scale * loss._with_margin(cosine, label, margin, penalty)
    return logits[0].tolist(), loss(x, label, margin, penalty).loss.item()


@pytest.mark.parametrize(
    "target, margin, penalty, logits, value",
    [
        (0, 0.0, 0.0, [25.980762, 21.213203, -5.209445, 5.209445], 0.008465),
        (0, 0.3, 0.0, [20.387567, 21.213203, -5.209445, 5.209445], 1.188859),
        (0, 0.3, 0.06, [20.387567, 22.447060, -5.209445, 6.971662], 2.179512),
        (0, 0.5, 0.0, [15.608881, 21.213203, -5.209445, 5.209445], 5.607998),
        (2, 0.3, 0.06, [26.833471, 22.447060, -13.707691, 5.209445], 40.553530),
    ],
)
def test_worked_logits_and_losses(target, margin, penalty, logits, value):
    got_logits, got_value = evaluate(worked_loss(), target, margin, penalty)
    assert got_logits == pytest.approx(logits, abs=1e-5)
    assert got_value == pytest.approx(value, abs=2e-5)


def test_worked_loss_at_unit_scale():
    logits, value = evaluate(worked_loss(scale=1.0), 2, 0.3, 0.0)
    assert logits == pytest.approx([0.866025, 0.707107, -0.456923, 0.173648], abs=1e-5)
    assert value == pytest.approx(2.286046, abs=1e-5)


@pytest.mark.parametrize("fallback, logit", [("mm", -32.545523), ("mmm", -31.225746)])
def test_fallback_beyond_the_monotone_range(fallback, logit):
    loss = AamSoftmax(2, 2, sub_centers=1, topk=0, fallback=fallback).double()
    with torch.no_grad():
        loss.weight[0, :, 0] = on_circle(0)
        loss.weight[0, :, 1] = on_circle(90)
    logits, _ = evaluate(loss, 0, 0.3, 0.0, degrees=175)
    assert logits[0] == pytest.approx(logit, abs=1e-5)


def test_easy_margin_leaves_negative_cosines_alone():
    loss = AamSoftmax(2, 2, sub_centers=1, topk=0, easy_margin=True).double()
    with torch.no_grad():
        loss.weight[0, :, 0] = on_circle(0)
        loss.weight[0, :, 1] = on_circle(90)
    assert evaluate(loss, 0, 0.3, 0.0, degrees=120)[0][0] == pytest.approx(
        30 * math.cos(2 * math.pi / 3)
    )
    assert evaluate(loss, 0, 0.3, 0.0, degrees=60)[0][0] == pytest.approx(
        30 * math.cos(math.pi / 3 + 0.3)
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 8, generator=generator), torch.tensor([0, 3, 9, 2, 2, 5])


def test_no_margin_is_cross_entropy_of_scaled_cosines(batch):
    x, labels = batch
    loss = AamSoftmax(8, 10, sub_centers=1, topk=0)
    cosine = F.normalize(x) @ F.normalize(loss.weight[0], dim=0)
    expected = F.cross_entropy(30 * cosine, labels)
    torch.testing.assert_close(loss(x, labels, 0.0, 0.0).loss, expected)


def test_equal_sub_centers_count_as_one(batch):
    x, labels = batch
    three, one = AamSoftmax(8, 10), AamSoftmax(8, 10, sub_centers=1)
    with torch.no_grad():
        three.weight.copy_(one.weight.expand(3, -1, -1))
    torch.testing.assert_close(three(x, labels, 0.2, 0.04).loss, one(x, labels, 0.2, 0.04).loss)


def test_no_penalty_angle_is_no_penalty(batch):
    x, labels = batch
    with_topk = AamSoftmax(8, 10, topk=5)
    without = AamSoftmax(8, 10, topk=0)
    without.load_state_dict(with_topk.state_dict())
    torch.testing.assert_close(
        with_topk(x, labels, 0.3, 0.0).loss, without(x, labels, 0.3, 0.06).loss
    )
    assert with_topk(x, labels, 0.3, 0.06).loss > without(x, labels, 0.3, 0.06).loss


def test_lengths_of_embeddings_and_centers_do_not_matter(batch):
    x, labels = batch
    loss = AamSoftmax(8, 10)
    expected = loss(x, labels, 0.3, 0.06).loss
    with torch.no_grad():
        loss.weight.mul_(17)
    torch.testing.assert_close(loss(0.01 * x, labels, 0.3, 0.06).loss, expected)


def test_topk_larger_than_the_other_classes(batch):
    x, _ = batch
    loss = AamSoftmax(8, 3, topk=5)
    assert torch.isfinite(loss(x, torch.tensor([0, 1, 2, 0, 1, 2]), 0.3, 0.06).loss)


def test_gradients_are_finite_where_an_embedding_meets_its_center():
    loss = AamSoftmax(8, 4, sub_centers=1)
    x = (5 * loss.weight[0].detach().T[:4]).clone().requires_grad_()
    loss(x, torch.arange(4), 0.3, 0.06).loss.backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(loss.weight.grad).all()


def test_without_the_clamp_that_gradient_is_not_finite():
    """The published code's form: what the clamp is there for."""
    loss = AamSoftmax(2, 2, sub_centers=1, topk=0, clamp_eps=0.0)
    with torch.no_grad():
        loss.weight[0] = torch.eye(2)
    x = torch.eye(2).requires_grad_()
    loss(x, torch.arange(2), 0.3, 0.0).loss.backward()
    assert not torch.isfinite(x.grad).all()


def test_is_computed_in_float32_under_autocast(batch):
    x, labels = batch
    loss = AamSoftmax(8, 10)
    with torch.autocast("cpu", torch.bfloat16):
        output = loss(x.bfloat16(), labels, 0.3, 0.06)
    assert output.loss.dtype == output.scores.dtype == torch.float32


def test_margin_makes_the_target_harder_and_accuracy_ignores_it(batch):
    x, labels = batch
    loss = AamSoftmax(8, 10)
    plain, hard = loss(x, labels, 0.0), loss(x, labels, 0.3)
    assert hard.loss > plain.loss
    assert torch.equal(hard.scores, plain.scores)


def test_wrong_options_are_named():
    with pytest.raises(ConfigError, match=r"loss 'aam': unknown 'subcenters'.*sub_centers"):
        build(LOSSES, Section("aam", {"subcenters": 3}), "loss", embed_dim=4, num_classes=3)
    with pytest.raises(ConfigError, match="arc_margin"):
        build(LOSSES, Section("arc_margin"), "loss", embed_dim=4, num_classes=3)
    with pytest.raises(ConfigError, match="at least 2 classes"):
        build(LOSSES, Section("aam"), "loss", embed_dim=4, num_classes=1)
