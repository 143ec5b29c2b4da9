"""Universal pooling against its equations written out, published sizes and identities."""

import math

import pytest
import torch
from plain_grid import FrameMean, grid_convolution, layer_pool, matrix
from plain_layers import batch_norm, check_padding, count, random_states, randomised
from torch import nn

from wesp_lap.backends.layer_grid import GridTimePool
from wesp_lap.backends.pooling import AttentiveStatisticsPooling
from wesp_lap.backends.universal_pooling import (
    AttentiveVad,
    Block,
    ChannelAttention,
    DenseDilated,
    UniversalPooling,
)


def small(**options):
    torch.manual_seed(0)
    return UniversalPooling(5, 10, conv_dim=4, embed_dim=6, **options)


def grid(layers=4, frames=11, channels=16, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, layers, frames, channels, generator=generator)


def vad(block, x):
    mixed = []
    for i in range(x.shape[1]):
        weights = block.logits[i].exp() / block.logits[i].exp().sum()
        u = sum(weights[layer] * x[:, layer] for layer in range(x.shape[1]))
        mixed.append(u * torch.sigmoid(block.weight[i] @ u + block.bias[i]))
    return torch.stack(mixed, dim=1)


def dense(block, x):
    features = [matrix(block.squeeze, x)]
    for i in range(3):
        total = 0
        for j in range(i + 1):
            step = block.steps[i][j]
            read = batch_norm(step.norm, features[j]).clamp(min=0)
            total = total + grid_convolution(step.conv.conv, read, dilation=2**j)
        features.append(total)
    return torch.cat(features)


def channel_attention(block, x):
    def branch(layers, z):
        first, _, norm, second = layers
        return matrix(second, batch_norm(norm, matrix(first, z).clamp(min=0)))

    flat = x.flatten(1)
    scores = branch(block.mean_branch, flat.mean(1)) + branch(block.max_branch, flat.max(1).values)
    return x * torch.sigmoid(scores)[:, None, None]


def written_out(model, row):
    """The equations for one row, states (N + 1, T, D), up to the pooling over time."""
    x = batch_norm(model.projection_norm, matrix(model.projection, row[1:].permute(2, 0, 1)))
    outputs = []
    for block in model.blocks:
        u = vad(block.vad, x)
        g = channel_attention(block.attention, dense(block.dense, u))
        x = 2 * u + g if block.double_residual else u + g
        outputs.append(x)
    return layer_pool(model.layer_pool, torch.cat(outputs))


@pytest.mark.parametrize("blocks, double", [(1, True), (3, True), (2, False)])
def test_equals_the_equations_written_out(blocks, double):
    model = randomised(small(num_blocks=blocks, double_residual=double))
    model.time_pool = FrameMean()
    states = random_states(5, batch=2, frames=11)
    with torch.no_grad():
        rows = torch.stack(states, dim=1)
        expected = torch.stack([written_out(model, row).mean(0) for row in rows])
        torch.testing.assert_close(model(states), expected, atol=1e-10, rtol=1e-10)


def test_state_zero_does_not_matter():
    model = small().eval()
    states = [state.float() for state in random_states(5)]
    changed = [states[0] + 1, *states[1:]]
    assert torch.equal(model(states), model(changed))
    assert not torch.equal(model(states), model([states[0], states[1] + 1, *states[2:]]))


@pytest.mark.parametrize(
    "layers, dim, blocks, expected",
    [
        (13, 768, 1, 2_869_476),
        (13, 768, 2, 4_355_584),
        (13, 768, 3, 5_841_692),
        (25, 1024, 1, 3_008_936),
    ],
)
def test_sizes_are_the_published_ones(layers, dim, blocks, expected):
    with torch.device("meta"):
        assert count(UniversalPooling(layers, dim, num_blocks=blocks)) == expected


