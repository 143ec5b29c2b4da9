"""MHFA and CA-MHFA against worked vectors and their formulas written out plainly."""

import math

import pytest
import torch
import torch.nn.functional as F
from plain_layers import check_padding, random_states, randomised

from wesp_lap.backends import BACKENDS
from wesp_lap.backends.mhfa import CaMhfa, ContextQueries, Mhfa
from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError


def parameter_count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def small(kind=Mhfa, layers=4, dim=6, layer_pool=None, **options):
    options = {"compressed_dim": 5, "embed_dim": 7, **options}
    return randomised(kind(layers, dim, layer_pool=layer_pool, **options))


# Parameter counts


@pytest.mark.parametrize(
    "layers, dim, heads, count",
    [
        (13, 768, 8, 460_322),
        (13, 768, 32, 1_249_850),
        (13, 768, 64, 2_302_554),
        (25, 1024, 8, 525_882),
        (25, 1024, 32, 1_315_410),
        (25, 1024, 64, 2_368_114),
    ],
)
def test_parameter_counts_of_mhfa(layers, dim, heads, count):
    with torch.device("meta"):
        assert parameter_count(Mhfa(layers, dim, heads)) == count


@pytest.mark.parametrize(
    "layers, dim, lap_heads, lap_count", [(13, 768, 12, 988_980), (25, 1024, 16, 1_587_664)]
)
def test_parameter_counts_with_two_lap_modules(layers, dim, lap_heads, lap_count):
    """2 LAP + 2 (RC + C) + (CH + H) + (HCE + E) with R=512, C=128, H=64, E=256."""
    pool = Section("lap", {"heads": lap_heads, "output_dim": 512})
    with torch.device("meta"):
        count = parameter_count(Mhfa(layers, dim, layer_pool=pool))
    assert count == 2 * lap_count + 2 * (512 * 128 + 128) + (128 * 64 + 64) + (64 * 128 * 256 + 256)


@pytest.mark.parametrize("groups, context", [(64, 5), (32, 9), (1, 1)])
def test_parameter_counts_of_ca_mhfa(groups, context):
    """2N + 2 (DC + C) + GCL + (GCE + E)."""
    with torch.device("meta"):
        count = parameter_count(CaMhfa(13, 768, groups, context))
    compressed = 2 * (768 * 128 + 128)
    assert count == 26 + compressed + groups * 128 * context + (groups * 128 * 256 + 256)


def test_the_default_ca_mhfa_is_as_large_as_published():
    with torch.device("meta"):
        assert parameter_count(CaMhfa(13, 768)) == 2_335_258


# Worked vectors

FRAMES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])


def identity_mhfa(queries):
    """One layer, D = C = 2, compressions and embedding the identity."""
    mhfa = Mhfa(1, 2, heads=len(queries), compressed_dim=2, embed_dim=2 * len(queries))
    with torch.no_grad():
        for linear in (mhfa.key, mhfa.value, mhfa.embedding):
            linear.weight.copy_(torch.eye(len(linear.weight)))
        mhfa.queries.weight.copy_(torch.tensor(queries))
    return mhfa


def test_the_worked_attention():
    attention = identity_mhfa([[1.0, 0.0], [0.0, -1.0]]).attention(FRAMES[None])
    expected = torch.tensor([[0.244728, 0.665241], [0.090031, 0.244728], [0.665241, 0.090031]])
    torch.testing.assert_close(attention[0], expected, atol=1e-5, rtol=0)


def test_the_worked_heads_stand_one_after_the_other():
    embedding = identity_mhfa([[1.0, 0.0], [0.0, -1.0]])([FRAMES[None]])
    expected = torch.tensor([[1.575210, 1.420512, 0.845302, 0.424790]])
    torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=0)


def test_queries_of_zero_give_the_mean_over_time():
    embedding = identity_mhfa([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])([FRAMES[None]])
    torch.testing.assert_close(embedding, FRAMES.mean(0).repeat(3)[None])


def test_a_context_of_three_frames_worked_by_hand():
    """Keys 1, 2, 4 with queries 1, 0, -1: scores -2, -3, 2; the ends count as zero."""
    queries = ContextQueries(1, groups=1, context=3)
    with torch.no_grad():
        queries.convolution.weight.copy_(torch.tensor([[[1.0, 0.0, -1.0]]]))
    scores = queries(torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1))
    assert scores.flatten().tolist() == [-2, -3, 2]


