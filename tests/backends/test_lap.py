"""LAP against vectors worked by hand and a brute-force loop over heads, frames and layers."""

import math

import pytest
import torch

from wesp_lap.backends import BACKENDS
from wesp_lap.backends.lap import LapAstp, LayerAttentivePooling
from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError


def worked_example(score: str, pool: str) -> LayerAttentivePooling:
    """D=4, two heads, N=3, one squeezed unit; no batch norm and identity projections."""
    lap = LayerAttentivePooling(
        3, 4, heads=2, output_dim=4, score=score, pool=pool, input_bn=False
    ).eval()
    with torch.no_grad():
        lap.input.weight.copy_(torch.eye(4))
        lap.squeeze_weight.copy_(torch.tensor([[[1.0], [0.0], [-1.0]], [[0.5], [0.5], [0.5]]]))
        lap.excite_weight.copy_(torch.tensor([[[1.0, 2.0, -1.0]], [[-1.0, 0.0, 1.0]]]))
        lap.excite_bias.copy_(torch.tensor([[[0.0, 0.0, 0.0]], [[0.1, 0.2, 0.3]]]))
    return lap


STATES = [
    torch.tensor([1.0, 2.0, -1.0, 0.5]).view(1, 1, 4),
    torch.tensor([0.0, 1.0, 3.0, -2.0]).view(1, 1, 4),
    torch.tensor([2.0, -1.0, 1.0, 1.0]).view(1, 1, 4),
]


def random_states(n=5, batch=2, frames=7, dim=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, frames, dim, generator=generator) for _ in range(n)]


