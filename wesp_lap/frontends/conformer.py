"""HuBERT with Conformer layers, as the self-pre-training paper builds it.

The waveform goes through the convolutions, the projection and the position convolution of HuBERT;
then a layer norm, and layers of two half feed-forward parts around attention and convolution.
Attention itself knows no positions. Source: docs/methods.md, section 6.5.

The transformers library has Conformer layers too, in Wav2Vec2-Conformer, but that model puts no
position convolution in front of them and has its layer norm behind them. This one is registered
under a model type of its own; plain transformers cannot open it.

The module imports the model library when it is imported, so import it where it is needed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.hubert.configuration_hubert import HubertConfig
from transformers.models.hubert.modeling_hubert import (
    HubertFeatureEncoder,
    HubertFeatureProjection,
    HubertModel,
    HubertPositionalConvEmbedding,
    HubertPreTrainedModel,
)

MODEL_TYPE = "hubert-conformer"


def register() -> None:
    """Let transformers' AutoConfig and AutoModel know the model type; may be called again."""
    AutoConfig.register(MODEL_TYPE, ConformerConfig, exist_ok=True)
    AutoModel.register(ConformerConfig, ConformerModel, exist_ok=True)


class ConformerConfig(HubertConfig):
    """The keys of HuBERT, and the kernel of the depthwise convolution in frames."""

    model_type = MODEL_TYPE

    def __init__(
        self, conv_depthwise_kernel_size: int = 31, hidden_act: str = "swish", **options: Any
    ) -> None:
        super().__init__(hidden_act=hidden_act, **options)
        if conv_depthwise_kernel_size < 1 or conv_depthwise_kernel_size % 2 == 0:
            raise ValueError(
                f"conv_depthwise_kernel_size must be odd and positive, got "
                f"{conv_depthwise_kernel_size}"
            )
        if self.do_stable_layer_norm:
            raise ValueError("do_stable_layer_norm: each Conformer layer has its own norms")
        self.conv_depthwise_kernel_size = conv_depthwise_kernel_size


class FeedForward(nn.Module):
    """Norm, a map to more channels, activation, and a map back; dropout after either."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        inner = self.activation(self.intermediate_dense(self.layer_norm(frames)))
        return self.output_dropout(self.output_dense(self.intermediate_dropout(inner)))


class SelfAttention(nn.Module):
    """Multi-head attention without positions."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        if width % self.num_heads:
            raise ValueError(f"hidden_size {width} is not divisible by {self.num_heads} heads")
        self.dropout = config.attention_dropout
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)

    def forward(self, frames: Tensor, allowed: Tensor | None) -> Tensor:
        """Attend from every frame of (B, T, D) to those that are allowed, (B, 1, 1, T)."""
        batch, count, width = frames.shape
        query, key, value = (
            linear(frames).view(batch, count, self.num_heads, -1).transpose(1, 2)
            for linear in (self.linear_q, self.linear_k, self.linear_v)
        )
        dropout = self.dropout if self.training else 0.0
        output = F.scaled_dot_product_attention(query, key, value, allowed, dropout)
        return self.linear_out(output.transpose(1, 2).reshape(batch, count, width))


class ConvolutionModule(nn.Module):
    """Norm, gated map, depthwise convolution over time, batch norm, activation, map."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.conv_depthwise_kernel_size
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1, bias=False)
        self.depthwise_conv = nn.Conv1d(
            width, width, kernel, padding=kernel // 2, groups=width, bias=False
        )
        self.batch_norm = nn.BatchNorm1d(width)
        self.activation = ACT2FN[config.hidden_act]
        self.pointwise_conv2 = nn.Conv1d(width, width, 1, bias=False)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        channels = self.layer_norm(frames).transpose(1, 2)
        channels = self.depthwise_conv(F.glu(self.pointwise_conv1(channels), dim=1))
        channels = self.pointwise_conv2(self.activation(self.batch_norm(channels)))
        return self.dropout(channels).transpose(1, 2)


class ConformerLayer(GradientCheckpointingLayer):
    """Half a feed-forward part, attention, convolution, the other half, and a norm."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.ffn1 = FeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = SelfAttention(config)
        self.self_attn_dropout = nn.Dropout(config.hidden_dropout)
        self.conv_module = ConvolutionModule(config)
        self.ffn2 = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, frames: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        frames = frames + 0.5 * self.ffn1(frames)
        attended = self.self_attn(self.self_attn_layer_norm(frames), allowed)
        frames = frames + self.self_attn_dropout(attended)
        frames = frames + self.conv_module(frames)
        frames = frames + 0.5 * self.ffn2(frames)
        return self.final_layer_norm(frames)


class ConformerEncoder(nn.Module):
    """Position convolution, norm, dropout, and the layers, some of them dropped in training."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.pos_conv_embed = HubertPositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **unused: object
    ) -> BaseModelOutput:
        """Map projected frames (B, T, D) to the output of the last layer.

        Args:
            hidden_states: The frames.
            attention_mask: (B, T), true where a frame is not padding.
            unused: What the library hands to its own encoders.
        """
        allowed = None
        if attention_mask is not None:
            valid = attention_mask.bool()
            hidden_states = hidden_states.masked_fill(~valid.unsqueeze(-1), 0)
            allowed = valid[:, None, None]
        hidden_states = hidden_states + self.pos_conv_embed(hidden_states)
        hidden_states = self.dropout(self.layer_norm(hidden_states))
        for layer in self.layers:
            if not (self.training and torch.rand([]) < self.config.layerdrop):
                hidden_states = layer(hidden_states, allowed)
        return BaseModelOutput(last_hidden_state=hidden_states)


class ConformerModel(HubertModel):
    """HuBERT's model around the Conformer's encoder; called and saved as that one."""

    config_class = ConformerConfig
    base_model_prefix = "conformer"
    _no_split_modules = ["ConformerLayer"]  # noqa: RUF012
    _supports_flash_attn = False
    _supports_flex_attn = False
    _can_record_outputs = {"hidden_states": ConformerLayer}  # noqa: RUF012

    def __init__(self, config: ConformerConfig) -> None:
        # Not HuBERT's own, which would build the layers that are not wanted.
        HubertPreTrainedModel.__init__(self, config)
        self.feature_extractor = HubertFeatureEncoder(config)
        self.feature_projection = HubertFeatureProjection(config)
        if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
            self.masked_spec_embed = nn.Parameter(torch.rand(config.hidden_size))
        self.encoder: Any = ConformerEncoder(config)
        self.post_init()