# The formulas, plainly


def plain_mhfa(model, states, frame_scores):
    """A stack, two weighted sums over it, two linear layers, softmax, weighted outer product."""
    stack = torch.stack(states)
    pools = model.key_pool, model.value_pool
    sums = [(pool.logits.softmax(0).view(-1, 1, 1, 1) * stack).sum(0) for pool in pools]
    keys = F.linear(sums[0], model.key.weight, model.key.bias)
    values = F.linear(sums[1], model.value.weight, model.value.bias)
    weights = frame_scores(keys).softmax(dim=1)
    heads = (weights.unsqueeze(-1) * values.unsqueeze(2)).sum(dim=1)
    return F.linear(heads.flatten(1), model.embedding.weight, model.embedding.bias)


def plain_context_scores(model, keys):
    """One scalar product per frame of context, frame and group."""
    kernel = model.queries.convolution.weight
    groups, _, context = kernel.shape
    rows, frames, _ = keys.shape
    scores = [[[keys.new_zeros(()) for _ in range(groups)] for _ in range(frames)] for _ in keys]
    for b in range(rows):
        for t in range(frames):
            for g in range(groups):
                for j in range(context):
                    seen = t + j - context // 2
                    if 0 <= seen < frames:
                        scores[b][t][g] = scores[b][t][g] + kernel[g, :, j] @ keys[b, seen]
    return torch.stack([torch.stack([torch.stack(row) for row in part]) for part in scores])


