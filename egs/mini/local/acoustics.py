"""Channels, rooms, noises and tones, all at 16 kHz and all from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, signal

RATE = 16000


def trim_silence(wave: np.ndarray, floor_db: float = -40.0, keep: float = 0.05) -> np.ndarray:
    """Cut what lies more than ``keep`` seconds outside the frames above ``floor_db`` of the peak.

    ``wave`` is (S,); silence alone comes back unchanged.
    """
    frame = RATE // 100
    frames = wave[: len(wave) // frame * frame].reshape(-1, frame)
    energy = np.square(frames).mean(axis=1) if len(frames) else np.zeros(0)
    loud = np.flatnonzero(energy > energy.max(initial=0.0) * 10 ** (floor_db / 10))
    if not len(loud):
        return wave
    margin = round(keep * RATE)
    return wave[max(loud[0] * frame - margin, 0) : (loud[-1] + 1) * frame + margin]


def coloured_noise(length: int, slope: float, random: np.random.Generator) -> np.ndarray:
    """Draw noise (length,) of unit power whose spectrum falls with frequency to the ``slope``.

    Slope 0 is white, 1 pink and 2 brown; it is flat below 50 Hz.
    """
    size = fft.next_fast_len(length, real=True)
    spectrum = fft.rfft(random.standard_normal(size))
    frequency = np.maximum(fft.rfftfreq(size, 1 / RATE), 50.0)
    noise = fft.irfft(spectrum * frequency ** (-slope / 2), size)[:length]
    return noise / np.sqrt(np.mean(np.square(noise)))


def room_response(
    random: np.random.Generator, decay: float, direct_db: float, num_early: int = 6
) -> np.ndarray:
    """Draw a room impulse response whose direct sound comes first.

    Args:
        random: Source of the draws.
        decay: Reverberation time (60 dB) in seconds.
        direct_db: Level of the direct sound over everything that follows it.
        num_early: Number of distinct early reflections within 40 ms.
    """
    length = int(max(decay, 0.06) * RATE)
    time = np.arange(length) / RATE
    tail = random.standard_normal(length) * 10 ** (-3 * time / decay)
    tail[: RATE // 200] = 0.0
    early = random.integers(RATE // 500, RATE // 25, num_early)
    strength = random.choice([-1, 1], num_early) * random.uniform(2, 6, num_early)
    tail[early] += strength * 10 ** (-3 * early / RATE / decay)
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(np.square(tail)))
    tail[0] = 1.0
    return tail


@dataclass(frozen=True)
class Channel:
    """What stands between a mouth and a file in one session.

    Attributes:
        equaliser: Impulse response of microphone and line.
        room: Room impulse response.
        noise_slope: Colour of the background noise, see coloured_noise.
        snr: Signal-to-noise ratio in dB.
        level: Speech level in dB below full scale.
    """

    equaliser: np.ndarray
    room: np.ndarray
    noise_slope: float
    snr: float
    level: float

    def apply(self, wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return ``wave`` (S,) as it is recorded, (S,) as well; ``random`` draws the noise."""
        heard = signal.fftconvolve(wave, self.room)[: len(wave)]
        speech_power = np.mean(np.square(heard))
        noise = coloured_noise(len(heard), self.noise_slope, random)
        heard = heard + noise * np.sqrt(speech_power * 10 ** (-self.snr / 10))
        recorded = signal.fftconvolve(heard, self.equaliser, mode="same")
        gain = 10 ** (-self.level / 20) / np.sqrt(np.mean(np.square(recorded)))
        return limit(recorded * gain)


def draw_channel(random: np.random.Generator) -> Channel:
    """Draw the channel of one session."""
    return Channel(
        equaliser=_draw_equaliser(random),
        room=room_response(random, random.uniform(0.1, 0.3), random.uniform(5, 18)),
        noise_slope=random.uniform(0.7, 2),
        snr=random.uniform(10, 30),
        level=random.uniform(20, 30),
    )


def _draw_equaliser(random: np.random.Generator) -> np.ndarray:
    """Draw a linear-phase filter: a gentle curve between a low and a high band limit."""
    frequency = np.linspace(0, RATE / 2, 129)
    knots = np.geomspace(60, RATE / 2, 8)
    curve = np.interp(frequency, knots, np.clip(random.normal(0, 1.5, len(knots)), -5, 5))
    low, high = random.uniform(40, 160), random.uniform(5000, 9000)
    curve -= 12 * np.maximum(0.0, np.log2(low / np.maximum(frequency, 1.0)))
    curve -= 24 * np.maximum(0.0, np.log2(np.maximum(frequency, 1.0) / high))
    return signal.firwin2(257, frequency, 10 ** (np.maximum(curve, -60) / 20), fs=RATE)


def limit(wave: np.ndarray, peak: float = 0.95) -> np.ndarray:
    """Return ``wave`` as float32, turned down when it exceeds ``peak``."""
    return (wave * min(1.0, peak / max(np.abs(wave).max(), 1e-9))).astype(np.float32)


def draw_noise(random: np.random.Generator, seconds: float) -> np.ndarray:
    """Draw a noise: a coloured hiss, steady, swelling or in bursts, perhaps with a hum."""
    length = int(seconds * RATE)
    time = np.arange(length) / RATE
    wave = coloured_noise(length, random.uniform(0, 2), random)
    kind = random.integers(3)
    if kind == 1:  # swells, as wind and traffic do
        wave *= 1 + 0.9 * np.sin(2 * np.pi * random.uniform(0.1, 1.5) * time + random.uniform(0, 6))
    elif kind == 2:  # bursts, as steps and tools make
        starts = random.uniform(0, seconds, max(2, int(seconds * random.uniform(0.5, 3))))
        age = np.min(np.where(time < starts[:, None], np.inf, time - starts[:, None]), axis=0)
        wave *= 0.05 + np.exp(-age / random.uniform(0.03, 0.3))
    if random.random() < 0.4:
        hertz = random.uniform(50, 400)
        wave += sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 6))
    return limit(wave * random.uniform(0.1, 0.3))


def draw_music(random: np.random.Generator, seconds: float) -> np.ndarray:
    """Draw a tune: struck chords and single notes of one pentatonic scale over a steady beat."""
    length = int(seconds * RATE)
    wave = np.zeros(length)
    root = 110 * 2 ** (random.integers(12) / 12)
    beat = int(RATE * random.uniform(0.2, 0.5))
    brightness = random.uniform(0.4, 0.8)
    scale = np.array([0, 2, 4, 7, 9, 12, 14, 16, 19, 21])
    for start in range(0, length, beat):
        time = np.arange(min(4 * beat, length - start)) / RATE
        envelope = np.minimum(time / 0.01, 1) * np.exp(-3 * time)
        for step in random.choice(scale, random.choice([1, 1, 2, 3]), replace=False):
            hertz = root * 2 ** (step / 12)
            partials = np.arange(1, 9)[hertz * np.arange(1, 9) < RATE / 2]
            tones = np.sin(2 * np.pi * hertz * partials[:, None] * time)
            wave[start : start + len(time)] += envelope * (brightness**partials @ tones)
    return limit(0.2 * wave)
