"""w2v-BERT 2.0: a Conformer on filterbank features, with causal convolutions.

What the feature extractor of the transformers library does on a CPU, one utterance after the
other, happens here on the model's device for the whole batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wesp_lap.audio.fbank import Fbank
from wesp_lap.frontends.fbank import centre
from wesp_lap.padding import padding_mask

_FBANK = Fbank(num_mel_bins=80, window="povey")
_STACKED = 2
_VARIANCE_FLOOR = 1e-7


class W2vBertFamily:
    """Models of type ``wav2vec2-bert``; see Family."""

    lora_targets: tuple[str, ...] = ("linear_q", "linear_v")
    frames_enter_encoder = True

    def auto_model(self) -> Any:
        """See Family."""
        from transformers import AutoModel

        return AutoModel

    def adapt(self, model: Any) -> None:
        """See Family; what follows the layers is left out, as it makes no state."""
        model.adapter = model.intermediate_ffn = None
        model.config.add_adapter = model.config.use_intermediate_ffn_before_adapter = False

    def output_lengths(self, config: Any, samples: int) -> int:
        """See Family."""
        return _FBANK.num_frames(samples) // _STACKED

    def samples_for(self, config: Any, frames: int) -> int:
        """See Family."""
        return _FBANK.samples_for(_STACKED * frames)

    def layers(self, model: Any) -> nn.ModuleList:
        """See Family."""
        return model.encoder.layers

    def encoder(self, model: Any) -> nn.Module:
        """See Family."""
        return model.encoder

    def before_layers(self, model: Any) -> Mapping[str, Sequence[nn.Module | nn.Parameter]]:
        """See Family."""
        rest: list[nn.Module | nn.Parameter] = [model.encoder.dropout]
        if hasattr(model, "masked_spec_embed"):
            rest.append(model.masked_spec_embed)
        return {"projection": [model.feature_projection], "rest": rest}

    def drop_layers(self, model: Any, keep: int) -> None:
        """See Family; each layer ends with a norm of its own, and none follows the last."""
        del model.encoder.layers[keep:]

    def keep_first(self, model: Any, keep: Callable[[Tensor], None]) -> RemovableHandle:
        """See Family; the encoder's dropout is the last step before its layers."""

        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            keep(output)

        return model.encoder.dropout.register_forward_hook(hook)

    def last_state(self, model: Any, waves: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """See Family; the mask keeps padding out of attention, and no convolution looks ahead."""
        features = stacked_features(waves, lengths)
        mask = None
        if lengths is not None:
            frames = [self.output_lengths(model.config, length) for length in lengths]
            mask = (~padding_mask(frames, features.shape[1], features.device)).long()
        return model(features, attention_mask=mask, return_dict=True).last_hidden_state

    def padding_ignored(
        self, model: Any, lengths: Sequence[int], frames: Sequence[int]
    ) -> contextlib.AbstractContextManager[None]:
        """See Family; nothing is left to do."""
        return contextlib.nullcontext()

    def unused_parameters(self, model: Any) -> Iterator[nn.Parameter]:
        """See Family."""
        if hasattr(model, "masked_spec_embed") and not model.config.apply_spec_augment:
            yield model.masked_spec_embed


def stacked_features(waves: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """Map waveforms (B, S), zero beyond the lengths, to features (B, T, 160), 50 per second.

    80 filterbank energies, each with zero mean and unit variance over the utterance, two frames
    side by side; an odd last frame counts in mean and variance only. Equal to the unmasked frames
    of SeamlessM4TFeatureExtractor.
    """
    features = _FBANK(waves)
    counts = [features.shape[1]] * len(waves)
    if lengths is not None:
        counts = [_FBANK.num_frames(length) for length in lengths]
    centred, _ = centre(features, None if lengths is None else counts)
    degrees = torch.tensor(counts).to(waves.device, non_blocking=True).view(-1, 1, 1) - 1
    variance = centred.square().sum(dim=1, keepdim=True) / degrees
    normal = centred / (variance + _VARIANCE_FLOOR).sqrt()
    even = features.shape[1] // _STACKED * _STACKED
    return normal[:, :even].reshape(len(waves), even // _STACKED, -1)
