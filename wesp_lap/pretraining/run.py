"""An iteration of pre-training: settings, data and labels are checked, then the loop runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.amp import GradScaler

from wesp_lap.config import build
from wesp_lap.data.crops import check_rate
from wesp_lap.data.index import Utterances, load_utterances
from wesp_lap.data.noise_bank import NoiseBank
from wesp_lap.data.stream import SampleStream, open_stream
from wesp_lap.errors import ConfigError
from wesp_lap.files import PathLike
from wesp_lap.log import get_logger
from wesp_lap.pretraining.encoders import build_encoder
from wesp_lap.pretraining.features import SAMPLE_RATE
from wesp_lap.pretraining.held_out import HeldOutValidator, Split, split_utterances
from wesp_lap.pretraining.labels import LABEL_TYPE, LABELS_FILE, LabelStore
from wesp_lap.pretraining.mixing import BankNoise
from wesp_lap.pretraining.network import PretrainNetwork
from wesp_lap.pretraining.settings import PretrainSettings
from wesp_lap.pretraining.targets import FrameTargets, check_labels, encoder_framing
from wesp_lap.pretraining.task import NETWORK_FILE, PretrainState, PretrainTask
from wesp_lap.tensors import load_module
from wesp_lap.training.checkpoint import Moment
from wesp_lap.training.checkpoint_files import restore
from wesp_lap.training.distributed import Process, process_group
from wesp_lap.training.interruption import Interruption
from wesp_lap.training.optimizers import OPTIMIZERS
from wesp_lap.training.record import FREE_LOOP_SETTINGS, RunRecord
from wesp_lap.training.trainer import Trainer

ENCODER_FOLDER = "encoder"
# Of the paths, the content counts: it stands in origin.json.
_FREE_SETTINGS = (
    *FREE_LOOP_SETTINGS,
    ("labels",),
    ("data", "num_workers"),
    ("data", "shards"),
    ("data", "noise_bank"),
    ("data", "access"),
    ("data", "max_bad"),
    ("training", "gradient_checkpointing"),
)
_BLOCK = 1 << 24  # labels that are counted at once


def pretrain(settings: PretrainSettings, exp_dir: PathLike) -> bool:
    """Pre-train an encoder in ``exp_dir``, or go on with it where it stopped.

    At the end the encoder lies in ``exp_dir/encoder``, which frontends take as ``weights``.

    Returns:
        False when a signal has ended the run before it was done; its state is saved, and the same
        call goes on from there. See wesp_lap.training.interruption.

    Raises:
        WespError: settings, data, labels or an earlier run do not fit; before any training time is
            spent.
    """
    minutes = settings.training.timeout_minutes
    with Interruption().watch() as interruption, process_group(minutes) as process:
        return _pretrain(settings, Path(exp_dir), process, interruption)


def _pretrain(
    settings: PretrainSettings, folder: Path, process: Process, interruption: Interruption
) -> bool:
    record = RunRecord(folder, settings.training, process)
    utterances = load_utterances(settings.data.shards, settings.data.access)
    check_rate(utterances)
    store = LabelStore.open(settings.labels)
    split = split_utterances(settings, utterances)
    record.keep(settings, _origin(settings, utterances, store), _FREE_SETTINGS, {})
    torch.manual_seed(settings.seed)
    network = build_network(settings, store.num_clusters)
    if record.is_finished():
        if process.is_main and not (folder / ENCODER_FOLDER / "config.json").is_file():
            load_module(network, folder / "final" / NETWORK_FILE)
            network.save_encoder(folder / ENCODER_FOLDER)
        return True
    _check_lengths(settings, network)
    check_labels(utterances, store)
    framing = encoder_framing(network.encoder.config)
    targets = FrameTargets(split.training, store, framing)
    stream = open_stream(
        split.training,
        targets,
        settings.data.stream,
        settings.seed,
        process.rank,
        process.world_size,
    )
    validator = None
    if split.held_out is not None:
        held_out = FrameTargets(split.held_out, store, framing)
        validator = HeldOutValidator(settings, split.held_out, held_out, process)
    state = _open_state(settings, network, record, process.device)
    majority = majority_share(store)
    _describe(state, stream, split, store, majority, process)
    task = PretrainTask(settings, state, majority)
    files = record.checkpoints, process, folder
    try:
        finished = Trainer(settings, task, stream, *files, interruption, validator).run()
    finally:
        record.checkpoints.settle()
    if finished and process.is_main:
        network.save_encoder(folder / ENCODER_FOLDER)
        get_logger().info("the encoder is in %s", folder / ENCODER_FOLDER)
    return finished


def build_network(settings: PretrainSettings, num_clusters: int) -> PretrainNetwork:
    """Build what is trained, initialised; random numbers are torch's global ones."""
    noise = None
    if settings.mixing is not None and settings.mixing.noise_prob > 0:
        noise = BankNoise(NoiseBank(str(settings.data.noise_bank)))
    return PretrainNetwork(
        build_encoder(settings.encoder),
        num_clusters,
        settings.head,
        settings.masking,
        settings.mixing,
        settings.training.grad_mult,
        noise,
        settings.training.gradient_checkpointing,
    )