@pytest.mark.parametrize("kind", [Mhfa, CaMhfa])
def test_output_and_all_gradients_are_those_of_the_plain_formulas(kind):
    model = small(kind, **({"heads": 3} if kind is Mhfa else {"groups": 3, "context": 3}))
    states = random_states(4, batch=2, frames=6, dim=6)
    mine = [state.clone().requires_grad_() for state in states]
    theirs = [state.clone().requires_grad_() for state in states]
    if kind is Mhfa:
        expected = plain_mhfa(model, theirs, model.queries)
    else:
        expected = plain_mhfa(model, theirs, lambda keys: plain_context_scores(model, keys))
    outer = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    leaves = list(model.parameters())
    expected_grads = torch.autograd.grad(expected, leaves + theirs, outer)
    result = model(mine)
    grads = torch.autograd.grad(result, leaves + mine, outer)
    torch.testing.assert_close(result, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(grads, expected_grads, atol=1e-10, rtol=0)
    names = [name for name, _ in model.named_parameters()] + [f"state {n}" for n in range(4)]
    blind = {name for name, grad in zip(names, grads, strict=True) if grad.abs().max() < 1e-10}
    # A constant added to all scores of a head is nothing to the softmax over time.
    assert blind == ({"key.bias", "queries.bias"} if kind is Mhfa else set())


def test_a_context_of_one_frame_is_mhfa():
    mhfa = small(heads=3)
    ca_mhfa = small(CaMhfa, groups=3, context=1)
    shared = {name: value for name, value in mhfa.state_dict().items() if "queries" not in name}
    kernel = mhfa.queries.weight.detach().unsqueeze(-1)
    ca_mhfa.load_state_dict({**shared, "queries.convolution.weight": kernel})
    states = random_states(4, dim=6)
    torch.testing.assert_close(ca_mhfa(states), mhfa(states), atol=1e-12, rtol=0)


# Properties


def shuffled(states):
    order = torch.randperm(states[0].shape[1], generator=torch.Generator().manual_seed(2))
    return [state[:, order] for state in states]


def test_mhfa_is_blind_to_the_order_of_frames():
    model, states = small(heads=3), random_states(4, dim=6)
    torch.testing.assert_close(model(shuffled(states)), model(states), atol=1e-12, rtol=0)


def test_ca_mhfa_is_not():
    model, states = small(CaMhfa, groups=3, context=3), random_states(4, dim=6)
    assert (model(shuffled(states)) - model(states)).abs().max() > 1e-3


POOLS = {
    "superb": None,
    "lap": Section("lap", {"heads": 2, "output_dim": 4}),
    "single": Section("single", {"layer": 1}),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", [Mhfa, CaMhfa])
def test_padding_counts_for_nothing_whatever_it_holds(kind, pool):
    model = small(kind, layer_pool=POOLS[pool])
    check_padding(model, random_states(4, dim=6), [23, 2, 9])


@pytest.mark.parametrize("pool", ["lap", "single"])
def test_other_layer_pools_feed_keys_and_values(pool):
    model = small(heads=3, layer_pool=POOLS[pool])
    states = random_states(4, dim=6)
    keys, values = model.streams(states)
    torch.testing.assert_close(keys, model.key(model.key_pool(states)))
    torch.testing.assert_close(values, model.value(model.value_pool(states)))
    assert model.key.in_features == model.key_pool.output_dim == (4 if pool == "lap" else 6)


def test_keys_and_values_have_layer_weights_of_their_own():
    model, states = small(heads=3), random_states(4, dim=6)
    keys, values = model.streams(states)
    with torch.no_grad():
        model.value_pool.logits[2] += 1
    moved_keys, moved_values = model.streams(states)
    torch.testing.assert_close(moved_keys, keys, atol=0, rtol=0)
    assert (moved_values - values).abs().max() > 1e-3


def test_one_state_has_no_layer_weights():
    model = Mhfa(1, 80, heads=2)
    assert not [name for name, _ in model.named_parameters() if "pool" in name]
    assert model([torch.randn(2, 9, 80)]).shape == (2, 256)


@pytest.mark.parametrize("kind", [Mhfa, CaMhfa])
def test_layer_weights_start_equal_and_matrices_xavier(kind):
    torch.manual_seed(0)
    model = kind(13, 768)
    for pool in (model.key_pool, model.value_pool):
        torch.testing.assert_close(pool.logits, torch.full((13,), 1 / 13))
    biases = [parameter for name, parameter in model.named_parameters() if "bias" in name]
    assert all(bias.abs().max() == 0 for bias in biases)
    bound = math.sqrt(6 / (768 + 128))
    assert 0.99 * bound < model.key.weight.abs().max() <= bound
    context = 1 if kind is Mhfa else 5
    bound = math.sqrt(6 / (128 + 64) / context)
    scale = next(model.queries.parameters()).abs().max()
    assert 0.99 * bound < scale <= bound


@pytest.mark.parametrize("kind", [Mhfa, CaMhfa])
def test_autocast_keeps_the_weights_of_frames_in_single_precision(kind):
    model = kind(3, 8, 2, compressed_dim=4)
    states = [torch.randn(2, 400, 8, requires_grad=True) for _ in range(3)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        keys, _ = model.streams(states)
        weights = model.attention(keys)
        embeddings = model(states)
    assert keys.dtype == embeddings.dtype == torch.bfloat16
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 2), atol=1e-5, rtol=0)
    embeddings.float().sum().backward()
    torch.testing.assert_close(embeddings.float(), model(states), atol=0.05, rtol=0.05)
    assert model.key_pool.logits.grad.dtype == states[0].grad.dtype == torch.float32


@pytest.mark.parametrize("kind", [Mhfa, CaMhfa])
def test_a_model_in_half_precision_runs(kind):
    model = kind(3, 8, 2, compressed_dim=4).bfloat16().eval()
    states = [torch.randn(2, 9, 8).bfloat16() for _ in range(3)]
    assert model(states, [9, 4]).dtype == torch.bfloat16


def test_state_dict_round_trip():
    states = random_states(4, dim=6)
    for kind in (Mhfa, CaMhfa):
        first = small(kind)
        second = kind(4, 6, compressed_dim=5, embed_dim=7).double()
        second.load_state_dict(first.state_dict())
        assert torch.equal(first(states), second(states))


# Options


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("mhfa", {"heads": 0}, "heads must be at least 1, got 0"),
        ("mhfa", {"compressed_dim": -1}, "compressed_dim must be at least 1, got -1"),
        ("ca_mhfa", {"groups": 0}, "groups must be at least 1, got 0"),
        ("ca_mhfa", {"embed_dim": 0}, "embed_dim must be at least 1, got 0"),
        ("ca_mhfa", {"context": 4}, "context must be an odd number of frames, got 4"),
        ("ca_mhfa", {"context": -1}, "context must be an odd number of frames, got -1"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=f"backend '{name}': {message}"):
        build(BACKENDS, Section(name, options), "backend", num_layers=3, input_dim=12)


def test_options_of_the_layer_pool_are_checked():
    section = Section("mhfa", {"layer_pool": {"name": "lap", "heads": 5}})
    with pytest.raises(ConfigError, match=r"heads \(5\) must divide the layer width \(12\)"):
        build(BACKENDS, section, "backend", num_layers=3, input_dim=12)
