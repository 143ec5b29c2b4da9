"""Speed of pre-training: this toolkit's loop beside a bare loop, and beside a plain script.

    python benchmarks/pretraining.py [--encoders hubert,wavlm,conformer] [--steps 20] [--rounds 7]
    torchrun --nproc_per_node 8 benchmarks/pretraining.py

Three candidates take the same batches of noise with labels, in turn, round after round:

* wesp_lap: the trainer with everything around a step, as wesp_lap.bin.pretrain has it; no
  checkpoints
* bare: the same network in zero_grad, forward, loss, backward, clip, step, and nothing else
* plain: the library's HuBERT or WavLM with its own attention and its own masks, and a head in a few
  lines, as a script without this toolkit would have them; of the Conformer there is none

A batch has as many crops of --seconds as --batch_seconds holds. Printed are medians of the rounds
after the first one; on a CPU, of processor time, with one thread. MFU counts the operations of
encoder and head. The sizes are those of the published base models, or tiny ones on a CPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from itertools import cycle
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from training import NoCheckpoints, Rounds

from wesp_lap.coerce import from_mapping
from wesp_lap.data.crops import Batch
from wesp_lap.log import get_logger
from wesp_lap.pretraining.network import PretrainNetwork
from wesp_lap.pretraining.operations import step_flops
from wesp_lap.pretraining.run import build_network, open_state
from wesp_lap.pretraining.settings import PretrainSettings
from wesp_lap.pretraining.task import PretrainTask
from wesp_lap.training.distributed import Process, process_group
from wesp_lap.training.interruption import Interruption
from wesp_lap.training.mfu import peak_flops
from wesp_lap.training.trainer import Trainer

RATE = 16000
CLUSTERS = 500
GRAD_CLIP = 10.0
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
TINY = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 128,
    "conv_channels": 16,
    "position_kernel": 16,
    "position_groups": 4,
}


def main() -> None:
    """Run everything and print the table."""
    options = _options()
    if options.device == "cpu":
        torch.set_num_threads(1)
    with process_group() as process:
        if process.is_main:
            where = torch.cuda.get_device_name() if process.device.type == "cuda" else "CPU"
            print(f"torch {torch.__version__}, {process.world_size} x {where}, {options.precision}")
            print(f"{options.size} encoders, {options.batch} x {options.seconds:g} s\n")
            _print_row("encoder", "loop", "ms/step", "s audio/s", "MFU", "ratio", "overhead")
        for name in options.encoders.split(","):
            _compare(name.strip(), options, process)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--encoders", default="hubert,wavlm,conformer")
    parser.add_argument("--size", choices=("tiny", "base"), default="base" if on_gpu else "tiny")
    parser.add_argument("--batch_seconds", type=float, help="87.5 on a GPU, else 4")
    parser.add_argument("--seconds", type=float, help="length of a crop; 15.6 on a GPU, else 1")
    parser.add_argument("--steps", type=int, help="of a round; 20 on a GPU, else 2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"))
    options = parser.parse_args()
    options.device = "cuda" if on_gpu else "cpu"
    options.precision = options.precision or ("bf16" if on_gpu else "fp32")
    options.seconds = options.seconds or (15.6 if on_gpu else 1.0)
    options.batch = int((options.batch_seconds or (87.5 if on_gpu else 4.0)) / options.seconds)
    options.steps = options.steps or (20 if on_gpu else 2)
    return options


def _settings(name: str, options: argparse.Namespace) -> PretrainSettings:
    sizes = TINY if options.size == "tiny" else {}
    tree = {
        # With layers left out at random, candidates would compute different things.
        "encoder": {"name": name, **sizes, "layerdrop": 0.0},
        "labels": "none",
        "optimizer": {"name": "adamw", "betas": [0.9, 0.98], "eps": 1e-6},
        "lr_schedule": {"name": "constant", "lr": 1e-4},
        "data": {"shards": "none"},
        "training": {
            "precision": options.precision,
            "grad_clip": GRAD_CLIP,
            "probe_memory": False,
            "epochs": options.rounds + 1,
        },
        "validation": {"share": 0.0},
    }
    settings = from_mapping(PretrainSettings, tree)
    settings.check()
    return settings


class _BareNetwork(nn.Module):
    """This toolkit's network, for the bare loop."""

    def __init__(self, network: PretrainNetwork) -> None:
        super().__init__()
        self.network = network
        self._rng = np.random.default_rng(0)

    def forward(self, waves: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss."""
        sums = self.network(waves, labels, self._rng)
        return sums["loss"] / sums["frames"]


class _PlainNetwork(nn.Module):
    """The library's model and masks, and a head of cosines.

    Args:
        network: Gives the configuration.
    """

    def __init__(self, network: PretrainNetwork) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        given = network.encoder.config.to_dict()
        kept = {n: v for n, v in given.items() if n not in ("model_type", "architectures")}
        config = AutoConfig.for_model(given["model_type"], **kept)
        config.mask_time_prob, config.mask_time_length = 0.8, 10
        self.model = AutoModel.from_config(config)
        head = network.head
        self.projection = nn.Linear(head.final_proj.in_features, head.final_proj.out_features)
        self.classes = nn.Parameter(torch.rand_like(head.label_embeddings, device="cpu"))

    def forward(self, waves: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss."""
        from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

        mask = torch.from_numpy(_compute_mask_indices(tuple(labels.shape), 0.65, 10))
        mask = mask.to(waves.device)
        output = self.model(waves, mask_time_indices=mask)
        frames = F.normalize(self.projection(output.last_hidden_state[mask]), dim=-1)
        scores = frames @ F.normalize(self.classes, dim=-1).t() / 0.1
        return F.cross_entropy(scores.float(), labels[mask])


class _Loop:
    """Steps of zero_grad, forward, backward, clip and update, and nothing else."""

    def __init__(self, network: nn.Module, process: Process, precision: str) -> None:
        self.network: nn.Module = network.to(process.device).train()
        if process.world_size > 1:
            ids = [process.device.index] if process.device.type == "cuda" else None
            self.network = DistributedDataParallel(network, device_ids=ids)
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        fused = True if process.device.type == "cuda" else None
        self._optimizer = torch.optim.AdamW(self._parameters, 1e-4, (0.9, 0.98), fused=fused)
        self._device, self._dtype = process.device.type, DTYPES.get(precision)
        self._scaler = torch.amp.GradScaler(self._device, enabled=precision == "fp16")

    def __call__(self, waves: Tensor, labels: Tensor) -> None:
        """Take a step."""
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device, self._dtype, enabled=self._dtype is not None):
            loss = self.network(waves, labels)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._parameters, GRAD_CLIP)
        self._scaler.step(self._optimizer)
        self._scaler.update()


