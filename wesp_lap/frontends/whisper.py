"""Whisper's encoder as a frontend.

Whisper was trained on input that is padded with silence to 30 seconds. Here an utterance ends
where it ends: the convolutions hear the silence behind it as they would in Whisper, so that the
state before the first layer is the same, and no frame attends to the silence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wesp_lap.audio.log_mel import HOP, log_mel
from wesp_lap.errors import DataError
from wesp_lap.padding import padding_mask

_STRIDE = 2 * HOP  # the second convolution takes every other frame of the spectrogram
_SAMPLE_RATE = 16000


class WhisperFamily:
    """Models of type ``whisper``, without their decoder; see Family."""

    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    frames_enter_encoder = False

    def auto_model(self) -> Any:
        """See Family."""
        from wesp_lap.frontends.whisper_encoder import UnpaddedWhisperEncoder

        return UnpaddedWhisperEncoder

    def adapt(self, model: Any) -> None:
        """See Family; nothing to change."""

    def output_lengths(self, config: Any, samples: int) -> int:
        """See Family."""
        return samples // _STRIDE

    def samples_for(self, config: Any, frames: int) -> int:
        """See Family."""
        return frames * _STRIDE

    def layers(self, model: Any) -> nn.ModuleList:
        """See Family."""
        return model.layers

    def encoder(self, model: Any) -> nn.Module:
        """See Family."""
        return model

    def before_layers(self, model: Any) -> Mapping[str, Sequence[nn.Module | nn.Parameter]]:
        """See Family."""
        return {
            "convolutions": [model.conv1, model.conv2],
            "rest": [model.embed_positions, model.input_dropout],
        }

    def drop_layers(self, model: Any, keep: int) -> None:
        """See Family."""
        del model.layers[keep:]
        model.layer_norm = nn.Identity()

    def keep_first(self, model: Any, keep: Callable[[Tensor], None]) -> RemovableHandle:
        """See Family; a dropout is the last step before the layers."""

        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            keep(output)

        return model.input_dropout.register_forward_hook(hook)

    def last_state(self, model: Any, waves: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """See Family.

        Raises:
            DataError: the waveforms are longer than the model has positions for.
        """
        samples, longest = waves.shape[1], _STRIDE * model.config.max_source_positions
        if samples > longest:
            raise DataError(
                f"{samples / _SAMPLE_RATE:.1f} s at once, but Whisper takes at most "
                f"{longest / _SAMPLE_RATE:g} s: extract with --chunk_seconds "
                f"{longest / _SAMPLE_RATE:g}, train on crops that are not longer"
            )
        frames = self.output_lengths(model.config, samples)
        padding = None
        if lengths is not None:
            counts = [self.output_lengths(model.config, length) for length in lengths]
            padding = padding_mask(counts, frames, waves.device)
        features = log_mel(waves, model.config.num_mel_bins, longest)
        # The convolutions of the last frame hear one frame of the spectrogram more.
        return model(features[..., : 2 * frames + 1], frames, padding)

    def padding_ignored(
        self, model: Any, lengths: Sequence[int], frames: Sequence[int]
    ) -> contextlib.AbstractContextManager[None]:
        """See Family; nothing is left to do."""
        return contextlib.nullcontext()

    def unused_parameters(self, model: Any) -> Iterator[nn.Parameter]:
        """See Family; the sines and cosines of the positions are not trained."""
        yield model.embed_positions.weight
