"""Models of the transformers library: built from a configuration, or loaded whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

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


def architecture(config: PretrainedConfig) -> dict[str, Any]:
    """Return the keys of a configuration that its own class knows and that make the network."""
    ours = config.to_dict()
    # The configurations of published models hold keys that their own class does not know.
    known = set(type(config)().to_dict()) - _NOT_ARCHITECTURE
    return {key: ours[key] for key in sorted(known & set(ours))}


def from_config(options: Mapping[str, Any]) -> PreTrainedModel:
    """Build a model with random weights from ``model_type`` and keys of its configuration."""
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


def from_weights(weights: str, changes: Mapping[str, Any]) -> PreTrainedModel:
    """Load a model by its name on the hub or from a directory, with changes to its configuration.

    Raises:
        ConfigError: it cannot be found or read, or tensors are missing or of another shape.
    """
    auto_config, auto_model = _auto_classes()
    try:
        config: PretrainedConfig = auto_config.from_pretrained(weights)
    except (OSError, ValueError) as error:
        raise ConfigError(_not_found(weights, error)) from error
    _check_type(config.model_type, weights)
    config.update(dict(changes))
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


def _auto_classes() -> tuple[Any, Any]:
    # Imported here: transformers' speech models cost seconds that other commands need not pay.
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoConfig, AutoModel


def _check_type(model_type: object, where: str) -> None:
    if model_type not in FAMILIES:
        raise ConfigError(f"{where}: model_type {model_type!r} is not one of {', '.join(FAMILIES)}")


def _not_found(weights: str, error: Exception) -> str:
    cache = os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    reason = str(error).strip().splitlines()[0]
    return (
        f"frontend weights '{weights}' cannot be loaded: {reason} Looked for a local directory of "
        f"that name and in the hub cache under {cache}. Without network, download the model "
        "elsewhere ('hf download NAME --local-dir DIR') and give DIR as the frontend's weights."
    )
