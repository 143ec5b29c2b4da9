"""Utterance mixing of WavLM: a piece of another utterance, or of noise, added to a row.

The labels stay those of the main utterance, which is what teaches the encoder to follow one
speaker. Source: docs/methods.md, section 6.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wesp_lap.data.noise_bank import NoiseBank

NoiseSource = Callable[[np.random.Generator], Tensor]
"""Draws a clip of noise (n,), n > 0, as float32 in [-1, 1]."""


@dataclass(frozen=True)
class MixingSettings:
    """How often and how loud something is added.

    Args:
        prob: Probability that something is added to a row.
        noise_prob: Probability that it is noise, and not another utterance.
        speech_snr: Range of the ratio of the row's power to that of the utterance, dB.
        noise_snr: The same for noise.
        max_share: Longest piece, as a share of the row.
    """

    prob: float = 0.5
    noise_prob: float = 0.0
    speech_snr: tuple[float, float] = (-5.0, 5.0)
    noise_snr: tuple[float, float] = (-5.0, 20.0)
    max_share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("prob", "noise_prob", "max_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("speech_snr", "noise_snr"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                raise ValueError(f"{name} must be two numbers in ascending order, got {bounds}")


def mix_utterances(
    waves: Tensor,
    settings: MixingSettings,
    rng: np.random.Generator,
    noise: NoiseSource | None = None,
) -> Tensor:
    """Add pieces of utterances or noise to some rows.

    Rows are worked through in order, and a row may get a piece of any row of the batch as it is by
    then: of one that has got something itself, or of its own. The length of a piece is uniform
    from 0 to ``max_share`` of the row, so nothing may be added; where it is taken and where it is
    put are uniform, too. Powers are means over the whole row and the whole source. A source
    without power adds nothing.

    Args:
        waves: Waveforms (B, S), float32.
        settings: How often and how loud.
        rng: Where the random numbers come from.
        noise: Draws noise; needed when ``noise_prob`` is above 0.

    Returns:
        New waveforms (B, S).
    """
    if settings.noise_prob > 0 and noise is None:
        raise ValueError("noise_prob is above 0, but there is no source of noise")
    mixed = waves.clone()
    samples = waves.shape[1]
    for row, chance in enumerate(rng.random(len(waves))):
        if chance >= settings.prob:
            continue
        if noise is not None and rng.random() < settings.noise_prob:
            source, snr = noise(rng).to(waves), settings.noise_snr
        else:
            source, snr = mixed[rng.integers(len(waves))], settings.speech_snr
        length = min(int(rng.integers(int(settings.max_share * samples) + 1)), len(source))
        first = int(rng.integers(len(source) - length + 1))
        start = int(rng.integers(samples - length + 1))
        scale = gain(mixed[row], source, float(rng.uniform(*snr)))
        # The product is computed before the sum changes what may be its own source.
        mixed[row, start : start + length] += scale * source[first : first + length]
    return mixed


def gain(main: Tensor, source: Tensor, snr: float) -> Tensor:
    """Return the factor on the source for which the power of ``main`` is ``snr`` dB above it.

    A scalar on the device of the waveforms; 0 for a source without power.
    """
    power = source.square().mean()
    ratio = main.square().mean() / (power * 10 ** (snr / 10))
    return torch.where(power > 0, ratio.sqrt(), 0.0)


class BankNoise:
    """Pieces of at most 5 s from a noise bank, all equally likely; a NoiseSource.

    Args:
        bank: The bank.
        categories: Categories to draw from.

    Raises:
        DataError: a category is empty.
    """

    def __init__(self, bank: NoiseBank, categories: Sequence[str] = ("noise",)) -> None:
        bank.check(categories)
        self._bank = bank
        self._pieces = np.concatenate([bank.pieces(category) for category in categories])

    def __call__(self, rng: np.random.Generator) -> Tensor:
        """Draw a piece (n,)."""
        first, length = self._pieces[rng.integers(len(self._pieces))]
        samples = self._bank.read(int(first), int(length))
        return torch.from_numpy(samples.astype(np.float32) / 32768)
