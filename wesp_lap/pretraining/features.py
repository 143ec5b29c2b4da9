"""What the frames are that pre-training's targets are clustered from.

MFCC at 100 frames per second, or the output of a layer of an encoder at 50. Source:
docs/methods.md, section 6.1.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from wesp_lap.audio.mfcc import Mfcc, add_deltas
from wesp_lap.errors import ConfigError
from wesp_lap.extraction.batches import Batch
from wesp_lap.files import PathLike, sha256
from wesp_lap.frontends.transformer import TransformerFrontend

SAMPLE_RATE = 16000
_LONGEST = 100 * SAMPLE_RATE  # samples that go through an encoder at once
_WEIGHTS = ("*.safetensors", "*.bin")

Kind = Literal["mfcc", "layer"]


@dataclass(frozen=True)
class FeatureSettings:
    """Which features.

    Attributes:
        kind: "mfcc", or "layer" for a layer of an encoder.
        model: Directory of the encoder, as ``save_pretrained`` of transformers writes it.
        layer: Output of this Transformer layer, counted from 1; 0 is the input of the first one.
    """

    kind: Kind = "mfcc"
    model: str | None = None
    layer: int = 6

    def check(self) -> None:
        """Raise a ConfigError for what does not go together."""
        if self.kind not in ("mfcc", "layer"):
            raise ConfigError(f"--features must be mfcc or layer, got '{self.kind}'")
        if (self.kind == "layer") != bool(self.model):
            raise ConfigError("--features layer needs --model DIR, and --features mfcc has none")
        if self.layer < 0:
            raise ConfigError(f"--layer must not be negative, got {self.layer}")

    def identity(self) -> dict[str, object]:
        """Return what the features depend on: for an encoder, the content of its files."""
        self.check()
        if self.kind == "mfcc":
            return {"kind": "mfcc"}
        return {"kind": "layer", "layer": self.layer, "model_sha256": _model_digest(self.model)}


@dataclass(frozen=True)
class Framing:
    """Which samples at 16 kHz a frame hears: frame t, ``window`` samples from t * ``shift`` on."""

    window: int
    shift: int

    @property
    def rate(self) -> float:
        """Frames per second."""
        return SAMPLE_RATE / self.shift

    def count(self, samples: int) -> int:
        """Return the number of frames that a number of samples gives."""
        return max(0, (samples - self.window) // self.shift + 1)


class Features(Protocol):
    """Maps waveforms to frames.

    Attributes:
        dim: Width D of a frame.
        framing: Which samples a frame hears.
        device: Where it computes.
    """

    dim: int
    framing: Framing
    device: torch.device

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Return the frames (T, D) of each row, float32 on ``device``."""


def load_features(settings: FeatureSettings, device: str = "cpu") -> Features:
    """Return what computes the features; MFCC are computed on a CPU in any case.

    Raises:
        ConfigError: settings that do not go together, or an encoder that cannot be used.
    """
    settings.check()
    if settings.kind == "mfcc":
        return MfccFeatures()
    return LayerFeatures(settings.model or "", settings.layer, device)


class MfccFeatures:
    """13 MFCC with first and second differences, 39 values, at 100 frames per second."""

    def __init__(self) -> None:
        # Samples as they are, in [-1, 1]: the published features are made so. A scale would only
        # move C0, but for the floor below the energies: without one, near-silence is one point.
        self._mfcc = Mfcc(scale=1.0)
        self.dim = 3 * self._mfcc.num_ceps
        self.framing = Framing(self._mfcc.frame_length, self._mfcc.frame_shift)
        self.device = torch.device("cpu")

    def __call__(self, batch: Batch) -> list[Tensor]:
        """See Features; rows one by one, since differences end where an utterance ends."""
        with torch.inference_mode(), one_thread():
            return [
                add_deltas(self._mfcc(torch.from_numpy(wave[:length]).unsqueeze(0)))[0]
                for wave, length in zip(batch.waves, batch.lengths, strict=True)
            ]


class LayerFeatures:
    """The output of a Transformer layer, in evaluation mode and without masks.

    More than 100 s are computed in pieces of that length, whose frames are those that the whole
    would have.
    """

    def __init__(self, model: PathLike, layer: int, device: str) -> None:
        _model_files(model)
        try:
            # Layers above are not needed; state 0 needs none, but a model has one at least.
            frontend = TransformerFrontend(weights=str(model), keep_layers=max(layer, 1))
        except ValueError as error:
            raise ConfigError(f"--layer {layer}: {error}") from error
        self.device = torch.device(device)
        self._frontend = frontend.to(self.device).eval()
        self._layer = layer
        self.dim = frontend.hidden_size
        self.framing = _framing(frontend, model)

    def __call__(self, batch: Batch) -> list[Tensor]:
        """See Features."""
        threads = contextlib.nullcontext() if self.device.type == "cuda" else one_thread()
        with torch.inference_mode(), threads:
            waves = torch.from_numpy(batch.waves).to(self.device)
            if waves.shape[1] > _LONGEST:
                return [self._long(wave[:n]) for wave, n in zip(waves, batch.lengths, strict=True)]
            padded = min(batch.lengths) < waves.shape[1]
            states = self._frontend(waves, batch.lengths if padded else None)[self._layer].float()
            counts = map(self.framing.count, batch.lengths)
            return [state[:count] for state, count in zip(states, counts, strict=True)]

    def _long(self, wave: Tensor) -> Tensor:
        framing = self.framing
        frames = framing.count(_LONGEST)
        pieces = []
        for first in range(0, framing.count(len(wave)), frames):
            start = first * framing.shift
            stop = start + (frames - 1) * framing.shift + framing.window
            pieces.append(self._frontend(wave[None, start:stop])[self._layer][0].float())
        return torch.cat(pieces)[: framing.count(len(wave))]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on a CPU with one thread: with several, sums are rounded in other ways."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _framing(frontend: TransformerFrontend, model: PathLike) -> Framing:
    window = frontend.samples_for(1)
    framing = Framing(window, frontend.samples_for(2) - window)
    lengths = [window - 1, window, 3 * window + 1, 16000, 48240, 99999]
    if any(frontend.output_lengths(n) != framing.count(n) for n in lengths):
        raise ConfigError(
            f"{model}: the frames of a {frontend.kind} model do not follow each other at one "
            "distance from the first sample on; labels would not fit the audio"
        )
    return framing


def _model_files(model: PathLike) -> list[Path]:
    folder = Path(model)
    weights = [path for pattern in _WEIGHTS for path in sorted(folder.glob(pattern))]
    if not weights or not (folder / "config.json").is_file():
        raise ConfigError(
            f"--model {model}: not the directory of an encoder: it needs config.json and "
            "model.safetensors, as save_pretrained of transformers writes them"
        )
    return [folder / "config.json", *weights]


def _model_digest(model: PathLike | None) -> str:
    digests = [sha256(path) for path in _model_files(model or "")]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
