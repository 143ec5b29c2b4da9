"""Encoders that self-pre-training starts from scratch: HuBERT, WavLM, and HuBERT with Conformers.

A section ``{name: hubert|wavlm|conformer, ...}`` gives the sizes; where nothing is said, they are
those of the paper. Source: docs/methods.md, sections 6.3 to 6.5.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn

from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.files import PathLike
from wesp_lap.frontends.loading import Regularization, from_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_INIT_STD = 0.02


@dataclass(frozen=True)
class HubertEncoder:
    """HuBERT base.

    Args:
        hidden_size: Width D of the layers.
        num_layers: Number of layers.
        num_heads: Attention heads of a layer.
        intermediate_size: Channels inside a feed-forward part.
        conv_channels: Channels of the convolutions over the waveform.
        conv_kernels: Their kernels, in samples of what enters each.
        conv_strides: Their strides; the product is the hop of a frame in samples.
        conv_norm: "group" normalises behind the first convolution (HuBERT base), "layer" each frame
            behind every one.
        position_kernel: Frames that the position convolution sees.
        position_groups: Groups of its channels.
        dropout: Dropout after the projection, before the layers and behind their parts.
        attention_dropout: Dropout of the attention weights.
        activation_dropout: Dropout inside the feed-forward parts.
        layerdrop: Probability of skipping a layer in training.
    """

    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    conv_channels: int = 512
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_norm: Literal["group", "layer"] = "group"
    position_kernel: int = 128
    position_groups: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    layerdrop: float = 0.05

    model_type: ClassVar[str] = "hubert"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
            if isinstance(value, float) and not 0 <= value < 1:
                raise ValueError(f"{name} must be from 0 to 1, and less than 1; got {value}")
        if len(self.conv_kernels) != len(self.conv_strides) or not self.conv_kernels:
            raise ValueError(
                f"{len(self.conv_kernels)} conv_kernels and {len(self.conv_strides)} conv_strides; "
                "give one of each per convolution"
            )
        if min(*self.conv_kernels, *self.conv_strides) < 1:
            raise ValueError("conv_kernels and conv_strides must be positive")
        for name in ("num_heads", "position_groups"):
            if self.hidden_size % getattr(self, name):
                raise ValueError(f"hidden_size {self.hidden_size} is not divisible by {name}")

    def config(self) -> dict[str, Any]:
        """Return the sizes by the names that model configurations have for them."""
        return {
            "model_type": self.model_type,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "intermediate_size": self.intermediate_size,
            "conv_dim": [self.conv_channels] * len(self.conv_kernels),
            "conv_kernel": list(self.conv_kernels),
            "conv_stride": list(self.conv_strides),
            "feat_extract_norm": self.conv_norm,
            "num_conv_pos_embeddings": self.position_kernel,
            "num_conv_pos_embedding_groups": self.position_groups,
            "feat_proj_dropout": self.dropout,
            "hidden_dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "activation_dropout": self.activation_dropout,
            "layerdrop": self.layerdrop,
        }


@dataclass(frozen=True)
class WavLMEncoder(HubertEncoder):
    """WavLM base: HuBERT with a gated relative position bias in the attention.

    Args:
        num_buckets: Distances that the bias tells apart, both signs together.
        max_distance: Distance in frames beyond which it tells none.
    """

    num_buckets: int = 320
    max_distance: int = 800

    model_type: ClassVar[str] = "wavlm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_buckets % 4 or self.max_distance <= self.num_buckets // 4:
            raise ValueError(
                "num_buckets must be a multiple of 4, and max_distance above a quarter"
            )

    def config(self) -> dict[str, Any]:
        """Return the sizes by the names that model configurations have for them."""
        own = {"num_buckets": self.num_buckets, "max_bucket_distance": self.max_distance}
        return {**super().config(), **own}


@dataclass(frozen=True)
class ConformerEncoder(HubertEncoder):
    """HuBERT with Conformer layers; see wesp_lap.frontends.conformer.

    Args:
        activation_dropout: Dropout inside the feed-forward parts.
        depthwise_kernel: Frames that the depthwise convolutions see, an odd number.
    """

    activation_dropout: float = 0.1
    depthwise_kernel: int = 31

    model_type: ClassVar[str] = "hubert-conformer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depthwise_kernel % 2 == 0:
            raise ValueError(f"depthwise_kernel must be odd, got {self.depthwise_kernel}")

    def config(self) -> dict[str, Any]:
        """Return the sizes by the names that model configurations have for them."""
        return {**super().config(), "conv_depthwise_kernel_size": self.depthwise_kernel}


ENCODERS: Mapping[str, Callable[..., HubertEncoder]] = {
    "conformer": ConformerEncoder,
    "hubert": HubertEncoder,
    "wavlm": WavLMEncoder,
}


def build_encoder(section: Section) -> PreTrainedModel:
    """Build the encoder of a section, initialised; random numbers are torch's global ones."""
    model = from_config(build(ENCODERS, section, "encoder").config(), Regularization())
    initialize(model)
    return model


@torch.no_grad()
def initialize(model: Any) -> None:
    """Initialise an encoder as fairseq initialises HuBERT.

    The library's own initialisation differs between its models, and leaves HuBERT's position
    convolution as it is. Source: docs/methods.md, section 6.3.
    """
    for layer in model.feature_extractor.conv_layers:
        nn.init.kaiming_normal_(layer.conv.weight)
    model.feature_projection.projection.reset_parameters()
    model.masked_spec_embed.uniform_()
    position = model.encoder.pos_conv_embed.conv
    fan_in = position.kernel_size[0] * position.in_channels
    # Weight norm splits what is assigned into length and direction.
    position.weight = torch.randn_like(position.weight) * math.sqrt(4 / fan_in)
    position.bias.zero_()
    for module in model.encoder.layers.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=_INIT_STD)
            module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(std=_INIT_STD)
        elif isinstance(module, nn.Conv1d):
            module.reset_parameters()


def save_encoder(model: PreTrainedModel, folder: PathLike) -> None:
    """Write an encoder as a directory that the frontend ``transformer`` takes as ``weights``.

    HuBERT and WavLM are opened by plain transformers, too. The files are written beside the
    directory and moved into it, ``config.json`` last.
    """
    from transformers import Wav2Vec2FeatureExtractor

    target = Path(folder)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    target.mkdir(parents=True, exist_ok=True)
    try:
        model.save_pretrained(partial)
        # Waveforms enter as they are, which other software would not know.
        Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(partial)
        for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
            file.replace(target / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
