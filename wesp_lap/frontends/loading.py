"""Models of the transformers library: built from a configuration, or loaded whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wesp_lap.coerce import check_names
from wesp_lap.errors import ConfigError
from wesp_lap.frontends.families import FAMILIES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

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
_DROPOUTS = (
    "hidden_dropout",
    "attention_dropout",
    "feat_proj_dropout",
    "conformer_conv_dropout",
    "dropout",
)


@dataclass(frozen=True)
class Regularization:
    """What acts in training only; None keeps what a model's configuration says."""

    spec_augment: bool | None = None
    layerdrop: float | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        for name in ("layerdrop", "dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must be from 0 to 1, and less than 1; got {value}")

    def changes(self, known: Collection[str]) -> dict[str, Any]:
        """Return the changes to a configuration with the ``known`` keys.

        Raises:
            ValueError: none of its keys is for something that was asked for.
        """
        # Between the two maps of a feed-forward part, published models have no dropout.
        dropouts = _DROPOUTS if self.dropout else (*_DROPOUTS, "activation_dropout")
        keys = {
            "spec_augment": ("apply_spec_augment",),
            "layerdrop": ("layerdrop", "encoder_layerdrop"),
            "dropout": dropouts,
        }
        changes: dict[str, Any] = {}
        for option, names in keys.items():
            value = getattr(self, option)
            present = [name for name in names if name in known]
            if value is not None and not present:
                raise ValueError(f"{option}: this type of model has no such thing")
            changes |= {name: value for name in present if value is not None}
        return changes


def layerdrop_of(config: PretrainedConfig) -> float:
    """Return the probability of skipping a layer in training."""
    return float(getattr(config, "layerdrop", getattr(config, "encoder_layerdrop", 0.0)))


def architecture(config: PretrainedConfig) -> dict[str, Any]:
    """Return the keys of a configuration that its own class knows and that make the network."""
    ours = config.to_dict()
    # The configurations of published models hold keys that their own class does not know.
    known = set(type(config)().to_dict()) - _NOT_ARCHITECTURE
    return {key: ours[key] for key in sorted(known & set(ours))}


def from_config(options: Mapping[str, Any], training: Regularization) -> PreTrainedModel:
    """Build a model with random weights from ``model_type`` and keys of its configuration."""
    auto_config = _auto_config()
    options = dict(options)
    model_type = options.pop("model_type", None)
    _check_type(model_type, "frontend.config")
    assert isinstance(model_type, str)
    known = auto_config.for_model(model_type).to_dict()
    check_names(options, known, "frontend.config")
    options |= training.changes(known)
    auto_model = FAMILIES[model_type].auto_model()
    try:
        model = auto_model.from_config(auto_config.for_model(model_type, **options))
    except Exception as error:  # each part of the library has errors of its own for wrong values
        raise ConfigError(f"frontend.config: {_reason(error)}") from error
    if not 0 <= layerdrop_of(model.config) < 1:
        raise ConfigError(
            f"frontend.config: layerdrop must lie in [0, 1), got {layerdrop_of(model.config)}"
        )
    return _adapted(model)


def from_weights(weights: str, training: Regularization) -> PreTrainedModel:
    """Load a model by its name on the hub or from a directory written by ``save_pretrained``.

    Raises:
        ConfigError: it cannot be found or read, or tensors are missing, of another shape or hold
            NaN or infinite values.
    """
    auto_config = _auto_config()
    try:
        config: PretrainedConfig = auto_config.from_pretrained(weights)
    except Exception as error:  # wrong values and damaged files have errors of many kinds
        raise ConfigError(_not_found(weights, error)) from error
    _check_type(config.model_type, weights)
    config.update(training.changes(config.to_dict()))
    try:
        model, report = (
            FAMILIES[config.model_type]
            .auto_model()
            .from_pretrained(
                weights,
                config=config,
                output_loading_info=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are named below
            )
        )
    except Exception as error:  # as above
        raise ConfigError(_not_found(weights, error)) from error
    missing = sorted(set(report["missing_keys"]) - {"masked_spec_embed"})
    if missing or report["mismatched_keys"]:
        names = [*missing, *sorted(str(name) for name, *_ in report["mismatched_keys"])]
        raise ConfigError(
            f"{weights}: {len(names)} tensors of the {config.model_type} model are missing or of "
            f"another shape: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        )
    spare = sorted(name for name in report["unexpected_keys"] if "encoder.layers." in name)
    if spare:  # heads of pre-training are left out by all; parts of the layers are not
        raise ConfigError(
            f"{weights}: {len(spare)} tensors have no place in the {config.model_type} model of "
            f"its config.json: {', '.join(spare[:4])}{' ...' if len(spare) > 4 else ''}; mend "
            "model_type or num_hidden_layers there (frontend.keep_layers takes fewer layers)"
        )
    broken = [name for name, t in model.state_dict().items() if not t.isfinite().all()]
    if broken:
        raise ConfigError(
            f"{weights}: {len(broken)} tensors hold NaN or infinite values: "
            f"{', '.join(broken[:8])}; use another copy"
        )
    return _adapted(model)


def _adapted(model: PreTrainedModel) -> PreTrainedModel:
    FAMILIES[model.config.model_type].adapt(model)
    return model


def _auto_config() -> Any:
    # Imported here: transformers' speech models cost seconds that other commands need not pay.
    from transformers import AutoConfig
    from transformers.utils import logging

    from wesp_lap.frontends import conformer

    logging.disable_progress_bar()
    conformer.register()
    return AutoConfig


def _check_type(model_type: object, where: str) -> None:
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ConfigError(f"{where}: model_type {model_type!r} is not one of {', '.join(FAMILIES)}")


def _not_found(weights: str, error: Exception) -> str:
    cache = os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    return (
        f"frontend weights '{weights}' cannot be loaded: {_reason(error)} Looked for a local "
        f"directory of that name and in the hub cache under {cache}. Without network, download the "
        "model elsewhere ('hf download NAME --local-dir DIR') and give DIR as the frontend's "
        "weights."
    )


def _reason(error: Exception) -> str:
    """Return what an error of the library says, in a sentence."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    # Errors about a value have the name of its field in their first line and the rest behind it.
    text = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__} {text}".rstrip()
    return text if text.endswith(".") else f"{text}."
