"""Augmentation of one crop written plainly from its description, in float64."""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve

FLOOR = 1e-4
SNR = {"noise": (0, 15), "music": (5, 15), "speech": (13, 20)}
WESPEAKER_SNR = {"noise": (0, 15), "music": (5, 15), "speech": (10, 30)}
SPANS = ((1, 1), (0.4, 0.6), (0.2, 0.4))
KINDS = {
    "lap": ("reverberation", "noise", "music", "babble", "television"),
    "wespeaker": ("reverberation", "any"),
    "mhfa": ("clean", "reverberation", "music", "babble", "noise", "babble+music"),
}
# What the columns of a row of draws decide; a noise has five columns of its own.
GATE, KIND, SPAN, COUNT, RESPONSE, CHANNEL = range(2, 8)
FIRST_NOISE, PER_NOISE = 16, 5


class Source:
    """Random recordings, some shorter and some longer than the crops of the tests."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.samples = rng.integers(-8000, 8000, 60000).astype(np.int16)
        self.samples[:2000] = 0  # one noise is silent
        self.tables = {
            "noise": np.array([[0, 1500, 1], [2000, 900, 1], [3000, 5000, 1]]),
            "music": np.array([[9000, 4000, 1], [13000, 333, 1]]),
            "speech": np.array([[14000 + 2000 * i, 700 * i + 100, 1] for i in range(6)]),
            "rir": np.array([[30000, 50, 1], [31000, 400, 3], [33000, 2500, 1], [36000, 4000, 2]]),
        }
        self.tables["simulated_rir"] = self.tables["rir"][[0, 3]]
        for first, length, channels in self.tables["rir"]:
            for channel in range(channels):
                decay = np.exp(-np.arange(length) / 60)
                part = slice(first + channel * length, first + (channel + 1) * length)
                self.samples[part] = np.round(self.samples[part] * decay)
                self.samples[part.start] = 9000

    def recordings(self, category):
        return self.tables[category]

    def pieces(self, category):
        """Pieces other than the recordings: the second half of each stands for itself, too."""
        whole = self.tables[category][:, :2]
        halves = np.stack([whole[:, 0] + whole[:, 1] // 2, whole[:, 1] - whole[:, 1] // 2], 1)
        return np.concatenate([whole, halves])

    def read(self, first, length):
        assert first >= 0 and length > 0 and first + length <= len(self.samples)
        return self.samples[first : first + length]


def index(draw, count):
    return int(draw * count)


def decibel(wave):
    return 10 * np.log10(np.mean(np.square(wave)) + FLOOR)


def add_one(total, reference, columns, source, categories, name, spans):
    """Add one recording to ``total``, at a level below ``reference``."""
    if name == "wespeaker":
        pool = [(c, *row[:2]) for c in categories for row in source.recordings(c)]
        ranges = WESPEAKER_SNR
    else:
        pool = [(c, *row) for c in categories for row in source.pieces(c)]
        ranges = SNR
    which, level, share, part, place = columns
    category, first, available = pool[index(which, len(pool))]
    low, high = ranges[category]
    snr = low + level * (high - low)
    length = max(int(len(total) * (spans[0] + share * (spans[1] - spans[0]))), 1)
    noise = source.read(first, available).astype(np.float64) / 32768
    if available > length:
        start = index(part, available - length + 1)
        noise = noise[start : start + length]
    else:
        noise = np.resize(noise, length)
    gain = np.sqrt(10 ** ((decibel(reference) - decibel(noise) - snr) / 10))
    start = index(place, len(total) - length + 1)
    total[start : start + length] += gain * noise


def add(wave, draws, source, categories, name, count, spans, slot=0):
    low, high = count
    total = wave.copy()
    for voice in range(low + index(draws[COUNT], high - low + 1)):
        column = FIRST_NOISE + PER_NOISE * (slot + voice)
        columns = draws[column : column + PER_NOISE]
        add_one(total, wave, columns, source, categories, name, spans)
    return total


def reverberate(wave, draws, source, category):
    table = source.recordings(category)
    first, length, channels = table[index(draws[RESPONSE], len(table))]
    first += index(draws[CHANNEL], channels) * length
    response = source.read(first, length).astype(np.float64)
    return fftconvolve(wave, response / np.sqrt(np.sum(response**2)))[: len(wave)]


def kind_of(draws, name, prob):
    if draws[GATE] >= prob:
        return None
    return KINDS[name][index(draws[KIND], len(KINDS[name]))]


def augment(wave, draws, source, name, prob):
    """Return what becomes of a crop (S,), in float64."""
    wave = wave.astype(np.float64)
    kind = kind_of(draws, name, prob)
    voices = (3, 8) if name == "mhfa" else (4, 7)
    spans = SPANS[index(draws[SPAN], 3)] if name == "lap" else (1, 1)
    if kind is None or kind == "clean":
        return wave
    if kind == "reverberation":
        category = "simulated_rir" if name == "mhfa" else "rir"
        wave = reverberate(wave, draws, source, category)
    elif kind in ("noise", "music"):
        wave = add(wave, draws, source, [kind], name, (1, 1), spans)
    elif kind == "babble":
        wave = add(wave, draws, source, ["speech"], name, voices, spans)
    elif kind in ("television", "babble+music"):
        wave = add(wave, draws, source, ["speech"], name, voices, (1, 1))
        wave = add(wave, draws, source, ["music"], name, (1, 1), (1, 1), slot=voices[1])
    else:
        wave = add(wave, draws, source, ["noise", "music", "speech"], name, (1, 1), (1, 1))
    if name == "wespeaker":
        wave = wave / (np.max(np.abs(wave)) + 1e-4)
    return wave
