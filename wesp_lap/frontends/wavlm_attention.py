"""WavLM's attention with gated relative position bias, through scaled_dot_product_attention.

The transformers library computes it in single steps that keep the scores, the weights and the bias
of every head, and reads the weights of the projections without calling them, so that adapters on
them do nothing. Here the projections are called, and the attention itself is one kernel of torch,
which gets the gated bias as an additive mask. Results and names of parameters are the same.
Source: docs/methods.md, section 1.1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The kernels of a GPU want rows of a mask to begin at multiples of this; torch would copy others.
_ALIGNMENT = 8


class WavLMAttention(nn.Module):
    """Takes over the parts of a WavLMAttention of the transformers library.

    Args:
        original: The module to replace; its parameters become those of this one.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.training = original.training
        self.num_heads = original.num_heads
        self.num_buckets = original.num_buckets
        self.max_distance = original.max_distance
        self.dropout = original.dropout
        self.k_proj = original.k_proj
        self.v_proj = original.v_proj
        self.q_proj = original.q_proj
        self.out_proj = original.out_proj
        self.gru_rel_pos_const = original.gru_rel_pos_const
        self.gru_rel_pos_linear = original.gru_rel_pos_linear
        if hasattr(original, "rel_attn_embed"):  # the first layer only
            self.rel_attn_embed = original.rel_attn_embed
        # No buffer: its size is that of the longest input so far, and differs between processes.
        self._buckets = torch.empty(0, dtype=torch.long)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        **unused: object,
    ) -> tuple[Tensor, None, Tensor]:
        """Attend from every frame of (B, T, D) to all frames.

        Args:
            hidden_states: Input (B, T, D) of the projections and of the gate.
            attention_mask: (B, T), true where a frame may be attended to; null for everywhere.
            position_bias: What an earlier layer has returned; the first layer computes it.
            unused: What the library hands to its own attention.

        Returns:
            The output (B, T, D), nothing in place of the weights, and the position bias.
        """
        batch, frames, width = hidden_states.shape
        if position_bias is None:
            position_bias = self.position_bias(frames)
        query, key, value = (
            projection(hidden_states).view(batch, frames, self.num_heads, -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        padding = None if attention_mask is None else attention_mask.ne(1)
        bias = _GatedBias.apply(self.gate(hidden_states), position_bias, padding, query.dtype)
        dropout = self.dropout if self.training else 0.0
        output = F.scaled_dot_product_attention(query, key, value, bias, dropout)
        output = output.transpose(1, 2).reshape(batch, frames, width)
        return self.out_proj(output), None, position_bias

    def gate(self, hidden_states: Tensor) -> Tensor:
        """Return the factor of the position bias for each head and query, (B, h, T, 1)."""
        heads = hidden_states.unflatten(-1, (self.num_heads, -1))
        logits = self.gru_rel_pos_linear(heads)
        logits = logits.to(self.gru_rel_pos_const.dtype).unflatten(-1, (2, 4)).sum(-1)
        first, second = logits.transpose(1, 2).sigmoid().chunk(2, dim=-1)
        return first * (second * self.gru_rel_pos_const - 1.0) + 2.0

    def position_bias(self, frames: int) -> Tensor:
        """Return the bias before gating, (h, T, columns): of the distance key - query.

        The columns beyond T fill the rows up to the alignment and are cut off after gating.
        """
        columns = -(-frames // _ALIGNMENT) * _ALIGNMENT
        longest = (len(self._buckets) + 1) // 2
        if columns > longest or self._buckets.device != self.rel_attn_embed.weight.device:
            longest = max(columns, longest)
            self._buckets = self._buckets_up_to(longest)
        # From the distance of the last query and the first key to that of the first and the last.
        buckets = self._buckets[longest - frames : longest + columns - 1]
        by_distance = self.rel_attn_embed(buckets).t()
        return by_distance.unfold(1, columns, 1).flip(1)

    @torch.inference_mode(False)  # a tensor kept from inference could not be used in training
    def _buckets_up_to(self, longest: int) -> Tensor:
        """Return the bucket of each distance from 1 - longest to longest - 1."""
        device = self.rel_attn_embed.weight.device
        distance = torch.arange(1 - longest, longest, device=device)
        return relative_buckets(distance, self.num_buckets, self.max_distance)


def relative_buckets(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Map distances key - query to buckets: exact when near, logarithmic when far."""
    one_sign = num_buckets // 2
    exact = one_sign // 2
    size = distance.abs()
    octaves = (size.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
    far = (exact + octaves * (one_sign - exact)).long().clamp(max=one_sign - 1)
    return torch.where(size < exact, size, far) + one_sign * (distance > 0)


class _GatedBias(torch.autograd.Function):
    """The product of gate and position bias, written once, in the type of the queries.

    Autograd's own product would hold a second tensor (B, h, T, T) in float32, and three of them in
    the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, position_bias: Tensor, padding: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Return (B, h, T, T): -inf where the key is padding."""
        ctx.save_for_backward(gate, position_bias)
        frames = gate.shape[2]
        shape = (*gate.shape[:3], position_bias.shape[2])
        bias = torch.empty(shape, dtype=dtype, device=gate.device)
        torch.mul(gate, position_bias, out=bias)
        bias = bias[..., :frames]
        if padding is not None:
            bias.masked_fill_(padding[:, None, None], -math.inf)
        return bias

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Sum over keys for the gate, and over the batch for the bias."""
        gate, position_bias = ctx.saved_tensors
        frames = gate.shape[2]
        by_gate = by_bias = None
        if ctx.needs_input_grad[0]:
            plain = position_bias[..., :frames].to(grad.dtype)
            by_gate = torch.einsum("bhqk,hqk->bhq", grad, plain).unsqueeze(-1).to(gate.dtype)
        if ctx.needs_input_grad[1]:
            by_bias = torch.zeros_like(position_bias)
            factor = gate.squeeze(-1).to(grad.dtype)
            by_bias[..., :frames] = torch.einsum("bhqk,bhq->hqk", grad, factor)
        return by_gate, by_bias, None, None
