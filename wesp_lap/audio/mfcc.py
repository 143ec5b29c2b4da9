"""Kaldi's cepstral coefficients: batched, on any device, equal to torchaudio's; and deltas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wesp_lap.audio.fbank import Fbank
from wesp_lap.audio.tables import counted, table

_REACH = 2  # frames before and behind that a delta is computed from: a window of 5
_DELTA_NORM = 2 * sum(step * step for step in range(1, _REACH + 1))


@dataclass(frozen=True, kw_only=True)
class Mfcc(Fbank):
    """Cosine transform of log mel energies, liftered; C0 and no energy in its place; see Fbank.

    Source: Kaldi's compute-mfcc-feats with ``--use-energy=false``. Called with waveforms.

    Args:
        num_mel_bins: Number of bands.
        num_ceps: Number of coefficients, at most ``num_mel_bins``.
        cepstral_lifter: Coefficient k is multiplied by 1 + L / 2 sin(pi k / L); 0 does not lifter.
    """

    num_mel_bins: int = 23
    num_ceps: int = 13
    cepstral_lifter: float = 22.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.num_ceps <= self.num_mel_bins:
            raise ValueError(
                f"num_ceps must be from 1 to num_mel_bins ({self.num_mel_bins}), got "
                f"{self.num_ceps}"
            )
        if self.cepstral_lifter < 0:
            raise ValueError(f"cepstral_lifter must not be negative, got {self.cepstral_lifter}")

    def __call__(self, waves: Tensor, training: bool = False) -> Tensor:
        """Map waveforms (B, S) to coefficients (B, T, ``num_ceps``); not under autocast.

        Args:
            waves: Samples in [-1, 1]; float64 is computed in float64, all else in float32.
            training: Whether dither is added.
        """
        bands = super().__call__(waves, training)
        with torch.autocast(waves.device.type, enabled=False):
            arguments = self.num_mel_bins, self.num_ceps, self.cepstral_lifter
            return bands @ table(_cosines, arguments, bands)


def add_deltas(features: Tensor) -> Tensor:
    """Append first and second differences over time: (B, T, D) to (B, T, 3 D).

    The difference at t is the sum over n = 1, 2 of n (x[t+n] - x[t-n]), divided by 10; frames
    beyond the ends are those at the ends. The second differences are those of the first. Source:
    Kaldi's add-deltas; equal to torchaudio's compute_deltas with a window of 5.
    """
    first = _differences(features)
    return torch.cat([features, first, _differences(first)], dim=-1)


def _differences(features: Tensor) -> Tensor:
    frames = features.shape[1]
    if frames == 0:
        return features
    padded = F.pad(features.transpose(1, 2), (_REACH, _REACH), mode="replicate").transpose(1, 2)
    total = torch.zeros_like(features)
    for step in range(1, _REACH + 1):
        later = padded[:, _REACH + step : _REACH + step + frames]
        earlier = padded[:, _REACH - step : _REACH - step + frames]
        total += step * (later - earlier)
    return total / _DELTA_NORM


def _cosines(bins: int, count: int, lifter: float) -> Tensor:
    """Return the orthonormal cosine transform (``bins``, ``count``), with the lifter in it."""
    orders = counted(count)
    weights = math.sqrt(2 / bins) * (math.pi / bins * (counted(bins)[:, None] + 0.5) * orders).cos()
    weights[:, 0] = math.sqrt(1 / bins)
    if lifter:
        weights *= 1 + lifter / 2 * (math.pi * orders / lifter).sin()
    return weights
