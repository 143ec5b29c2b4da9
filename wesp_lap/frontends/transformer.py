"""Self-supervised Transformers of the transformers library as frontends."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wesp_lap.config import to_plain
from wesp_lap.errors import ConfigError
from wesp_lap.frontends import freezing, passes
from wesp_lap.frontends.families import FAMILIES
from wesp_lap.frontends.loading import (
    Regularization,
    architecture,
    from_config,
    from_weights,
    layerdrop_of,
)
from wesp_lap.frontends.lora import LoraSettings, adapters, add_adapters, merge_adapters
from wesp_lap.frontends.states import layer_states
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
        dropout: Probability of the dropouts after projection, attention and feed-forward parts;
            0 switches all dropout off, null keeps the configuration's.
        keep_layers: Number of Transformer layers to use; those above are removed.
        cls_token: Put a frame of ones before the frames that enter the position convolution and
            the layers; the states have T + 1 frames.
        frozen_below: What stays fixed and in evaluation mode while the rest trains: the
            convolutions; all up to the projection; or, by a number n, all before the layers and
            the first n of them.
        gradient_checkpointing: Compute activations again in the backward pass, to save memory.
        lora: Train low-rank adapters instead of the weights.
    """

    def __init__(
        self,
        weights: str | None = None,
        config: dict[str, Any] | None = None,
        normalize_wav: bool = False,
        spec_augment: bool | None = None,
        layerdrop: float | None = None,
        dropout: float | None = None,
        keep_layers: int | None = None,
        cls_token: bool = False,
        frozen_below: freezing.Boundary | None = None,
        gradient_checkpointing: bool = False,
        lora: LoraSettings | None = None,
    ) -> None:
        super().__init__()
        self.check_options({"weights": weights, "config": config})
        training = Regularization(spec_augment, layerdrop, dropout)
        if weights is not None:
            self.model = from_weights(weights, training)
        else:
            self.model = from_config(config or {}, training)
        self._family = FAMILIES[self.kind]
        self.keep_layers = keep_layers
        if keep_layers is not None:
            freezing.drop_layers_above(self._family, self.model, keep_layers)
        if not len(self._layers):
            raise ValueError("the model has no Transformer layer")
        self.num_layers = len(self._layers) + 1
        self.hidden_size = int(self.model.config.hidden_size)
        self.normalize_wav = normalize_wav
        self.cls_token = cls_token
        if cls_token and not self._family.frames_enter_encoder:
            raise ValueError(f"cls_token: not for {self.kind}")
        self.frozen_below = frozen_below
        self._fixed = freezing.parts_below(self._family, self.model, frozen_below)
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            freezing.recompute_activations(self.model)
        self.lora: LoraSettings | None = None
        self.frozen = False
        if lora is None:
            self.freeze(False)
        else:
            self.add_lora(lora)

    @staticmethod
    def check_options(options: Mapping[str, Any]) -> None:
        """Refuse options that do not say where the weights come from, without building anything."""
        if (options.get("weights") is None) == (options.get("config") is None):
            raise ConfigError(
                "frontend: give either 'weights' or 'config'; a pre-trained model is given on the "
                "command line with --frontend.weights, by its name or directory"
            )

    @property
    def kind(self) -> str:
        """The type of the model, as its configuration names it."""
        return self.model.config.model_type

    @property
    def has_random_depth(self) -> bool:
        """True when some parameters may get no gradient in a training step."""
        masked = getattr(self.model, "masked_spec_embed", None)
        may_be_unmasked = masked is not None and masked.requires_grad
        return not self.frozen and (layerdrop_of(self.model.config) > 0 or may_be_unmasked)

    @property
    def _layers(self) -> nn.ModuleList:
        return self._family.layers(self.model)

    def options(self) -> dict[str, Any]:
        """Return constructor options that rebuild this frontend without its original weights.

        Those that say how it is trained are not among them.
        """
        options = {"config": architecture(self.model.config), "normalize_wav": self.normalize_wav}
        if self.keep_layers is not None:
            options["keep_layers"] = self.keep_layers
        if self.cls_token:
            options["cls_token"] = True
        if self.lora is not None:
            options["lora"] = to_plain(self.lora)
        return options

    def add_lora(self, settings: LoraSettings) -> None:
        """Put new adapters on the layers; from now on only they are trained."""
        if self.lora is not None:
            raise ValueError("lora: there are adapters already; merge them first")
        targets = settings.targets or self._family.lora_targets
        settings = dataclasses.replace(settings, targets=tuple(targets))
        add_adapters(self.model, self._layers, settings)
        self.lora = settings
        self.freeze(self.frozen)

    def merge_lora(self) -> None:
        """Add the adapters to the weights, which are trained from now on; none is no error."""
        if self.lora is not None:
            merge_adapters(self.model)
            self.lora = None
            self.freeze(self.frozen)

    def freeze(self, frozen: bool = True) -> None:
        """Keep the weights fixed and the model in evaluation mode, or undo that.

        Adapters are trained nevertheless; ``frozen_below`` holds in any case.
        """
        self.frozen = frozen
        self.model.requires_grad_(not frozen and self.lora is None)
        for parameter in self._family.unused_parameters(self.model):
            parameter.requires_grad_(False)
        if self.lora is not None:
            for adapter in adapters(self.model):
                adapter.requires_grad_(True)
        for part in self._fixed:
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> TransformerFrontend:
        """Switch the mode; what is fixed stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        freezing.evaluation_mode(self._fixed)
        if isinstance(self.frozen_below, int):
            # Masks come before the layers; which of these may be dropped is said in each pass.
            self.model.training = self._family.encoder(self.model).training = False
        if self.lora is not None:
            freezing.keep_statistics(self.model)
            for adapter in adapters(self.model):
                adapter.train(mode)
            if self.frozen and self.gradient_checkpointing and mode:
                freezing.recompute_in_evaluation_mode(self._layers)
        return self

    def fixed_state(self) -> dict[str, Tensor]:
        """Return the tensors of the state dict that training must leave as they are, by name."""
        whole = self.frozen or self.lora is not None
        roots = [self.model] if whole else [p for p in self._fixed if isinstance(p, nn.Module)]
        fixed = {module for root in roots for module in root.modules()}
        names = {name for name, p in self.named_parameters() if not p.requires_grad}
        for prefix, module in self.named_modules():
            if module in fixed:
                names |= {name for name, _ in module.named_buffers(prefix, recurse=False)}
        return {name: tensor for name, tensor in self.state_dict().items() if name in names}

    def parameter_layers(self) -> dict[nn.Parameter, int]:
        """Return the layer of each parameter, from 1 to L; 0 for what comes before the layers."""
        return freezing.parameter_layers(self._family, self.model)

    def output_lengths(self, samples: int) -> int:
        """Return the number of frames T for a number of samples."""
        frames = self._family.output_lengths(self.model.config, samples)
        return frames + 1 if self.cls_token and frames > 0 else frames

    def samples_for(self, frames: int) -> int:
        """Return the fewest samples that give a number of frames."""
        frames = max(frames - 1, 1) if self.cls_token else frames
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
        trained = not self.frozen or self.lora is not None
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(torch.is_grad_enabled() and trained))
            for change in self._changes(waves.shape[1], lengths):
                stack.enter_context(change)
            return layer_states(self._family, self.model, waves, lengths)

    def _changes(
        self, samples: int, lengths: Sequence[int] | None
    ) -> Iterator[contextlib.AbstractContextManager[None]]:
        """Yield what must be different from the model's own way for this pass."""
        family, config = self._family, self.model.config
        encoder = family.encoder(self.model)
        if self.cls_token:
            yield passes.frame_of_ones_first(encoder)
        if self.training and not self.frozen and isinstance(self.frozen_below, int):
            last = [part for part in self._fixed if isinstance(part, nn.Module)][-1]
            yield passes.layers_dropped_after(last, encoder)
        span = getattr(config, "mask_time_length", 0)
        if self.training and family.output_lengths(config, samples) <= span:
            yield passes.without_masks(config)  # a single one would take all frames
        if lengths is not None:
            frames = [self.output_lengths(length) for length in lengths]
            yield family.padding_ignored(self.model, lengths, frames)


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
