"""Turn the plan into sound files; everything a sound needs is in its description."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import acoustics
import numpy as np
import soundfile
from espeak import SAMPLE_RATE, Synthesiser
from plan import Line
from scipy import signal

from wesp_lap.errors import WespError
from wesp_lap.seeding import generator

_FADE = acoustics.RATE // 50
_TRIES = 4


@dataclass(frozen=True)
class Sound:
    """A file to make.

    Attributes:
        path: Where it goes; the suffix says the format (flac or wav, 16 bit).
        kind: "speech", "noise", "tune" or "room".
        random: Key of the generator that draws the noise, the tune or the room.
        seconds: Shortest and longest duration.
        line: What is said, for speech.
        channel: Key of the session's channel, for speech; empty for a clean recording.
    """

    path: str
    kind: str
    random: tuple[int, ...]
    seconds: tuple[float, float]
    line: Line | None = None
    channel: tuple[int, ...] = ()


def render(sound: Sound, data_folder: Path) -> float:
    """Make the file of ``sound`` and return its duration in seconds."""
    random = generator(*sound.random)
    shortest, longest = sound.seconds
    if sound.kind == "speech":
        assert sound.line is not None
        wave = speak(Synthesiser(data_folder), sound.line, shortest, longest)
        if sound.channel:
            wave = acoustics.draw_channel(generator(*sound.channel)).apply(wave, random)
    elif sound.kind == "noise":
        wave = acoustics.draw_noise(random, random.uniform(shortest, longest))
    elif sound.kind == "tune":
        wave = acoustics.draw_music(random, random.uniform(shortest, longest))
    else:
        decay = random.uniform(shortest, longest)
        wave = acoustics.limit(acoustics.room_response(random, decay, random.uniform(0, 10)))
    Path(sound.path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(sound.path, wave, acoustics.RATE, subtype="PCM_16")
    return len(wave) / acoustics.RATE


def speak(synthesiser: Synthesiser, line: Line, shortest: float, longest: float) -> np.ndarray:
    """Return a spoken line (S,) at 16 kHz, without the silence at its ends.

    A line that is too short goes on with its spare sentence; one that is too long is faded out.
    """
    text = line.text
    for _ in range(_TRIES):
        raw = synthesiser.speak(
            text, line.voice, line.seed, line.rate, line.pitch, line.pitch_range
        )
        wave = signal.resample_poly(raw, 320, 441) if len(raw) else raw
        wave = acoustics.trim_silence(wave)
        if len(wave) >= shortest * acoustics.RATE:
            break
        text = f"{text}, and {line.spare}"
    else:
        raise WespError(f"espeak-ng says nothing when it should say: {text}")
    longest_samples = int(longest * acoustics.RATE)
    if len(wave) > longest_samples:
        wave = wave[:longest_samples].copy()
        wave[-_FADE:] *= np.linspace(1, 0, _FADE, dtype=np.float32)
    return acoustics.limit(wave)


assert acoustics.RATE * 441 == SAMPLE_RATE * 320
