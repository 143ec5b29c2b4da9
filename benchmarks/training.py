"""Speed of training: this toolkit's loop beside a bare loop, and beside a plain script.

    python benchmarks/training.py [--model base] [--batch 128] [--steps 20] [--rounds 7]
    torchrun --nproc_per_node 8 benchmarks/training.py --model base

Three candidates take the same batches, in turn, round after round of some steps:

* wesp_lap: its trainer with everything around a step: schedules, seeds, checks for numbers that
  are not finite, accuracy, records; no checkpoints
* bare: the same network in zero_grad, forward, loss, backward, clip, step, and nothing else
* plain: the same bare loop, with the library's WavLM and its own attention and with LAP + ASTP in
  short code, as a script without this toolkit would have them

for the phases of the recipe: the frontend frozen, everything trained, and everything on crops of
twice the length with a larger margin. The overhead is what wesp_lap's loop adds to the bare one,
as a share of its step. Printed are medians of the rounds after the first one; on a CPU, where
other programs take time, of processor time, with one thread. Memory is the peak on a GPU; MFU
counts the operations of frontend, backend and classifier. Batches are noise on the device, or
come from --shards through the sample stream.

Then a run of training with loader processes says what part of its time it waits for data.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, count, cycle, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import corpus
import torch
from plain_training import PlainLoop, PlainNetwork
from torch import Tensor, nn

from wesp_lap.coerce import from_mapping
from wesp_lap.data.crops import Batch
from wesp_lap.data.index import load_utterances
from wesp_lap.data.shards import make_shards
from wesp_lap.data.stream import make_stream
from wesp_lap.log import get_logger
from wesp_lap.losses.margin_softmax import AamSoftmax
from wesp_lap.training.checkpoint import CheckpointFolder
from wesp_lap.training.classification import SpeakerTask
from wesp_lap.training.distributed import Process, process_group
from wesp_lap.training.interruption import Interruption
from wesp_lap.training.mfu import peak_flops, step_flops
from wesp_lap.training.optimizers import OPTIMIZERS
from wesp_lap.training.phase import Phase, open_phase
from wesp_lap.training.run import train
from wesp_lap.training.settings import TrainSettings
from wesp_lap.training.trainer import Trainer

RATE = 16000
GRAD_CLIP = 5.0
# Name of a phase: frozen, length of the crops, margin.
PHASES = {"frozen": (True, 1, 0.2), "joint": (False, 1, 0.2), "large margin": (False, 2, 0.5)}
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 4,
}
SIZES = {
    "tiny": (TINY, {"heads": 4, "pooled_dim": 64, "embed_dim": 64}),
    "base": ({}, {"heads": 12, "pooled_dim": 512, "embed_dim": 192}),
}
Row = dict[str, list[float]]


def main() -> None:
    """Run everything and print the tables."""
    options = _options()
    if options.device == "cpu":
        torch.set_num_threads(1)
    with process_group() as process:
        if process.is_main:
            where = torch.cuda.get_device_name() if process.device.type == "cuda" else "CPU"
            print(f"torch {torch.__version__}, {process.world_size} x {where}, {options.precision}")
            print(f"WavLM {options.model}, LAP + ASTP, {options.batch} x {options.seconds:g} s\n")
            _print_row("phase", "loop", "ms/step", "utt/s", "MFU", "GiB", "ratio", "overhead")
        for name in options.phases.split(","):
            _compare(name.strip(), options, process)
        alone = process.world_size == 1
    if alone and not options.shards:
        _data_wait(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--model", choices=SIZES, default="base" if on_gpu else "tiny")
    parser.add_argument("--batch", type=int, default=128, help="of each process")
    parser.add_argument("--seconds", type=float, help="length of a crop; 3 on a GPU, else 0.5")
    parser.add_argument("--steps", type=int, help="of a round; 20 on a GPU, else 2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--classes", type=int, help="17982 for base, else 300")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--shards", help="shard list to take batches from")
    parser.add_argument("--workers", type=int, help="loader processes; 8 on a GPU, else 1")
    options = parser.parse_args()
    options.device = "cuda" if on_gpu else "cpu"
    options.precision = options.precision or ("bf16" if on_gpu else "fp32")
    options.seconds = options.seconds or (3.0 if on_gpu else 0.5)
    options.steps = options.steps or (20 if on_gpu else 2)
    options.workers = options.workers or (8 if on_gpu else 1)
    options.classes = options.classes or (17982 if options.model == "base" else 300)
    return options


def _settings(name: str, options: argparse.Namespace, **data: Any) -> TrainSettings:
    frozen, longer, margin = PHASES[name]
    config, backend = SIZES[options.model]
    config = {"model_type": "wavlm", "apply_spec_augment": False, "layerdrop": 0.0, **config}
    tree = {
        "frontend": {"name": "transformer", "config": config},
        "backend": {"name": "lap_astp", **backend},
        "loss": {"name": "aam"},
        "margin": {"final": margin, "ramp_epochs": 0},
        "optimizer": {"name": "adamw"},
        "lr_schedule": {"name": "constant", "lr": 1e-4},
        "training": {
            "freeze_frontend": frozen,
            "precision": options.precision,
            "grad_clip": GRAD_CLIP,
            "probe_memory": False,
            "epochs": options.rounds + 1,
        },
        "data": {
            "shards": options.shards or "none",
            "batch_size": options.batch,
            "crop_seconds": longer * options.seconds,
            "num_workers": options.workers,
            **data,
        },
        "validation": {"speakers": 0},
    }
    settings = from_mapping(TrainSettings, tree)
    settings.check()
    return settings


class NoCheckpoints(CheckpointFolder):
    """Saves nothing."""

    def save(self, *arguments: object, **options: object) -> None:  # type: ignore[override]
        """Do not save."""

    def finish(self, *arguments: object, **options: object) -> None:
        """Leave no link."""


class _BareNetwork(nn.Module):
    """This toolkit's model and classifier, for the bare loop."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        self.model, self.classifier = phase.model, phase.classifier

    def forward(self, waves: Tensor, labels: Tensor, margin: float) -> Tensor:
        """Return the loss."""
        return self.classifier(self.model(waves), labels, margin, 0.0).loss


