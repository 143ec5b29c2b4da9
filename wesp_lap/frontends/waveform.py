"""Models that hear the waveform through convolutions: wav2vec 2.0, HuBERT, WavLM, Conformer.

Given an attention mask, these models keep padding out of the attention and zero it before the
position convolution. Left to do is what else mixes frames: the group norm of base models, whose
statistics run over time; the depthwise convolutions of the Conformer, and the position
convolution behind HuBERT's batch norm, which must meet zeros as they do at the end of a row that
is alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wesp_lap.frontends.wavlm_attention import WavLMAttention
from wesp_lap.padding import padding_mask


class WaveformFamily:
    """Convolutions over the waveform, then a Transformer; see Family."""

    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    frames_enter_encoder = True

    def auto_model(self) -> Any:
        """See Family."""
        from transformers import AutoModel

        return AutoModel

    def adapt(self, model: Any) -> None:
        """See Family; no gradient of the waveform is computed, for which there is no use.

        The library asks for it for the sake of another kind of checkpointing. With adapters, the
        backward pass would go through all convolutions for nothing else.
        """
        model.feature_extractor._requires_grad = False

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

    def encoder(self, model: Any) -> nn.Module:
        """See Family."""
        return model.encoder

    def before_layers(self, model: Any) -> Mapping[str, Sequence[nn.Module | nn.Parameter]]:
        """See Family."""
        encoder = model.encoder
        rest: list[nn.Module | nn.Parameter] = [encoder.pos_conv_embed, encoder.dropout]
        if not _is_pre_norm(model):
            rest.append(encoder.layer_norm)
        if hasattr(model, "masked_spec_embed"):
            rest.append(model.masked_spec_embed)
        return {
            "convolutions": [model.feature_extractor],
            "projection": [model.feature_projection],
            "rest": rest,
        }

    def drop_layers(self, model: Any, keep: int) -> None:
        """See Family."""
        del model.encoder.layers[keep:]
        if _is_pre_norm(model):
            model.encoder.layer_norm = nn.Identity()

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


class ConformerFamily(WaveformFamily):
    """Conformers, whose attention names its projections in a way of its own."""

    lora_targets: tuple[str, ...] = ("linear_q", "linear_v")


class WavLMFamily(WaveformFamily):
    """WavLM, whose attention is replaced by a faster one that computes the same."""

    def adapt(self, model: Any) -> None:
        """See Family."""
        super().adapt(model)
        for layer in model.encoder.layers:
            layer.attention = WavLMAttention(layer.attention)


def _is_pre_norm(model: Any) -> bool:
    """Say whether the encoder's layer norm comes after the layers."""
    # The Conformer is always built like that, whatever its configuration says.
    kind = model.config.model_type
    return kind == "wav2vec2-conformer" or model.config.do_stable_layer_norm


def _convolutions(config: Any) -> Iterator[tuple[int, int]]:
    return zip(config.conv_kernel, config.conv_stride, strict=True)


def _mixing_convolutions(model: Any) -> Iterator[nn.Module]:
    """Yield the convolutions over frames that may meet other values than zeros in the padding."""
    if getattr(model.encoder.pos_conv_embed, "batch_norm", None) is not None:
        yield model.encoder.pos_conv_embed.conv
    for layer in model.encoder.layers:
        if hasattr(layer, "conv_module"):
            yield layer.conv_module.depthwise_conv
