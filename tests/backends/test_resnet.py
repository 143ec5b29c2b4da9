"""ResNet34 against its layers written out, its size and rows that are alone."""

import pytest
import torch
from plain_layers import (
    batch_norm,
    check_padding,
    count,
    mean_and_deviation,
    random_states,
    randomised,
)

from wesp_lap.backends.resnet import BasicBlock, ResNet34
from wesp_lap.coerce import Section


def convolution2d(conv, x, stride, padding):
    """Convolution over frequency and time of (C, F, T), position by position."""
    x = torch.nn.functional.pad(x, (padding,) * 4)
    size = conv.weight.shape[2]
    rows = []
    for f in range(0, x.shape[1] - size + 1, stride):
        columns = [
            torch.einsum("oikl,ikl->o", conv.weight, x[:, f : f + size, t : t + size])
            for t in range(0, x.shape[2] - size + 1, stride)
        ]
        rows.append(torch.stack(columns, dim=1))
    return torch.stack(rows, dim=1)


def block_written_out(block, x, stride):
    y = batch_norm(block.norm1, convolution2d(block.conv1, x, stride, 1)).clamp(min=0)
    y = batch_norm(block.norm2, convolution2d(block.conv2, y, 1, 1))
    if block.shortcut is not None:
        x = batch_norm(block.shortcut[1], convolution2d(block.shortcut[0], x, stride, 0))
    return (x + y).clamp(min=0)


def written_out(model, row):
    """The network for one row (T, F)."""
    x = convolution2d(model.input, row.T[None], 1, 1)
    x = batch_norm(model.input_norm, x).clamp(min=0)
    strides = [1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1]
    for block, stride in zip(model.blocks, strides, strict=True):
        x = block_written_out(block, x, stride)
    mean, deviation = mean_and_deviation(x)
    statistics = torch.cat([mean.flatten(), deviation.flatten()])
    embedding = model.embedding.weight @ statistics + model.embedding.bias
    if model.second is None:
        return embedding
    _, norm, last = model.second
    return last.weight @ batch_norm(norm, embedding.clamp(min=0)) + last.bias


@pytest.mark.parametrize("two_embed_layer", [False, True])
@pytest.mark.parametrize("dim", [8, 10])
def test_equals_the_network_written_out(two_embed_layer, dim):
    model = randomised(ResNet34(1, dim, 2, 5, two_embed_layer))
    (state,) = random_states(1, batch=2, frames=17, dim=dim)
    with torch.no_grad():
        expected = torch.stack([written_out(model, row) for row in state])
        torch.testing.assert_close(model((state,)), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("stride, frames", [(1, 7), (2, 7), (2, 8)])
def test_a_block_halves_both_axes_and_rounds_up(stride, frames):
    block = BasicBlock(2, 4, stride)
    x = torch.zeros(1, 2, 10, frames)
    assert block(x).shape == (1, 4, -(-10 // stride), -(-frames // stride))


@pytest.mark.parametrize(
    "options, expected", [({}, 6_634_336), ({"two_embed_layer": True}, 6_700_128)]
)
def test_size_is_the_published_one(options, expected):
    """WeSpeaker prints 6.63 M, and 6.70 M for its older model with two embedding layers."""
    with torch.device("meta"):
        assert count(ResNet34(1, 80, **options)) == expected


def test_there_are_thirty_four_layers_with_weights():
    with torch.device("meta"):
        model = ResNet34(1, 80)
    kernels = [p for n, p in model.named_parameters() if p.dim() == 4 and p.shape[-1] == 3]
    assert len(kernels) + 1 == 34


@pytest.mark.parametrize("frames", [[40, 9, 17, 16], [40, 33, 32, 31], [11, 10, 9, 40]])
def test_rows_padded_with_anything_give_what_they_give_alone(frames):
    model = randomised(ResNet34(1, 10, channels=2, embed_dim=5))
    check_padding(model, random_states(1, batch=4, frames=40), frames)


def test_layer_states_can_take_the_place_of_filterbanks():
    model = ResNet34(3, 10, channels=2, embed_dim=5, layer_pool=Section("lap", {"heads": 2}))
    assert model.layer_pool.output_dim == 512
    check_padding(randomised(model), random_states(batch=2, frames=12), [12, 9])


def test_the_least_number_of_frames_leaves_two_for_the_deviation():
    model = randomised(ResNet34(1, 10, channels=2, embed_dim=5))
    (state,) = random_states(1)
    assert model.min_frames == 9
    assert model((state[:, :9],)).isfinite().all()
    with pytest.warns(UserWarning, match="degrees of freedom"):
        assert model((state[:, :8],)).isnan().any()


@pytest.mark.parametrize("two_embed_layer", [False, True])
def test_gradients_reach_every_parameter(two_embed_layer):
    torch.manual_seed(0)
    model = ResNet34(3, 10, 2, 5, two_embed_layer).double().train()
    model(random_states()).mul(torch.arange(15).view(3, 5)).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
