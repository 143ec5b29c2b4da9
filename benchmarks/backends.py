"""Speed and memory of the backends' training step beside plain versions of their formulas.

    python benchmarks/backends.py [--device cuda] [--dtype bf16] [--only joint] [--backends mhfa]

The plain versions (reference_backends.py) are one module per step, as the papers' formulas stand;
they exist for lap_astp, superb_astp and mhfa, the other backends are measured alone. LAP has two,
the second with its stack of states in channels-last memory, the fastest layout. First all are
compared in float64 at a small size: embeddings, all gradients, running statistics. Then a
training step of each is timed in turn, round after round, on states that need no gradient (frozen
frontend) and on states that do (joint training). Printed are medians.

seconds is time on the clock (on a GPU between events), cpu processor time, which a busy machine
changes less. memory is the peak above the states and the weights, gradients included: on a GPU what
was allocated; on Linux the peak of the resident set (VmHWM, reset before the step) of a process of
its own, in its second step, above what was resident before it. The factors beside a plain version
say how many times faster wesp_lap is, and what part of the memory it takes.

The floor of LAP is the products with its input projection: 2 D^2 N B T operations each, one
forward, one for the gradient of the weights, one more for those of the states.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import reference_backends
import torch
from torch import Tensor, nn

from wesp_lap.backends import BACKENDS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Named by --backends only: nothing to train in two, one reads spectrograms, three take many times
# as long as the others.
_LEFT_OUT = frozenset(
    ["first_frame", "layer_mean", "resnet34", "l_tdnn_d3", "l_tdnn_ecapa", "universal_pooling"]
)
_TOLERANCE = 1e-10


def main() -> None:
    """Compare, time and print."""
    options = _options()
    torch.set_num_threads(options.threads)
    if options.job:
        print(json.dumps(_resident_peak(*options.job, options)))
        return
    device = options.device
    where = torch.cuda.get_device_name(device) if device == "cuda" else f"{options.threads} threads"
    print(f"torch {torch.__version__}, {device}, {where}, {options.dtype}")
    print(
        f"B={options.batch} T={options.frames} N={options.layers} D={options.dim}, "
        f"medians of {options.rounds} rounds\n"
    )
    names = options.backends.split(",")
    for name in reference_backends.REFERENCES:
        if name in names:
            print(f"{name}: largest difference in float64 {_largest_difference(name):.1e}")
    if "lap_astp" in names:
        _print_floor(options)
    _print_row(
        "backend", "states", "code", "seconds", "cpu", "memory MB", "faster", "(cpu)", "memory"
    )
    for name in names:
        for states in ("frozen", "joint"):
            if options.only in (None, states):
                _compare(name, states, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    others = [n for n in BACKENDS if n not in reference_backends.REFERENCES.keys() | _LEFT_OUT]
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="fp32", choices=tuple(DTYPES), help="bf16 by autocast")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--frames", type=int, default=99)
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12, help="of LAP")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--backends", default=",".join([*reference_backends.REFERENCES, *others]))
    parser.add_argument("--only", choices=("frozen", "joint"))
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def _codes(name: str) -> list[str]:
    plain = ["plain"] if name in reference_backends.REFERENCES else []
    return [*plain, *(["plain ch.last"] if name == "lap_astp" else []), "wesp_lap"]


def _build(name: str, code: str, options: argparse.Namespace, **changes: Any) -> nn.Module:
    """Build a backend; all codes with the same weights."""
    torch.manual_seed(0)
    changes = {"heads": options.heads, **changes} if name == "lap_astp" else changes
    ours = BACKENDS[name](options.layers, options.dim, **changes)
    if code == "wesp_lap":
        return ours
    if code == "plain ch.last":
        changes["channels_last"] = True
    plain = reference_backends.REFERENCES[name](options.layers, options.dim, **changes)
    reference_backends.copy_tensors(ours, plain)
    return plain


def _make_states(joint: bool, options: argparse.Namespace, **kind: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (options.batch, options.frames, options.dim)
    return [
        torch.randn(shape, generator=generator).to(**kind).requires_grad_(joint)
        for _ in range(options.layers)
    ]


def _largest_difference(name: str) -> float:
    """Train all codes for a step in float64; return the largest difference of any number."""
    small = argparse.Namespace(batch=8, frames=7, layers=5, dim=24, heads=4)
    options = {"lap_astp": ("frame_dropout", "score_dropout"), "superb_astp": ("frame_dropout",)}
    off = dict.fromkeys(options.get(name, ()), 0.0)
    results = []
    for code in _codes(name):
        module = _build(name, code, small, **off).double()
        states = _make_states(True, small, dtype=torch.float64)
        embeddings = module(states)
        outer = torch.linspace(-1, 1, embeddings.numel(), dtype=torch.float64)
        embeddings.backward(outer.view_as(embeddings))
        grads = [t.grad for t in (*states, *module.parameters())]
        results.append([t.flatten() for t in (embeddings, *grads, *module.buffers())])
    largest = max(
        (a - b).abs().max().item()
        for plain in results[:-1]
        for a, b in zip(plain, results[-1], strict=True)
    )
    if not largest < _TOLERANCE:
        raise SystemExit(f"{name}: the codes differ by {largest}")
    return largest


class Step:
    """One training step of a backend without an optimiser."""

    def __init__(self, name: str, code: str, joint: bool, options: argparse.Namespace) -> None:
        self.module = _build(name, code, options).to(options.device)
        self.states = _make_states(joint, options, device=options.device)
        self.device, self.dtype = options.device, DTYPES[options.dtype]

    def __call__(self) -> None:
        """Run forward and backward."""
        for tensor in (*self.states, *self.module.parameters()):
            tensor.grad = None
        with torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype != torch.float32):
            embeddings = self.module(self.states)
        torch.manual_seed(0)
        embeddings.backward(torch.randn_like(embeddings))


def _compare(name: str, states: str, options: argparse.Namespace) -> None:
    codes = _codes(name)
    steps = {code: Step(name, code, states == "joint", options) for code in codes}
    times: dict[str, list[tuple[float, float]]] = {code: [] for code in codes}
    for round_number in range(options.rounds + 1):
        for code, step in steps.items():
            taken = _time(step, options.device)
            if round_number:
                times[code].append(taken)
    numbers = {
        code: (
            *(statistics.median(column) for column in zip(*times[code], strict=True)),
            _peak(step, name, code, states, options) / 1e6,
        )
        for code, step in steps.items()
    }
    ours = numbers["wesp_lap"]
    for code, (clock, cpu, memory) in numbers.items():
        factors = ("", "", "")
        if code != "wesp_lap":
            on_cpu = f"{cpu / ours[1]:.2f}" if ours[1] else "-"
            factors = (f"{clock / ours[0]:.2f}", on_cpu, f"{ours[2] / memory:.2f}")
        _print_row(name, states, code, f"{clock:.3f}", f"{cpu:.3f}", f"{memory:.0f}", *factors)


def _time(work: Callable[[], None], device: str) -> tuple[float, float]:
    """Return seconds on the clock and of the processor."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3, 0.0
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def _peak(step: Step, name: str, code: str, states: str, options: argparse.Namespace) -> float:
    """Return the peak in bytes."""
    if options.device == "cuda":
        for tensor in (*step.states, *step.module.parameters()):
            tensor.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not Path("/proc/self/clear_refs").exists():
        return float("nan")
    command = [sys.executable, __file__, *sys.argv[1:], "--job", name, code, states]
    limits = {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **limits}
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def _resident_peak(name: str, code: str, states: str, options: argparse.Namespace) -> int:
    """Return by how many bytes a second step raises the resident set of this process."""
    step = Step(name, code, states == "joint", options)
    step()  # what libraries keep for themselves once and for all
    for tensor in (*step.states, *step.module.parameters()):
        tensor.grad = None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0]) * 1024


def _print_floor(options: argparse.Namespace) -> None:
    rows = options.batch * options.frames * options.layers
    dtype = DTYPES[options.dtype]
    x = torch.randn(min(rows, 8192), options.dim, device=options.device, dtype=dtype)
    weight = torch.randn(options.dim, options.dim, device=options.device, dtype=dtype)
    seconds = [_time(lambda: torch.mm(x, weight), options.device)[0] for _ in range(11)]
    rate = 2 * x.numel() * options.dim / min(seconds)
    work = 2 * options.dim**2 * rows
    print(
        f"\nLAP's projection: {work / 1e9:.1f} GFLOP forward, at {rate / 1e9:.0f} GFLOP/s "
        f"{work / rate:.3f} s; frozen takes 2 of them, {2 * work / rate:.3f} s, "
        f"joint 3, {3 * work / rate:.3f} s\n"
    )


def _print_row(*cells: str) -> None:
    print(f"{cells[0]:18}{cells[1]:8}{cells[2]:14}" + "".join(f"{c:>10}" for c in cells[3:]))


if __name__ == "__main__":
    main()
