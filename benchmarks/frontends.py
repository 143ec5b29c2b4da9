"""Speed of WavLM as a frontend: its attention here beside that of transformers, and the options.

    python benchmarks/frontends.py [--model base] [--batch 128] [--seconds 3] [--dtype bf16]

Random weights and noise. A trained frontend does a forward and a backward pass through the states
of all layers, with dropout and without LayerDrop; a frozen one a forward pass. First, the states
and gradients of both attentions are compared without dropout, in float32. Then all run in turn,
round after round, after one round that does not count; printed are medians. Memory is the
peak of what is allocated on a GPU; on a CPU it is what autograd keeps for the backward pass,
without the inputs that recomputation starts from.

MFU is the share of a GPU's dense bf16 peak. The operations of a forward pass are twice the
multiplications of all convolutions and linear maps, and 4 T D per frame and layer in the attention;
a backward pass costs twice as much for what is trained, once where only activations need gradients.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wesp_lap.frontends.lora import LoraSettings
from wesp_lap.frontends.transformer import TransformerFrontend
from wesp_lap.training.flops import training_flops
from wesp_lap.training.mfu import peak_flops, trained_parts

RATE = 16000
SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "conv_dim": [64] * 7,
    },
    "base": {},
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    },
}
THEIRS = ("trained, transformers' attention", "frozen, transformers' attention")


def main() -> None:
    """Compare, measure, and print the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    waves = torch.randn(options.batch, round(options.seconds * RATE), device=options.device)
    candidates = _candidates(options)
    device, seconds = options.device, options.batch * options.seconds
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name(device)
    else:
        device += f" with {options.threads} threads"
    print(f"torch {torch.__version__}, {device}, {options.dtype}")
    print(f"WavLM {options.model}, {options.batch} x {options.seconds:g} s\n")
    _compare(candidates, waves[:2])
    times, memory = _run(candidates, waves, options)
    print(f"\n{'':34}{'ms':>9}{'audio s/s':>11}{'speed-up':>10}{'MiB':>9}{'MFU':>8}")
    for name, (front, _) in candidates.items():
        wall = statistics.median(times[name])
        base = THEIRS[0] if name.startswith("trained") else THEIRS[1]
        ratio = statistics.median(times[base]) / wall
        mfu = _mfu(front, waves, options.dtype, wall)
        row = f"{name:34}{1000 * wall:>9.1f}{seconds / wall:>11.1f}{ratio:>9.2f}x"
        print(f"{row}{memory[name] / 2**20:>9.0f}{mfu:>8}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default)
    parser.add_argument("--model", choices=SIZES, default="base")
    parser.add_argument("--batch", type=int, help="2 on a CPU, else 128")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="fp32 on a CPU, else bf16")
    parser.add_argument("--rounds", type=int, help="3 on a CPU, else 5")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    on_cpu = options.device == "cpu"
    options.batch = options.batch or (2 if on_cpu else 128)
    options.dtype = options.dtype or ("fp32" if on_cpu else "bf16")
    options.rounds = options.rounds or (3 if on_cpu else 5)
    return options


def _candidates(options: argparse.Namespace) -> dict[str, tuple[TransformerFrontend, bool]]:
    """Return frontends of equal weights by what is done with them, and whether they train."""
    config = {"model_type": "wavlm", "apply_spec_augment": False, **SIZES[options.model]}

    def make(frozen: bool = False, **changes: Any) -> tuple[TransformerFrontend, bool]:
        front = TransformerFrontend(config=config, layerdrop=0.0, **changes)
        front.load_state_dict(plain.state_dict(), strict=False)  # all but the new adapters
        front.freeze(frozen)
        return front.to(options.device).train(), not frozen or front.lora is not None

    plain = TransformerFrontend(config=config, layerdrop=0.0)
    candidates = {THEIRS[0]: make(), "trained": make(), THEIRS[1]: make(frozen=True)}
    candidates["frozen"] = make(frozen=True)
    for name in THEIRS:
        _take_the_librarys_attention(candidates[name][0])
    candidates["trained, activations recomputed"] = make(gradient_checkpointing=True)
    candidates["trained above the convolutions"] = make(frozen_below="convolutions")
    candidates["trained adapters, rest frozen"] = make(frozen=True, lora=LoraSettings())
    return candidates


def _take_the_librarys_attention(front: TransformerFrontend) -> None:
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    for index, layer in enumerate(front.model.encoder.layers):
        ours, config = layer.attention, front.model.config
        theirs = WavLMAttention(
            config.hidden_size,
            config.num_attention_heads,
            config.attention_dropout,
            config.num_buckets,
            config.max_bucket_distance,
            has_relative_position_bias=index == 0,
        )
        for name, child in ours.named_children():
            setattr(theirs, name, child)
        theirs.gru_rel_pos_const = ours.gru_rel_pos_const
        layer.attention = theirs.train(ours.training)


def _compare(candidates: dict[str, tuple[TransformerFrontend, bool]], waves: Tensor) -> None:
    """Print how far states and gradients of the two attentions are apart."""
    found = []
    for name in (THEIRS[0], "trained"):
        front = copy.deepcopy(candidates[name][0]).eval()
        states = front(waves)
        _loss(states).backward()
        found.append((states, [p.grad for p in front.parameters() if p.grad is not None]))
    for what, ours, theirs in zip(("states", "gradients"), *found, strict=True):
        largest = max(
            ((one - other).abs().max() / other.abs().max()).item()
            for one, other in zip(ours, theirs, strict=True)
            if other.abs().max() > 1e-6
        )
        print(f"largest difference of {what}: {largest:.1e} of the largest value")


def _loss(states: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([state.float().sin().mean() for state in states]).sum()


def _run(
    candidates: dict[str, tuple[TransformerFrontend, bool]],
    waves: Tensor,
    options: argparse.Namespace,
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of each round, and bytes."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    memory = {}
    on_gpu = waves.is_cuda
    for round_number in range(options.rounds + 1):
        for name, (front, trains) in candidates.items():
            step = _step(front, waves, trains, options)
            if round_number == 0:
                memory[name] = _memory(step, waves)
                continue
            if on_gpu:
                torch.cuda.synchronize()
            start = time.perf_counter()
            step()
            if on_gpu:
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return times, memory


def _step(
    front: TransformerFrontend, waves: Tensor, trains: bool, options: argparse.Namespace
) -> Callable[[], None]:
    def step() -> None:
        with torch.autocast(waves.device.type, torch.bfloat16, enabled=options.dtype == "bf16"):
            states = front(waves)
        if trains:
            _loss(states).backward()
            front.zero_grad(set_to_none=True)

    return step


def _memory(step: Callable[[], None], waves: Tensor) -> float:
    if waves.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(kept.values())


def _mfu(front: TransformerFrontend, waves: Tensor, dtype: str, wall: float) -> str:
    peak = peak_flops(torch.cuda.get_device_name(waves.device), dtype) if waves.is_cuda else None
    if peak is None:
        return "-"
    flops = training_flops(front.model.config, waves.shape[1], trained_parts(front))
    return f"{len(waves) * flops / wall / peak:.1%}"


if __name__ == "__main__":
    main()