def majority_share(store: LabelStore) -> float:
    """Return the share of the commonest label of a corpus."""
    labels = np.memmap(store.folder / LABELS_FILE, LABEL_TYPE, "r")
    counts = np.zeros(store.num_clusters, np.int64)
    for first in range(0, len(labels), _BLOCK):
        counts += np.bincount(labels[first : first + _BLOCK], minlength=store.num_clusters)
    return float(counts.max() / max(counts.sum(), 1))


def open_state(
    settings: PretrainSettings, network: PretrainNetwork, device: torch.device
) -> PretrainState:
    """Return the state before the first step: optimizer and scaler over a network.

    Args:
        settings: Checked settings.
        network: Is moved to ``device``.
        device: Where training is.

    Raises:
        ConfigError: fp16 on a CPU.
    """
    enabled = settings.training.precision == "fp16"
    if enabled and device.type == "cpu":
        raise ConfigError(
            "training.precision: fp16 on a CPU is many times slower than fp32; use bf16 or fp32"
        )
    network.to(device)
    group = {
        "params": [p for p in network.parameters() if p.requires_grad],
        "name": "network",
        "lr_factor": 1.0,
        "first_epoch": 0.0,
    }
    optimizer = build(OPTIMIZERS, settings.optimizer, "optimizer", parameters=[group], lr=0.0)
    scaler = GradScaler(device.type, enabled=enabled)
    return PretrainState(network, settings, optimizer, scaler, Moment(0))


def _open_state(
    settings: PretrainSettings, network: PretrainNetwork, record: RunRecord, device: torch.device
) -> PretrainState:
    """Return the state at the moment that the run has reached."""
    state = open_state(settings, network, device)
    if record.reached is not None:
        source = record.checkpoints.path(record.reached)
        get_logger().info("resuming from %s", source)
        restore(source, {NETWORK_FILE: network}, state.optimizer, state.scaler)
        state.moment, state.resumed = record.reached, True
    return state


def _origin(
    settings: PretrainSettings, utterances: Utterances, store: LabelStore
) -> dict[str, str | None]:
    uses_noise = settings.mixing is not None and settings.mixing.noise_prob > 0
    bank = settings.data.noise_bank if uses_noise else None
    return {
        "shards": utterances.digest(),
        "labels": store.digest,
        "noise_bank": NoiseBank(bank).digest() if bank is not None else None,
    }


def _check_lengths(settings: PretrainSettings, network: PretrainNetwork) -> None:
    shortest = settings.data.shortest_seconds
    least = network.min_samples / SAMPLE_RATE
    if shortest < least:
        raise ConfigError(
            f"data.sampling.shortest_seconds ({shortest:g}): masks of {settings.masking.length} "
            f"frames need crops of at least {least:.3f} s; raise it, or lower masking.length"
        )


def _describe(
    state: PretrainState,
    stream: SampleStream,
    split: Split,
    store: LabelStore,
    majority: float,
    process: Process,
) -> None:
    held = split.held_out
    steps, epochs = stream.plan.steps_per_epoch, state.settings.training.epochs
    get_logger().info(
        "%d utterances, %.2f h, and %d held out; %d clusters at %g Hz, the commonest %.1f %%; "
        "%s parameters; %d updates (%d epochs of %d) on %d x %s",
        len(split.training),
        split.training.seconds / 3600,
        0 if held is None else len(held),
        store.num_clusters,
        store.rate,
        100 * majority,
        f"{sum(p.numel() for p in state.network.parameters()):,}",
        steps * epochs,
        epochs,
        steps,
        process.world_size,
        process.device.type,
    )
    warmup = state.settings.lr_schedule.options.get("warmup_steps") or 0
    if warmup >= steps * epochs:
        get_logger().warning(
            "lr_schedule.warmup_steps: the learning rate rises for %d updates, but training ends "
            "after %d; lower it, or raise training.epochs",
            warmup,
            steps * epochs,
        )
