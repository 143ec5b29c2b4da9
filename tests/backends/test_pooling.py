"""Attentive statistics pooling and the SUPERB sum against worked values."""

import pytest
import torch

from wesp_lap.backends.pooling import AttentiveStatisticsPooling
from wesp_lap.backends.superb import SuperbAstp, WeightedSum


def one_channel(values):
    return torch.tensor(values).view(1, -1, 1)


def test_equal_scores_give_mean_and_population_deviation():
    x = one_channel([1.0, 2.0, 4.0])
    statistics = AttentiveStatisticsPooling.statistics(x, torch.zeros_like(x))
    torch.testing.assert_close(
        statistics.flatten(), torch.tensor([2.333333, 1.247219]), atol=1e-5, rtol=0
    )


def test_scores_0_1_2_give_the_worked_statistics():
    x = one_channel([1.0, 2.0, 4.0])
    statistics = AttentiveStatisticsPooling.statistics(x, one_channel([0.0, 1.0, 2.0]))
    torch.testing.assert_close(
        statistics.flatten(), torch.tensor([3.240451, 1.101034]), atol=1e-5, rtol=0
    )


def test_constant_input_has_the_floor_as_deviation():
    x = torch.full((1, 3, 2), 5.0)
    statistics = AttentiveStatisticsPooling.statistics(x, torch.zeros_like(x))
    torch.testing.assert_close(statistics[0, 2:], torch.full((2,), 0.01))


def test_the_context_is_mean_and_unbiased_deviation():
    """With weights that pick the context, the score of every frame is a function of it alone."""
    pool = AttentiveStatisticsPooling(2).eval()
    seen = []
    pool.squeeze_norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        pool.squeeze.bias.zero_()
        pool.squeeze.weight.zero_()
        pool.squeeze.weight[0, 4] = 1  # channels 2-3 are the means, 4-5 the deviations
    pool.attention(torch.tensor([[[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]]]))
    torch.testing.assert_close(seen[0].flatten(), torch.full((3,), 1.527525))
    with torch.no_grad():
        pool.squeeze.weight.zero_()
        pool.squeeze.weight[0, 2] = 1
    pool.attention(torch.tensor([[[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]]]))
    torch.testing.assert_close(seen[1].flatten(), torch.full((3,), 7 / 3))


def test_zero_score_weights_give_equal_attention():
    pool = AttentiveStatisticsPooling(4).eval()
    torch.nn.init.zeros_(pool.score.weight)
    attention = pool.attention(torch.randn(2, 5, 4))
    torch.testing.assert_close(attention, torch.full((2, 5, 4), 0.2))


def test_equals_the_concatenated_form():
    """Splitting the product over the context is the 1x1 convolution over [x; mean; std]."""
    torch.manual_seed(0)
    pool = AttentiveStatisticsPooling(6, 3).eval()
    x = torch.randn(2, 9, 6)
    mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    context = torch.cat([x, mean.expand_as(x), std.expand_as(x)], dim=-1)
    hidden = torch.relu(pool.squeeze(context))
    hidden = pool.squeeze_norm(hidden.transpose(1, 2)).transpose(1, 2)
    expected = pool.score(hidden).softmax(dim=1)
    torch.testing.assert_close(pool.attention(x), expected)


def test_frame_dropout_takes_whole_frames_out_of_the_softmax():
    torch.manual_seed(0)
    pool = AttentiveStatisticsPooling(4, frame_dropout=0.3).train()
    attention = pool.attention(torch.randn(16, 50, 4))
    gone = attention == 0
    assert torch.equal(gone.all(-1), gone.any(-1))
    assert gone.float().mean() == pytest.approx(0.3, abs=0.05)
    torch.testing.assert_close(attention.sum(1), torch.ones(16, 4))


@pytest.mark.parametrize("dim, count", [(512, 724_800), (768, 1_480_128), (1024, 2_497_600)])
def test_parameter_counts(dim, count):
    with torch.device("meta"):
        pool = AttentiveStatisticsPooling(dim)
    assert sum(p.numel() for p in pool.parameters()) == count


@pytest.mark.parametrize("layers, dim, count", [(13, 768, 1_480_141), (25, 1024, 2_497_625)])
def test_superb_parameter_counts(layers, dim, count):
    with torch.device("meta"):
        model = SuperbAstp(layers, dim)
    assert sum(p.numel() for p in model.parameters()) == count


def test_superb_starts_as_the_plain_mean():
    states = [torch.randn(2, 3, 4) for _ in range(5)]
    torch.testing.assert_close(WeightedSum(5, 4)(states), torch.stack(states).mean(0))


def test_superb_with_one_large_logit_selects_that_layer():
    states = [torch.randn(2, 3, 4) for _ in range(5)]
    weighted = WeightedSum(5, 4)
    with torch.no_grad():
        weighted.logits[3] = 60
    torch.testing.assert_close(weighted(states), states[3])


def test_frames_beyond_the_length_of_a_row_count_for_nothing():
    torch.manual_seed(0)
    pooling = AttentiveStatisticsPooling(8, embed_dim=4).eval()
    frames = [2, 9, 5]
    x = torch.randn(3, 9, 8)
    single = torch.cat([pooling(x[row : row + 1, :n]) for row, n in enumerate(frames)])
    for row, n in enumerate(frames):
        x[row, n:] = float("nan")
    torch.testing.assert_close(pooling(x, frames), single)
    padding = torch.arange(9) >= torch.tensor(frames).unsqueeze(1)
    weights = pooling.attention(x.nan_to_num(), padding.unsqueeze(-1))
    assert (weights[padding] == 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3, 8))


def test_constant_channels_have_finite_gradients():
    pool = AttentiveStatisticsPooling(4, embed_dim=2).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    x[:, :, 1] = 7
    x.requires_grad_()
    pool(x).square().sum().backward()
    assert x.grad.isfinite().all() and (x.grad[:, :, 0] != 0).any()


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(1)
    pool = AttentiveStatisticsPooling(4, embed_dim=2, frame_dropout=0.0).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pool, x)