class Rounds:
    """Stands for the sample stream: an epoch of the trainer is a round, others run before it."""

    def __init__(
        self,
        batches: Iterator[Batch],
        others: dict[str, PlainLoop],
        options: argparse.Namespace,
        process: Process,
    ) -> None:
        self.plan = SimpleNamespace(steps_per_epoch=options.steps, smallest_batch=options.batch)
        self.times: Row = {name: [] for name in ("wesp_lap", *others)}
        self.memory: dict[str, float] = {}
        self._batches, self._others = batches, others
        self._steps, self._process = options.steps, process
        self._on_gpu = process.device.type == "cuda"

    def epoch(self, epoch: int, first: int, device: torch.device) -> Iterator[Batch]:
        """Run a round of the others, then give batches for a round."""
        for name, loop in self._others.items():
            self._start()
            for batch in islice(self._batches, self._steps):
                loop(batch.waves, batch.labels)
            self._stop(name)
        return self._own_round()

    def _own_round(self) -> Iterator[Batch]:
        self._start()
        yield from islice(self._batches, self._steps)
        self._stop("wesp_lap")

    def _start(self) -> None:
        self._process.barrier()
        if self._on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        self._begun = self._now()

    def _stop(self, name: str) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()
            self.memory[name] = torch.cuda.max_memory_allocated() - self._before
        self.times[name].append(self._now() - self._begun)

    def _now(self) -> float:
        return time.perf_counter() if self._on_gpu else time.process_time()


class _Candidates:
    """Builds the candidates of a phase, and remembers what memory each of them has taken.

    Args:
        name: The phase.
        options: Of the command.
        process: This process among all.
        folder: Where nothing is saved.
    """

    def __init__(
        self, name: str, options: argparse.Namespace, process: Process, folder: Path
    ) -> None:
        self.settings = _settings(name, options)
        self.checkpoints = NoCheckpoints(folder / "checkpoints")
        self.resident: dict[str, float] = {}
        self._frozen, _, self._margin = PHASES[name]
        self._options, self._process = options, process
        self.speakers = SimpleNamespace(speakers=[f"{n:05d}" for n in range(options.classes)])
        if options.shards:
            self.speakers = load_utterances(options.shards)

    def phase(self, name: str = "wesp_lap") -> Phase:
        """Return this toolkit's network and optimizer, the same every time."""
        before = _allocated(self._process.device)
        torch.manual_seed(0)
        device = self._process.device
        phase = open_phase(self.settings, self.checkpoints, None, self.speakers, device)
        self.resident[name] = _allocated(device) - before
        return phase

    def bare(self) -> PlainLoop:
        """Return the bare loop with this toolkit's network."""
        return self._loop(_BareNetwork(self.phase("bare")))

    def plain(self) -> PlainLoop:
        """Return the plain script."""
        before = _allocated(self._process.device)
        config = self.settings.frontend.options["config"]
        _, backend = SIZES[self._options.model]
        torch.manual_seed(0)
        loss = AamSoftmax(backend["embed_dim"], self._options.classes)
        loop = self._loop(PlainNetwork(config, backend, self._frozen, loss))
        self.resident["plain"] = _allocated(self._process.device) - before
        return loop

    def _loop(self, network: nn.Module) -> PlainLoop:
        def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            return OPTIMIZERS["adamw"]([{"params": parameters}], 1e-4)

        precision, process = self._options.precision, self._process
        loop = (optimizer, process.device, precision, GRAD_CLIP, self._margin)
        return PlainLoop(network, *loop, process.world_size)


