"""Weights, gradients and optimizer state cut among the processes (torch's FSDP2).

For models whose training state does not fit into one GPU. Each layer of the frontend is brought
together for the time that it computes. What leaves the processes is whole: checkpoints are those
of an unsharded run and can be read by one, and the other way round.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from wesp_lap.errors import ConfigError
from wesp_lap.tensors import whole
from wesp_lap.training.checkpoint_files import split_optimizer
from wesp_lap.training.distributed import Process
from wesp_lap.training.phase import Phase
from wesp_lap.training.settings import TrainSettings


def check(settings: TrainSettings, phase: Phase, process: Process) -> None:
    """Refuse what does not go together with sharding.

    Raises:
        ConfigError: with everything that is in the way.
    """
    frontend: Any = phase.model.frontend
    obstacles = {
        "it takes at least 2 processes": process.world_size < 2,
        "frontend.layerdrop and frontend.spec_augment give the processes different gradients; "
        "set them to 0 and false": frontend.has_random_depth,
        "frontend.lora trains little enough without": getattr(frontend, "lora", None) is not None,
        "training.freeze_frontend trains little enough without": settings.training.freeze_frontend,
        "training.precision fp16 is not supported; take bf16": phase.scaler.is_enabled(),
        "training.compile is not supported": settings.training.compile,
        "training.ema_decay is not supported; average the last checkpoints instead": (
            settings.training.ema_decay > 0
        ),
        "pull.weight is not supported": settings.pull.weight > 0,
    }
    faults = [text for text, there in obstacles.items() if there]
    if faults:
        raise ConfigError(f"training.sharding full: {'; '.join(faults)}")


def shard(phase: Phase, process: Process) -> None:
    """Cut model, classifier and optimizer state among the processes, in place.

    Every process must hold the same whole state, as it does after a phase is opened.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # The layers give the position bias on as a view; nobody writes into it.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    names = {p: name for name, p in _parameters(phase)}
    mesh = init_device_mesh(process.device.type, (process.world_size,))
    for layer in getattr(phase.model.frontend, "_layers", ()):
        fully_shard(layer, mesh=mesh)
    fully_shard(phase.model, mesh=mesh)
    fully_shard(phase.classifier, mesh=mesh)
    pieces = dict(_parameters(phase))
    optimizer = phase.optimizer
    states = dict(optimizer.state)
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for index, parameter in enumerate(group["params"]):
            piece = group["params"][index] = pieces[names[parameter]]
            if parameter in states:
                optimizer.state[piece] = {
                    key: _like(piece, value) for key, value in states[parameter].items()
                }


@contextmanager
def whole_weights(phase: Phase) -> Iterator[None]:
    """Bring all weights together, so that processes may compute different numbers of batches."""
    from torch.distributed.fsdp import FSDPModule

    parts = [m for m in phase.model.modules() if isinstance(m, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    for buffer in phase.model.buffers():
        dist.broadcast(buffer, 0)
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not phase.model, recurse=False)


def take_part(phase: Phase) -> None:
    """Do what the first process needs of this one to write a checkpoint."""
    tensors, _ = split_optimizer(phase.optimizer)
    files: list[Mapping[str, Tensor]] = [
        phase.model.state_dict(),
        phase.classifier.state_dict(),
        tensors,
    ]
    for parts in files:
        for tensor in parts.values():
            whole(tensor)


def _like(piece: nn.Parameter, value: Any) -> Any:
    """Cut a tensor of the optimizer as its parameter is cut."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(piece, DTensor) and isinstance(value, Tensor) and value.shape == piece.shape:
        return distribute_tensor(value, piece.device_mesh, piece.placements)
    return value


def _parameters(phase: Phase) -> Iterator[tuple[str, nn.Parameter]]:
    yield from phase.model.named_parameters(prefix="model")
    yield from phase.classifier.named_parameters(prefix="classifier")
