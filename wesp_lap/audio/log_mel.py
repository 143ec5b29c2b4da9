"""Whisper's log-mel spectrogram, batched and on any device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wesp_lap.audio.tables import counted, table

HOP = 160
_FFT_SIZE = 400
_SAMPLE_RATE = 16000
_LEAST = 1e-10
_DYNAMIC_RANGE = 8.0  # in powers of ten, below the loudest value of an utterance


def log_mel(waves: Tensor, bins: int, longest: int) -> Tensor:
    """Map waveforms to log-mel spectrograms as Whisper gets them, without padding to 30 s.

    The frames are the first ones of a waveform that is padded with zeros to the ``longest``
    length; those of a row in a batch are those of the row alone. Source: the Whisper paper's
    code; equal to WhisperFeatureExtractor.

    Args:
        waves: (B, S), more than 200 samples in [-1, 1] at 16 kHz, at most ``longest``.
        bins: Mel bands between 0 and 8 kHz; Whisper has 80 or 128.
        longest: Samples at which a waveform ends in any case.

    Returns:
        (B, ``bins``, F) in float32, 100 frames per second: all that hear some of the waveform
        and some silence behind it.
    """
    with torch.autocast(waves.device.type, enabled=False):
        behind = min(4 * HOP, longest - waves.shape[1])
        waves = F.pad(waves.float(), (0, behind))
        window = table(_hann, (_FFT_SIZE,), waves)
        lines = torch.stft(waves, _FFT_SIZE, HOP, window=window, return_complex=True)[..., :-1]
        power = lines.real.square() + lines.imag.square()
        mel = table(_slaney_filters, (bins,), power).T @ power
        log = mel.clamp(min=_LEAST).log10()
        log = torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - _DYNAMIC_RANGE)
        return (log + 4) / 4


def _hann(size: int) -> Tensor:
    return 0.5 - 0.5 * (2 * math.pi * counted(size) / size).cos()


def _slaney_filters(bins: int) -> Tensor:
    """Return triangles of equal area (201, ``bins``) on Slaney's mel scale."""
    edges = _hertz(_mel(_SAMPLE_RATE / 2) * counted(bins + 2) / (bins + 1))
    lines = counted(_FFT_SIZE // 2 + 1).unsqueeze(1) * (_SAMPLE_RATE / _FFT_SIZE)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rise, fall = (lines - left) / (centre - left), (right - lines) / (right - centre)
    return torch.minimum(rise, fall).clamp(min=0) * 2 / (right - left)


# Slaney's scale has 3 mel per 200 Hz up to 1000 Hz, and 27 per factor of 6.4 from there on.
_LINEAR = 200 / 3
_BREAK_HERTZ, _BREAK_MEL = 1000.0, 15.0
_FACTOR = math.log(6.4) / 27


def _mel(hertz: float) -> float:
    """Convert a frequency of at least 1000 Hz."""
    return _BREAK_MEL + math.log(hertz / _BREAK_HERTZ) / _FACTOR


def _hertz(mel: Tensor) -> Tensor:
    above = _BREAK_HERTZ * (_FACTOR * (mel - _BREAK_MEL)).exp()
    return torch.where(mel < _BREAK_MEL, _LINEAR * mel, above)
