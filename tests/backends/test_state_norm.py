"""Batch-norm statistics of all layer states, of one process and of two."""

import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from wesp_lap.backends import state_norm
from wesp_lap.backends.lap import LayerAttentivePooling
from wesp_lap.backends.state_norm import state_statistics

N, DIM = 4, 6
ROWS = (2, 3)  # of the two processes


def make_states(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (sum(ROWS), 7, DIM)
    return [torch.randn(shape, generator=generator).double() * (n + 1) + n for n in range(N)]


def make_lap(synchronised):
    torch.manual_seed(1)
    lap = LayerAttentivePooling(N, DIM, heads=2, output_dim=4, score_dropout=0.0).double()
    with torch.no_grad():
        lap.input_norm.weight.uniform_(0.5, 1.5)
        lap.input_norm.bias.uniform_(-1, 1)
    if synchronised:
        lap.input_norm = nn.SyncBatchNorm.convert_sync_batchnorm(lap.input_norm)
        assert isinstance(lap.input_norm, nn.SyncBatchNorm)
    return lap.train()


def one_step(lap, states, outer):
    """Output, gradients of states, gradients of parameters, buffers of the norm."""
    states = [state.clone().requires_grad_() for state in states]
    pooled = lap.pool_layers(states)
    pooled.backward(outer)
    parameters = [p.grad for n, p in lap.named_parameters() if not n.startswith("output")]
    return pooled.detach(), [s.grad for s in states], parameters, list(lap.input_norm.buffers())


def outer_gradient():
    return torch.randn(sum(ROWS), 7, DIM, generator=torch.Generator().manual_seed(2)).double()


def run_process(rank, port, queue):
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=len(ROWS),
        timeout=timedelta(seconds=60),
    )
    try:
        rows = slice(sum(ROWS[:rank]), sum(ROWS[: rank + 1]))
        states = [state[rows] for state in make_states()]
        result = one_step(make_lap(True), states, outer_gradient()[rows])
        if queue is not None:
            # As arrays: tensors would travel as files that end with this process.
            queue.put([[t.numpy() for t in part] for part in result])
        dist.barrier()
        return result
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def both():
    """Results of two processes: this one is the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.Queue()
    other = context.Process(target=run_process, args=(1, port, queue))
    other.start()
    first = run_process(0, port, None)
    second = [[torch.from_numpy(array) for array in part] for part in queue.get(timeout=60)]
    other.join(timeout=60)
    assert other.exitcode == 0
    return first, second


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_two_processes_normalise_as_one_with_all_rows(both):
    whole = one_step(make_lap(False), make_states(), outer_gradient())
    first, second = both
    close(torch.cat([first[0], torch.stack(list(second[0]))]), whole[0])
    for mine, other, expected in zip(first[1], second[1], whole[1], strict=True):
        close(torch.cat([mine, other]), expected)
    for mine, other, expected in zip(first[2], second[2], whole[2], strict=True):
        close(mine + other, expected)
    for mine, other, expected in zip(first[3], second[3], whole[3], strict=True):
        close(mine, expected)
        close(other, expected)


def test_alone_a_synchronised_norm_is_an_ordinary_one():
    results = [one_step(make_lap(s), make_states(), outer_gradient()) for s in (True, False)]
    close(results[0][0], results[1][0])
    for mine, expected in zip(results[0][1], results[1][1], strict=True):
        close(mine, expected)


def test_statistics_are_those_of_the_states_end_to_end(monkeypatch):
    monkeypatch.setattr(state_norm, "_PIECE_ON_CPU", 4 * DIM)
    norm, expected = nn.BatchNorm1d(DIM).double(), nn.BatchNorm1d(DIM).double()
    states = make_states()
    found = state_statistics(norm, states)
    everything = torch.cat(states).flatten(0, 1)
    expected(everything)
    for mine, theirs in zip(norm.buffers(), expected.buffers(), strict=True):
        close(mine, theirs)
    close(found.mean, everything.mean(0))
    close(found.rstd, (everything.var(0, correction=0) + norm.eps).rsqrt())
    assert found.count == len(everything)


def test_evaluation_mode_takes_the_running_statistics():
    norm = nn.BatchNorm1d(DIM).double().eval()
    norm.running_mean += 3
    norm.running_var += 1
    found = state_statistics(norm, make_states())
    assert found.count is None
    close(found.mean, torch.full((DIM,), 3.0, dtype=torch.float64))
    close(found.rstd, torch.full((DIM,), 2 + norm.eps, dtype=torch.float64).rsqrt())
    assert norm.num_batches_tracked == 0
