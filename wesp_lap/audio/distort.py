"""Add gathered noises to a batch of crops, on any device.

Source: docs/methods.md, section 4.2. A crop's result is the same in any batch up to rounding: sums
on a GPU come in any order, and transforms of several rows are rounded otherwise than of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from wesp_lap.audio.codec import telephone

_ENERGY_FLOOR = 1e-4
_PEAK_FLOOR = 1e-4
_FULL_SCALE = 32768.0
CHUNK = 16
"""Rows that are worked on at once: memory of more of them is fetched anew every time."""


class Responses(NamedTuple):
    """Room responses of similar length: int16 (n, L), their rows, and norms before any cut."""

    samples: Tensor
    rows: Tensor
    norms: Tensor


class Additive(NamedTuple):
    """Noises at their places in the crop: int16 (n, S), rows, lengths, and 10^(-SNR / 20)."""

    samples: Tensor
    rows: Tensor
    lengths: Tensor
    levels: Tensor


Group = TypeVar("Group", Responses, Additive)


class Noises(NamedTuple):
    """What a batch is augmented with, apart from the crops themselves."""

    responses: Sequence[Responses]
    additive: Sequence[Additive]
    peak_rows: Tensor
    volume_rows: Tensor
    volume_gains: Tensor
    codec_rows: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Noises:
        """Return the same on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return Noises(
            [Responses(*map(move, group)) for group in self.responses],
            [Additive(*map(move, group)) for group in self.additive],
            *map(move, self[2:]),
        )


def apply(waves: Tensor, noises: Noises) -> Tensor:
    """Return crops (B, S) with their distortions; those without any are the same bit for bit."""
    return apply_in_place(waves.clone(), noises)


def apply_in_place(waves: Tensor, noises: Noises) -> Tensor:
    """Distort crops (B, S) where they lie; return them.

    The order is reverberation, noise, peak normalisation, volume, telephone band.
    """
    for group in noises.responses:
        for part in _chunks(group):
            waves.index_copy_(0, part.rows, _reverberate(waves[part.rows], part))
    for mixture in noises.additive:
        power = _energy(waves) / waves.shape[1]  # before any of the mixture is added
        for voices in _chunks(mixture):
            _add(waves, power, voices)
    for rows in _blocks(noises.peak_rows):
        peaks = waves[rows].abs().amax(dim=1, keepdim=True)
        waves.index_copy_(0, rows, waves[rows] / (peaks + _PEAK_FLOOR))
    for rows, gains in zip(_blocks(noises.volume_rows), _blocks(noises.volume_gains), strict=True):
        waves.index_copy_(0, rows, waves[rows] * gains.unsqueeze(1))
    for rows in _blocks(noises.codec_rows):
        waves.index_copy_(0, rows, telephone(waves[rows]))
    return waves


def _reverberate(waves: Tensor, part: Responses) -> Tensor:
    """Convolve (n, S) with responses of unit energy; keep the first S samples."""
    samples = waves.shape[1]
    size = next_fast_len(samples + part.samples.shape[1] - 1, real=True)
    spectra = torch.fft.rfft(waves, size)
    spectra *= torch.fft.rfft(part.samples.float() / part.norms.unsqueeze(1), size)
    return torch.fft.irfft(spectra, size)[:, :samples]


def _add(waves: Tensor, power: Tensor, part: Additive) -> None:
    """Add noises to (B, S) in place, at levels below the speech's power (B,)."""
    noise = part.samples.float()
    noise_power = _energy(noise) / part.lengths / _FULL_SCALE**2
    ratio = (power[part.rows] + _ENERGY_FLOOR) / (noise_power + _ENERGY_FLOOR)
    noise *= (part.levels * ratio.sqrt() / _FULL_SCALE).unsqueeze(1)
    waves.index_add_(0, part.rows, noise)


def _energy(waves: Tensor) -> Tensor:
    return torch.linalg.vector_norm(waves, dim=1).square()


def _chunks(group: Group) -> Iterator[Group]:
    for columns in zip(*map(_blocks, group), strict=True):
        yield type(group)(*columns)


def _blocks(tensor: Tensor) -> Sequence[Tensor]:
    return tensor.split(CHUNK) if len(tensor) else ()
