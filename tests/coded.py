"""Audio files that only ffmpeg reads, for tests that have an ffmpeg."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wesp_lap.audio.ffmpeg import find_ffmpeg


def ffmpeg_or_skip() -> str:
    """Return the ffmpeg that wesp_lap runs; the test is skipped where there is none."""
    program = find_ffmpeg()
    if program is None:
        pytest.skip("no ffmpeg: pip install imageio-ffmpeg")
    return program


def tone(number: int, seconds: float, rate: int = 16000) -> np.ndarray:
    """Return harmonics (S,) of a gliding pitch, which coding changes little."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (150 + 20 * number) * (time + 0.02 * np.sin(5 * time))
    wave = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 9))
    return (0.2 * wave).astype(np.float32)


def write_coded(path: Path, wave: np.ndarray, rate: int = 16000, words: str = "") -> Path:
    """Encode samples (S,) or (S, C) with ffmpeg; ``words`` are further options for the output."""
    source = path.with_name(f"{path.name}.source.wav")
    soundfile.write(source, wave, rate, subtype="PCM_16")
    command = [ffmpeg_or_skip(), "-nostdin", "-v", "error", "-y", "-i", str(source)]
    subprocess.run([*command, *words.split(), str(path)], check=True)
    source.unlink()
    return path


def write_program(path: Path, script: str) -> Path:
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def write_wrapper(path: Path, several: str = "", always: str = "") -> Path:
    """Write a program that runs ``always``, for many files ``several``, and then ffmpeg."""
    script = f'{always}\ncase "$*" in *" -i "*" -i "*) :; {several} ;; esac\n'
    return write_program(path, f'{script}exec {ffmpeg_or_skip()} "$@"')
