"""Windowed-sinc resampling, equal to torchaudio's default, with kernels made once."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LOWPASS_WIDTH = 6
_ROLLOFF = 0.99


@functools.lru_cache(maxsize=16)
def _kernel(old: int, new: int) -> tuple[Tensor, int]:
    """Return the polyphase kernel (new, 1, taps) and its half width, for coprime rates."""
    cutoff = min(old, new) * _ROLLOFF
    width = math.ceil(_LOWPASS_WIDTH * old / cutoff)
    taps = torch.arange(-width, width + old, dtype=torch.float64) / old
    phases = torch.arange(0, -new, -1, dtype=torch.float64).unsqueeze(1) / new
    time = ((phases + taps) * cutoff).clamp(-_LOWPASS_WIDTH, _LOWPASS_WIDTH)
    window = torch.cos(time * math.pi / _LOWPASS_WIDTH / 2) ** 2
    kernel = torch.sinc(time) * window * (cutoff / old)
    return kernel.unsqueeze(1).float(), width


def resample_batch(waves: Tensor, old_rate: int, new_rate: int) -> Tensor:
    """Resample rows (B, S) of one rate together to (B, ceil(S * new_rate / old_rate)).

    Hann-windowed sinc, 6 zero crossings, roll-off 0.99 (torchaudio's defaults).
    """
    if old_rate == new_rate:
        return waves
    divisor = math.gcd(old_rate, new_rate)
    old, new = old_rate // divisor, new_rate // divisor
    kernel, width = _kernel(old, new)
    kernel = kernel.to(waves.device, waves.dtype)
    phases = F.conv1d(F.pad(waves.unsqueeze(1), (width, width + old)), kernel, stride=old)
    length = -(-new * waves.shape[1] // old)
    return phases.transpose(1, 2).flatten(1)[:, :length]


def resample(wave: np.ndarray, old_rate: int, new_rate: int) -> np.ndarray:
    """Resample float32 samples (S,) to ceil(S * new_rate / old_rate) samples."""
    if old_rate == new_rate:
        return wave
    return resample_batch(torch.from_numpy(wave).unsqueeze(0), old_rate, new_rate)[0].numpy()
