"""The espeak-ng synthesiser, called in its shared library so that nothing has to be installed.

The package espeakng-loader brings the library and its data. Every utterance is made by a freshly
loaded library: the engine keeps phases, random numbers and intonation from one utterance to the
next, so that otherwise the sound would depend on what was said before.
"""

from __future__ import annotations

import _ctypes
import ctypes
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import numpy as np

from wesp_lap.errors import WespError

SAMPLE_RATE = 22050

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, no sound card
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: report a bad data path, do not end the process
_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_PATH_LIMIT = 140  # the engine keeps the path of its data in a short fixed buffer
_HELP = "give your own speech with --train, --eval and --trials instead"

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def locate() -> tuple[Path, Path]:
    """Return the paths of the shared library and of its data folder.

    Raises:
        WespError: the package is not installed, or has no library for this platform.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise WespError(
            f"the speech synthesiser is missing: pip install espeakng-loader==0.2.4, or {_HELP}"
        ) from error
    library, data = Path(espeakng_loader.get_library_path()), espeakng_loader.get_data_path()
    try:
        _ctypes.dlclose(ctypes.CDLL(str(library))._handle)
    except OSError as error:
        raise WespError(
            f"espeakng-loader has no library that loads here ({error}): {_HELP}"
        ) from error
    return library, Path(data)


def version() -> str:
    """Return the version of the synthesiser's package."""
    return metadata.version("espeakng-loader")


def make_data_folder(parent: Path, variants: Mapping[str, str]) -> Path:
    """Make a data folder in ``parent`` whose voice variants are ``variants`` (name to text).

    Everything else is a link to the installed data.
    """
    _, installed = locate()
    folder = parent / "espeak-ng-data"
    if len(str(folder)) > _PATH_LIMIT:
        raise WespError(f"{folder}: too long a path for espeak-ng; set TMPDIR to a shorter one")
    voices = folder / "voices" / "!v"
    voices.mkdir(parents=True)
    for entry in installed.iterdir():
        if entry.name != "voices":
            (folder / entry.name).symlink_to(entry)
    for name, text in variants.items():
        (voices / name).write_text(text, encoding="utf-8")
    return folder


class Synthesiser:
    """Speaks with the voices of one data folder."""

    def __init__(self, data_folder: Path) -> None:
        self._library_path, _ = locate()
        self._data_folder = data_folder

    def speak(
        self, text: str, voice: str, seed: int, rate: int, pitch: int, pitch_range: int
    ) -> np.ndarray:
        """Return ``text`` spoken by ``voice`` as float32 samples (S,) at SAMPLE_RATE.

        Args:
            text: Words and punctuation.
            voice: LANGUAGE+VARIANT.
            seed: Seed of the engine's own random numbers.
            rate: Words per minute.
            pitch: 0 to 100; 50 leaves the voice as it is.
            pitch_range: 0 (monotone) to 100; 50 leaves the voice as it is.
        """
        library = ctypes.CDLL(str(self._library_path))
        blocks: list[bytes] = []

        @_Callback
        def collect(samples: ctypes._Pointer, count: int, _events: int) -> int:
            if samples and count > 0:
                blocks.append(ctypes.string_at(samples, 2 * count))
            return 0

        try:
            path = str(self._data_folder).encode()
            if library.espeak_Initialize(_SYNCHRONOUS, 0, path, _DONT_EXIT) != SAMPLE_RATE:
                raise WespError(f"{self._data_folder}: espeak-ng cannot use this data folder")
            library.espeak_SetSynthCallback(collect)
            library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise WespError(f"espeak-ng does not know the voice {voice}")
            # Half the usual volume: loud formants would be clipped.
            settings = {_RATE: rate, _VOLUME: 50, _PITCH: pitch, _RANGE: pitch_range}
            for parameter, value in settings.items():
                library.espeak_SetParameter(parameter, value, 0)
            words = text.encode()
            library.espeak_Synth(words, len(words) + 1, 0, 1, 0, _UTF8, None, None)
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)
        return np.frombuffer(b"".join(blocks), np.int16).astype(np.float32) / 32768
