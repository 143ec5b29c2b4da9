"""The network of self-pre-training: waveforms and labels to the loss of masked prediction.

Source: docs/methods.md, sections 6.3 and 6.4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wesp_lap.files import PathLike
from wesp_lap.frontends import freezing
from wesp_lap.frontends.families import FAMILIES
from wesp_lap.frontends.loading import layerdrop_of
from wesp_lap.pretraining.encoders import save_encoder
from wesp_lap.pretraining.masking import MaskSettings, masked_frames
from wesp_lap.pretraining.mixing import MixingSettings, NoiseSource, mix_utterances
from wesp_lap.pretraining.objective import (
    ObjectiveSettings,
    Prediction,
    PredictionHead,
    feature_penalty,
    predict,
)

# Rounding at both ends of a crop costs a label or two; more are a fault of whoever made them.
_MISSING_LABELS = 2


class PretrainNetwork(nn.Module):
    """Encoder and prediction head as one module, so that DDP sees one forward call.

    Args:
        encoder: A model from build_encoder, or another that hears the waveform through
            convolutions and has a vector ``masked_spec_embed``.
        num_clusters: Number of clusters of the labels.
        objective: What is predicted how; null for the defaults.
        masking: Which frames are masked; null for the defaults.
        mixing: What is added to the waveforms in training; null for nothing.
        grad_mult: Factor on the gradient that enters the convolutions.
        noise: Draws noise for the mixing.
        gradient_checkpointing: Compute activations again in the backward pass, to save memory.
    """

    def __init__(
        self,
        encoder: Any,
        num_clusters: int,
        objective: ObjectiveSettings | None = None,
        masking: MaskSettings | None = None,
        mixing: MixingSettings | None = None,
        grad_mult: float = 0.1,
        noise: NoiseSource | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < grad_mult <= 1:
            raise ValueError(f"grad_mult must be above 0 and at most 1, got {grad_mult}")
        if mixing is not None and mixing.noise_prob > 0 and noise is None:
            raise ValueError("mixing: noise_prob is above 0, but there is no source of noise")
        self.encoder = encoder
        self.objective = objective or ObjectiveSettings()
        self.head = PredictionHead(encoder.config.hidden_size, num_clusters, self.objective)
        self.masking = masking or MaskSettings()
        self.mixing = mixing
        self.grad_mult = grad_mult
        self._noise = noise
        self._family = FAMILIES[encoder.config.model_type]
        if gradient_checkpointing:
            freezing.recompute_activations(encoder)

    @property
    def has_random_depth(self) -> bool:
        """True when layers, and so parameters, may be left out of a step; DDP must know."""
        return layerdrop_of(self.encoder.config) > 0

    @property
    def min_samples(self) -> int:
        """Fewest samples of a crop of which not all frames are masked."""
        return self._family.samples_for(self.encoder.config, self.masking.min_frames)

    def output_lengths(self, samples: int) -> int:
        """Return the number of frames T, and of labels, of a crop."""
        return self._family.output_lengths(self.encoder.config, samples)

    def forward(
        self,
        waves: Tensor,
        labels: Tensor,
        rng: np.random.Generator,
        count_unmasked: bool = False,
    ) -> dict[str, Tensor]:
        """Mix, mask and predict.

        Args:
            waves: Waveforms (B, S) without padding, float32 in [-1, 1], 16 kHz.
            labels: Clusters of their frames (B, T), int64. Up to two may be missing at the end,
                where the crop then ends, too.
            rng: Where masks and mixtures come from; its key should name the seed, the step and
                the process. Dropout and LayerDrop draw from torch's global generators.
            count_unmasked: Predict frames that are not masked, too, for the log.

        Returns:
            Scalars. ``loss``, with gradient: the sum over predicted frames, with all weights;
            divide its gradient by ``frames``, summed over the processes. For the log, without
            gradient: ``frames``; ``masked``, ``correct`` and ``cross_entropy``: number of masked
            frames, of those predicted right, and the sum of their cross-entropy in nats;
            ``penalty``: the mean square of the convolutions' output, without its weight. When
            asked for, or when they have a weight, ``unmasked``, ``unmasked_correct`` and
            ``unmasked_cross_entropy``.
        """
        if self.training and self.mixing is not None:
            waves = mix_utterances(waves, self.mixing, rng, self._noise)
        features = _ScaledGradient.apply(self.encoder.feature_extractor(waves), self.grad_mult)
        features = _as_long_as(labels, features)
        chosen, others = self._draw(labels, rng)
        frames, labels = self._encode(features, chosen).flatten(0, 1), labels.flatten()
        masked = predict(self.head, frames.index_select(0, chosen), labels[chosen])
        unmasked = None
        if count_unmasked or self.objective.unmasked_weight > 0:
            learnt = torch.is_grad_enabled() and self.objective.unmasked_weight > 0
            with torch.set_grad_enabled(learnt):
                unmasked = predict(self.head, frames.index_select(0, others), labels[others])
        return self._sums(masked, unmasked, feature_penalty(features))

    def _sums(
        self, masked: Prediction, unmasked: Prediction | None, mean_square: Tensor
    ) -> dict[str, Tensor]:
        """Return what forward returns."""
        weight = self.objective.unmasked_weight
        loss, count = masked.loss, masked.frames
        log: dict[str, Tensor | int] = {
            "masked": masked.frames,
            "correct": masked.correct,
            "cross_entropy": masked.loss,
            "penalty": mean_square,
        }
        if unmasked is not None:
            log["unmasked"] = unmasked.frames
            log["unmasked_correct"] = unmasked.correct
            log["unmasked_cross_entropy"] = unmasked.loss
            if weight > 0:
                loss, count = loss + weight * unmasked.loss, count + unmasked.frames
        loss = loss + self.objective.penalty * count * mean_square
        log["frames"] = count
        return {"loss": loss, **{name: _scalar(value, loss) for name, value in log.items()}}

    def _draw(self, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the places of masked and of other frames among the rows laid end to end."""
        # Drawn on the CPU, so that no device is waited for: how many there are is known here.
        rows, frames = labels.shape
        masked = masked_frames(rows, frames, self.masking, rng)
        masked = (masked + frames * np.arange(rows)[:, None]).ravel()
        others = np.delete(np.arange(rows * frames), masked)
        places = torch.from_numpy(np.concatenate([masked, others]))
        chosen, rest = places.to(labels.device, non_blocking=True).split([len(masked), len(others)])
        return chosen, rest

    def _encode(self, features: Tensor, masked: Tensor) -> Tensor:
        """Return the last layer's output (B, T, D) for features (B, C, T)."""
        frames = self.encoder.feature_projection(features.transpose(1, 2))
        if isinstance(frames, tuple):  # some models give the frames before the projection, too
            frames = frames[0]
        hidden = torch.zeros(frames.shape[:2], dtype=torch.bool, device=frames.device)
        hidden.view(-1).index_fill_(0, masked, True)
        mask = self.encoder.masked_spec_embed.to(frames.dtype)
        return self.encoder.encoder(torch.where(hidden.unsqueeze(-1), mask, frames))[0]

    def save_encoder(self, folder: PathLike) -> None:
        """Write the encoder alone, as a directory that the frontends take as ``weights``."""
        save_encoder(self.encoder, folder)


class _ScaledGradient(torch.autograd.Function):
    """What enters, with a factor on its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def _as_long_as(labels: Tensor, features: Tensor) -> Tensor:
    """Cut features (B, C, T) behind the last label of (B, T)."""
    rows, frames = len(features), features.shape[-1]
    missing = frames - labels.shape[1]
    if len(labels) != rows or not 0 <= missing <= _MISSING_LABELS:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} do not fit {rows} crops of {frames} frames"
        )
    return features[..., : labels.shape[1]]


def _scalar(value: Tensor | int, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    return torch.full((), value, device=like.device)
