"""Floating-point operations of a step of pre-training, by formula; see wesp_lap.training.flops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from wesp_lap.pretraining.network import PretrainNetwork
from wesp_lap.training.flops import TrainedParts, training_flops
from wesp_lap.training.mfu import Utilisation, device_peak

# Forward, and backward for weights and for what enters.
_PASSES = 3


def open_utilisation(
    network: PretrainNetwork, device: torch.device, precision: str, again: bool
) -> Utilisation | None:
    """Return what computes the MFU; None where the device's peak is not known."""
    peak = device_peak(device, precision)
    return None if peak is None else Utilisation(peak, step_flops(network, again))


def step_flops(network: PretrainNetwork, again: bool = False) -> Callable[[int], float]:
    """Return a function from the samples of a crop to the operations of a training step.

    Args:
        network: What is trained.
        again: Whether activations are computed again in the backward pass.
    """
    config: Any = network.encoder.config
    head = network.head
    width, projected = head.final_proj.in_features, head.final_proj.out_features
    classes = len(head.label_embeddings)

    def flops(samples: int) -> float:
        frames = network.output_lengths(samples)
        # As if all frames were predicted; the head is a few thousandths of the whole.
        heads = 2.0 * frames * projected * (width + classes) * _PASSES
        parts = TrainedParts(gradient_checkpointing=again)
        if config.model_type != "hubert-conformer":
            return training_flops(config, samples, parts) + heads
        before = training_flops(config, samples, TrainedParts(layers=0))
        layers = config.num_hidden_layers * _conformer_layer(config, frames)
        return before + (_PASSES + again) * layers + heads

    return flops


def _conformer_layer(config: Any, frames: int) -> float:
    """Return the operations of one layer forward."""
    width, inner = config.hidden_size, config.intermediate_size
    feed_forward = 2 * 2 * width * inner
    attention = 4 * width * width + 2 * frames * width
    # Two pointwise convolutions, the first of twice the width, and the depthwise one.
    convolution = 3 * width * width + config.conv_depthwise_kernel_size * width
    return 2.0 * frames * (feed_forward + attention + convolution)