def _compare(name: str, options: argparse.Namespace, process: Process) -> None:
    """Measure a phase and print its rows."""
    with tempfile.TemporaryDirectory(prefix="training-benchmark-") as folder:
        make = _Candidates(name, options, process, Path(folder))
        batches = _batches(make.settings, make.speakers, process)
        others = {"bare": make.bare(), "plain": make.plain()}
        rounds: Any = Rounds(batches, others, options, process)
        phase, settings = make.phase(), make.settings
        samples = settings.data.crop_samples
        flops = step_flops(phase.model, phase.classifier, process.device, samples)(samples)
        get_logger().disabled = True
        files = make.checkpoints, process, Path(folder), Interruption()
        task = SpeakerTask(settings, phase, process)
        Trainer(settings, task, rounds, *files).run()
    if process.is_main:
        _print(name, options, rounds, make.resident, flops)


def _allocated(device: torch.device) -> float:
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0.0


def _batches(settings: TrainSettings, utterances: Any, process: Process) -> Iterator[Batch]:
    """Yield batches without end: from the shards of the settings, or noise."""
    size, samples = settings.data.batch_size, settings.data.crop_samples
    if settings.data.shards != "none":
        ranks = process.rank, process.world_size
        classes = {name: number for number, name in enumerate(utterances.speakers)}
        stream = make_stream(utterances, classes, settings.data, settings.seed, *ranks)
        return chain.from_iterable(stream.epoch(e, 0, process.device) for e in count())
    torch.manual_seed(process.rank)
    device, classes = process.device, len(utterances.speakers)
    return cycle(
        Batch(
            torch.randn(size, samples, device=device),
            torch.randint(classes, (size,), device=device),
            [""] * size,
            1.0,
            None,
            {},
        )
        for _ in range(2)
    )


def _print(
    name: str,
    options: argparse.Namespace,
    rounds: Rounds,
    resident: dict[str, float],
    flops: float,
) -> None:
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    tf32 = torch.backends.cuda.matmul.allow_tf32
    peak = peak_flops(gpu, options.precision, tf32)
    ours = rounds.times["wesp_lap"][1:]
    for loop, times in rounds.times.items():
        step = statistics.median(times[1:]) / options.steps
        rate = options.batch * ranks / step
        work = options.batch * flops
        mfu = f"{work / step / peak:.1%}" if peak else "-"
        memory = "-"
        if loop in rounds.memory:
            memory = f"{(rounds.memory[loop] + resident[loop]) / 2**30:.1f}"
        ratios = [theirs / own for theirs, own in zip(times[1:], ours, strict=True)]
        ratio = f"{statistics.median(ratios):.3f}"
        overhead = f"{1 - statistics.median(ratios):.1%}" if loop == "bare" else ""
        _print_row(name, loop, f"{1000 * step:.1f}", f"{rate:.1f}", mfu, memory, ratio, overhead)


def _print_row(*cells: str) -> None:
    print(f"{cells[0]:14}{cells[1]:10}" + "".join(f"{c:>10}" for c in cells[2:]), flush=True)


def _data_wait(options: argparse.Namespace) -> None:
    """Train on a small corpus with loader processes; print the part of the time they cost."""
    utterances = options.batch * max(options.steps, 4)
    with tempfile.TemporaryDirectory(prefix="training-benchmark-") as folder:
        work = Path(folder)
        data = corpus.make_corpus(work / "data", utterances, 2 * options.seconds, "wav")
        make_shards(data, work / "shards", work / "shard.list")
        settings = _settings("joint", options, shards=str(work / "shard.list"))
        loop = dataclasses.replace(settings.training, epochs=2, log_every=1)
        train(dataclasses.replace(settings, training=loop), work / "exp")
        lines = (work / "exp" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    seconds = [record["seconds"] for record in records]
    waits = [record["data_wait"] * record["seconds"] for record in records]
    print(f"\n{options.workers} loader processes, {len(records)} steps of 2 epochs")
    print(f"first batch of an epoch: {max(waits):.2f} s")
    later = [n for n, record in enumerate(records) if record["step"] > 1]
    share = sum(waits[n] for n in later) / sum(seconds[n] for n in later)
    print(f"data wait of the other steps: {share:.1%}")


if __name__ == "__main__":
    main()
