"""Floating-point operations that training takes, by formula, for models that hear the waveform.

Only products count, two operations each, as in published figures. A product that costs f forward
costs f again in the backward pass for the gradient of its weights, if they are trained, and f for
that of its input, if anything before it is trained: nothing when all is frozen, 2 f behind the
first trained part. Of the attention, the products of queries, keys, weights and values take
4 T D per frame and layer. Source: docs/methods.md, section 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wesp_lap.frontends.lora import LoraSettings

KINDS = ("wavlm", "hubert", "wav2vec2")
_ORDER = ("convolutions", "projection")


@dataclass(frozen=True)
class TrainedParts:
    """Which parts of a frontend are trained, and how.

    Args:
        frozen: No weight is trained.
        frozen_below: See TransformerFrontend.
        lora: Adapters, trained instead of the weights.
        gradient_checkpointing: Convolutions and layers are computed a second time in the backward
            pass, where anything is trained; so they are counted.
        layers: Number of layers; null for those of the configuration.
        cls_token: A frame more enters the layers.
    """

    frozen: bool = False
    frozen_below: str | int | None = None
    lora: LoraSettings | None = None
    gradient_checkpointing: bool = False
    layers: int | None = None
    cls_token: bool = False

    def trains(self, place: str | int) -> bool:
        """Say whether weights are trained in a part: a name, or a layer's number from 0."""
        if self.frozen or self.lora is not None:
            return False
        below = self.frozen_below
        if isinstance(below, int):
            return isinstance(place, int) and place >= below
        fixed = _ORDER[: _ORDER.index(below) + 1] if below is not None else ()
        return place not in fixed


def training_flops(config: Any, samples: int, parts: TrainedParts = TrainedParts()) -> float:
    """Return the operations of a training step for one utterance.

    Args:
        config: The model's configuration, of a type in ``KINDS``.
        samples: Length of the utterance.
        parts: What is trained.
    """
    before, frames = _before_layers(config, samples, parts)
    total, reached = 0.0, False  # reached: a gradient flows to what is entered next
    for place, flops in before:
        trained = parts.trains(place)
        # The projection has a norm with weights of its own in front of it.
        entered = reached or (trained and place == "projection")
        again = parts.gradient_checkpointing and trained and place == "convolutions"
        total += flops * (1 + trained + entered + again)
        reached = reached or trained
    count = config.num_hidden_layers if parts.layers is None else parts.layers
    for number in range(count):
        layer = _Layer(config, frames, parts, number)
        total += layer.flops(reached)
        reached = reached or layer.trained or bool(layer.adapted)
    return total


def forward_flops(config: Any, samples: int) -> float:
    """Return the operations of a forward pass for one utterance."""
    return training_flops(config, samples, TrainedParts(frozen=True))


def _before_layers(
    config: Any, samples: int, parts: TrainedParts
) -> tuple[list[tuple[str, float]], int]:
    """Return the operations by part, in order, and the number of frames that enter the layers."""
    found: list[tuple[str, float]] = []
    channels = 1
    shapes = zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
    for width, kernel, stride in shapes:
        samples = (samples - kernel) // stride + 1
        found.append(("convolutions", 2.0 * samples * kernel * channels * width))
        channels = width
    width, kernel = config.hidden_size, config.num_conv_pos_embeddings
    found.append(("projection", 2.0 * samples * channels * width))
    frames = samples + parts.cls_token
    # Padding on both sides makes a frame too many when the kernel is even; it is cut off.
    places = frames + (kernel + 1) % 2
    groups = config.num_conv_pos_embedding_groups
    found.append(("position", 2.0 * places * kernel * width * width / groups))
    return found, frames


class _Layer:
    """The products of one Transformer layer."""

    def __init__(self, config: Any, frames: int, parts: TrainedParts, number: int) -> None:
        self._parts = parts
        self._pre_norm = bool(config.do_stable_layer_norm)
        self.trained = parts.trains(number)
        width, inner = config.hidden_size, config.intermediate_size
        square, wide = (width, width), (width, inner)
        sizes = dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), square)
        sizes |= {"intermediate_dense": wide, "output_dense": (inner, width)}
        self._linear: Mapping[str, float] = {n: 2.0 * frames * a * b for n, (a, b) in sizes.items()}
        # WavLM's gate: 8 numbers from each head.
        self._gate = 2.0 * frames * 8 * width if config.model_type == "wavlm" else 0.0
        self._scores = 2.0 * frames**2 * width
        self._adapters: Mapping[str, float] = {}
        if parts.lora is not None:
            targets = parts.lora.targets or ("q_proj", "v_proj")
            self._adapters = {n: 2.0 * frames * parts.lora.rank * sum(sizes[n]) for n in targets}
        fixed = isinstance(parts.frozen_below, int) and number < parts.frozen_below
        self.adapted = frozenset(() if fixed else self._adapters)

    def flops(self, reached: bool) -> float:
        """Return forward and backward operations.

        Args:
            reached: A gradient flows to the input of the layer.
        """
        entered = reached or (self.trained and self._pre_norm)
        learns = {name: entered or self.trained or name in self.adapted for name in self._linear}
        products = learns["q_proj"] + learns["k_proj"]
        mixed = min(products, 1) + learns["v_proj"]
        attention = self._scores * (2 + products + mixed)
        inside = mixed > 0  # behind the attention a gradient flows
        total = self._gate * (1 + self.trained + entered) + attention
        again = self._gate + 2 * self._scores
        for name, flops in self._linear.items():
            entered_here = entered if name in ("q_proj", "k_proj", "v_proj") else inside
            if name == "output_dense":
                entered_here = inside or "intermediate_dense" in self.adapted
            adapter = self._adapters.get(name, 0.0)
            total += flops * (1 + self.trained + entered_here)
            # The second map of a trained adapter has one before it that is trained, too.
            total += adapter * (2.5 + entered_here / 2 if name in self.adapted else 1)
            again += flops + adapter
        active = reached or self.trained or bool(self.adapted)
        if self._parts.gradient_checkpointing and active:
            total += again
        return total
