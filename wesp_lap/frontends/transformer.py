"""Self-supervised Transformers of the transformers library as frontends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from wesp_lap.coerce import check_names
from wesp_lap.errors import ConfigError
from wesp_lap.frontends.padding import normalize, padding_ignored
from wesp_lap.padding import padding_mask

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

MODEL_TYPES = ("wavlm", "hubert", "wav2vec2", "wav2vec2-conformer")

# What a configuration says of files and outputs, and not of the network.
_NOT_ARCHITECTURE = frozenset(
    {
        "_name_or_path",
        "architectures",
        "dtype",
        "id2label",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers_version",
    }
)

# States that reach the pooling need two frames, since its context is a standard deviation.
_MIN_FRAMES = 2


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
            self.model = _from_weights(weights, changes)
        else:
            self.model = _from_config({**(config or {}), **changes})
        self.num_layers = int(self.model.config.num_hidden_layers) + 1
        self.hidden_size = int(self.model.config.hidden_size)
        self.min_samples = self._samples_for(_MIN_FRAMES)
        self.frozen = False
        self.freeze(False)

    @property
    def has_random_depth(self) -> bool:
        """True when some parameters may get no gradient in a training step."""
        config = self.model.config
        return bool(config.layerdrop > 0 or config.apply_spec_augment)

    def options(self) -> dict[str, Any]:
        """Return constructor options that rebuild this frontend without its original weights."""
        ours = self.model.config.to_dict()
        # The configurations of published models hold keys that their own class does not know.
        known = set(type(self.model.config)().to_dict()) - _NOT_ARCHITECTURE
        config = {key: ours[key] for key in sorted(known & set(ours))}
        return {"config": config, "normalize_wav": self.normalize_wav}

    def freeze(self, frozen: bool = True) -> None:
        """Keep the weights fixed and the model in evaluation mode, or undo that."""
        self.frozen = frozen
        self.model.requires_grad_(not frozen)
        for parameter in self._unused_parameters():
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
        for kernel, stride in self._convolutions():
            samples = (samples - kernel) // stride + 1
        return max(samples, 0)

    def forward(self, waves: Tensor, lengths: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """Map waveforms (B, S), S >= ``min_samples``, to N states (B, T, D).

        Args:
            waves: The waveforms.
            lengths: Samples of each row, at least ``min_samples``, when rows are padded; in
                evaluation mode only. The first ``output_lengths`` frames of a row are then those
                of the row alone, whatever the padding holds; the others mean nothing.
        """
        if lengths is not None:
            waves = waves.masked_fill(padding_mask(lengths, waves.shape[1], waves.device), 0)
        if self.normalize_wav:
            waves = normalize(waves, lengths)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._states(waves, lengths)

    def _states(self, waves: Tensor, lengths: Sequence[int] | None) -> tuple[Tensor, ...]:
        """Run the model and collect the input of its layers, their outputs, and the final norm.

        Not through ``output_hidden_states``: that leaves dropped layers out of the stack and
        gives the last state of pre-norm models before their final LayerNorm.
        """
        encoder: Any = self.model.encoder
        outputs: dict[int, Tensor] = {}

        def keep(index: int) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: object, output: Tensor | tuple) -> None:
                outputs[index] = output[0] if isinstance(output, tuple) else output

            return hook

        # The encoder's dropout is the last step before its layers.
        handles = [encoder.dropout.register_forward_hook(keep(0))]
        handles += [
            layer.register_forward_hook(keep(number))
            for number, layer in enumerate(encoder.layers, 1)
        ]
        try:
            last = self._last_state(waves, lengths)
        finally:
            for handle in handles:
                handle.remove()
        states = [outputs[0]]
        for number in range(1, self.num_layers - 1):
            states.append(outputs.get(number, states[-1]))  # a dropped layer repeats its input
        return (*states, last)

    def _last_state(self, waves: Tensor, lengths: Sequence[int] | None) -> Tensor:
        if lengths is None:
            return self.model(waves, return_dict=True).last_hidden_state
        valid = ~padding_mask(lengths, waves.shape[1], waves.device)
        frames = [self.output_lengths(length) for length in lengths]
        with padding_ignored(self.model, lengths, frames):
            return self.model(waves, valid.long(), return_dict=True).last_hidden_state

    def _unused_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what never gets a gradient, which DDP would wait for."""
        config = self.model.config
        for name, parameter in self.model.named_parameters():
            unmasked = name == "masked_spec_embed" and not config.apply_spec_augment
            # The Conformer has relative positions; its positional convolution is never called.
            unplaced = "pos_conv_embed" in name and config.model_type == "wav2vec2-conformer"
            if unmasked or unplaced:
                yield parameter

    def _convolutions(self) -> Iterator[tuple[int, int]]:
        config = self.model.config
        return zip(config.conv_kernel, config.conv_stride, strict=True)

    def _samples_for(self, frames: int) -> int:
        for kernel, stride in reversed(list(self._convolutions())):
            frames = (frames - 1) * stride + kernel
        return frames


def _auto_classes() -> tuple[Any, Any]:
    # Imported here: transformers' speech models cost seconds that other commands need not pay.
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoConfig, AutoModel


def _check_type(model_type: object, where: str) -> None:
    if model_type not in MODEL_TYPES:
        raise ConfigError(
            f"{where}: model_type {model_type!r} is not one of {', '.join(MODEL_TYPES)}"
        )


def _from_config(options: dict[str, Any]) -> PreTrainedModel:
    auto_config, auto_model = _auto_classes()
    options = dict(options)
    model_type = options.pop("model_type", None)
    _check_type(model_type, "frontend.config")
    known = auto_config.for_model(model_type).to_dict()
    check_names(options, known, "frontend.config")
    try:
        return auto_model.from_config(auto_config.for_model(model_type, **options))
    except ValueError as error:
        raise ConfigError(f"frontend.config: {error}") from error


def _from_weights(weights: str, changes: dict[str, Any]) -> PreTrainedModel:
    auto_config, auto_model = _auto_classes()
    try:
        config: PretrainedConfig = auto_config.from_pretrained(weights)
    except (OSError, ValueError) as error:
        raise ConfigError(_not_found(weights, error)) from error
    _check_type(config.model_type, weights)
    config.update(changes)
    try:
        model, report = auto_model.from_pretrained(
            weights,
            config=config,
            output_loading_info=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are named below
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(_not_found(weights, error)) from error
    missing = sorted(set(report["missing_keys"]) - {"masked_spec_embed"})
    if missing or report["mismatched_keys"]:
        names = [*missing, *sorted(str(name) for name, *_ in report["mismatched_keys"])]
        raise ConfigError(
            f"{weights}: {len(names)} tensors of the {config.model_type} model are missing or of "
            f"another shape: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        )
    return model


def _not_found(weights: str, error: Exception) -> str:
    cache = os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    reason = str(error).strip().splitlines()[0]
    return (
        f"frontend weights '{weights}' cannot be loaded: {reason} Looked for a local directory of "
        f"that name and in the hub cache under {cache}. Without network, download the model "
        "elsewhere ('hf download NAME --local-dir DIR') and give DIR as the frontend's weights."
    )
