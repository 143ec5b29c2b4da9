"""Tensors on disk: safetensors files written whole, loaded whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from wesp_lap.errors import DataError
from wesp_lap.files import PathLike


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the pieces that other processes hold of it, if it is cut.

    All processes must come here in the same order; see wesp_lap.training.sharding.
    """
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def save_tensors(path: PathLike, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as a safetensors file: beside the target, synced, then renamed.

    Raises:
        OSError: no space is left, or another fault of the system.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        save_file({name: t.contiguous() for name, t in tensors.items()}, partial)
        partial.chmod(mode)  # save_file leaves its files readable by their owner only
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(target)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(target)) from error
    finally:
        partial.unlink(missing_ok=True)


def load_tensors(path: PathLike) -> dict[str, Tensor]:
    """Read a safetensors file into CPU memory; a missing or damaged one is a DataError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except SafetensorError as error:
        raise DataError(f"{path}: damaged weights ({error}); use another copy") from error


def load_module(module: nn.Module, path: PathLike) -> None:
    """Load a safetensors file into ``module``; every tensor must be there and fit.

    Raises:
        DataError: the file is missing or damaged, or names or shapes differ.
    """
    fit_module(module, load_tensors(path), str(path))


def fit_module(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load named tensors into ``module``; name all that are missing, spare or of another shape."""
    own = module.state_dict()
    reshaped = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    faults = [
        f"{label}: {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}"
        for label, names in (
            ("missing", sorted(set(own) - set(tensors))),
            ("unexpected", sorted(set(tensors) - set(own))),
            ("shape", reshaped),
        )
        if names
    ]
    if faults:
        raise DataError(f"{source}: does not fit the model; {'; '.join(faults)}")
    module.load_state_dict(tensors)