def test_sizes_of_the_parts():
    with torch.device("meta"):
        model = UniversalPooling(13, 768)
    (block,) = model.blocks
    parts = (block.vad, block.dense, block.attention, model.layer_pool, model.time_pool)
    assert [count(part) for part in parts] == [6_300, 952_704, 263_936, 526_984, 724_800]
    assert count(model.projection) + count(model.projection_norm) == 394_752


def silence(module):
    """Set all 3x3 kernels to zero."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 4:
                parameter.zero_()
            elif name.endswith("conv.bias"):
                parameter.fill_(0.25)


def test_a_dense_block_without_kernels_gives_its_first_feature_and_biases():
    block = DenseDilated(16, 4)
    silence(block)
    x = grid()
    first, *others = block(x).split(4, dim=-1)
    torch.testing.assert_close(first, block.squeeze(x))
    for i, feature in enumerate(others, start=1):
        torch.testing.assert_close(feature, torch.full_like(feature, 0.25 * i))


def reach(block, row, column):
    """Distances at which an impulse into feature ``column`` moves what step ``row`` makes of it."""
    step = block.steps[row][column]
    x = torch.zeros(1, 19, 19, 4)
    calm = step(x)
    x[0, 9, 9] = 1
    moved = (step(x) != calm).any(-1)[0]
    layers, frames = moved.nonzero(as_tuple=True)
    assert torch.equal(layers.unique(), frames.unique())
    return (layers.unique() - 9).tolist()


def test_features_are_read_with_the_dilation_of_their_source():
    block = DenseDilated(16, 4).eval()
    for row in range(3):
        assert len(block.steps[row]) == row + 1
        for column in range(row + 1):
            assert reach(block, row, column) == [-(2**column), 0, 2**column]


def test_the_first_feature_reaches_the_second_with_dilation_one_only():
    block = DenseDilated(4, 4).eval()
    torch.nn.init.ones_(block.squeeze.weight)
    x = torch.zeros(1, 9, 9, 4)
    calm = block(x)
    x[0, 4, 4] = 1
    first, second, *_ = (block(x) != calm).split(4, dim=-1)
    assert first.any(-1).sum() == 1
    layers, frames = second.any(-1)[0].nonzero(as_tuple=True)
    assert layers.unique().tolist() == frames.unique().tolist() == [3, 4, 5]


def test_width_stays_four_times_the_channels_of_a_kernel():
    assert DenseDilated(16, 4)(grid()).shape == (2, 4, 11, 16)


@pytest.mark.parametrize("double, times", [(True, 2), (False, 1)])
def test_a_block_whose_network_is_silent_doubles_the_output_of_its_vad(double, times):
    block = Block(4, 4, double).eval()
    for parameter in [*block.dense.parameters(), *block.attention.parameters()]:
        torch.nn.init.zeros_(parameter)
    x = grid()
    torch.testing.assert_close(block(x), times * block.vad(x))


def test_a_vad_with_zero_weights_halves_the_mixtures():
    gate = AttentiveVad(4, 16)
    torch.nn.init.zeros_(gate.weight)
    x = grid()
    torch.testing.assert_close(gate(x)[:, 2], mixture(gate, x, 2) / 2)
    with torch.no_grad():
        gate.logits.copy_(60 * torch.eye(4))
    torch.testing.assert_close(gate(x), x / 2)


def test_the_vad_silences_padding():
    padding = (torch.arange(11) >= torch.tensor([[7], [11]]))[:, None, :, None]
    gated = AttentiveVad(4, 16)(grid(), padding)
    assert not gated[0, :, 7:].any()
    assert gated[0, :, :7].all() and gated[1].all()


def mixture(gate, x, row):
    return (gate.logits[row].softmax(0).view(1, -1, 1, 1) * x).sum(1)


def test_mixtures_start_only_mildly_peaked():
    weights = AttentiveVad(12, 16).logits.softmax(1)
    torch.testing.assert_close(weights.diagonal(), torch.full((12,), math.e / (math.e + 11)))


def test_channel_attention_sees_mean_and_maximum_in_branches_of_their_own():
    attention = ChannelAttention(16, 4)
    first, second = attention.mean_branch[0], attention.max_branch[0]
    assert first.weight.data_ptr() != second.weight.data_ptr()
    for branch in (attention.mean_branch, attention.max_branch):
        torch.nn.init.zeros_(branch[3].weight)
    x = grid()
    torch.testing.assert_close(attention(x), x / 2)


@pytest.mark.parametrize("blocks", [1, 2])
def test_rows_padded_with_anything_give_what_they_give_alone(blocks):
    model = randomised(small(num_blocks=blocks))
    model.time_pool = FrameMean()
    check_padding(model, random_states(5, batch=4), [23, 2, 9, 15])


def test_padded_rows_through_the_whole_model():
    model = randomised(small()).float()
    states = [state.float() for state in random_states(5, batch=3)]
    frames = [23, 2, 9]
    with torch.no_grad():
        alone = [model([s[row : row + 1, :n] for s in states]) for row, n in enumerate(frames)]
        for state in states:
            for row, n in enumerate(frames):
                state[row, n:] = float("nan")
        torch.testing.assert_close(model(states, frames), torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_weights_start_as_published():
    torch.manual_seed(0)
    model = UniversalPooling(13, 768)
    (block,) = model.blocks
    kaiming = {
        block.dense.squeeze.weight: 512,
        block.dense.steps[2][1].conv.conv.weight: 128 * 9,
        block.attention.mean_branch[0].weight: 512,
        model.layer_pool.squeeze_weight: 12 * 6,
    }
    xavier = {
        model.projection.weight: 768 + 512,
        block.vad.weight: 512 + 12,
        block.attention.max_branch[3].weight: 128 + 512,
        model.layer_pool.input.weight: 512 + 512,
        model.layer_pool.excite_weight: 6 * 12 + 4 * 12,
        model.layer_pool.output.weight: 512 + 512,
    }
    for weight, fan in [*kaiming.items(), *xavier.items()]:
        peak = weight.abs().max().item()
        assert 0.97 * math.sqrt(6 / fan) < peak <= math.sqrt(6 / fan)
    outside = [(n, p) for n, p in model.named_parameters() if not n.startswith("time_pool")]
    assert all(not p.any() for n, p in outside if n.endswith("bias"))
    assert torch.equal(block.vad.logits, torch.eye(12))


def test_weights_of_frames_are_dropped_one_by_one_and_not_scaled_back_to_one():
    torch.manual_seed(0)
    pool = GridTimePool(8, 4, attention_dropout=0.5)
    x = torch.randn(4, 50, 8)
    pool.squeeze_norm.eval()
    weights, whole = pool.attention(x), pool.eval().attention(x)
    gone = weights == 0
    assert gone.float().mean() == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(gone.all(-1), gone.any(-1))
    torch.testing.assert_close(weights[~gone], 2 * whole[~gone])


def test_without_any_weight_the_statistics_are_zero_and_the_floor():
    pool = GridTimePool(8, 4, attention_dropout=1.0)
    seen = []
    pool.statistics_norm.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    pool(torch.randn(3, 9, 8))
    torch.testing.assert_close(seen[0], torch.cat([torch.zeros(3, 8), torch.full((3, 8), 0.01)], 1))


def test_gradients_of_the_statistics_under_dropped_weights():
    torch.manual_seed(0)
    scores, x = (torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in "ab")
    keep = torch.rand(2, 5, 3, dtype=torch.float64).gt(0.4) / 0.6
    weights = scores.softmax(dim=1) * keep
    mean = (weights * x).sum(dim=1)
    deviation = ((weights * x.square()).sum(dim=1) - mean.square()).clamp(min=1e-4).sqrt()
    plain = torch.cat([mean, deviation], dim=1)
    result = GridTimePool.statistics(x, scores, keep)
    torch.testing.assert_close(result, plain)
    grad = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, (scores, x), grad)
    torch.testing.assert_close(torch.autograd.grad(result, (scores, x), grad), expected)


def test_the_pooling_over_time_is_attentive_statistics_pooling_in_evaluation():
    pool, plain = GridTimePool(8, 4, 0.1).eval(), AttentiveStatisticsPooling(8, 4).eval()
    plain.load_state_dict(pool.state_dict())
    x = torch.randn(3, 9, 8)
    assert torch.equal(pool(x), plain(x))


def kept_frames(model, frames, rows, seed):
    """What is left of rows whose content is the number of the frame."""
    torch.manual_seed(seed)
    content = torch.arange(frames).view(1, 1, -1, 1).expand(rows, 2, -1, 3)
    left, counts = model._drop_spans(content)
    assert left.shape[2] == max(counts)
    assert torch.equal(left, left[:, :1, :, :1].expand_as(left))
    return [row[:n].tolist() for row, n in zip(left[:, 0, :, 0], counts, strict=True)]


def test_deleted_spans_have_at_least_their_length():
    rows = kept_frames(small(span_out=1.0, span_start=0.05, span_length=3), 200, 50, seed=0)
    for row in rows:
        ends = [-1, *row]
        gaps = [after - before - 1 for before, after in zip(ends, row, strict=False)]
        assert min(gap for gap in gaps if gap) >= 3  # a span may be cut by the end of the row
    share = 1 - sum(map(len, rows)) / (50 * 200)
    assert share == pytest.approx(1 - 0.95**3, abs=0.02)


def test_only_a_share_of_the_utterances_loses_frames():
    rows = kept_frames(small(span_out=0.3), 200, 500, seed=0)
    assert sum(len(row) < 200 for row in rows) / 500 == pytest.approx(0.3, abs=0.06)


def test_an_utterance_never_loses_all_its_frames():
    assert kept_frames(small(span_out=1.0, span_start=1.0), 7, 2, seed=0) == [list(range(7))] * 2


def test_training_with_deleted_spans_is_training_on_the_frames_that_are_left():
    model = randomised(small(span_out=0.7, span_start=0.1)).float()
    states = [state.float() for state in random_states(5, batch=5)]
    kept = kept_frames(model, 23, 5, seed=3)
    assert len(set(map(len, kept))) > 2
    with torch.no_grad():
        expected = [model([s[b : b + 1, row] for s in states]) for b, row in enumerate(kept)]
        model.training = True  # the parts stay in evaluation mode
        torch.manual_seed(3)
        torch.testing.assert_close(model(states), torch.cat(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("span_out", [0.0, 1.0])
def test_gradients_reach_every_parameter(span_out):
    model = small(num_blocks=2, span_out=span_out).train()
    embeddings = model([state.float() for state in random_states(5, batch=6)])
    embeddings.mul(torch.randn(6, 6)).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_dropout_acts_in_training_only_and_where_it_is_asked_for():
    model = small(score_dropout=0.25, attention_dropout=0.5)
    rates = {n: m.p for n, m in model.named_modules() if isinstance(m, nn.Dropout)}
    assert rates == {"layer_pool.dropout": 0.25, "time_pool.dropout": 0.5}
    states = [state.float() for state in random_states(5)]
    assert torch.equal(model.eval()(states), model(states))
    assert not torch.equal(model.train()(states), model(states))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_layers": 2}, "needs at least 3 layer states, got 2"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"heads": 3}, r"heads \(3\) must divide the pooled width \(16\)"),
        ({"span_out": 1.5}, "span_out and span_start must lie in"),
        ({"span_length": 0}, "span_length be at least 1"),
        ({"score_dropout": 2.0}, "dropout probability"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        UniversalPooling(**{"num_layers": 5, "input_dim": 10, "conv_dim": 4, **options})
