"""Make a small synthetic speaker corpus: speech, trials, noises and room responses.

The speakers are random voices of the espeak-ng synthesiser. The corpus shows that every step of
the toolkit works, anywhere and without a download; its scores say nothing about real speech.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import espeak
from plan import (
    LINE,
    NOISE,
    ROOM,
    TRIALS,
    TUNE,
    Utterance,
    draw_trials,
    draw_utterances,
    draw_voices,
)
from render import Sound, render
from voices import Voice

from wesp_lap.cli import run_command
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import Stamp
from wesp_lap.kaldi.tables import invert, write_table
from wesp_lap.kaldi.trials import write_trials
from wesp_lap.log import get_logger, progress
from wesp_lap.seeding import generator

_HERE = Path(__file__).parent
_PARTS = ("train", "eval", "musan", "rirs")
_GROUPS = {"train": 0, "eval": 1, "talkers": 2}
_ROOMS = {"smallroom": (0.1, 0.3), "mediumroom": (0.25, 0.6), "largeroom": (0.5, 1.0)}


@dataclass(frozen=True)
class _Corpus:
    """All that is to be made."""

    utterances: dict[str, list[Utterance]]
    voices: list[Voice]
    sounds: list[Sound]
    rir_list: list[str]


def make_corpus(
    out: str,
    seed: int = 7,
    nj: int | None = None,
    num_train_speakers: int = 64,
    num_train_sessions: int = 4,
    num_train_utterances: int = 4,
    num_eval_speakers: int = 20,
    num_eval_sessions: int = 3,
    num_eval_utterances: int = 4,
    num_noises: int = 24,
    num_tunes: int = 8,
    num_talkers: int = 12,
    num_rooms: int = 8,
) -> None:
    """Make a synthetic speaker corpus; done at once when it is there already.

    Writes the Kaldi data directories OUT/train and OUT/eval, OUT/eval/trials and
    OUT/eval/trials_hard (same gender), noises in MUSAN's layout in OUT/musan and room responses
    in the layout of RIRS_NOISES in OUT/rirs. Equal options give equal files, for any --nj.

    Args:
        out: Folder for the corpus.
        seed: Seed of everything.
        nj: Number of processes; by default one for each core.
        num_train_speakers: Training speakers.
        num_train_sessions: Sessions of each training speaker, each with its own channel.
        num_train_utterances: Utterances in each training session.
        num_eval_speakers: Evaluation speakers.
        num_eval_sessions: Sessions of each evaluation speaker.
        num_eval_utterances: Utterances in each evaluation session.
        num_noises: Noise recordings.
        num_tunes: Music recordings.
        num_talkers: Speech recordings of further voices, for babble.
        num_rooms: Rooms of each of three sizes, with three responses each.
    """
    options = {key: value for key, value in locals().items() if key not in ("out", "nj")}
    _check(options)
    folder = Path(out)
    code = sorted(_HERE.glob("*.py"))
    stamp = Stamp(folder / "corpus.json", {**options, "espeak": _espeak_version()}, code)
    if stamp.is_fresh():
        get_logger().info("%s is complete: nothing to do", folder)
        return
    _clear(folder)
    corpus = _plan(folder, options)
    seconds = _render_all(corpus, nj or _count_cores())
    outputs = [Path(sound.path) for sound in corpus.sounds]
    for name, utterances in corpus.utterances.items():
        outputs += _write_data_dir(folder / name, utterances, seconds)
    for number, name in enumerate(("trials", "trials_hard")):
        trials = draw_trials(
            corpus.utterances["eval"], generator(seed, TRIALS, number), name == "trials_hard"
        )
        write_trials(folder / "eval" / name, trials)
        outputs.append(folder / "eval" / name)
    rir_list = folder / "rirs" / "rir_list"
    rir_list.write_text("".join(corpus.rir_list), encoding="utf-8")
    stamp.write([*outputs, rir_list])
    total = sum(seconds[sound.path] for sound in corpus.sounds if sound.channel)
    get_logger().info("%s: %.2f hours of speech", folder, total / 3600)


def _espeak_version() -> str:
    espeak.locate()
    return espeak.version()


def _count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS; honours the limits of containers
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(options: dict[str, int]) -> None:
    least = {"num_eval_speakers": 4, "num_eval_sessions": 2, "num_train_speakers": 2, "seed": 0}
    for name, value in options.items():
        if value < least.get(name, 1):
            raise ConfigError(f"--{name} must be {least.get(name, 1)} or more, not {value}")


def _clear(folder: Path) -> None:
    """Remove an earlier corpus, and nothing that this command has not made."""
    mark = folder / ".synthetic_corpus"
    taken = [name for name in _PARTS if (folder / name).exists()]
    if taken and not mark.exists():
        raise DataError(
            f"{folder / taken[0]} exists and is no synthetic corpus: choose another --out"
        )
    for name in taken:
        shutil.rmtree(folder / name)
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _plan(folder: Path, options: dict[str, int]) -> _Corpus:
    seed = options["seed"]
    utterances, voices, sounds = {}, [], []
    for name, prefix in (("train", "tr"), ("eval", "ev")):
        speakers = draw_voices(seed, _GROUPS[name], prefix, options[f"num_{name}_speakers"])
        sizes = options[f"num_{name}_sessions"], options[f"num_{name}_utterances"]
        utterances[name] = list(draw_utterances(seed, _GROUPS[name], speakers, *sizes))
        voices += speakers
        sounds += [_utterance_sound(folder / name, one) for one in utterances[name]]
    talkers = draw_voices(seed, _GROUPS["talkers"], "bg", options["num_talkers"])
    lines = draw_utterances(seed, _GROUPS["talkers"], talkers, 1, 1)
    musan = folder / "musan"
    for number, one in enumerate(lines):
        path = _musan_path(musan, "speech", number)
        sounds.append(Sound(path, "speech", (seed, LINE, number), (6.0, 10.0), one.line))
    for kind, code, label in (("noise", NOISE, "noise"), ("tune", TUNE, "music")):
        for number in range(options[f"num_{kind}s"]):
            path = _musan_path(musan, label, number)
            sounds.append(Sound(path, kind, (seed, code, number), (5.0, 10.0)))
    rooms = list(_rooms(folder / "rirs", seed, options["num_rooms"]))
    rir_list = [line for _, line in rooms]
    return _Corpus(utterances, voices + talkers, sounds + [sound for sound, _ in rooms], rir_list)


def _utterance_sound(folder: Path, one: Utterance) -> Sound:
    path = folder / _relative_path(one)
    return Sound(
        str(path), "speech", (one.line.seed, *one.channel), (2.5, 6.0), one.line, one.channel
    )


def _relative_path(one: Utterance) -> str:
    return f"wav/{one.speaker}/{one.session}/{one.key}.flac"


def _musan_path(musan: Path, label: str, number: int) -> str:
    return str(musan / label / "synthetic" / f"{label}-synthetic-{number:04d}.flac")


def _rooms(rirs: Path, seed: int, count: int) -> Iterator[tuple[Sound, str]]:
    for size, (label, decay) in enumerate(_ROOMS.items()):
        for room in range(1, count + 1):
            for number in range(1, 4):
                name = f"Room{room:03d}"
                path = f"simulated_rirs/{label}/{name}/{name}-{number:05d}.wav"
                ids = f"--rir-id {label}-{name}-{number:05d} --room-id {label}-{name}"
                key = (seed, ROOM, size, room, number)
                yield Sound(str(rirs / path), "room", key, decay), f"{ids} {path}\n"


def _render_all(corpus: _Corpus, nj: int) -> dict[str, float]:
    """Make all sounds in ``nj`` processes; return path to seconds."""
    with tempfile.TemporaryDirectory(prefix="espeak-") as parent:
        variants = {voice.name: voice.variant for voice in corpus.voices}
        work = functools.partial(
            _render_one, data_folder=espeak.make_data_folder(Path(parent), variants)
        )
        if nj == 1:
            return dict(_watch(map(work, corpus.sounds), len(corpus.sounds)))
        context = multiprocessing.get_context("spawn")
        with context.Pool(nj, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
            done = pool.imap_unordered(work, corpus.sounds, chunksize=8)
            return dict(_watch(done, len(corpus.sounds)))


def _watch(done: Iterable[tuple[str, float]], total: int) -> Iterator[tuple[str, float]]:
    return progress(done, "synthetic corpus", total, unit="file")


def _render_one(sound: Sound, data_folder: Path) -> tuple[str, float]:
    return sound.path, render(sound, data_folder)


def _write_data_dir(
    folder: Path, utterances: list[Utterance], seconds: dict[str, float]
) -> list[Path]:
    """Write the tables of a data directory and return their paths."""
    path = {one.key: _relative_path(one) for one in utterances}
    utt2spk = {one.key: one.speaker for one in utterances}
    tables = {
        "wav.scp": path,
        "utt2spk": utt2spk,
        "spk2utt": {speaker: " ".join(keys) for speaker, keys in invert(utt2spk).items()},
        "utt2dur": {key: f"{seconds[str(folder / name)]:.3f}" for key, name in path.items()},
        "utt2ses": {one.key: one.session for one in utterances},
        "spk2gender": {one.speaker: one.gender for one in utterances},
    }
    for name, table in tables.items():
        write_table(folder / name, table)
    return [folder / name for name in tables]


if __name__ == "__main__":
    run_command(make_corpus)
