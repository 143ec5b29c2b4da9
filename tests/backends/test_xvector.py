"""The x-vector network against its equations written out, published sizes and its two modes."""

import pytest
import torch
from plain_layers import (
    batch_norm,
    check_padding,
    conv_relu_norm,
    count,
    mean_and_deviation,
    random_states,
    randomised,
)

from wesp_lap.backends.xvector import XVector

SMALL = {"channels": 8, "pooled_dim": 12, "embed_dim": 6}


def written_out(model, row, padding):
    """Outputs of both linear layers for one row (T, D) of a single state."""
    x = row.T
    dilations = (1, 2, 3, 1, 1)
    for layer, dilation, pad in zip(model.layers, dilations, (*padding, 0, 0), strict=True):
        x = conv_relu_norm(layer, x, dilation, pad)
    first = model.lin1.weight @ torch.cat(mean_and_deviation(x)) + model.lin1.bias
    hidden = first.clamp(min=0)
    if model.hidden_norm is not None:
        hidden = batch_norm(model.hidden_norm, hidden)
    return x.shape[1], first, model.lin2.weight @ hidden + model.lin2.bias


@pytest.mark.parametrize("padded, padding, lost", [(True, (2, 1, 1), 6), (False, (0, 0, 0), 14)])
@pytest.mark.parametrize("norm", [False, True])
def test_equals_the_equations_written_out(padded, padding, lost, norm):
    options = {**SMALL, "padded": padded, "hidden_norm": norm}
    model = randomised(XVector(1, 10, **options))
    (state,) = random_states(1)
    with torch.no_grad():
        frames, first, second = zip(
            *[written_out(model, row, padding) for row in state], strict=True
        )
        assert set(frames) == {23 - lost}
        torch.testing.assert_close(model((state,)), torch.stack(first), atol=1e-10, rtol=1e-10)
        model.eval_layer = "lin2"
        torch.testing.assert_close(model((state,)), torch.stack(second), atol=1e-10, rtol=1e-10)


def test_training_takes_the_second_layer_and_evaluation_the_first():
    states = random_states()
    published = randomised(XVector(3, 10, **SMALL))
    always_second = XVector(3, 10, **SMALL, eval_layer="lin2").double()
    always_second.load_state_dict(published.state_dict())
    first = published.eval()(states)
    torch.testing.assert_close(always_second.eval()(states), published.lin2(first.relu()))
    assert not torch.allclose(always_second(states), first)
    torch.testing.assert_close(always_second.train()(states), published.train()(states))


@pytest.mark.parametrize("padded, least", [(True, 8), (False, 16)])
def test_the_least_number_of_frames_leaves_two_for_the_deviation(padded, least):
    model = randomised(XVector(1, 10, **SMALL, padded=padded))
    assert model.min_frames == least
    (state,) = random_states(1)
    assert model((state[:, :least],)).isfinite().all()
    with pytest.warns(UserWarning, match="degrees of freedom"):
        assert model((state[:, : least - 1],)).isnan().any()


@pytest.mark.parametrize("padded, frames", [(True, [23, 8, 15, 9]), (False, [23, 16, 17, 20])])
def test_rows_padded_with_anything_give_what_they_give_alone(padded, frames):
    model = randomised(XVector(3, 10, **SMALL, padded=padded, hidden_norm=True, eval_layer="lin2"))
    check_padding(model, random_states(batch=4), frames)


@pytest.mark.parametrize(
    "layers, dim, expected", [(13, 768, 6_378_913), (25, 1024, 7_034_285), (1, 80, 4_617_620)]
)
def test_sizes_are_the_published_ones(layers, dim, expected):
    with torch.device("meta"):
        assert count(XVector(layers, dim)) == expected


def test_size_of_every_layer():
    with torch.device("meta"):
        model = XVector(13, 768)
    sizes = [count(layer) for layer in (*model.layers, model.lin1, model.lin2, model.layer_pool)]
    assert sizes == [1_967_616, 787_968, 787_968, 263_680, 772_500, 1_536_512, 262_656, 13]


def test_gradients_reach_every_parameter():
    model = XVector(3, 10, **SMALL, hidden_norm=True).double().train()
    model(random_states()).mul(torch.arange(18).view(3, 6)).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_constant_signal_has_finite_gradients():
    model = randomised(XVector(1, 10, **SMALL)).train()
    model((torch.ones(2, 20, 10, dtype=torch.float64),)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
