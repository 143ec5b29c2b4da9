"""Filterbank features as a frontend with a single state and nothing to learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wesp_lap.audio.fbank import Fbank
from wesp_lap.padding import padding_mask


class FbankFrontend(nn.Module):
    """Kaldi's log-mel filterbank: one state of ``num_mel_bins`` channels, 100 frames per second.

    The input of ECAPA-TDNN, x-vector and ResNet without a self-supervised frontend, as WeSpeaker
    computes it. In float32, also under autocast. Dither and masks are drawn in training only, and
    not when the frontend is frozen. Source: docs/methods.md, section 1.

    Args:
        num_mel_bins: Number of bands between 20 Hz and 8 kHz.
        window: Shape of the 25 ms windows.
        cmn: Subtract the mean of each band over the utterance.
        dither: Standard deviation of the noise on each window, on the scale of 16-bit samples.
        spec_augment: Mask bands and frames of some utterances with their mean.
        mask_prob: Share of utterances that are masked.
        time_masks: Spans of frames that are masked.
        time_mask_frames: Frames of the longest span; lengths from 1 on are equally frequent.
        freq_masks: Spans of bands that are masked.
        freq_mask_bins: Bands of the widest span.
    """

    num_layers = 1
    kind = "fbank"
    has_random_depth = False

    def __init__(
        self,
        num_mel_bins: int = 80,
        window: Literal["hamming", "povey"] = "hamming",
        cmn: bool = True,
        dither: float = 0.0,
        spec_augment: bool = False,
        mask_prob: float = 0.6,
        time_masks: int = 1,
        time_mask_frames: int = 10,
        freq_masks: int = 1,
        freq_mask_bins: int = 8,
    ) -> None:
        super().__init__()
        if spec_augment and not 1 <= freq_mask_bins <= num_mel_bins:
            raise ValueError(f"freq_mask_bins must be from 1 to {num_mel_bins}")
        if not 0 <= mask_prob <= 1 or min(time_masks, freq_masks) < 0 or time_mask_frames < 1:
            raise ValueError(
                "mask_prob from 0 to 1, time_masks and freq_masks >= 0, and time_mask_frames >= 1 "
                "are needed"
            )
        self._fbank = Fbank(num_mel_bins=num_mel_bins, window=window, dither=dither)
        self.hidden_size = num_mel_bins
        self.frozen = False
        self.num_mel_bins = num_mel_bins
        self.window = window
        self.cmn = cmn
        self.dither = dither
        self.spec_augment = spec_augment
        self.mask_prob = mask_prob
        self.time_masks = time_masks
        self.time_mask_frames = time_mask_frames
        self.freq_masks = freq_masks
        self.freq_mask_bins = freq_mask_bins

    def options(self) -> dict[str, Any]:
        """Return constructor options that rebuild this frontend.

        Those that say what is drawn in training are not among them.
        """
        return {"num_mel_bins": self.num_mel_bins, "window": self.window, "cmn": self.cmn}

    def freeze(self, frozen: bool = True) -> None:
        """Draw no dither and no masks, whatever ``train`` says; there are no weights."""
        self.frozen = frozen

    def fixed_state(self) -> dict[str, Tensor]:
        """Return the tensors that training must leave as they are: there are none."""
        return {}

    def output_lengths(self, samples: int) -> int:
        """Return the number of frames T for a number of samples."""
        return self._fbank.num_frames(samples)

    def samples_for(self, frames: int) -> int:
        """Return the fewest samples that give a number of frames."""
        return self._fbank.samples_for(frames)

    def forward(self, waves: Tensor, lengths: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """Map waveforms (B, S), at least one frame long, to one state (B, T, D).

        Args:
            waves: The waveforms.
            lengths: Samples of each row, at least one frame, when rows are padded; in
                evaluation mode only. The first ``output_lengths`` frames of a row are then those
                of the row alone, whatever the padding holds; the others mean nothing.
        """
        frames = None
        if lengths is not None:
            waves = waves.masked_fill(padding_mask(lengths, waves.shape[1], waves.device), 0)
            frames = [self.output_lengths(length) for length in lengths]
        training = self.training and not self.frozen
        features = self._fbank(waves, training)
        masking = training and self.spec_augment
        if not (self.cmn or masking):
            return (features,)
        centred, mean = centre(features, frames)
        if masking:
            centred = centred.masked_fill(self._masks(features), 0)
        return (centred if self.cmn else centred + mean,)

    def _masks(self, features: Tensor) -> Tensor:
        """Draw what is masked of features (B, T, D); true there."""
        batch, frames, bands = features.shape
        chosen = torch.rand(batch, 1, 1, device=features.device) < self.mask_prob
        device = features.device
        times = _spans(batch, frames, self.time_masks, self.time_mask_frames, device)
        freqs = _spans(batch, bands, self.freq_masks, self.freq_mask_bins, device)
        return chosen & (times.unsqueeze(2) | freqs.unsqueeze(1))


def centre(features: Tensor, frames: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """Subtract from (B, T, D) its mean over time, and return that mean (B, 1, D), too.

    Where rows are padded, the mean is that of each row's first ``frames``; behind them the result
    is zero.
    """
    if frames is None:
        mean = features.mean(dim=1, keepdim=True)
        return features - mean, mean
    padding = padding_mask(frames, features.shape[1], features.device).unsqueeze(-1)
    counts = (~padding).sum(dim=1, keepdim=True)
    mean = features.masked_fill(padding, 0).sum(dim=1, keepdim=True) / counts
    return (features - mean).masked_fill(padding, 0), mean


def _spans(batch: int, size: int, count: int, longest: int, device: torch.device) -> Tensor:
    """Draw ``count`` spans for each row; returns (B, ``size``), true in a span.

    A span starts anywhere and ends at the edge when that comes first, as in WeSpeaker.
    """
    starts = torch.randint(size, (batch, count, 1), device=device)
    lengths = torch.randint(1, longest + 1, (batch, count, 1), device=device)
    places = torch.arange(size, device=device)
    return ((places >= starts) & (places < starts + lengths)).any(dim=1)
