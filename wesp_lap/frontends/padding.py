"""Padded rows in models of the transformers library: each row as if it were alone.

Given an attention mask, these models keep padding out of the attention and zero it before the
position convolution. Left to do is what else mixes frames: the group norm of base models, whose
statistics run over time; the depthwise convolutions of the Conformer, and the position
convolution behind HuBERT's batch norm, which must meet zeros as they do at the end of a row that
is alone.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wesp_lap.padding import padding_mask


def normalize(waves: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """Bring each row of (B, S) to zero mean and unit variance over its valid samples.

    What is beyond the lengths must be zero and stays so.
    """
    if lengths is None:
        std, mean = torch.std_mean(waves, dim=-1, keepdim=True, correction=0)
        return (waves - mean) / (std.square() + 1e-7).sqrt()
    normal = torch.zeros_like(waves)
    for row, length in enumerate(lengths):
        normal[row, :length] = normalize(waves[row, :length], None)
    return normal


@contextlib.contextmanager
def padding_ignored(model: Any, lengths: Sequence[int], frames: Sequence[int]) -> Iterator[None]:
    """Let no frame of a row depend on its padding, while the block runs.

    Args:
        model: A model of the transformers library, called with an attention mask.
        lengths: Samples of each row.
        frames: Frames of each row.
    """

    def zeroed(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        padding = padding_mask(frames, inputs[0].shape[-1], inputs[0].device)
        return (inputs[0].masked_fill(padding.unsqueeze(1), 0), *inputs[1:])

    first = model.feature_extractor.conv_layers[0]
    inner = [(n - first.conv.kernel_size[0]) // first.conv.stride[0] + 1 for n in lengths]

    def normalized(module: nn.GroupNorm, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        result = torch.zeros_like(output)
        for row, count in enumerate(inner):
            part = inputs[0][row : row + 1, :, :count]
            result[row : row + 1, :, :count] = F.group_norm(
                part, module.num_groups, module.weight, module.bias, module.eps
            )
        return result

    handles = [conv.register_forward_pre_hook(zeroed) for conv in _mixing_convolutions(model)]
    if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
        handles.append(first.layer_norm.register_forward_hook(normalized))
    try:
        with warnings.catch_warnings():
            # WavLM gives torch a boolean mask of the padding beside its position bias.
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")
            yield
    finally:
        for handle in handles:
            handle.remove()


def _mixing_convolutions(model: Any) -> Iterator[nn.Module]:
    """Yield the convolutions over frames that may meet other values than zeros in the padding."""
    if getattr(model.encoder.pos_conv_embed, "batch_norm", None) is not None:
        yield model.encoder.pos_conv_embed.conv
    for layer in model.encoder.layers:
        if hasattr(layer, "conv_module"):
            yield layer.conv_module.depthwise_conv
