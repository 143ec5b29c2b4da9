"""Shards in WeSpeaker's layout, written with Python's tarfile alone."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile


def encoded(samples: int, number: int = 0, form: str = "WAV", rate: int = 16000) -> bytes:
    """Return noise as the bytes of an audio file."""
    rng = np.random.default_rng(number)
    wave = rng.integers(-3000, 3000, samples).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=form, subtype="VORBIS" if form == "OGG" else None)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], form: int | None = None) -> Path:
    """Write members as they come; the format is tarfile's own (PAX) unless given."""
    with tarfile.open(
        path, "w", format=form if form is not None else tarfile.DEFAULT_FORMAT
    ) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def members_of(utterances: dict[str, tuple[str, str, bytes]]) -> list[tuple[str, bytes]]:
    """Return the members of utterances, given as key: (speaker, suffix, audio)."""
    members = []
    for key, (speaker, suffix, audio) in utterances.items():
        members += [(f"{key}.spk", speaker.encode()), (f"{key}.{suffix}", audio)]
    return members


def write_list(path: Path, tars: Iterable[Path]) -> Path:
    """Write a shard list."""
    path.write_text("".join(f"{tar}\n" for tar in tars))
    return path
