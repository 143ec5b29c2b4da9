"""Speech for a miniature: the speakers, sessions and utterances of Kaldi data directories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from wesp_lap.audio.io import decode
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import PathLike
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.tables import read_table

Item = TypeVar("Item")
# Utterances that share a made-up session where the source names none.
_PER_SESSION = 3


@dataclass(frozen=True)
class LayoutOptions:
    """What a miniature is made of and how large it becomes.

    Attributes:
        data: Kaldi data directory, or for noises a folder of recordings; empty to make noises up.
        test_data: data directory of the test speakers; empty to take them from ``data``.
        trials: trial list on the utterances of the source, to be written with the new names.
        audio: form of VoxCeleb2's files, "m4a" as published (needs ffmpeg) or "wav".
        archives: pack what is published as archives, and leave nothing unpacked.
        skip: speakers of ``data`` to leave out first, for a second corpus from one source.
        speakers: at most so many speakers of ``data`` then; 0 for all.
        test_speakers: how many speakers are for testing; 0 for a quarter of them.
        utterances: at most so many per speaker, evenly over its sorted list; 0 for all. For noises
            that are made up, how many of each kind.
        enroll_utterances: CN-Celeb: utterances that make an enrolment model.
        num_trials: trials per list where they are drawn.
        seed: of what is drawn.
    """

    data: str = ""
    test_data: str = ""
    trials: str = ""
    audio: str = "m4a"
    archives: bool = False
    skip: int = 0
    speakers: int = 0
    test_speakers: int = 0
    utterances: int = 0
    enroll_utterances: int = 2
    num_trials: int = 1000
    seed: int = 7

    def __post_init__(self) -> None:
        counts = ("skip", "speakers", "test_speakers", "utterances", "seed")
        bad = [f"{name} {getattr(self, name)}" for name in counts if getattr(self, name) < 0]
        bad += [
            f"{name} {getattr(self, name)}"
            for name in ("enroll_utterances", "num_trials")
            if getattr(self, name) < 1
        ]
        if bad:
            raise ConfigError(f"counts must not be negative, and these not zero: {', '.join(bad)}")


@dataclass(frozen=True)
class Utterance:
    """An utterance of the source; equal sessions of a speaker were recorded together."""

    key: str
    speaker: str
    session: str
    data: DataDir

    def read(self, sample_rate: int = 16000) -> np.ndarray:
        """Return its samples (S,) at the wanted rate."""
        path = self.data.resolve(self.key, allow_pipe=True)
        if not self.data.segments:
            return at_rate(*decode(path), sample_rate)
        segment = self.data.segments[self.key]
        wave, rate = decode(path)
        return at_rate(wave[int(segment.start * rate) : int(segment.end * rate)], rate, sample_rate)


@dataclass(frozen=True)
class Speaker:
    """A speaker of the source; ``gender`` is "m", "f", or empty when it is not known."""

    name: str
    gender: str
    utterances: tuple[Utterance, ...]

    def sessions(self) -> list[list[Utterance]]:
        """Return the utterances by session, sessions and utterances in the order of their names."""
        found: dict[str, list[Utterance]] = {}
        for utterance in sorted(self.utterances, key=lambda one: (one.session, one.key)):
            found.setdefault(utterance.session, []).append(utterance)
        return list(found.values())


@dataclass(frozen=True)
class Parts:
    """Speakers for training and for testing."""

    dev: list[Speaker]
    test: list[Speaker]


def at_rate(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Resample samples (S,) or (S, channels) along the first axis."""
    if rate == wanted:
        return wave
    from scipy.signal import resample_poly

    divisor = math.gcd(rate, wanted)
    resampled = resample_poly(wave, wanted // divisor, rate // divisor)
    return np.clip(resampled, -1, 1).astype(np.float32)


def load_speakers(path: PathLike, utterances: int = 0) -> list[Speaker]:
    """Return the speakers of a data directory, sorted by name.

    Sessions come from ``utt2ses``. A speaker whose utterances all stand in one session, or in no
    known one, gets made-up sessions: at least two when it has two utterances.
    """
    data = DataDir.load(path)
    folder = Path(path)
    genders = _optional(folder / "spk2gender")
    sessions = _optional(folder / "utt2ses")
    speakers = []
    for name, keys in data.spk2utt.items():
        kept = _evenly(keys, utterances)
        named = _sessions(name, kept, [sessions.get(key, "") for key in kept])
        found = (Utterance(k, name, ses, data) for k, ses in zip(kept, named, strict=True))
        gender = genders.get(name, "").lower()
        speakers.append(Speaker(name, gender if gender in ("m", "f") else "", tuple(found)))
    return speakers


def split_speakers(
    layout: str, options: LayoutOptions, most: tuple[int, int], least: tuple[int, int], per: int = 1
) -> Parts:
    """Divide the speakers of the source into training and test.

    Test speakers are those of ``test_data``, those of ``trials``, or some of ``data``; where they
    are more than wanted, evenly over the sorted list. The others of ``data`` are for training, and
    so are those of ``test_data`` for which the published corpus has no room.

    Args:
        layout: name of the layout, for messages.
        options: what to take.
        most: how many speakers the published corpus has room for, (training, test).
        least: how many are needed, (training, test).
        per: utterances that a test speaker must have.

    Raises:
        DataError: too few speakers; the message says how many are needed.
    """
    if not options.data:
        raise ConfigError(f"the layout {layout} needs speech: give --data with a data directory")
    pool = load_speakers(options.data, options.utterances)[options.skip :]
    pool = pool[: options.speakers or None]
    if options.test_data:
        candidates = load_speakers(options.test_data, options.utterances)
        shared = {one.name for one in pool} & {one.name for one in candidates}
        if shared:
            raise DataError(
                f"{len(shared)} speakers are in {options.data} and in {options.test_data}: "
                f"{', '.join(sorted(shared)[:5])}; give directories without common speakers"
            )
    else:
        candidates = _tested(pool, options.trials)
    wanted = options.test_speakers or (
        len(candidates) if options.test_data or options.trials else max(least[1], len(pool) // 4)
    )
    able = [one for one in candidates if len(one.utterances) >= per]
    test = _evenly(able, min(wanted, most[1])) if most[1] else []
    names = {one.name for one in test}
    spare = [] if options.test_speakers else candidates
    everyone = {one.name: one for one in (*pool, *spare)}
    dev = [one for name, one in everyone.items() if name not in names][: most[0]]
    _check_counts(layout, options, dev, test, least, per)
    return Parts(dev, test)


def _tested(pool: list[Speaker], trials: str) -> list[Speaker]:
    if not trials:
        return pool
    from wesp_lap.kaldi.trials import read_trials

    pairs = read_trials(trials)
    used = {*pairs.enroll, *pairs.test}
    return [one for one in pool if any(utterance.key in used for utterance in one.utterances)]


def _check_counts(
    layout: str,
    options: LayoutOptions,
    dev: Sequence[Speaker],
    test: Sequence[Speaker],
    least: tuple[int, int],
    per: int,
) -> None:
    if len(dev) >= least[0] and len(test) >= least[1]:
        return
    several = f" with {per} utterances or more" if per > 1 else ""
    source = options.data + (f" and {options.test_data}" if options.test_data else "")
    raise DataError(
        f"{source}: too few speakers for the layout {layout}: it needs {sum(least)}, {least[0]} "
        f"for training and {least[1]} for testing{several}; there are {len(dev)} and {len(test)}"
    )


def _optional(path: Path) -> dict[str, str]:
    return read_table(path) if path.is_file() else {}


def _evenly(items: list[Item], most: int) -> list[Item]:
    if not most or len(items) <= most:
        return items
    return [items[index * len(items) // most] for index in range(most)]


def _sessions(speaker: str, keys: list[str], named: list[str]) -> list[str]:
    if len(set(named)) > 1:
        return named
    count = min(len(keys), max(2, math.ceil(len(keys) / _PER_SESSION)))
    return [f"{speaker}#{index * count // len(keys):03d}" for index in range(len(keys))]
