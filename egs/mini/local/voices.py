"""Synthetic speakers: random espeak-ng voice variants with an accent and a way of speaking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbcwmd", "en-029")


@dataclass(frozen=True)
class Voice:
    """A speaker.

    Attributes:
        name: Speaker id; also the name of the variant file.
        gender: "m" or "f".
        accent: espeak-ng language code.
        rate: Words per minute.
        variant: Text of the variant file.
    """

    name: str
    gender: str
    accent: str
    rate: float
    variant: str

    @property
    def espeak_name(self) -> str:
        """Return the name by which espeak-ng selects the voice."""
        return f"{self.accent}+{self.name}"


def draw_voice(name: str, gender: str, random: np.random.Generator) -> Voice:
    """Draw a speaker: pitch, vocal tract, voice quality, accent and rate."""
    low = random.normal(92, 12) if gender == "m" else random.normal(165, 18)
    high = low * random.uniform(1.25, 1.6)
    lines = [
        "language variant",
        f"name {name}",
        f"gender {'male' if gender == 'm' else 'female'}",
        f"pitch {low:.0f} {high:.0f}",
        f"flutter {random.integers(0, 12)}",
        f"roughness {random.integers(0, 5)}",
        f"voicing {random.uniform(75, 130):.0f}",
        f"consonants {random.uniform(60, 130):.0f} {random.uniform(70, 120):.0f}",
        *_formants(gender, random),
        _tone(random),
        _breath(gender, random),
        "",
    ]
    accent = str(random.choice(ACCENTS))
    return Voice(name, gender, accent, float(random.uniform(150, 200)), "\n".join(lines))


def _formants(gender: str, random: np.random.Generator) -> list[str]:
    """Scale the formants: one factor for the length of the vocal tract, and some more for each."""
    tract = random.normal(99 if gender == "m" else 112, 5)
    lines = []
    for formant in range(7):
        frequency = tract + random.normal(0, 4)
        height = random.uniform(65, 120)
        width = random.uniform(75, 160)
        lines.append(f"formant {formant} {frequency:.0f} {height:.0f} {width:.0f}")
    return lines


def _tone(random: np.random.Generator) -> str:
    """Draw the slope of the glottal spectrum: amplitudes at four frequencies."""
    levels = 150 * 0.85 ** np.arange(4) + random.normal(0, 28, 4)
    points = zip((600, 1200, 2000, 3000), levels, strict=True)
    return "tone " + " ".join(f"{hertz} {max(level, 20):.0f}" for hertz, level in points)


def _breath(gender: str, random: np.random.Generator) -> str:
    """Draw how much breath is heard in each formant; most voices have little."""
    most = random.choice([0, 2, 4]) if gender == "m" else random.choice([0, 3, 6])
    return "breath " + " ".join(str(level) for level in random.integers(0, most + 1, 8))
