"""Weighted sums against the product with a stack of the states."""

import pytest
import torch

from wesp_lap.backends.weighted_sum import weighted_sums


def make(k=2, n=5, shape=(2, 7, 6), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(k, n, generator=generator).softmax(dim=1).to(dtype)
    states = [torch.randn(shape, generator=generator).to(dtype) for _ in range(n)]
    return weights, states


def from_a_stack(weights, states):
    return torch.einsum("kn,nbtd->kbtd", weights, torch.stack(states))


def leaves(tensors):
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 5])
def test_values_and_gradients_are_those_of_the_stack(k, n):
    weights, states = make(k, n)
    mine, theirs = leaves([weights, *states]), leaves([weights, *states])
    result, expected = weighted_sums(mine[0], mine[1:]), from_a_stack(theirs[0], theirs[1:])
    assert result.shape == (k, 2, 7, 6)
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)
    outer = torch.randn(result.shape, dtype=torch.float64)
    result.backward(outer)
    expected.backward(outer)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-12, rtol=0)


def test_gradients_agree_with_finite_differences():
    weights, states = make(n=3, shape=(2, 3, 2))
    inputs = leaves([weights, *states])
    assert torch.autograd.gradcheck(lambda w, *s: weighted_sums(w, s), inputs)


def test_states_in_any_memory_layout():
    weights, states = make()
    turned = [state.transpose(0, 1).contiguous().transpose(0, 1) for state in states]
    assert not turned[0].is_contiguous()
    weights.requires_grad_()
    result = weighted_sums(weights, turned)
    torch.testing.assert_close(result, from_a_stack(weights, states), atol=1e-12, rtol=0)
    (grad,) = torch.autograd.grad(result.sum(), weights)
    expected = torch.stack([state.sum() for state in states]).expand(2, 5)
    torch.testing.assert_close(grad, expected, atol=1e-12, rtol=0)


def test_the_states_are_read_in_place():
    """The backward pass keeps the caller's own states, not copies of them."""
    weights, states = make()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        weighted_sums(weights.requires_grad_(), states)
    addresses = {state.data_ptr() for state in states} | {weights.data_ptr()}
    assert {tensor.data_ptr() for tensor in kept} == addresses


def test_constant_weights_keep_no_states():
    weights, states = make()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        weighted_sums(weights, leaves(states))
    assert [tensor.shape for tensor in kept] == [weights.shape]


class CountedOps(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the operations that write a tensor as large as a state."""

    def __init__(self, size):
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        fresh = not any(r.alias_info for r in func._schema.returns)
        if isinstance(result, torch.Tensor) and fresh and result.numel() >= self.size:
            self.count += 1
        return result


@pytest.mark.parametrize("needed", [0, 2, 5])
def test_only_states_that_need_it_get_a_gradient(needed):
    weights, states = make(n=5)
    states = leaves(states[:needed]) + states[needed:]
    result = weighted_sums(weights.requires_grad_(), states)
    grad = torch.randn_like(result)
    with CountedOps(states[0].numel()) as ops:
        result.backward(grad)
    assert [state.grad is not None for state in states] == [True] * needed + [False] * (5 - needed)
    assert weights.grad is not None
    assert ops.count == needed  # one new tensor per gradient and none else


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_states_are_summed_in_single_precision(dtype):
    weights, states = make(n=25, shape=(2, 50, 16), dtype=dtype)
    weights, states = leaves([weights.float()])[0], leaves(states)
    result = weighted_sums(weights, states)
    assert result.dtype == dtype
    exact = [state.detach().double() for state in states]
    expected = from_a_stack(weights.detach().double(), exact)
    # One rounding at the end; adding up in half precision gives a multiple of this error.
    torch.testing.assert_close(result, expected.to(dtype), atol=0, rtol=torch.finfo(dtype).eps)
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    result.backward(grad)
    assert weights.grad.dtype == torch.float32
    products = torch.einsum("kbtd,nbtd->kn", grad.double(), torch.stack(exact))
    torch.testing.assert_close(weights.grad.double(), products, atol=1e-3, rtol=1e-4)
    assert states[0].grad.dtype == dtype
    expected = (weights.detach()[:, 0, None, None, None] * grad.float()).sum(0).to(dtype)
    torch.testing.assert_close(
        states[0].grad, expected, atol=2 * torch.finfo(dtype).eps, rtol=2 * torch.finfo(dtype).eps
    )


def test_weights_of_half_precision_get_gradients_of_their_type():
    weights, states = make(dtype=torch.bfloat16)
    weights.requires_grad_()
    weighted_sums(weights, states).sum().backward()
    assert weights.grad.dtype == torch.bfloat16


def test_autocast_leaves_the_precision_of_the_states():
    weights, states = make(dtype=torch.float32)
    weights, states = leaves([weights])[0], leaves(states)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = weighted_sums(weights, states)
        result.square().sum().backward()
    assert result.dtype == weights.grad.dtype == states[0].grad.dtype == torch.float32
    torch.testing.assert_close(result, from_a_stack(weights, states))


def test_as_many_weights_as_states():
    weights, states = make(n=5)
    with pytest.raises(ValueError, match="there are 5 weights for 4 layer states"):
        weighted_sums(weights, states[:4])
