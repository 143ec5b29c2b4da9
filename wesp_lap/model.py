"""SpeakerModel: a frontend and a backend, built from one settings object, saved as a directory."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import wesp_lap
from wesp_lap.backends import BACKENDS
from wesp_lap.coerce import Section, from_mapping
from wesp_lap.config import build, check_section, to_plain
from wesp_lap.errors import DataError
from wesp_lap.files import PathLike, atomic_write, read_json, write_json
from wesp_lap.frontends import FRONTENDS
from wesp_lap.tensors import load_module, save_tensors

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
SAMPLE_RATE = 16000
# Standard deviations over time are part of the poolings.
_MIN_FRAMES = 2


@dataclass(frozen=True)
class ModelSettings:
    """What it takes to build a SpeakerModel."""

    frontend: Section
    backend: Section

    def check(self) -> None:
        """Check names and options without building anything."""
        check_section(FRONTENDS, self.frontend, "frontend")
        check_options = getattr(FRONTENDS[self.frontend.name], "check_options", None)
        if check_options is not None:
            check_options(self.frontend.options)
        check_section(BACKENDS, self.backend, "backend", ("num_layers", "input_dim"))


class SpeakerModel(nn.Module):
    """Waveform to speaker embedding.

    Args:
        settings: Names and options of frontend and backend.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self._frontend_name = settings.frontend.name
        self.backend_section = settings.backend
        self.frontend = build(FRONTENDS, settings.frontend, "frontend")
        self.backend = build(
            BACKENDS,
            settings.backend,
            "backend",
            num_layers=self.frontend.num_layers,
            input_dim=self.frontend.hidden_size,
        )
        # Backends that do not get their rows one by one.
        known = inspect.signature(self.backend.forward).parameters
        self._backend_knows_padding = "frames" in known

    @property
    def embed_dim(self) -> int:
        """Size E of the embedding."""
        return self.backend.embed_dim  # type: ignore[return-value]

    @property
    def min_samples(self) -> int:
        """Samples below which a waveform is repeated, for the frames that the backend needs."""
        return self.frontend.samples_for(getattr(self.backend, "min_frames", _MIN_FRAMES))

    def forward(self, waves: Tensor) -> Tensor:
        """Map waveforms (B, S) at 16 kHz in [-1, 1] to embeddings (B, E)."""
        return self.backend(self.frontend(waves))

    @torch.no_grad()  # not inference_mode: what models keep for their next call must serve training
    def embed(self, waves: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return embeddings in float32 and evaluation mode, whatever the rows are padded with.

        A waveform with fewer than ``min_samples`` is repeated until it is long enough.

        Args:
            waves: One waveform (S,), or several (B, S), of any floating type.
            lengths: Samples of each row (B,) when rows are padded.

        Returns:
            (E,) or (B, E), on the device of the model. A row of a padded batch gets the embedding
            of the row alone, up to rounding.

        Raises:
            DataError: a waveform is empty, of integers, or holds NaN or infinite samples.
        """
        if waves.dim() == 1:
            return self.embed(waves.unsqueeze(0))[0]
        if waves.dim() != 2 or not len(waves):
            raise DataError(f"waveforms of shape (S,) or (B, S) are needed, got {[*waves.shape]}")
        counts = [waves.shape[1]] * len(waves) if lengths is None else _checked(lengths, waves)
        _refuse_unusable(waves, counts)
        waves, counts = _lengthened(waves, counts, self.min_samples)
        parameter = next(self.parameters(), waves)  # a mean of filterbanks has none
        waves = waves[:, : max(counts)].to(parameter.device, parameter.dtype, non_blocking=True)
        was_training = self.training
        self.eval()
        equal = min(counts) == max(counts)
        try:
            embeddings = self(waves) if equal else self._embed_padded(waves, counts)
        finally:
            self.train(was_training)
        return embeddings.float()

    def _embed_padded(self, waves: Tensor, lengths: list[int]) -> Tensor:
        states = self.frontend(waves, lengths)
        frames = [self.frontend.output_lengths(length) for length in lengths]
        if self._backend_knows_padding:
            return self.backend(states, frames)
        return torch.cat(
            [
                self.backend(tuple(state[row : row + 1, :count] for state in states))
                for row, count in enumerate(frames)
            ]
        )

    def merge_lora(self) -> None:
        """Add the frontend's low-rank adapters, if any, to the weights they stand on."""
        merge = getattr(self.frontend, "merge_lora", None)
        if merge is not None:
            merge()

    def settings(self) -> ModelSettings:
        """Return settings that rebuild this model without the frontend's original weights."""
        frontend = Section(self._frontend_name, self.frontend.options())
        return ModelSettings(frontend, self.backend_section)

    def save_pretrained(self, folder: PathLike, card: str | None = None) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``README.md`` into ``folder``."""
        target = Path(folder)
        save_tensors(target / WEIGHTS_FILE, self.state_dict())
        write_json(target / CONFIG_FILE, self.describe())
        with atomic_write(target / CARD_FILE) as stream:
            stream.write(card or self.model_card())

    def describe(self) -> dict[str, Any]:
        """Return what ``config.json`` holds."""
        return {
            "wesp_lap_version": wesp_lap.__version__,
            "sample_rate": SAMPLE_RATE,
            "embed_dim": self.embed_dim,
            **to_plain(self.settings()),
        }

    def model_card(self, results: str = "") -> str:
        """Return a model card in Markdown with front matter."""
        parameters = sum(p.numel() for p in self.parameters())
        frontend = sum(p.numel() for p in self.frontend.parameters())
        return (
            "---\nlibrary_name: wesp_lap\npipeline_tag: audio-classification\n"
            "tags:\n- speaker-verification\n---\n\n# Speaker embedding model\n\n"
            f"| part | name | parameters |\n|---|---|---|\n"
            f"| frontend | {self.frontend.kind} | {frontend:,} |\n"
            f"| backend | {self.backend_section.name} | {parameters - frontend:,} |\n\n"
            f"Input: mono speech at {SAMPLE_RATE} Hz as float32 in [-1, 1]. "
            f"Output: an embedding of {self.embed_dim} numbers, not length-normalised; compare two "
            "by their cosine.\n\n```python\nimport soundfile, torch\n"
            "from wesp_lap.model import SpeakerModel\n\n"
            'model = SpeakerModel.from_pretrained("DIR")\n'
            'wave, rate = soundfile.read("speech.wav", dtype="float32")\n'
            f"assert rate == {SAMPLE_RATE}\nembedding = model.embed(torch.from_numpy(wave))\n```\n"
            + results
        )

    @classmethod
    def from_pretrained(cls, folder: PathLike) -> SpeakerModel:
        """Load a directory written by save_pretrained, in evaluation mode.

        Raises:
            DataError: a file is missing or damaged, or tensors do not fit; the names are given.
        """
        source = Path(folder)
        if not (source / CONFIG_FILE).is_file():
            raise DataError(f"{source}: no speaker model here ({CONFIG_FILE} is missing)")
        config = read_json(source / CONFIG_FILE)
        try:
            parts = {part: config[part] for part in ("frontend", "backend")}
        except (KeyError, TypeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else "not a JSON object"
            raise DataError(f"{source / CONFIG_FILE}: {what}") from error
        model = cls(from_mapping(ModelSettings, parts, str(source / CONFIG_FILE)))
        load_module(model, source / WEIGHTS_FILE)
        return model.eval()


def _checked(lengths: Sequence[int] | Tensor, waves: Tensor) -> list[int]:
    counts = [int(length) for length in lengths]
    if len(counts) != len(waves) or not all(0 <= n <= waves.shape[1] for n in counts):
        raise ValueError(f"lengths {counts[:8]} do not fit waves of shape {tuple(waves.shape)}")
    return counts


def _refuse_unusable(waves: Tensor, lengths: list[int]) -> None:
    if not waves.is_floating_point():
        raise DataError(f"samples are {waves.dtype}; divide them, for numbers in [-1, 1]")
    for row, (wave, length) in enumerate(zip(waves, lengths, strict=True)):
        which = f"waveform {row}" if len(waves) > 1 else "the waveform"
        if length == 0:
            raise DataError(f"{which} is empty")
        if not torch.isfinite(wave[:length]).all():
            raise DataError(f"{which} holds NaN or infinite samples")


def _lengthened(waves: Tensor, lengths: list[int], least: int) -> tuple[Tensor, list[int]]:
    """Repeat rows that are shorter than ``least`` samples until they are long enough."""
    repeats = [max(1, -(-least // length)) for length in lengths]
    if max(repeats) == 1:
        return waves, lengths
    longer = [n * times for n, times in zip(lengths, repeats, strict=True)]
    result = waves.new_zeros(len(waves), max(longer))
    for row, times in enumerate(repeats):
        result[row, : longer[row]] = waves[row, : lengths[row]].repeat(times)
    return result, longer
