"""What is to be predicted in crops: the labels of their frames, cut where the crop is cut."""

from __future__ import annotations

from typing import Any

import numpy as np

from wesp_lap.data.index import Utterances
from wesp_lap.errors import ConfigError
from wesp_lap.pretraining.features import Framing
from wesp_lap.pretraining.labels import LabelStore

_SHIFT = 320  # samples between two frames that the labels of a crop are made for


class FrameTargets:
    """The labels of frames; see wesp_lap.data.crops.Targets.

    A batch has as many labels per crop as all of its crops have: rounding at the ends of an
    utterance may cost one of the frames that the encoder makes.

    Args:
        utterances: The shards' contents.
        store: Labels of all of them; see check_labels.
        framing: What the encoder hears in a frame; see encoder_framing.
    """

    def __init__(self, utterances: Utterances, store: LabelStore, framing: Framing) -> None:
        self._keys = utterances.keys
        self._store = store
        self._framing = framing

    def labels(
        self, rows: np.ndarray, starts: np.ndarray, samples: int, speed: np.ndarray
    ) -> np.ndarray:
        """Return the labels of a batch (B, T), int64; see docs/methods.md, section 6.2."""
        keys = self._keys[rows].tolist()
        parts = [
            self._store.crop(key.decode(), start, samples)
            for key, start in zip(keys, starts.tolist(), strict=True)
        ]
        frames = min(self._framing.count(samples), *map(len, parts))
        return np.stack([part[:frames] for part in parts]).astype(np.int64)


def check_labels(utterances: Utterances, store: LabelStore) -> None:
    """Raise a DataError that counts all utterances without labels, or with those of other audio."""
    by_key = np.argsort(utterances.keys, kind="stable")
    keys = [key.decode() for key in utterances.keys[by_key].tolist()]
    store.check(keys, utterances.samples[by_key].tolist())


def encoder_framing(config: Any) -> Framing:
    """Return what an encoder's convolutions hear in a frame.

    Args:
        config: Its configuration.

    Raises:
        ConfigError: its frames do not follow each other as labels do.
    """
    window = shift = 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        window += (kernel - 1) * shift
        shift *= stride
    if shift != _SHIFT:
        raise ConfigError(
            f"encoder: its frames are {shift} samples apart, those of labels {_SHIFT}; choose "
            "strides whose product is that"
        )
    return Framing(window, shift)