def randomise(module, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module


def test_sigmoid_max_gives_the_worked_output():
    pooled = worked_example("sigmoid", "max").pool_layers(STATES)
    expected = torch.tensor([0.731059, 1.462117, 1.796063, 0.969968])
    torch.testing.assert_close(pooled.flatten(), expected, atol=1e-5, rtol=0)


def test_sigmoid_max_takes_the_worked_layers():
    latent, weights = worked_example("sigmoid", "max").layer_scores(STATES)
    chosen = (latent * weights.unsqueeze(-1)).argmax(dim=0).flatten()
    assert chosen.tolist() == [0, 0, 1, 2]
    assert torch.bincount(chosen, minlength=3).tolist() == [2, 1, 1]


def test_scores_are_the_worked_ones():
    _, weights = worked_example("sigmoid", "max").layer_scores(STATES)
    expected = torch.tensor([[0.731059, 0.880797, 0.268941], [0.064465, 0.598688, 0.969968]])
    torch.testing.assert_close(weights[:, 0, 0].T, expected, atol=1e-5, rtol=0)


def test_softmax_sum_gives_the_worked_output():
    pooled = worked_example("softmax", "sum").pool_layers(STATES)
    expected = torch.tensor([0.329735, 1.189258, 1.084051, 0.866801])
    torch.testing.assert_close(pooled.flatten(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("score, pool", [("sigmoid", "max"), ("softmax", "sum")])
def test_equals_a_loop_over_frames_heads_and_layers(score, pool):
    lap = LayerAttentivePooling(5, 12, heads=3, output_dim=6, score=score, pool=pool).double()
    randomise(lap)
    lap.eval()
    states = [state.double() for state in random_states()]
    torch.testing.assert_close(lap(states), brute_force(lap, states), atol=1e-10, rtol=1e-10)


def brute_force(lap, states):
    """The equations, one scalar product at a time; evaluation-mode batch norm written out."""
    size, frames, dim = states[0].shape
    width = dim // lap.heads
    result = torch.empty(size, frames, lap.output.out_features, dtype=torch.float64)
    norm_in, norm_out = lap.input_norm, lap.output_norm

    def normalise(norm, x):
        root = torch.sqrt(norm.running_var + norm.eps)
        return (x - norm.running_mean) / root * norm.weight + norm.bias

    for b in range(size):
        for t in range(frames):
            x = [lap.input.weight @ normalise(norm_in, s[b, t]) + lap.input.bias for s in states]
            pooled = torch.empty(dim, dtype=torch.float64)
            for h in range(lap.heads):
                part = [v[h * width : (h + 1) * width] for v in x]

                def excite(z, h=h):
                    hidden = torch.relu(z @ lap.squeeze_weight[h] + lap.squeeze_bias[h, 0])
                    return hidden @ lap.excite_weight[h] + lap.excite_bias[h, 0]

                mean = torch.stack([v.mean() for v in part])
                top = torch.stack([v.max() for v in part])
                scores = excite(mean) + excite(top)
                alpha = scores.sigmoid() if lap.score == "sigmoid" else scores.softmax(0)
                weighted = torch.stack([a * v for a, v in zip(alpha, part, strict=True)])
                joined = weighted.max(0).values if lap.pool == "max" else weighted.sum(0)
                pooled[h * width : (h + 1) * width] = joined
            result[b, t] = normalise(norm_out, lap.output.weight @ pooled + lap.output.bias)
    return result


def silent_scores(lap):
    """Excitation and biases zero: every score is 0.5 under a sigmoid, 1/N under a softmax."""
    with torch.no_grad():
        lap.excite_weight.zero_()
        lap.excite_bias.zero_()
    return lap.eval()


def test_without_excitation_sigmoid_max_is_half_the_maximum():
    states = random_states()
    lap = silent_scores(LayerAttentivePooling(5, 12, 3, input_bn=False))
    expected = torch.stack([lap.input(state) for state in states]).amax(0) / 2
    torch.testing.assert_close(lap.pool_layers(states), expected)


def test_without_excitation_softmax_sum_is_the_mean_of_layers():
    states = random_states()
    lap = silent_scores(LayerAttentivePooling(5, 12, 3, score="softmax", pool="sum"))
    expected = torch.stack([lap.input(lap.input_norm(s.flatten(0, 1))) for s in states]).mean(0)
    torch.testing.assert_close(lap.pool_layers(states).flatten(0, 1), expected)


def test_softmax_sum_with_equal_biases_is_superb_with_doubled_logits():
    states = random_states(dim=8)
    lap = silent_scores(LayerAttentivePooling(5, 8, 2, score="softmax", pool="sum", input_bn=False))
    logits = torch.tensor([0.3, -0.2, 0.5, 0.0, 1.0])
    with torch.no_grad():
        lap.excite_bias.copy_(logits.expand_as(lap.excite_bias))
        lap.input.weight.copy_(torch.eye(8))
    weights = (2 * logits).softmax(0)
    expected = sum(w * s for w, s in zip(weights, states, strict=True))
    torch.testing.assert_close(lap.pool_layers(states), expected)


def test_a_suppressed_layer_counts_as_zero_not_as_minus_infinity():
    states = random_states(dim=8)
    lap = silent_scores(LayerAttentivePooling(5, 8, 2, input_bn=False)).double()
    with torch.no_grad():
        lap.excite_bias.fill_(-40)
        lap.excite_bias[:, :, 3] = 40
        lap.input.weight.copy_(torch.eye(8))
    pooled = lap.pool_layers([state.double() for state in states])
    assert (states[3] < 0).any()
    torch.testing.assert_close(pooled, states[3].double().clamp(min=0), atol=1e-15, rtol=0)


def test_one_channel_per_head_makes_mean_and_maximum_equal():
    lap = randomise(LayerAttentivePooling(5, 6, heads=6, input_bn=False)).eval()
    states = random_states(dim=6)
    latent, weights = lap.layer_scores(states)
    z = latent.squeeze(-1)
    one_branch = lap._excitation().branch(z)
    torch.testing.assert_close(weights, (2 * one_branch).sigmoid())


@pytest.mark.parametrize(
    "layers, dim, heads, scalars", [(13, 768, 12, 2100), (25, 1024, 16, 10192)]
)
def test_there_are_four_shared_excitation_tensors(layers, dim, heads, scalars):
    with torch.device("meta"):
        lap = LayerAttentivePooling(layers, dim, heads)
    tensors = [p for n, p in lap.named_parameters() if n.startswith(("squeeze_", "excite_"))]
    assert len(tensors) == 4
    assert sum(tensor.numel() for tensor in tensors) == scalars


@pytest.mark.parametrize(
    "layers, dim, heads, lap_count, total",
    [(13, 768, 12, 988_980, 1_713_780), (25, 1024, 16, 1_587_664, 2_312_464)],
)
def test_parameter_counts_are_the_published_ones(layers, dim, heads, lap_count, total):
    with torch.device("meta"):
        model = LapAstp(layers, dim, heads)
    assert sum(p.numel() for p in model.layer_pool.parameters()) == lap_count
    assert sum(p.numel() for p in model.parameters()) == total


def test_one_head_has_no_input_projection():
    def count(heads):
        module = LayerAttentivePooling(4, 12, heads, output_dim=8)
        excitation = heads * (2 * 4 * 2 + 2 + 4)
        return sum(p.numel() for p in module.parameters()) - excitation

    assert count(1) == count(2) - (12 * 12 + 12)


def test_permuting_heads_with_their_weights_changes_nothing():
    lap = randomise(LayerAttentivePooling(5, 12, heads=3, input_bn=False)).eval()
    states = random_states()
    expected = lap(states)
    order = torch.tensor([2, 0, 1])
    channels = (order[:, None] * 4 + torch.arange(4)).flatten()
    with torch.no_grad():
        lap.input.weight.copy_(lap.input.weight[channels])
        lap.input.bias.copy_(lap.input.bias[channels])
        for name in ("squeeze_weight", "squeeze_bias", "excite_weight", "excite_bias"):
            parameter = getattr(lap, name)
            parameter.copy_(parameter[order])
        lap.output.weight.copy_(lap.output.weight[:, channels])
    torch.testing.assert_close(lap(states), expected)


def test_frames_do_not_see_each_other():
    lap = randomise(LayerAttentivePooling(5, 12, heads=3)).eval()
    states = random_states()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    whole = lap(states)
    torch.testing.assert_close(lap([s[:, order] for s in states]), whole[:, order])
    single = torch.cat([lap([s[:, t : t + 1] for s in states]) for t in range(7)], dim=1)
    torch.testing.assert_close(single, whole)


def test_input_batch_norm_shares_its_statistics_over_layers():
    lap = LayerAttentivePooling(5, 12, heads=3).train()
    states = [state + i for i, state in enumerate(random_states())]
    lap(states)
    stack = torch.stack(states).flatten(0, -2)
    torch.testing.assert_close(lap.input_norm.running_mean, 0.1 * stack.mean(0))
    torch.testing.assert_close(lap.input_norm.running_var, 0.9 + 0.1 * stack.var(0))


def test_score_dropout_zeroes_whole_entries_in_training_only():
    lap = LayerAttentivePooling(5, 12, heads=3, score_dropout=0.5)
    states = random_states(batch=8, frames=30)
    torch.manual_seed(0)
    dropped = (lap.train().layer_scores(states).weights == 0).float().mean()
    assert dropped == pytest.approx(0.5, abs=0.05)
    assert (lap.eval().layer_scores(states).weights > 0).all()


def test_xavier_bounds_are_those_of_the_published_code():
    torch.manual_seed(0)
    lap = LayerAttentivePooling(13, 768, 12)
    for name, bound in (("squeeze_weight", 0.2), ("excite_weight", math.sqrt(6 / 234))):
        peak = getattr(lap, name).abs().max().item()
        assert 0.95 * bound < peak <= bound
    assert lap.squeeze_bias.abs().max() == 0


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"heads \(5\) must divide the layer width \(12\)"):
        build(BACKENDS, Section("lap_astp", {"heads": 5}), "backend", num_layers=3, input_dim=12)


@pytest.mark.parametrize("name", sorted(set(BACKENDS) - {"first_frame", "layer_mean"}))
def test_every_backend_gives_embeddings_and_gradients(name):
    options = {"heads": 3, "pooled_dim": 16} if name == "lap_astp" else {}
    section = Section(name, {"embed_dim": 10, **options})
    model = build(BACKENDS, section, "backend", num_layers=5, input_dim=12)
    states = random_states(batch=4, frames=getattr(model, "min_frames", 7))
    embeddings = model(states)
    assert embeddings.shape == (4, 10)
    embeddings.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
