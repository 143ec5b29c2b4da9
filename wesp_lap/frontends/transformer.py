"""Self-supervised Transformers of the transformers library as frontends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wesp_lap.errors import ConfigError
from wesp_lap.frontends.families import FAMILIES
from wesp_lap.frontends.loading import architecture, from_config, from_weights
from wesp_lap.padding import padding_mask


class TransformerFrontend(nn.Module):
    """WavLM, HuBERT, wav2vec 2.0 or Wav2Vec2-Conformer, with all of its layer states.

    Exactly one of ``weights`` and ``config`` is given. Source: docs/methods.md, section 1.

    Args:
        weights: A model name on the hub or a local directory written by ``save_pretrained``.
        config: Settings of a model with random weights: ``model_type`` and any key of that
            type's configuration class.
        normalize_wav: Bring each utterance to zero mean and unit variance.
        spec_augment: Mask frames in training; null keeps what the model's configuration says.
        layerdrop: Probability of skipping a layer in training; null keeps the configuration's.
    """

    def __init__(
        self,
        weights: str | None = None,
        config: dict[str, Any] | None = None,
        normalize_wav: bool = False,
        spec_augment: bool | None = None,
        layerdrop: float | None = None,
    ) -> None:
        super().__init__()
        if (weights is None) == (config is None):
            raise ConfigError("frontend: give either 'weights' or 'config'")
        self.normalize_wav = normalize_wav
        changes: dict[str, Any] = {}
        if spec_augment is not None:
            changes["apply_spec_augment"] = spec_augment
        if layerdrop is not None:
            changes["layerdrop"] = layerdrop
        if weights is not None:
            self.model = from_weights(weights, changes)
        else:
            self.model = from_config({**(config or {}), **changes})
        self._family = FAMILIES[self.kind]
        self.num_layers = len(self._family.layers(self.model)) + 1
        self.hidden_size = int(self.model.config.hidden_size)
        self.frozen = False
        self.freeze(False)

    @property
    def kind(self) -> str:
        """The type of the model, as its configuration names it."""
        return self.model.config.model_type

    @property
    def has_random_depth(self) -> bool:
        """True when some parameters may get no gradient in a training step."""
        config = self.model.config
        return bool(config.layerdrop > 0 or config.apply_spec_augment)

    def options(self) -> dict[str, Any]:
        """Return constructor options that rebuild this frontend without its original weights."""
        return {"config": architecture(self.model.config), "normalize_wav": self.normalize_wav}

    def freeze(self, frozen: bool = True) -> None:
        """Keep the weights fixed and the model in evaluation mode, or undo that."""
        self.frozen = frozen
        self.model.requires_grad_(not frozen)
        for parameter in self._family.unused_parameters(self.model):
            parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> TransformerFrontend:
        """Switch the mode; a frozen frontend stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def output_lengths(self, samples: int) -> int:
        """Return the number of frames T for a number of samples."""
        return self._family.output_lengths(self.model.config, samples)

    def samples_for(self, frames: int) -> int:
        """Return the fewest samples that give a number of frames."""
        return self._family.samples_for(self.model.config, frames)

    def forward(self, waves: Tensor, lengths: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """Map waveforms (B, S), at least one frame long, to N states (B, T, D).

        Args:
            waves: The waveforms.
            lengths: Samples of each row, at least one frame, when rows are padded; in
                evaluation mode only. The first ``output_lengths`` frames of a row are then those
                of the row alone, whatever the padding holds; the others mean nothing.
        """
        if lengths is not None:
            waves = waves.masked_fill(padding_mask(lengths, waves.shape[1], waves.device), 0)
        if self.normalize_wav:
            waves = _normalize(waves, lengths)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._states(waves, lengths)

    def _states(self, waves: Tensor, lengths: Sequence[int] | None) -> tuple[Tensor, ...]:
        """Run the model and collect the input of its layers, their outputs, and the final norm.

        Not through ``output_hidden_states``: that leaves dropped layers out of the stack and
        gives the last state of pre-norm models before their final LayerNorm.
        """
        family = self._family
        outputs: dict[int, Tensor] = {}

        def keep(index: int) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: object, output: Tensor | tuple) -> None:
                outputs[index] = output[0] if isinstance(output, tuple) else output

            return hook

        handles = [family.keep_first(self.model, lambda state: outputs.update({0: state}))]
        handles += [
            layer.register_forward_hook(keep(number))
            for number, layer in enumerate(family.layers(self.model), 1)
        ]
        try:
            with self._padding_ignored(lengths):
                last = family.last_state(self.model, waves, lengths)
        finally:
            for handle in handles:
                handle.remove()
        states = [outputs[0]]
        for number in range(1, self.num_layers - 1):
            states.append(outputs.get(number, states[-1]))  # a dropped layer repeats its input
        return (*states, last)

    def _padding_ignored(
        self, lengths: Sequence[int] | None
    ) -> contextlib.AbstractContextManager[None]:
        if lengths is None:
            return contextlib.nullcontext()
        frames = [self.output_lengths(length) for length in lengths]
        return self._family.padding_ignored(self.model, lengths, frames)


def _normalize(waves: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """Bring each row of (B, S) to zero mean and unit variance over its valid samples.

    What is beyond the lengths must be zero and stays so.
    """
    if lengths is None:
        std, mean = torch.std_mean(waves, dim=-1, keepdim=True, correction=0)
        return (waves - mean) / (std.square() + 1e-7).sqrt()
    normal = torch.zeros_like(waves)
    for row, length in enumerate(lengths):
        normal[row, :length] = _normalize(waves[row, :length], None)
    return normal
