"""AAM-Softmax against logits worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError
from wesp_lap.losses import LOSSES
from wesp_lap.losses.margin_schedule import MarginSettings
from wesp_lap.losses.margin_softmax import AamSoftmax, AmSoftmax

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


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [1, 2, 3, 0]], ids=["own", "another"])
@pytest.mark.parametrize("sign", [5, -5])
@pytest.mark.parametrize("fallback", ["mm", "mmm"])
def test_gradients_are_finite_where_an_embedding_meets_a_center(labels, sign, fallback):
    """On the centre or opposite to it, of its own class or of one that Inter-TopK raises."""
    loss = AamSoftmax(8, 4, sub_centers=1, fallback=fallback)
    x = (sign * loss.weight[0].detach().T[:4]).clone().requires_grad_()
    loss(x, torch.tensor(labels), 0.3, 0.06).loss.backward()
    assert torch.isfinite(x.grad).all() and x.grad.any()
    assert torch.isfinite(loss.weight.grad).all()


def test_without_the_clamp_that_gradient_is_not_finite():
    """The published code's form: what the clamp is there for."""
    loss = AamSoftmax(2, 2, sub_centers=1, topk=0, clamp_eps=0.0)
    with torch.no_grad():
        loss.weight[0] = torch.eye(2)
    x = torch.eye(2).requires_grad_()
    loss(x, torch.arange(2), 0.3, 0.0).loss.backward()
    assert not torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_is_computed_in_float32_under_autocast(batch, name):
    x, labels = batch
    loss = build(LOSSES, Section(name), "loss", embed_dim=8, num_classes=10)
    with torch.autocast("cpu", torch.bfloat16):
        output = loss(x.bfloat16(), labels, 0.3, 0.06)
    assert output.loss.dtype == output.scores.dtype == torch.float32
    expected = loss(x.bfloat16().float(), labels, 0.3, 0.06)
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(output.scores, expected.scores)


@pytest.mark.parametrize("kind", [AamSoftmax, AmSoftmax])
def test_margin_makes_the_target_harder_and_accuracy_ignores_it(batch, kind):
    x, labels = batch
    loss = kind(8, 10)
    plain, hard = loss(x, labels, 0.0), loss(x, labels, 0.3)
    assert hard.loss > plain.loss
    assert torch.equal(hard.scores, plain.scores)


def by_angles(loss, x, labels, margin, penalty):
    """Logits from the angles themselves, class by class, with WeSpeaker's fallback."""
    centers = F.normalize(loss.weight.detach(), dim=1)
    logits = torch.empty(len(x), centers.shape[-1], dtype=torch.float64)
    for row, (embedding, label) in enumerate(zip(F.normalize(x), labels, strict=True)):
        angles = [
            math.acos(max(float(embedding @ center) for center in centers[:, :, klass]))
            for klass in range(centers.shape[-1])
        ]
        others = sorted((a, k) for k, a in enumerate(angles) if k != int(label))
        raised = {klass for _, klass in others[: loss.topk]}
        for klass, angle in enumerate(angles):
            if klass in raised:
                cosine = math.cos(angle - penalty)
            elif klass != int(label):
                cosine = math.cos(angle)
            elif angle + margin < math.pi:
                cosine = math.cos(angle + margin)
            else:
                cosine = math.cos(angle) - (1 + math.cos(math.pi - margin))
            logits[row, klass] = loss.scale * cosine
    return logits


WESPEAKER = {"scale": 32.0, "sub_centers": 3, "topk": 5, "fallback": "mmm", "init": "wespeaker"}


