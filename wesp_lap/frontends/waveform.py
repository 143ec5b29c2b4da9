"""Models that hear the waveform through convolutions: wav2vec 2.0, HuBERT, WavLM, Conformer.

Given an attention mask, these models keep padding out of the attention and zero it before the
position convolution. Left to do is what else mixes frames: the group norm of base models, whose
statistics run over time; the depthwise convolutions of the Conformer, and the position
convolution behind HuBERT's batch norm, which must meet zeros as they do at the end of a row that
is alone.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wesp_lap.padding import padding_mask


class WaveformFamily:
    """Convolutions over the waveform, then a Transformer or Conformer; see Family."""

    def output_lengths(self, config: Any, samples: int) -> int:
        """See Family."""
        for kernel, stride in _convolutions(config):
            samples = (samples - kernel) // stride + 1
        return max(samples, 0)

    def samples_for(self, config: Any, frames: int) -> int:
        """See Family."""
        for kernel, stride in reversed(list(_convolutions(config))):
            frames = (frames - 1) * stride + kernel
        return frames

    def layers(self, model: Any) -> nn.ModuleList:
        """See Family."""
        return model.encoder.layers

    def keep_first(self, model: Any, keep: Callable[[Tensor], None]) -> RemovableHandle:
        """See Family; the encoder's dropout is the last step before its layers."""

        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            keep(output)

        return model.encoder.dropout.register_forward_hook(hook)

    def last_state(self, model: Any, waves: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """See Family."""
        mask = None
        if lengths is not None:
            mask = (~padding_mask(lengths, waves.shape[1], waves.device)).long()
        return model(waves, mask, return_dict=True).last_hidden_state

    @contextlib.contextmanager
    def padding_ignored(
        self, model: Any, lengths: Sequence[int], frames: Sequence[int]
    ) -> Iterator[None]:
        """See Family."""

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

    def unused_parameters(self, model: Any) -> Iterator[nn.Parameter]:
        """See Family."""
        config = model.config
        for name, parameter in model.named_parameters():
            unmasked = name == "masked_spec_embed" and not config.apply_spec_augment
            # The Conformer has relative positions; its positional convolution is never called.
            unplaced = "pos_conv_embed" in name and config.model_type == "wav2vec2-conformer"
            if unmasked or unplaced:
                yield parameter


def _convolutions(config: Any) -> Iterator[tuple[int, int]]:
    return zip(config.conv_kernel, config.conv_stride, strict=True)


def _mixing_convolutions(model: Any) -> Iterator[nn.Module]:
    """Yield the convolutions over frames that may meet other values than zeros in the padding."""
    if getattr(model.encoder.pos_conv_embed, "batch_norm", None) is not None:
        yield model.encoder.pos_conv_embed.conv
    for layer in model.encoder.layers:
        if hasattr(layer, "conv_module"):
            yield layer.conv_module.depthwise_conv
