"""Multi-head factorised attentive pooling: MHFA, and CA-MHFA whose queries see several frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wesp_lap.backends.checks import check_sizes
from wesp_lap.backends.init import xavier_init
from wesp_lap.backends.layer_pool import build_layer_pool
from wesp_lap.backends.statistics import zeroed
from wesp_lap.backends.superb import WeightedSum
from wesp_lap.backends.weighted_sum import weighted_sums
from wesp_lap.coerce import Section
from wesp_lap.padding import padding_mask


class FactorizedAttentivePooling(nn.Module):
    """What MHFA and CA-MHFA share: keys say which frames count, values are what is pooled.

    Keys and values each come from a layer pool of their own and a linear compression to C
    channels. ``queries`` turns the keys (B, T, C) into scores (B, T, H); a softmax over time makes
    weights of them, each of the H weighted means of the values is one head, and the heads, one
    after the other, go through a linear layer. There is no norm, activation or dropout.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        queries: nn.Module,
        heads: int,
        compressed_dim: int,
        embed_dim: int,
        layer_pool: Section | None,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.key_pool = build_layer_pool(layer_pool, num_layers, input_dim)
        self.value_pool = build_layer_pool(layer_pool, num_layers, input_dim)
        pooled_dim: int = self.key_pool.output_dim  # type: ignore[assignment]
        self.key = nn.Linear(pooled_dim, compressed_dim)
        self.value = nn.Linear(pooled_dim, compressed_dim)
        self.queries = queries
        self.embedding = nn.Linear(heads * compressed_dim, embed_dim)
        xavier_init(self)

    def forward(self, states: Sequence[Tensor], frames: Sequence[int] | None = None) -> Tensor:
        """Map N layer states (B, T, D) to embeddings (B, E).

        Args:
            states: The layer states.
            frames: Frames of each row when rows are padded; in evaluation mode only.
        """
        keys, values = self.streams(states)
        padding = None
        if frames is not None:
            padding = padding_mask(frames, keys.shape[1], keys.device).unsqueeze(-1)
            # A weight of zero would not take away NaN; a context of frames reaches into padding.
            keys, values = zeroed(keys, padding), zeroed(values, padding)
        weights = self.attention(keys, padding).to(values.dtype)
        return self.embedding(torch.bmm(weights.transpose(1, 2), values).flatten(1))

    def streams(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (B, T, C), of N layer states (B, T, D)."""
        key_pool, value_pool = self.key_pool, self.value_pool
        if not (isinstance(key_pool, WeightedSum) and isinstance(value_pool, WeightedSum)):
            return self.key(key_pool(states)), self.value(value_pool(states))
        # Both weighted sums in one pass over the states, both compressions in one product.
        logits = torch.stack([key_pool.logits, value_pool.logits])
        sums = weighted_sums(logits.softmax(dim=1), states).flatten(1, 2)
        weight = torch.stack([self.key.weight, self.value.weight])
        bias = torch.stack([self.key.bias, self.value.bias]).unsqueeze(1)
        compressed = torch.baddbmm(bias, sums, weight.transpose(1, 2))
        keys, values = compressed.unflatten(1, states[0].shape[:2])
        return keys, values

    def attention(self, keys: Tensor, padding: Tensor | None = None) -> Tensor:
        """Return the weight of each frame per head, (B, T, H); they sum to one over T.

        Args:
            keys: Keys (B, T, C), zero in the padding.
            padding: (B, T, 1), true where weights shall be zero.
        """
        scores = self.queries(keys)
        if padding is not None:
            scores = scores.masked_fill(padding, -torch.inf)
        return scores.softmax(dim=1, dtype=torch.promote_types(scores.dtype, torch.float32))


class Mhfa(FactorizedAttentivePooling):
    """MHFA: multi-head factorised attentive pooling.

    One query per head is multiplied with the key of each frame. Source: Peng et al., "An
    attention-based backend allowing efficient fine-tuning of transformer models for speaker
    verification", SLT 2022; docs/methods.md, section 2.4.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state.
        heads: Number of heads H.
        compressed_dim: Channels C of keys and values.
        embed_dim: Size E of the embedding.
        layer_pool: Layer pool of the keys, and another of the same kind for the values; by default
            SUPERB's weighted sums.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        heads: int = 64,
        compressed_dim: int = 128,
        embed_dim: int = 256,
        layer_pool: Section | None = None,
    ) -> None:
        check_sizes(heads=heads, compressed_dim=compressed_dim, embed_dim=embed_dim)
        queries = nn.Linear(compressed_dim, heads)
        super().__init__(
            num_layers, input_dim, queries, heads, compressed_dim, embed_dim, layer_pool
        )


class CaMhfa(FactorizedAttentivePooling):
    """CA-MHFA: MHFA with groups of queries that see the frames around the one they score.

    Each group has one query per frame of its context. The score of a frame is the sum of the
    products of these queries with the keys around it: a convolution of the keys over time, zero
    beyond the ends of the utterance. All groups share keys and values, and each gives one weighted
    mean. With a context of one frame this is MHFA with as many heads as groups; MHFA's constant
    per head, to which a softmax is blind, is not there.

    Source: Peng et al., "CA-MHFA: A context-aware multi-head factorized attentive pooling for
    SSL-based speaker verification", ICASSP 2025 (arXiv 2409.15234), for the idea, the sharing and
    the two limits (one frame, one group); the authors' public code for what is computed: odd
    contexts, zero padding, no constant, and no division of the score by the length of the context,
    which the scale of the queries takes up. The defaults are those of the authors' settings files,
    which count 256 queries in 64 groups and lay groups out over 256/64 + 1 frames. Reconstructed:
    the initialisation, that of our other backends.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state.
        groups: Number G of groups of queries; each gives C of the G*C pooled channels.
        context: Frames that a group sees, an odd number.
        compressed_dim: Channels C of keys and values.
        embed_dim: Size E of the embedding.
        layer_pool: See Mhfa.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        groups: int = 64,
        context: int = 5,
        compressed_dim: int = 128,
        embed_dim: int = 256,
        layer_pool: Section | None = None,
    ) -> None:
        check_sizes(groups=groups, compressed_dim=compressed_dim, embed_dim=embed_dim)
        if context < 1 or context % 2 == 0:
            raise ValueError(f"context must be an odd number of frames, got {context}")
        queries = ContextQueries(compressed_dim, groups, context)
        super().__init__(
            num_layers, input_dim, queries, groups, compressed_dim, embed_dim, layer_pool
        )


class ContextQueries(nn.Module):
    """Scores of frames from the keys around them.

    Args:
        key_dim: Channels C of the keys.
        groups: Number G of scores per frame.
        context: Frames seen, an odd number.
    """

    def __init__(self, key_dim: int, groups: int, context: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(key_dim, groups, context, padding=context // 2, bias=False)

    def forward(self, keys: Tensor) -> Tensor:
        """Score keys (B, T, C), giving (B, T, G)."""
        scores: Tensor = self.convolution(keys.transpose(1, 2))
        return scores.transpose(1, 2)
