"""ECAPA-TDNN against its equations written out, published sizes and rows that are alone."""

import pytest
import torch
from plain_layers import (
    batch_norm,
    check_padding,
    conv_relu_norm,
    convolution,
    count,
    mean_and_deviation,
    random_states,
    randomised,
)

from wesp_lap.backends import BACKENDS
from wesp_lap.backends.ecapa_tdnn import ContextStatisticsPooling, EcapaTdnn, Res2
from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError


def written_out(model, row):
    """The equations for one row (T, D) of a single state."""
    x = conv_relu_norm(model.input, row.T, padding=2)
    outputs = []
    for dilation, block in zip((2, 3, 4), model.blocks, strict=True):
        y = conv_relu_norm(block.enter, x)
        width = y.shape[0] // 8
        chunks = [y[i * width : (i + 1) * width] for i in range(8)]
        done = []
        for i in range(7):
            total = chunks[0] if i == 0 else done[-1] + chunks[i]
            done.append(conv_relu_norm(block.res2.convs[i], total, dilation, padding=dilation))
        y = conv_relu_norm(block.leave, torch.cat([*done, chunks[7]]))
        hidden = (block.squeeze.weight @ y.mean(1) + block.squeeze.bias).clamp(min=0)
        scale = torch.sigmoid(block.excite.weight @ hidden + block.excite.bias)
        x = x + scale[:, None] * y
        outputs.append(x)
    x = convolution(model.output, torch.cat(outputs)).clamp(min=0)
    statistics = batch_norm(model.statistics_norm, pooled(model.time_pool, x))
    embedding = model.embedding.weight @ statistics + model.embedding.bias
    return (
        embedding if model.embedding_norm is None else batch_norm(model.embedding_norm, embedding)
    )


def pooled(pool, x):
    """Attentive statistics of (C, T) with mean and deviation of the row beside every frame."""
    mean, deviation = mean_and_deviation(x)
    scores = []
    for frame in x.T:
        seen = torch.cat([frame, mean, deviation]) if pool.global_context else frame
        hidden = torch.tanh(pool.squeeze.weight[:, :, 0] @ seen + pool.squeeze.bias)
        scores.append(pool.score.weight[:, :, 0] @ hidden + pool.score.bias)
    weights = torch.stack(scores, dim=1).exp()
    weights = weights / weights.sum(1, keepdim=True)
    mean = (weights * x).sum(1)
    variance = (weights * x**2).sum(1) - mean**2
    return torch.cat([mean, variance.clamp(min=1e-7).sqrt()])


@pytest.mark.parametrize("options", [{}, {"global_context": False, "embedding_norm": True}])
def test_equals_the_equations_written_out(options):
    model = randomised(EcapaTdnn(1, 10, channels=16, embed_dim=6, **options))
    (state,) = random_states(1, batch=2, frames=11)
    with torch.no_grad():
        expected = torch.stack([written_out(model, row) for row in state])
        torch.testing.assert_close(model((state,)), expected, atol=1e-10, rtol=1e-10)


def test_layer_states_are_summed_first_unless_said_otherwise():
    states = random_states()
    with torch.no_grad():
        summed = randomised(EcapaTdnn(3, 10, 16, 6))
        mixed = torch.stack([w * s for w, s in zip(weights(summed), states, strict=True)]).sum(0)
        alone = randomised(EcapaTdnn(1, 10, 16, 6))
        alone.load_state_dict(without_logits(summed))
        torch.testing.assert_close(summed(states), alone((mixed,)), atol=1e-10, rtol=1e-10)
        single = EcapaTdnn(3, 10, 16, 6, layer_pool=Section("single", {"layer": 1})).double()
        single.load_state_dict(alone.state_dict())
        single.eval()
        torch.testing.assert_close(single(states), alone((states[1],)), atol=1e-10, rtol=1e-10)


def weights(model):
    return model.layer_pool.logits.softmax(0)


def without_logits(model):
    return {k: v for k, v in model.state_dict().items() if not k.startswith("layer_pool.")}


def test_the_last_eighth_passes_through_and_each_eighth_sees_those_before():
    res2 = randomised(Res2(16, dilation=2))
    x = random_states(1, batch=1, frames=9, dim=16)[0].transpose(1, 2)
    with torch.no_grad():
        before = res2(x)
        torch.testing.assert_close(before[:, 14:], x[:, 14:])
        for eighth in range(7):
            changed = x.clone()
            changed[:, 2 * eighth : 2 * eighth + 2] += 1
            moved = (res2(changed) != before).view(8, -1).any(1).tolist()
            assert moved == [eighth <= i < 7 for i in range(8)]


def test_equal_scores_give_mean_and_population_deviation():
    pool = ContextStatisticsPooling(2).eval()
    torch.nn.init.zeros_(pool.score.weight)
    x = torch.tensor([[[1.0, 2.0, 4.0], [3.0, 3.0, 3.0]]])
    expected = torch.tensor([[2.333333, 3.0, 1.247219, 1e-7**0.5]])
    torch.testing.assert_close(pool(x), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("context", [True, False])
def test_rows_padded_with_anything_give_what_they_give_alone(context):
    model = randomised(EcapaTdnn(3, 10, channels=16, embed_dim=6, global_context=context))
    check_padding(model, random_states(batch=4), [23, 2, 9, 15])


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"num_layers": 13, "input_dim": 768}, 7_952_013),
        ({"num_layers": 25, "input_dim": 1024}, 8_607_385),
        ({"num_layers": 1, "input_dim": 80}, 6_190_720),
        ({"num_layers": 1, "input_dim": 80, "channels": 1024}, 14_657_088),
        (
            {"num_layers": 1, "input_dim": 80, "channels": 1024, "global_context": False},
            14_263_872,
        ),
        ({"num_layers": 13, "input_dim": 768, "channels": 1024, "embed_dim": 256}, 18_376_333),
        (
            {
                "num_layers": 13,
                "input_dim": 768,
                "channels": 1024,
                "embed_dim": 256,
                "global_context": False,
            },
            17_983_117,
        ),
    ],
)
def test_sizes_are_the_published_ones(options, expected):
    with torch.device("meta"):
        assert count(EcapaTdnn(**options)) == expected


@pytest.mark.parametrize("norm", [False, True])
def test_gradients_reach_every_parameter(norm):
    model = EcapaTdnn(3, 10, channels=16, embed_dim=6, embedding_norm=norm).double().train()
    embeddings = model([state.requires_grad_() for state in random_states()])
    embeddings.mul(torch.arange(18).view(3, 6)).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias in front of a batch norm over the same batch changes nothing.
    assert silent in ([], ["embedding.bias"])


def test_half_precision_keeps_statistics_in_single():
    pool = ContextStatisticsPooling(8).eval()
    torch.nn.init.zeros_(pool.score.weight)
    torch.nn.init.zeros_(pool.score.bias)
    x = (300 + 10 * random_states(1, dim=8)[0].transpose(1, 2)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        statistics = pool(x)
    exact = x.double()
    expected = torch.cat([exact.mean(2), exact.std(2, correction=0)], dim=1).float()
    torch.testing.assert_close(statistics, expected, atol=1e-3, rtol=0)


def test_channels_must_split_into_eighths():
    with pytest.raises(ConfigError, match=r"channels \(20\) must be a multiple of 8"):
        build(
            BACKENDS, Section("ecapa_tdnn", {"channels": 20}), "backend", num_layers=1, input_dim=4
        )
