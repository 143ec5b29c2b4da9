"""Augmentation of training crops: speed, noise, reverberation, volume and telephone band.

Everything random is a function of a crop's row of uniform draws, so that what happens to it does
not depend on the batch it stands in. Loader processes collect the noise material (``gather``); the
sums and convolutions (``apply``) run on any device. Source: docs/methods.md, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from wesp_lap.audio.augment_sets import MAX_NOISES, SETS, Kind, Mixture
from wesp_lap.audio.distort import CHUNK, Additive, Noises, Responses
from wesp_lap.audio.distort import apply as apply
from wesp_lap.audio.distort import apply_in_place as apply_in_place
from wesp_lap.audio.resample import resample_batch
from wesp_lap.errors import DataError

SAMPLE_RATE = 16000
SPEED_FACTORS = (1.0, 0.9, 1.1)
"""Speeds in the order of their label offsets: speaker k at SPEED_FACTORS[i] is class k + i * N."""

DRAWS = 64
"""Uniform draws in [0, 1) per crop. Column 0 is the speed, column 1 the start of the crop."""

_GATE, _KIND, _SPAN, _COUNT, _RESPONSE, _CHANNEL, _VOLUME, _GAIN, _CODEC = range(2, 11)
_FIRST_NOISE, _PER_NOISE = 16, 5
assert _FIRST_NOISE + _PER_NOISE * MAX_NOISES <= DRAWS

# Responses of about the same length are convolved together.
_RESPONSE_STEP = 16000


# Crops that are augmented together; the noises of more of them leave the cache.
_BLOCK = 64


class NoiseSource(Protocol):
    """Where noises and room impulse responses come from."""

    def pieces(self, category: str) -> np.ndarray:
        """Return [first sample, length] (n, 2) of pieces of at most 5 s."""

    def recordings(self, category: str) -> np.ndarray:
        """Return [first sample, length, channels] (n, 3); channels lie one after the other."""

    def read(self, first: int, length: int) -> np.ndarray:
        """Return int16 samples (length,)."""


@dataclass(frozen=True)
class AugmentSettings:
    """Which augmentations a phase uses.

    Args:
        set: Whose distortions, levels and shares: "lap", "wespeaker" or "mhfa".
        speed_perturb: Draw the speed from {1, 0.9, 1.1} and count each speed of a speaker as a
            class of its own; 60/20/20 %, in the set "wespeaker" a third each.
        noise_prob: Probability of a distortion of the set. The set "mhfa" counts clean speech as
            one of its six: 1.0 is as published.
        volume_prob: Probability of another volume.
        volume_db: Largest change of volume in dB, up or down.
        codec_prob: Probability of a telephone band: 8 kHz and 8-bit mu-law.
    """

    set: Literal["lap", "wespeaker", "mhfa"] = "lap"
    speed_perturb: bool = False
    noise_prob: float = 0.0
    volume_prob: float = 0.0
    volume_db: float = 10.0
    codec_prob: float = 0.0

    def __post_init__(self) -> None:
        if self.set not in SETS:
            raise ValueError(f"set must be one of {', '.join(SETS)}, got '{self.set}'")
        for name in ("noise_prob", "volume_prob", "codec_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.volume_db < 0:
            raise ValueError(f"volume_db must not be negative, got {self.volume_db}")

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories of the noise bank that are needed."""
        return SETS[self.set].categories if self.noise_prob > 0 else ()


def speed_index(draws: np.ndarray, name: str = "lap") -> np.ndarray:
    """Turn draws (B,) of column 0 into indices into SPEED_FACTORS, in the shares of a set."""
    bounds = np.cumsum(SETS[name].speed_shares)[:-1]
    return np.searchsorted(bounds, draws, side="right")


