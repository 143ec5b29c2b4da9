"""Adapter-MFA against its equations written out and its published size."""

import pytest
import torch
from plain_grid import matrix
from plain_layers import batch_norm, check_padding, count, random_states, randomised

from wesp_lap.backends.adapter_mfa import AdapterMfa, LayerAdapters


def small(**options):
    torch.manual_seed(0)
    return AdapterMfa(4, 10, adapter_dim=6, embed_dim=5, **options)


def adapted(adapters, layer, frame):
    x = matrix(adapters.down[layer], frame)
    x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
    x = x * adapters.norm_weight[layer, 0] + adapters.norm_bias[layer, 0]
    return x.clamp(min=0) @ adapters.mix_weight[layer] + adapters.mix_bias[layer, 0]


def written_out(model, row):
    """The equations for one row, states (N, T, D), frame by frame."""
    layers, frames, _ = row.shape
    features, scores = [], []
    for t in range(frames):
        parts = [adapted(model.adapters, layer, row[layer, t]) for layer in range(layers)]
        features.append(torch.cat(parts))
        hidden = batch_norm(model.squeeze_norm, matrix(model.squeeze, features[t]).clamp(min=0))
        scores.append(matrix(model.score, hidden))
    weights = torch.stack(scores).exp()
    weights = weights / weights.sum(0)
    x = torch.stack(features)
    mean = (weights * x).sum(0)
    variance = (weights * x**2).sum(0) - mean**2
    return matrix(model.embedding, torch.cat([mean, variance.clamp(min=1e-5).sqrt()]))


def test_equals_the_equations_written_out():
    model = randomised(small())
    states = random_states(4, batch=2, frames=9)
    with torch.no_grad():
        expected = torch.stack([written_out(model, row) for row in torch.stack(states, dim=1)])
        torch.testing.assert_close(model(states), expected, atol=1e-10, rtol=1e-10)


def test_size_is_the_published_one():
    """6.2 M parameters beside w2v-BERT 2.0, which has 25 states of 1024 channels."""
    with torch.device("meta"):
        assert count(AdapterMfa(25, 1024)) == 6_160_640
        assert count(AdapterMfa(25, 1024).adapters) == 25 * (131_200 + 256 + 16_512)


def test_each_layer_has_an_adapter_of_its_own():
    adapters = randomised(LayerAdapters(4, 10, 6))
    states = random_states(4)
    before = adapters(states)
    for layer in range(4):
        changed = [s + (i == layer) * s.abs() for i, s in enumerate(states)]
        moved = (adapters(changed) != before).view(3, 23, 4, 6).flatten(0, 1).any(-1).any(0)
        assert moved.tolist() == [i == layer for i in range(4)]


def test_maps_start_as_those_of_torch():
    torch.manual_seed(0)
    model = AdapterMfa(5, 100, adapter_dim=64, embed_dim=4)
    adapters = model.adapters
    for weight in (adapters.mix_weight, adapters.mix_bias):
        assert 0.97 / 8 < weight.abs().max() <= 1 / 8
    for linear in (*adapters.down, model.squeeze, model.score, model.embedding):
        bound = linear.in_features**-0.5
        assert 0.97 * bound < linear.weight.abs().max() <= bound
    assert (adapters.norm_weight == 1).all()
    assert not adapters.norm_bias.any()


def test_rows_padded_with_anything_give_what_they_give_alone():
    check_padding(randomised(small()), random_states(4, batch=4), [23, 1, 9, 15])


def test_constant_features_have_the_floor_as_deviation():
    model = small().eval()
    seen = []
    model.embedding.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model([state.float()[:, :1].expand(-1, 7, -1) for state in random_states(4)])
    torch.testing.assert_close(seen[0][:, 24:], torch.full((3, 24), 1e-5**0.5))


def test_half_precision_keeps_statistics_in_single():
    model = small().eval()
    torch.nn.init.zeros_(model.score.weight)
    torch.nn.init.zeros_(model.score.bias)
    x = (300 + 10 * random_states(1, dim=24)[0]).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        statistics = model._statistics(x, model._attention(x, None))
    exact = x.double()
    expected = torch.cat([exact.mean(1), exact.std(1, correction=0)], dim=1).float()
    torch.testing.assert_close(statistics, expected, atol=1e-2, rtol=0)


def test_works_under_autocast():
    model = small().eval()
    states = [state.float() for state in random_states(4)]
    with torch.no_grad():
        exact = model(states)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(states)
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)


def test_dropout_acts_in_training_only():
    model = small(dropout=0.5)
    states = [state.float() for state in random_states(4)]
    assert torch.equal(model.eval()(states), model(states))
    assert not torch.equal(model.train()(states), model(states))


def test_gradients_reach_every_parameter():
    model = small().double().train()
    model(random_states(4)).mul(torch.arange(15).view(3, 5)).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize(
    "options, message",
    [({"adapter_dim": 0}, "adapter_dim must be at least 1"), ({"dropout": 2.0}, "dropout prob")],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AdapterMfa(**{"num_layers": 4, "input_dim": 10, **options})
