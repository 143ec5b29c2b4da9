"""L-TDNN against its equations written out and its published sizes."""

import pytest
import torch
from plain_grid import FrameMean, grid_convolution, layer_pool, matrix
from plain_layers import batch_norm, check_padding, count, random_states, randomised

from wesp_lap.backends.l_tdnn import LTdnnD3, LTdnnEcapa, Res2Block, TaperedBlock

SMALL = {"pooled_dim": 16, "embed_dim": 6, "heads": 2}


def small(variant):
    torch.manual_seed(0)
    if variant == "d3":
        return LTdnnD3(6, 10, channels=12, num_blocks=2, depth=3, **SMALL)
    return LTdnnEcapa(6, 10, channels=12, scale=4, **SMALL)


def conv_relu_norm(layer, x, dilation=1):
    return batch_norm(layer.norm, grid_convolution(layer.conv.conv, x, dilation).clamp(min=0))


def squeeze_excitation(layer, x):
    hidden = matrix(layer.squeeze, x.flatten(1).mean(1)).clamp(min=0)
    return x * torch.sigmoid(matrix(layer.excite, hidden))[:, None, None]


def tapered(block, x):
    share = x.shape[0] // len(block.steps)
    done = []
    for i, step in enumerate(block.steps):
        x = x + conv_relu_norm(step, x, dilation=2**i)
        going_on = x.shape[0] - share
        x, left = x[:going_on], x[going_on:]
        done.append(left)
    return squeeze_excitation(block.scale, torch.cat(done))


def res2(block, x, dilation):
    y = batch_norm(block.before.norm, matrix(block.before.linear, x).clamp(min=0))
    width = y.shape[0] // (len(block.parts) + 1)
    done = []
    for i, part in enumerate(block.parts):
        piece = y[i * width : (i + 1) * width]
        done.append(conv_relu_norm(part, piece if i == 0 else done[-1] + piece, dilation))
    y = torch.cat([*done, y[len(block.parts) * width :]])
    y = batch_norm(block.after.norm, matrix(block.after.linear, y).clamp(min=0))
    return x + squeeze_excitation(block.scale, y)


def written_out(model, row):
    """The equations for one row, states (N, T, D), up to the pooling over time."""
    x = conv_relu_norm(model.input, batch_norm(model.input_norm, row.permute(2, 0, 1)))
    outputs = []
    for i, block in enumerate(model.blocks):
        x = tapered(block, x) if isinstance(model, LTdnnD3) else res2(block, x, dilation=i + 2)
        outputs.append(x)
    return layer_pool(model.layer_pool, matrix(model.fusion, torch.cat(outputs)).clamp(min=0))


@pytest.mark.parametrize("variant", ["d3", "ecapa"])
def test_equals_the_equations_written_out(variant):
    model = randomised(small(variant))
    model.time_pool = FrameMean()
    states = random_states(6, batch=2, frames=11)
    with torch.no_grad():
        rows = torch.stack(states, dim=1)
        expected = torch.stack([written_out(model, row).mean(0) for row in rows])
        torch.testing.assert_close(model(states), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("model, expected", [(LTdnnD3, 6_481_336), (LTdnnEcapa, 5_717_272)])
def test_sizes_are_the_published_ones(model, expected):
    with torch.device("meta"):
        assert count(model(13, 768)) == expected


def test_first_convolutions_have_the_published_kernels():
    with torch.device("meta"):
        assert LTdnnD3(13, 768).input.conv.conv.weight.shape == (256, 768, 1, 5)
        assert LTdnnEcapa(13, 768).input.conv.conv.weight.shape == (256, 768, 5, 3)


def test_widths_and_dilations_of_a_tapered_block():
    block = TaperedBlock(256, 4)
    convs = [step.conv.conv for step in block.steps]
    assert [conv.in_channels for conv in convs] == [256, 192, 128, 64]
    assert [conv.dilation for conv in convs] == [(1, 1), (2, 2), (4, 4), (8, 8)]


def test_a_silent_network_leaves_half_of_the_input_in_a_tapered_block():
    block = TaperedBlock(8, 4).eval()
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 5, 7, 8)
    # What is left behind comes first: the last quarter of the input is the first of the output.
    expected = torch.cat(x.split(2, dim=-1)[::-1], dim=-1) / 2
    torch.testing.assert_close(block(x), expected)


def test_a_silent_network_leaves_the_input_in_a_res2_block():
    block = Res2Block(8, 4, dilation=2).eval()
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 5, 7, 8)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("variant", ["d3", "ecapa"])
def test_rows_padded_with_anything_give_what_they_give_alone(variant):
    model = randomised(small(variant))
    model.time_pool = FrameMean()
    check_padding(model, random_states(6, batch=4), [23, 2, 9, 15])


@pytest.mark.parametrize("variant", ["d3", "ecapa"])
def test_padded_rows_through_the_whole_model(variant):
    model = randomised(small(variant)).float()
    states = [state.float() for state in random_states(6)]
    frames = [23, 2, 9]
    with torch.no_grad():
        alone = [model([s[row : row + 1, :n] for s in states]) for row, n in enumerate(frames)]
        for state in states:
            for row, n in enumerate(frames):
                state[row, n:] = float("nan")
        torch.testing.assert_close(model(states, frames), torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", ["d3", "ecapa"])
def test_gradients_reach_every_parameter(variant):
    model = small(variant).train()
    embeddings = model([state.float() for state in random_states(6, batch=6)])
    embeddings.mul(torch.randn(6, 6)).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("variant", ["d3", "ecapa"])
def test_dropout_acts_in_training_only(variant):
    model = small(variant).eval()
    states = [state.float() for state in random_states(6)]
    assert torch.equal(model(states), model(states))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.train()
    assert not torch.equal(model(states), model(states))


@pytest.mark.parametrize(
    "model, options, message",
    [
        (LTdnnD3, {"channels": 10}, r"depth \(4\) must divide the channels \(10\)"),
        (LTdnnD3, {"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        (LTdnnD3, {"num_layers": 1}, "needs at least 2 layer states, got 1"),
        (LTdnnD3, {"heads": 3}, r"heads \(3\) must divide the pooled width \(512\)"),
        (LTdnnEcapa, {"channels": 12}, r"scale \(8\) must be 2 or more and divide channels \(12\)"),
        (LTdnnEcapa, {"scale": 1}, r"scale \(1\) must be 2 or more"),
    ],
)
def test_impossible_options_are_refused(model, options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        model(**{"num_layers": 13, "input_dim": 12, **options})