def change_speed_batch(buffer: Tensor, speeds: np.ndarray, samples: int) -> Tensor:
    """Play row i of (B, S_max) at SPEED_FACTORS[speeds[i]]; return crops (B, samples).

    Pitch and tempo both change. Row i must hold round(samples * factor) valid samples; what
    follows them is not used.
    """
    crops = buffer.new_empty(len(buffer), samples)
    held = min(samples, buffer.shape[1])  # less when every crop is slower
    crops[:, :held] = buffer[:, :held]
    for index, factor in enumerate(SPEED_FACTORS):
        if factor == 1.0:
            continue
        rows = torch.from_numpy(np.flatnonzero(speeds == index)).to(buffer.device)
        for chunk in rows.split(CHUNK) if len(rows) else ():
            valid = buffer[chunk, : round(samples * factor)]
            changed = resample_batch(valid, round(factor * SAMPLE_RATE), SAMPLE_RATE)
            crops.index_copy_(0, chunk, changed[:, :samples])
    return crops


class _Placed(NamedTuple):
    """Noises (n,): crop, first sample, samples held, place, length, and 10^(-SNR / 20)."""

    rows: np.ndarray
    first: np.ndarray
    held: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    levels: np.ndarray


class _Pool(NamedTuple):
    """Recordings of a mixture: [first sample, length] (n, 2) and SNR ranges (n, 2)."""

    pieces: np.ndarray
    snr: np.ndarray


