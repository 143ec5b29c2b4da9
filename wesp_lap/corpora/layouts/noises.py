"""MUSAN and RIRS_NOISES as OpenSLR publishes them, from recordings or made up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from wesp_lap.corpora.layouts.source import LayoutOptions, at_rate
from wesp_lap.corpora.layouts.writer import Writer
from wesp_lap.corpora.scan import audio_files
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.seeding import generator

_RATE = 16000
_FOLDERS = {
    "noise": ("free-sound", "sound-bible"),
    "music": ("fma", "jamendo", "rfm"),
    "speech": ("librivox", "us-gov"),
}
_ROOMS = {"smallroom": 0.25, "mediumroom": 0.5, "largeroom": 0.9}  # reverberation times, seconds
_ROOM_FILE = re.compile(r"(smallroom|mediumroom|largeroom)/Room(\d+)/Room\d+-(\d+)\.wav$")
_MADE_UP = 6  # noises of each kind
_NOISE_SECONDS = 6
_SUFFIXES = (".wav", ".flac")
_REAL_CHANNELS = 8  # of the measured responses of the REVERB challenge


def musan(writer: Writer, options: LayoutOptions) -> None:
    """Write noise/free-sound, noise/sound-bible, music/... and speech/..., with ANNOTATIONS.

    ``options.data`` is a folder with noise/, music/ and speech/; noises are made up without.
    """
    names: dict[str, list[str]] = {}
    for kind, folders in _FOLDERS.items():
        for number, (wave, rate) in enumerate(_noises(kind, options)):
            folder = folders[number % len(folders)]
            listed = names.setdefault(f"musan/{kind}/{folder}", [])
            listed.append(f"{kind}-{folder}-{len(listed):04d}")
            path = f"musan/{kind}/{folder}/{listed[-1]}.wav"
            writer.audio(path, at_rate(wave, rate, _RATE), _RATE, "", [])
    for folder, listed in names.items():
        writer.text(f"{folder}/ANNOTATIONS", listed)
        writer.text(f"{folder}/LICENSE", ["A miniature; the licences are those of its source."])
    writer.text("musan/README", ["A miniature in the layout of MUSAN."])


def rirs(writer: Writer, options: LayoutOptions) -> None:
    """Write RIRS_NOISES: simulated_rirs/ROOM/RoomNNN, real_rirs_isotropic_noises, the lists.

    ``options.data`` is a folder with ROOM/RoomNNN/RoomNNN-NNNNN.wav anywhere below it; all its
    other files count as measured responses. Responses are made up without it. As published, the
    measured ones have several channels, and a noise that is no response lies beside them.
    """
    found = list(_given_responses(options.data) if options.data else _made_up_responses(options))
    lists: dict[str, list[str]] = {}
    for path, wave, rate in found:
        name = f"RIRS_NOISES/{path}"
        writer.audio(name, at_rate(wave, rate, _RATE), _RATE, "", [])
        folder = path.rsplit("/", 1)[0]
        room = _ROOM_FILE.search(path)
        if room is None:
            number = len(lists.setdefault(folder, [])) + 1
            lists[folder].append(f"--rir-id {number:05d} --room-id r{number:03d} {name}")
        else:
            one = f"{room[1]}-Room{room[2]}"
            lines = lists.setdefault(folder.rsplit("/", 1)[0], [])
            lines.append(f"--rir-id {one}-{room[3]} --room-id {one} {name}")
    for folder, lines in lists.items():
        writer.text(f"RIRS_NOISES/{folder}/rir_list", lines)
        if "simulated" in folder:
            rooms = sorted({line.split()[3] for line in lines})
            writer.text(f"RIRS_NOISES/{folder}/room_info", (f"{room} unknown" for room in rooms))
    folder = "RIRS_NOISES/real_rirs_isotropic_noises"
    noise = f"{folder}/RVB2014_type1_noise_largeroom1_1.wav"
    writer.audio(noise, _noise(generator(options.seed), "noise"), _RATE, "", [])
    line = f"--noise-id {Path(noise).stem} --noise-type isotropic {noise}"
    writer.text(f"{folder}/noise_list", [line])


def _noises(kind: str, options: LayoutOptions) -> Iterator[tuple[np.ndarray, int]]:
    if not options.data:
        count = options.utterances or _MADE_UP
        for number in range(count):
            rng = generator(options.seed, list(_FOLDERS).index(kind), number)
            yield _noise(rng, kind), _RATE
        return
    source = Path(options.data)
    folders = [source / name for name in _FOLDERS]
    missing = [f"{folder}: no such folder" for folder in folders if not folder.is_dir()]
    raise_problems("no noises to lay out", missing, "Give a folder laid out as MUSAN, or none.")
    files = audio_files(source / kind, suffixes=_SUFFIXES)
    if not files:
        raise DataError(f"{source / kind}: no .wav or .flac files")
    for path in files[: options.utterances or None]:
        yield _read(path)


def _noise(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Make up a few seconds: coloured noise, decaying tones, or syllables of a buzz."""
    time = np.arange(_NOISE_SECONDS * _RATE) / _RATE
    if kind == "noise":
        spectrum = np.fft.rfft(rng.standard_normal(len(time)))
        tilt = np.maximum(np.fft.rfftfreq(len(time), 1 / _RATE), 20) ** -rng.uniform(0, 1)
        wave = np.fft.irfft(spectrum * tilt, len(time))
    elif kind == "music":
        wave = np.zeros_like(time)
        for start in np.arange(0, _NOISE_SECONDS, 0.5):
            hertz = 220 * 2 ** (rng.integers(0, 24) / 12)
            since = np.maximum(time - start, 0)
            wave += (time >= start) * np.sin(2 * np.pi * hertz * since) * np.exp(-4 * since)
    else:
        pitch = rng.uniform(90, 250)
        buzz = [np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 20)]
        wave = np.sum(buzz, axis=0) * np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * time), 0, 1)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def _given_responses(folder: str) -> Iterator[tuple[str, np.ndarray, int]]:
    files = audio_files(folder, suffixes=_SUFFIXES)
    if not files:
        raise DataError(f"{folder}: no .wav or .flac files; give room responses, or no folder")
    stems: dict[str, int] = {}
    for path in files:
        room = _ROOM_FILE.search(path.as_posix())
        if room is None:
            stems[path.stem] = stems.get(path.stem, 0) + 1
            again = f"_{stems[path.stem]}" if stems[path.stem] > 1 else ""
            name = f"real_rirs_isotropic_noises/{path.stem}{again}.wav"
        else:
            name = f"simulated_rirs/{room[1]}/Room{room[2]}/Room{room[2]}-{room[3]}.wav"
        yield (name, *_read(path))


