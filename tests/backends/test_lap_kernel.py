"""LAP in pieces of frames against its formulas, one module per step, under autograd."""

import itertools
import sys

import pytest
import torch
from helpers import ROOT
from torch import nn

from wesp_lap.backends import state_norm
from wesp_lap.backends.lap import LapAstp, LayerAttentivePooling

sys.path.append(str(ROOT / "benchmarks"))
import reference_backends

N, BATCH, FRAMES, DIM = 5, 3, 7, 12


def make_states(joint=True, dtype=torch.float64, shape=(BATCH, FRAMES, DIM), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(shape, generator=generator) * (1 + n) + n).to(dtype).requires_grad_(joint)
        for n in range(N)
    ]


def randomised(module, seed=1):
    """Give parameters and running statistics random values, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator) * 0.5
                tensor.copy_(noise.abs() + 0.5 if (tensor == 1).all() else noise)
    return module.double()


def make(training=True, **options):
    options = {"heads": 3, "output_dim": 6, "score_dropout": 0.0, **options}
    return randomised(LayerAttentivePooling(N, DIM, **options)).train(training)


def make_reference(lap):
    reference = reference_backends.Lap(
        N,
        DIM,
        lap.heads,
        lap.output_dim,
        lap.score,
        lap.pool,
        lap.input_norm is not None,
        lap.squeeze_bias is not None,
    ).double()
    reference_backends.copy_tensors(lap, reference)
    return reference.train(lap.training)


class Masked(nn.Module):
    """Dropout whose mask is known: factors (N, B, T, h) for weights (B, T, h, 1, N)."""

    def __init__(self, keep):
        super().__init__()
        self.keep = keep

    def forward(self, weights):
        return weights if self.keep is None else weights * self.keep.movedim(0, -1).unsqueeze(-2)


def results(module, states, outer):
    """Output, gradients of states and parameters, and buffers after a step."""
    for state in states:
        state.grad = None
    output = module(states)
    output.backward(outer)
    grads = [t.grad for t in (*states, *module.parameters())]
    return output, grads, [b.clone() for b in module.buffers()]


def check_against_reference(lap, states, seed=5):
    """One step of both gives the same output, gradients and running statistics."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*states[0].shape[:2], lap.output_dim)
    outer = torch.randn(shape, generator=generator, dtype=torch.float64)
    reference = make_reference(lap)
    torch.manual_seed(seed)
    reference.dropout = Masked(lap._dropout(states))
    torch.manual_seed(seed)
    mine = results(lap, states, outer)
    theirs = results(reference, states, outer.transpose(1, 2))
    close(mine[0], theirs[0].transpose(1, 2))
    for a, b in zip(mine[1], theirs[1], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            close(a, b.view_as(a))
    for a, b in zip(mine[2], theirs[2], strict=True):
        close(a, b)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


SWITCHES = [
    dict(zip(("score", "pool", "input_bn", "bias", "score_dropout", "heads"), row, strict=True))
    for row in itertools.product(
        ("sigmoid", "softmax"), ("max", "sum"), (True, False), (True, False), (0.0, 0.3), (1, 3)
    )
]


@pytest.mark.parametrize("options", SWITCHES, ids=lambda o: "-".join(map(str, o.values())))
def test_every_switch_gives_what_the_formulas_give(options):
    for training, joint in itertools.product((True, False), (True, False)):
        check_against_reference(make(training, **options), make_states(joint))


@pytest.mark.parametrize("frames_at_once", [1, 3, 4, 6, 7, 8, 14, 20, 21, 100])
@pytest.mark.parametrize("pool", ["max", "sum"])
def test_any_cut_into_pieces_gives_the_same(monkeypatch, frames_at_once, pool):
    monkeypatch.setattr(state_norm, "_PIECE_ON_CPU", frames_at_once * N * DIM)
    check_against_reference(make(pool=pool, score_dropout=0.2), make_states())


@pytest.mark.parametrize("limit", [1, 5, 7, 9, 14, 21, 50])
def test_pieces_cover_every_frame_once(monkeypatch, limit):
    monkeypatch.setattr(state_norm, "_PIECE_ON_CPU", limit * N * DIM)
    states = make_states(joint=False)
    seen = torch.zeros(BATCH, FRAMES)
    for piece in state_norm.pieces(states):
        seen[piece] += 1
        assert seen[piece].numel() <= limit
    assert (seen == 1).all()


def turned(state):
    return state.detach().transpose(1, 2).contiguous().transpose(1, 2)


def test_states_may_lie_in_memory_in_any_way():
    states = make_states()
    stack = torch.stack(list(states), dim=2).detach()
    for layout in (
        [turned(state).requires_grad_() for state in states],
        [part.requires_grad_() for part in stack.unbind(2)],
        [state.detach()[:1].expand(BATCH, -1, -1).requires_grad_() for state in states],
    ):
        assert not layout[0].is_contiguous()
        check_against_reference(make(), layout)


def test_only_states_that_need_it_get_a_gradient():
    for needed in ((0,), (1, 3), (4, 0, 2)):
        states = [s.detach().requires_grad_(n in needed) for n, s in enumerate(make_states())]
        check_against_reference(make(score_dropout=0.2), states)


def test_one_row_of_one_frame():
    check_against_reference(make(training=False), make_states(shape=(1, 1, DIM)))


@pytest.mark.parametrize("pool", ["max", "sum"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_agree_with_finite_differences(training, pool):
    lap = make(training, pool=pool, score="softmax" if pool == "sum" else "sigmoid")
    parameters = [p for n, p in lap.named_parameters() if not n.startswith("output")]
    states = make_states(shape=(1, 3, DIM))
    assert torch.autograd.gradcheck(
        lambda *inputs: lap.pool_layers(inputs[:N]), (*states, *parameters)
    )


def test_differentiating_twice_is_refused():
    lap, states = make(), make_states()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(lap.pool_layers(states).sum(), states, create_graph=True)


def kept_bytes(function):
    """Bytes of the tensors that ``function`` keeps for the backward pass, each storage once."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(kept.values())


@pytest.mark.parametrize("joint", [True, False])
def test_the_projected_stack_is_not_kept(joint):
    batch, frames, dim, heads = 8, 25, 48, 3
    states = make_states(joint, torch.float32, (batch, frames, dim))
    lap = LayerAttentivePooling(N, dim, heads, output_dim=16).train()
    inputs = sum(t.untyped_storage().nbytes() for t in (*states, *lap.parameters()))
    beyond = kept_bytes(lambda: lap.pool_layers(states)) - inputs
    pooled = batch * frames * dim
    per_head = N * batch * frames * heads
    # The result in float32 and its winners; per head mean, maximum, where it is, and dropout.
    assert beyond <= pooled * (4 + 1) + per_head * (4 + 4 + 1 + 4) + 4096
    assert beyond < N * pooled * 4 / 2


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept_and_nothing_changes(context):
    lap, states = make(training=False), make_states()
    expected = lap.pool_layers(states)
    assert expected.requires_grad

    def without():
        with context():
            result = lap.pool_layers(states)
        assert not result.requires_grad
        torch.testing.assert_close(result, expected, atol=0, rtol=0)

    assert kept_bytes(without) == 0


def test_memory_without_gradients_is_that_of_a_piece(monkeypatch):
    monkeypatch.setattr(state_norm, "_PIECE_ON_CPU", N * DIM * 2)
    states = make_states(joint=False, shape=(8, 25, DIM))

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.elements = max(self.elements, result.numel())
            return result

    with torch.no_grad(), Largest() as largest:
        make(training=False).pool_layers(states)
    assert largest.elements == states[0].numel()  # the result


def test_a_mean_far_from_zero_costs_little_precision():
    """Folding the mean into the offset would lose four of seven digits here."""
    shift = torch.linspace(-2000, 2000, DIM)
    states = [s.detach() + shift for s in make_states(dtype=torch.float32)]
    lap = make()
    expected = lap.pool_layers([s.double() for s in states])
    torch.testing.assert_close(
        lap.float().pool_layers(states), expected.float(), atol=2e-3, rtol=2e-3
    )
    variance = torch.stack(states).double().flatten(0, 2).var(0)
    lap = make().float()
    lap.input_norm.momentum = 1.0
    lap(states)
    torch.testing.assert_close(lap.input_norm.running_var, variance.float(), atol=0, rtol=1e-4)


def test_running_statistics_without_momentum_are_the_means_of_all_steps():
    lap, norm = make(), nn.BatchNorm1d(DIM, momentum=None).double()
    lap.input_norm.reset_running_stats()
    lap.input_norm.momentum = None
    for seed in range(3):
        states = make_states(seed=seed)
        lap(states)
        norm(torch.cat(states).flatten(0, 1))
    for mine, theirs in zip(lap.input_norm.buffers(), norm.buffers(), strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("joint", [True, False])
def test_autocast_takes_only_the_products_in_half_precision(joint):
    states = make_states(joint, torch.float32, shape=(4, 30, DIM))
    lap, plain = make().float(), make().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = lap.pool_layers(states)
        pooled.float().square().sum().backward()
    assert pooled.dtype == torch.bfloat16
    grads = [s.grad for s in states]
    for state in states:
        state.grad = None
    expected = plain.pool_layers(states)
    expected.square().sum().backward()
    assert relative(pooled, expected) < 0.01
    for mine, theirs in zip(lap.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            assert mine.grad.dtype == torch.float32
            assert relative(mine.grad, theirs.grad) < 0.03
    for mine, state in zip(grads, states, strict=True):
        assert (mine is not None) == joint
        if joint:
            assert relative(mine, state.grad) < 0.03
    close(lap.input_norm.running_mean, plain.input_norm.running_mean)
    close(lap.input_norm.running_var, plain.input_norm.running_var)


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def test_a_model_of_half_precision():
    states = make_states(True, torch.bfloat16, shape=(4, 30, DIM))
    lap, exact = make().bfloat16(), make().bfloat16().double()
    output = lap(states)
    output.float().square().sum().backward()
    assert output.dtype == states[0].grad.dtype == lap.input.weight.grad.dtype == torch.bfloat16
    assert relative(output, exact([s.detach().double() for s in states])) < 0.02


def test_nan_in_the_states_is_passed_on():
    lap, states = make(), make_states()
    with torch.no_grad():
        states[2][1, 3, 5] = float("nan")
    output = lap(states)
    output.sum().backward()
    assert output.isnan().all()


def test_nan_in_evaluation_mode_stays_in_its_frame():
    lap, states = make(training=False), make_states(joint=False)
    states[2][1, 3, 5] = float("nan")
    bad = lap.pool_layers(states).isnan().any(-1)
    assert bad[1, 3] and bad.sum() == 1


def test_the_same_seed_drops_the_same_scores():
    lap, states = make(score_dropout=0.5), make_states()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(lap.pool_layers(states))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_a_layer_of_zero_weight_everywhere_gets_no_gradient_through_the_maximum():
    """Every score dropped: p = 0, and nothing depends on anything."""
    lap, states = make(score_dropout=0.999999), make_states()
    pooled = lap.pool_layers(states)
    pooled.sum().backward()
    assert (pooled == 0).all()
    assert all((s.grad == 0).all() for s in states)


def test_the_whole_backend_equals_the_reference():
    torch.manual_seed(0)
    options = {"heads": 3, "pooled_dim": 8, "embed_dim": 6, "score_dropout": 0.0}
    mine = randomised(LapAstp(N, DIM, frame_dropout=0.0, **options))
    theirs = reference_backends.LapAstp(N, DIM, frame_dropout=0.0, **options).double()
    reference_backends.copy_tensors(mine, theirs)
    states = make_states()
    outer = torch.randn(BATCH, 6, dtype=torch.float64)
    a, b = (results(module, states, outer) for module in (mine, theirs))
    close(a[0], b[0])
    for x, y in zip((*a[1], *a[2]), (*b[1], *b[2]), strict=True):
        close(x, y.view_as(x))


def test_squeeze_excitation_is_one_for_both_statistics():
    """Changing the weights changes both branches: the scores are the sum of two equal maps."""
    lap = make(training=False, input_bn=False)
    mean, top = (torch.randn(N, 2, 3, 3, dtype=torch.float64) for _ in range(2))
    for _ in range(2):
        excitation = lap._excitation()
        both = excitation.scores(mean, top)
        close(both, excitation.scores(top, mean))
        close(both, (excitation.scores(mean, mean) + excitation.scores(top, top)) / 2)
        randomised(lap, seed=9)


def test_shapes_come_out_on_the_meta_device():
    with torch.device("meta"):
        model = LapAstp(N, DIM, heads=3, pooled_dim=8, embed_dim=6)
        states = [torch.empty(BATCH, FRAMES, DIM) for _ in range(N)]
        assert model(states).shape == (BATCH, 6)