def _compare(name: str, options: argparse.Namespace, process: Process) -> None:
    """Measure an encoder and print its rows."""
    settings = _settings(name, options)

    def network() -> PretrainNetwork:
        torch.manual_seed(0)
        return build_network(settings, CLUSTERS)

    others = {"bare": _Loop(_BareNetwork(network()), process, options.precision)}
    if name != "conformer":
        others["plain"] = _Loop(_PlainNetwork(network()), process, options.precision)
    own = network()
    state = open_state(settings, own, process.device)
    batches = cycle([_batch(own, options, process) for _ in range(2)])
    loops: Any = others
    rounds: Any = Rounds(batches, loops, options, process)
    get_logger().disabled = True
    with tempfile.TemporaryDirectory(prefix="pretraining-benchmark-") as folder:
        files = NoCheckpoints(Path(folder) / "checkpoints"), process, Path(folder)
        task = PretrainTask(settings, state, 0.0)
        Trainer(settings, task, rounds, *files, Interruption()).run()
    if process.is_main:
        _print(name, options, rounds, step_flops(own)(round(options.seconds * RATE)))


def _batch(network: PretrainNetwork, options: argparse.Namespace, process: Process) -> Batch:
    samples, rows = round(options.seconds * RATE), options.batch
    shape = rows, network.output_lengths(samples)
    waves = 0.1 * torch.randn(rows, samples, device=process.device)
    labels = torch.randint(CLUSTERS, shape, device=process.device)
    return Batch(waves, labels, [""] * rows, 1.0, None, {})


def _print(name: str, options: argparse.Namespace, rounds: Rounds, flops: float) -> None:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    peak = peak_flops(device, options.precision, torch.backends.cuda.matmul.allow_tf32)
    ours = rounds.times["wesp_lap"][1:]
    for loop, times in rounds.times.items():
        step = statistics.median(times[1:]) / options.steps
        rate = options.batch * options.seconds * ranks / step
        mfu = f"{options.batch * flops / step / peak:.1%}" if peak else "-"
        ratios = [theirs / own for theirs, own in zip(times[1:], ours, strict=True)]
        ratio = statistics.median(ratios)
        overhead = f"{1 - ratio:.1%}" if loop == "bare" else ""
        _print_row(name, loop, f"{1000 * step:.1f}", f"{rate:.1f}", mfu, f"{ratio:.3f}", overhead)


def _print_row(*cells: str) -> None:
    print(f"{cells[0]:11}{cells[1]:10}" + "".join(f"{c:>11}" for c in cells[2:]), flush=True)


if __name__ == "__main__":
    main()