def _made_up_responses(options: LayoutOptions) -> Iterator[tuple[str, np.ndarray, int]]:
    for place, (size, seconds) in enumerate(_ROOMS.items()):
        for room in (1, 2):
            for number in (1, 2, 3):
                name = f"simulated_rirs/{size}/Room{room:03d}/Room{room:03d}-{number:05d}.wav"
                rng = generator(options.seed, place, room, number)
                yield name, _response(rng, seconds), _RATE
        name = f"real_rirs_isotropic_noises/RVB2014_type1_rir_{size}1_near_angla.wav"
        rng = generator(options.seed, place, 0)
        channels = [_response(rng, seconds) for _ in range(_REAL_CHANNELS)]
        yield name, np.stack(channels, axis=1), _RATE


def _response(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make up a response: the direct sound and a tail that falls by 60 dB in ``seconds``."""
    time = np.arange(int(seconds * _RATE)) / _RATE
    wave = 0.1 * rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    wave[:20] *= 0.01
    wave[20] = 0.9
    return np.clip(wave, -1, 1).astype(np.float32)


def _read(path: Path) -> tuple[np.ndarray, int]:
    try:
        wave, rate = soundfile.read(path, dtype="float32")
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"{path}: cannot be read as audio: {error}") from error
    return wave, int(rate)
