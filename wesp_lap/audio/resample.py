"""Windowed-sinc resampling, equal to torchaudio's default, with kernels made once."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F

_LOWPASS_WIDTH = 6
_ROLLOFF = 0.99


@functools.lru_cache(maxsize=16)
def _kernel(old: int, new: int) -> tuple[torch.Tensor, int]:
    """Return the polyphase kernel (new, 1, taps) and its half width, for coprime rates."""
    cutoff = min(old, new) * _ROLLOFF
    width = math.ceil(_LOWPASS_WIDTH * old / cutoff)
    taps = torch.arange(-width, width + old, dtype=torch.float64) / old
    phases = torch.arange(0, -new, -1, dtype=torch.float64).unsqueeze(1) / new
    time = ((phases + taps) * cutoff).clamp(-_LOWPASS_WIDTH, _LOWPASS_WIDTH)
    window = torch.cos(time * math.pi / _LOWPASS_WIDTH / 2) ** 2
    kernel = torch.sinc(time) * window * (cutoff / old)
    return kernel.unsqueeze(1).float(), width


def resample(wave: np.ndarray, old_rate: int, new_rate: int) -> np.ndarray:
    """Resample float32 samples (S,) to ceil(S * new_rate / old_rate) samples.

    Hann-windowed sinc, 6 zero crossings, roll-off 0.99 (torchaudio's defaults).
    """
    if old_rate == new_rate:
        return wave
    divisor = math.gcd(old_rate, new_rate)
    old, new = old_rate // divisor, new_rate // divisor
    kernel, width = _kernel(old, new)
    signal = F.pad(torch.from_numpy(wave).view(1, 1, -1), (width, width + old))
    phases = F.conv1d(signal, kernel, stride=old)
    length = -(-new * len(wave) // old)
    return phases.transpose(1, 2).reshape(-1)[:length].numpy()
