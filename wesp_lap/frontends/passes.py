"""Changes to how a model runs that last for one forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextlib.contextmanager
def frame_of_ones_first(encoder: nn.Module) -> Iterator[None]:
    """Put a frame of ones before the frames (B, T, D) that the encoder gets."""

    def prepend(module: nn.Module, inputs: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict]:
        frames: Tensor = inputs[0]
        ones = frames.new_ones(len(frames), 1, frames.shape[2])
        mask = keywords.get("attention_mask")
        if mask is not None:
            keywords = {**keywords, "attention_mask": F.pad(mask, (1, 0), value=1)}
        return (torch.cat([ones, frames], dim=1), *inputs[1:]), keywords

    handle = encoder.register_forward_pre_hook(prepend, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def layers_dropped_after(module: nn.Module, encoder: nn.Module) -> Iterator[None]:
    """Let the encoder, in evaluation mode so far, drop layers that come after a module.

    An encoder looks at its mode before each layer, and for nothing else.
    """

    def begin(module: nn.Module, inputs: object, output: object) -> None:
        encoder.training = True

    handle = module.register_forward_hook(begin)
    try:
        yield
    finally:
        handle.remove()
        encoder.training = False


@contextlib.contextmanager
def without_masks(config: Any) -> Iterator[None]:
    """Switch SpecAugment off."""
    before, config.apply_spec_augment = config.apply_spec_augment, False
    try:
        yield
    finally:
        config.apply_spec_augment = before