class Augmenter:
    """Collects the noises of a batch; safe to send to loader processes.

    Args:
        settings: What to draw.
        source: Where noises come from; needed when ``noise_prob`` is positive.

    Raises:
        DataError: there is no source, or it lacks recordings of a category.
    """

    def __init__(self, settings: AugmentSettings, source: NoiseSource | None = None) -> None:
        self._settings = settings
        self._set = SETS[settings.set]
        self._source = source
        self._pools: dict[tuple[str, ...], _Pool] = {}
        self._responses: dict[str, np.ndarray] = {}
        if settings.noise_prob == 0:
            return
        if source is None:
            raise DataError("noise_prob is positive but there is no noise bank")
        for kind in self._set.kinds:
            for mixture in kind.mixtures:
                self._pools[mixture.categories] = self._pool(source, mixture.categories)
            if kind.response is not None:
                self._responses[kind.response] = source.recordings(kind.response)
                if not len(self._responses[kind.response]):
                    raise DataError(f"the noise bank holds no {kind.response}")

    def _pool(self, source: NoiseSource, categories: tuple[str, ...]) -> _Pool:
        pieces, ranges = [], []
        for name in categories:
            rows = source.pieces(name) if self._set.cut else source.recordings(name)
            if not len(rows):
                raise DataError(f"the noise bank holds no {name}")
            pieces.append(rows[:, :2])
            ranges.append(np.tile(self._set.snr[name], (len(rows), 1)))
        return _Pool(np.concatenate(pieces), np.concatenate(ranges))

    def augment(self, waves: Tensor, draws: np.ndarray) -> Tensor:
        """Gather for crops (B, S) in this process's memory and distort them where they lie."""
        for rows, part in zip(waves.split(_BLOCK), _split(draws), strict=True):
            apply_in_place(rows, self.gather(part, waves.shape[1]))
        return waves

    def gather(self, draws: np.ndarray, samples: int) -> Noises:
        """Collect what crops of ``samples`` samples get, from their draws (B, DRAWS)."""
        draws = np.asarray(draws, dtype=np.float64)
        chosen = np.flatnonzero(draws[:, _GATE] < self._settings.noise_prob)
        kinds = _pick(draws[chosen, _KIND], len(self._set.kinds))
        responses: list[Responses] = []
        placed: list[list[_Placed]] = [[], []]
        for number, kind in enumerate(self._set.kinds):
            rows = chosen[kinds == number]
            if not len(rows):
                continue
            if kind.response is not None:
                responses += self._read_responses(draws, rows, kind.response, samples)
            slot = 0
            for order, mixture in enumerate(kind.mixtures):
                placed[order].append(self._place(draws, rows, kind, mixture, slot, samples))
                slot += mixture.count[1]
        additive = [_concatenate(parts) for parts in placed if parts]
        volume = np.flatnonzero(draws[:, _VOLUME] < self._settings.volume_prob)
        decibels = self._settings.volume_db * (2 * draws[volume, _GAIN] - 1)
        return Noises(
            responses,
            [self._read_noises(part, samples) for part in additive],
            torch.from_numpy(chosen if self._set.normalise_peak else chosen[:0]),
            torch.from_numpy(volume),
            torch.from_numpy(np.power(10, decibels / 20, dtype=np.float32)),
            torch.from_numpy(np.flatnonzero(draws[:, _CODEC] < self._settings.codec_prob)),
        )

    def _place(
        self,
        draws: np.ndarray,
        rows: np.ndarray,
        kind: Kind,
        mixture: Mixture,
        slot: int,
        samples: int,
    ) -> _Placed:
        """Draw the recordings of a mixture for ``rows``, each with its level, part and place."""
        pool = self._pools[mixture.categories]
        low, high = mixture.count
        counts = low + _pick(draws[rows, _COUNT], high - low + 1)
        number, voice = np.nonzero(np.arange(high) < counts[:, np.newaxis])
        rows = rows[number]
        column = _FIRST_NOISE + _PER_NOISE * (slot + voice)
        which, level, share, part, place = (draws[rows, column + i] for i in range(_PER_NOISE))
        piece = _pick(which, len(pool.pieces))
        snr = _between(level, pool.snr[piece])
        spans = np.asarray(kind.spans)[_pick(draws[rows, _SPAN], len(kind.spans))]
        lengths = np.maximum((samples * _between(share, spans)).astype(np.int64), 1)
        first, available = pool.pieces[piece].T
        skipped = _pick(part, np.maximum(available - lengths, 0) + 1)
        starts = _pick(place, samples - lengths + 1)
        held = np.minimum(available, lengths)
        return _Placed(rows, first + skipped, held, starts, lengths, 10 ** (-snr / 20))

    def _read_noises(self, placed: _Placed, samples: int) -> Additive:
        assert self._source is not None
        content = np.zeros((len(placed.rows), samples), dtype=np.int16)
        for row, first, held, start, length in zip(
            content, *(column.tolist() for column in placed[1:5]), strict=True
        ):
            noise = self._source.read(first, held)
            # A recording shorter than its span is repeated.
            row[start : start + length] = noise if held == length else np.resize(noise, length)
        return Additive(
            torch.from_numpy(content),
            torch.from_numpy(placed.rows),
            torch.from_numpy(placed.lengths.astype(np.float32)),
            torch.from_numpy(placed.levels.astype(np.float32)),
        )

    def _read_responses(
        self, draws: np.ndarray, rows: np.ndarray, category: str, samples: int
    ) -> list[Responses]:
        """Read the responses of ``rows``, those of similar length in one block."""
        assert self._source is not None
        table = self._responses[category]
        first, lengths, channels = table[_pick(draws[rows, _RESPONSE], len(table))].T
        first = first + _pick(draws[rows, _CHANNEL], channels) * lengths
        sizes = -(-np.minimum(lengths, samples) // _RESPONSE_STEP) * _RESPONSE_STEP
        groups = []
        for size in np.unique(sizes):
            members = np.flatnonzero(sizes == size)
            content = np.zeros((len(members), min(size, samples)), dtype=np.int16)
            norms = np.empty(len(members), dtype=np.float32)
            for i, member in enumerate(members):
                response = self._source.read(int(first[member]), int(lengths[member]))
                norms[i] = np.linalg.norm(response.astype(np.float32))
                # What lies beyond the crop does not reach it, but counts in the norm.
                content[i, : len(response)] = response[:samples]
            parts = (content, rows[members], norms)
            groups.append(Responses(*map(torch.from_numpy, parts)))
        return groups


def _split(draws: np.ndarray) -> list[np.ndarray]:
    return [draws[first : first + _BLOCK] for first in range(0, max(len(draws), 1), _BLOCK)]


def _pick(draws: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """Turn draws in [0, 1) into integers below ``count``, equally likely."""
    return np.minimum((draws * count).astype(np.int64), np.asarray(count) - 1)


def _between(draws: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Turn draws in [0, 1) into numbers of the ranges (n, 2)."""
    return ranges[:, 0] + draws * (ranges[:, 1] - ranges[:, 0])


def _concatenate(parts: list[_Placed]) -> _Placed:
    return _Placed(*map(np.concatenate, zip(*parts, strict=True)))
