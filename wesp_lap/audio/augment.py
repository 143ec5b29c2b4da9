"""Augmentation of training crops: speed, additive noise, reverberation.

Source: docs/methods.md, section 4.2. Every function takes its generator, so that what happens to
an utterance depends on (seed, epoch, position) alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import fft

from wesp_lap.audio.resample import resample

SAMPLE_RATE = 16000
SPEED_FACTORS = (1.0, 0.9, 1.1)
"""Speeds in the order of their label offsets: speaker k at SPEED_FACTORS[i] is class k + i * N."""

_ENERGY_FLOOR = 1e-4
_SNR_RANGES = {"noise": (0.0, 15.0), "music": (5.0, 15.0), "speech": (13.0, 20.0)}
_BABBLE_COUNT = (4, 7)
_SPANS = ((1.0, 1.0), (0.4, 0.6), (0.2, 0.4))


class NoiseSource(Protocol):
    """Where noises and room impulse responses come from."""

    def draw(self, category: str, rng: np.random.Generator) -> np.ndarray:
        """Return one recording of "noise", "music", "speech" or "rir", float32 (S,)."""


@dataclass(frozen=True)
class AugmentSettings:
    """Which augmentations a phase uses.

    Args:
        speed_perturb: Draw the speed from {1, 0.9, 1.1} with 60/20/20 % and count each speed of a
            speaker as a class of its own.
        noise_prob: Probability of one of reverberation, noise, music, babble, or television
            (babble, then music), each equally likely.
    """

    speed_perturb: bool = False
    noise_prob: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise_prob <= 1:
            raise ValueError(f"noise_prob must lie in [0, 1], got {self.noise_prob}")


def draw_speed(rng: np.random.Generator) -> int:
    """Draw an index into SPEED_FACTORS: 60 % unchanged, 20 % slower, 20 % faster."""
    return int(rng.choice(3, p=(0.6, 0.2, 0.2)))


def change_speed(wave: np.ndarray, factor: float) -> np.ndarray:
    """Play (S,) at ``factor`` times the speed: S / factor samples, pitch and tempo both change."""
    if factor == 1.0:
        return wave
    return resample(wave, round(factor * SAMPLE_RATE), SAMPLE_RATE)


def fit_length(wave: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Crop (S,) at a uniform position, or repeat it periodically, to ``samples``."""
    if len(wave) > samples:
        start = int(rng.integers(len(wave) - samples + 1))
        return wave[start : start + samples]
    return np.resize(wave, samples)


def augment(
    wave: np.ndarray, source: NoiseSource, noise_prob: float, rng: np.random.Generator
) -> np.ndarray:
    """Return a crop (S,) clean or, with ``noise_prob``, with one of the five distortions."""
    if rng.random() >= noise_prob:
        return wave
    kind = int(rng.integers(5))
    if kind == 0:
        return reverberate(wave, source.draw("rir", rng))
    if kind == 4:  # television: speech, then music, over the full length
        wave = _add_category(wave, source, "speech", (1.0, 1.0), rng)
        return _add_category(wave, source, "music", (1.0, 1.0), rng)
    span = _SPANS[int(rng.integers(len(_SPANS)))]
    return _add_category(wave, source, ("noise", "music", "speech")[kind - 1], span, rng)


def _add_category(
    wave: np.ndarray,
    source: NoiseSource,
    category: str,
    span: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Add one noise, or 4 to 7 voices, each at its own level, length and place."""
    low, high = _BABBLE_COUNT
    count = int(rng.integers(low, high + 1)) if category == "speech" else 1
    total = wave.copy()
    for _ in range(count):
        snr = float(rng.uniform(*_SNR_RANGES[category]))
        length = max(int(len(wave) * float(rng.uniform(*span))), 1)
        noise = fit_length(source.draw(category, rng), length, rng)
        start = int(rng.integers(len(wave) - length + 1))
        total[start : start + length] += noise_gain(wave, noise, snr) * noise
    return total


def noise_gain(wave: np.ndarray, noise: np.ndarray, snr: float) -> float:
    """Return the factor that puts ``noise`` ``snr`` dB below ``wave``."""
    return float(np.sqrt(10 ** ((_decibel(wave) - _decibel(noise) - snr) / 10)))


def _decibel(wave: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(wave, dtype=np.float64)) + _ENERGY_FLOOR))


def reverberate(wave: np.ndarray, impulse_response: np.ndarray) -> np.ndarray:
    """Convolve (S,) with a room's impulse response of unit energy; keep the first S samples."""
    response = impulse_response / np.sqrt(np.sum(np.square(impulse_response), dtype=np.float64))
    size = fft.next_fast_len(len(wave) + len(response) - 1, real=True)
    product = fft.rfft(wave, size) * fft.rfft(response.astype(np.float32), size)
    return fft.irfft(product, size)[: len(wave)].astype(np.float32)
