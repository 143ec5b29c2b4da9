"""Where the speech in a waveform is: by energy, or by the package silero-vad.

Pieces are (start, stop) pairs of samples, sorted and apart from each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wesp_lap.errors import ConfigError

Pieces = list[tuple[int, int]]

# Kaldi's compute-vad with the settings of its VoxCeleb recipe: a frame is loud when its log
# energy, of samples as 16-bit integers, exceeds 5.5 plus half of the utterance's mean, and it is
# speech when at least 12 % of the five frames around it are loud.
FRAME_SECONDS = 0.025
SHIFT_SECONDS = 0.010
ENERGY_THRESHOLD = 5.5
ENERGY_MEAN_SCALE = 0.5
CONTEXT = 2
PROPORTION = 0.12
_INT16 = 32768.0
_LEAST_ENERGY = float(np.finfo(np.float32).eps)


def energy_vad(wave: np.ndarray, sample_rate: int = 16000) -> Pieces:
    """Find speech by the energy of 25 ms frames against a threshold relative to their mean.

    Source: Kaldi's compute-vad. It adapts to the level of a recording, but takes any steady sound
    for speech.

    Args:
        wave: float (S,) in [-1, 1].
        sample_rate: In Hz.

    Returns:
        The pieces; none for silence.
    """
    shift = round(SHIFT_SECONDS * sample_rate)
    size = min(round(FRAME_SECONDS * sample_rate), len(wave))
    if size == 0:
        return []
    samples = wave.astype(np.float64) * _INT16
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::shift]
    # Without the mean of each frame, as Kaldi takes the energy.
    energy = np.einsum("ij,ij->i", frames, frames) - frames.sum(axis=1) ** 2 / size
    log_energy = np.log(np.maximum(energy, _LEAST_ENERGY))
    loud = log_energy > ENERGY_THRESHOLD + ENERGY_MEAN_SCALE * log_energy.mean()
    around = np.ones(2 * CONTEXT + 1)
    share = _centred(loud, around) / _centred(np.ones(len(loud)), around)
    return _pieces(share >= PROPORTION, shift, len(wave))


def _centred(values: np.ndarray, around: np.ndarray) -> np.ndarray:
    return np.convolve(values, around)[CONTEXT : CONTEXT + len(values)]


def _pieces(speech: np.ndarray, shift: int, samples: int) -> Pieces:
    """Return the runs of speech frames in samples; the last frame reaches to the end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], speech, [False]])))
    pieces = [
        (int(a) * shift, int(b) * shift) for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]
    if len(speech) and speech[-1]:
        pieces[-1] = (pieces[-1][0], samples)
    return pieces


class SileroVad:
    """The detector of the package silero-vad, with its own defaults; for one thread.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self) -> None:
        import torch

        threads = torch.get_num_threads()
        try:
            import silero_vad
        except ImportError as error:
            raise ConfigError(
                f"silero needs the package silero-vad ({error}): pip install silero-vad"
            ) from error
        finally:
            torch.set_num_threads(threads)  # the package sets it to one for the whole process
        self._find = silero_vad.get_speech_timestamps
        self._model = silero_vad.load_silero_vad()

    def __call__(self, wave: np.ndarray, sample_rate: int = 16000) -> Pieces:
        """Return the pieces of speech in float32 (S,) at 8 or 16 kHz."""
        import torch

        with torch.inference_mode():
            found = self._find(torch.from_numpy(wave), self._model, sampling_rate=sample_rate)
        return [(int(piece["start"]), int(piece["end"])) for piece in found]


def keep_speech(wave: np.ndarray, pieces: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the pieces of (S,) one after the other; what lies beyond the end is left out."""
    return np.concatenate([wave[start:stop] for start, stop in pieces] or [wave[:0]])