@pytest.mark.parametrize("epoch, margin", [(0, 0.0), (20, 0.2 * (1 - 1e-3**0.05)), (45, 0.2)])
def test_settings_of_wespeaker(epoch, margin):
    """A margin of 0.2 at a scale of 32; the penalty is 0.06 at that margin, less before."""
    schedule = MarginSettings(
        final=0.2, start_epoch=19, ramp_epochs=20, shape="wespeaker", penalty_ref=0.2
    )
    now = schedule.margin(10 * epoch, 10)
    angle = schedule.penalty_for(now)
    assert (now, angle) == pytest.approx((margin, 0.3 * margin))
    loss = build(LOSSES, Section("aam", WESPEAKER), "loss", embed_dim=3, num_classes=9).double()
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(40) % 9
    cosine = loss.cosine(x)
    logits = 32 * loss._with_margin(cosine, labels, now, angle)
    expected = by_angles(loss, x, labels, now, angle)
    torch.testing.assert_close(logits, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(
        loss(x, labels, now, angle).loss, F.cross_entropy(expected, labels), atol=1e-9, rtol=0
    )


def test_worked_logits_of_wespeaker():
    """The angles of the worked example above, at m 0.2 and m' 0.06."""
    logits, value = evaluate(worked_loss(scale=32.0, fallback="mmm"), 0, 0.2, 0.06)
    degrees = [30 + math.degrees(0.2), 45 - math.degrees(0.06), 100, 80 - math.degrees(0.06)]
    expected = [32 * math.cos(math.radians(angle)) for angle in degrees]
    assert logits == pytest.approx(expected, abs=1e-9)
    assert value == pytest.approx(math.log(sum(math.exp(x - expected[0]) for x in expected)))


def test_the_penalty_reaches_the_nearest_others_though_none_is_guessed():
    """The target at 30 degrees stays ahead of all; the two nearest others are raised anyhow."""
    loss = worked_loss()
    plain, _ = evaluate(loss, 0, 0.0, 0.0)
    raised, _ = evaluate(loss, 0, 0.0, 0.06)
    assert plain.index(max(plain)) == raised.index(max(raised)) == 0
    changed = [i for i in range(4) if raised[i] != plain[i]]
    assert changed == [1, 3] and all(raised[i] > plain[i] for i in changed)


@pytest.mark.parametrize("fallback, jump", [("mm", 0.088656 - 0.044664), ("mmm", 0.0)])
def test_only_wespeakers_fallback_is_continuous(fallback, jump):
    """Where theta + m is pi, cos(theta + m) is -1; mm goes on below that by 0.044 for m 0.3."""
    loss = AamSoftmax(2, 2, scale=1.0, fallback=fallback).double()
    edge = math.cos(math.pi - 0.3)
    inside, beyond = (loss._target(torch.tensor([edge + d]), 0.3).item() for d in (1e-6, -1e-6))
    assert inside == pytest.approx(-1, abs=1e-6)
    assert inside - beyond == pytest.approx(jump, abs=2e-6)


def test_am_takes_the_margin_off_the_cosine():
    """Scale 30 and margin 0.4, as in a fine-tuned wav2vec 2.0; angles 30, 60 and 90 degrees."""
    loss = AmSoftmax(2, 3).double()
    with torch.no_grad():
        for klass, degrees in enumerate((30, 60, 90)):
            loss.weight[0, :, klass] = 0.2 * on_circle(degrees)
    logits, value = evaluate(loss, 1, 0.4, 0.06)
    expected = [30 * math.sqrt(3) / 2, 30 * 0.5 - 12, 0.0]
    assert logits == pytest.approx(expected, abs=1e-9)
    assert value == pytest.approx(math.log(sum(math.exp(x - expected[1]) for x in expected)))


def test_am_without_a_margin_is_aam_without_one(batch):
    x, labels = batch
    am, aam = AmSoftmax(8, 10, sub_centers=3), AamSoftmax(8, 10)
    am.load_state_dict(aam.state_dict())
    torch.testing.assert_close(am(x, labels).loss, aam(x, labels).loss)


@pytest.mark.parametrize(
    "init, spread",
    [
        ("lap", math.sqrt(6 / (192 * 5994 + 3 * 5994))),
        ("wespeaker", math.sqrt(6 / (192 + 3 * 5994))),
        ("mhfa", math.sqrt(2 / (192 + 3 * 5994))),
    ],
)
def test_first_weights(init, spread):
    """The bound of the uniform ones, the standard deviation of the normal ones."""
    weight = AamSoftmax(192, 5994, init=init).weight
    assert weight.numel() == 3_452_544
    if init == "mhfa":
        assert weight.std().item() == pytest.approx(spread, rel=5e-3)
        assert weight.abs().max() > 3 * spread
    else:
        assert 0.999 * spread < weight.abs().max().item() <= spread * (1 + 1e-6)
        assert weight.std().item() == pytest.approx(spread / math.sqrt(3), rel=5e-3)


@pytest.mark.parametrize(
    "options", [{"sub_centers": 0}, {"topk": -1}, {"clamp_eps": -1e-7}, {"scale": 0.0}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AamSoftmax(4, 3, **options)


def test_wrong_options_are_named():
    with pytest.raises(ConfigError, match=r"loss 'aam': unknown 'subcenters'.*sub_centers"):
        build(LOSSES, Section("aam", {"subcenters": 3}), "loss", embed_dim=4, num_classes=3)
    with pytest.raises(ConfigError, match="arc_margin"):
        build(LOSSES, Section("arc_margin"), "loss", embed_dim=4, num_classes=3)
    with pytest.raises(ConfigError, match="at least 2 classes"):
        build(LOSSES, Section("aam"), "loss", embed_dim=4, num_classes=1)
