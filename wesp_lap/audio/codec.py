"""Telephone band as an augmentation: 8 kHz and 8-bit mu-law, as in G.711."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wesp_lap.audio.resample import resample_batch

_MU = 255
_SCALE = math.log1p(_MU)


def mu_law(waves: Tensor) -> Tensor:
    """Quantise samples in [-1, 1], any shape, to the 256 levels of the mu-law curve."""
    waves = waves.clamp(-1, 1)
    curve = torch.sign(waves) * torch.log1p(_MU * waves.abs()) / _SCALE
    steps = torch.floor((curve + 1) / 2 * _MU + 0.5)
    curve = steps / _MU * 2 - 1
    return torch.sign(curve) * torch.expm1(curve.abs() * _SCALE) / _MU


def telephone(waves: Tensor) -> Tensor:
    """Send 16 kHz crops (B, S) through a telephone band; louder samples than 1 are clipped."""
    narrow = resample_batch(waves, 16000, 8000)
    return resample_batch(mu_law(narrow), 8000, 16000)[:, : waves.shape[1]]
