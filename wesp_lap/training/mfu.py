"""Model FLOPs utilisation: the share of a device's peak that training reaches."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from wesp_lap.log import get_logger
from wesp_lap.training.flops import KINDS, TrainedParts, training_flops


class Peak(NamedTuple):
    """Dense peaks in TFLOP/s: products of bf16 (fp16) numbers summed in fp32; TF32; fp32."""

    half: float
    tf32: float
    fp32: float


# By the name of a device, from the makers' data sheets, without sparsity; the first that fits.
_PEAKS = (
    (r"B200", Peak(2250, 1125, 75)),
    (r"H200 NVL|H100 NVL", Peak(835, 417.5, 60)),
    (r"H200|GH200.*|H100.*HBM3|H100 SXM.*", Peak(989.4, 494.7, 66.9)),
    (r"H100 PCIe", Peak(756, 378, 51.2)),
    (r"A100.*", Peak(312, 156, 19.5)),
    (r"RTX A6000", Peak(154.8, 77.4, 38.7)),
    (r"A40", Peak(149.7, 74.8, 37.4)),
    (r"A10", Peak(125, 62.5, 31.2)),
    (r"L40S", Peak(362.05, 183, 91.6)),
    (r"L40", Peak(181.05, 90.5, 90.5)),
    (r"L4", Peak(121, 60, 30.3)),
    (r"GeForce RTX 3090", Peak(71, 35.6, 35.6)),
    (r"GeForce RTX 4090", Peak(165.2, 82.6, 82.6)),
    # No bf16 and no TF32 units; the half-precision figure is that of fp16.
    (r"(Tesla )?V100-PCIE.*", Peak(112, 14, 14)),
    (r"(Tesla )?V100.*", Peak(125, 15.7, 15.7)),
)


def peak_flops(device: str, precision: str, tf32: bool = False) -> float | None:
    """Return the dense peak in FLOP/s; None when the device is not known.

    Args:
        device: What ``torch.cuda.get_device_name`` says.
        precision: "fp32", "bf16" or "fp16".
        tf32: Whether products of fp32 numbers may be computed in TF32.
    """
    name = device.removeprefix("NVIDIA ").strip()
    if "MIG" in name:  # a part of a device
        return None
    if precision == "bf16" and "V100" in name:
        return None
    for pattern, peak in _PEAKS:
        if re.fullmatch(pattern, name):
            if precision == "fp32":
                return 1e12 * (peak.tf32 if tf32 else peak.fp32)
            return 1e12 * peak.half
    return None


def device_peak(device: torch.device, precision: str) -> float | None:
    """Return the dense peak of a device of this machine in FLOP/s; None when it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    peak = peak_flops(name, precision, torch.backends.cuda.matmul.allow_tf32)
    if peak is None:
        get_logger().info("no MFU: the peak of %s for %s is not known", name, precision)
    return peak


class Utilisation:
    """Turns utterances into operations, and operations in some time into a share of the peak.

    Args:
        peak: FLOP/s of one device.
        flops: Operations of a training step for one utterance of so many samples.
    """

    def __init__(self, peak: float, flops: Callable[[int], float]) -> None:
        self._peak = peak
        self._flops = lru_cache(maxsize=None)(flops)

    def flops(self, utterances: int, samples: int) -> float:
        """Return the operations of a step on (``utterances``, ``samples``)."""
        return utterances * self._flops(samples)

    def share(self, flops: float, seconds: float, devices: int = 1) -> float:
        """Return the MFU, from 0 to 1."""
        return flops / seconds / devices / self._peak


def open_utilisation(
    model: Any, classifier: nn.Module, device: torch.device, precision: str, samples: int
) -> Utilisation | None:
    """Return what computes the MFU of a phase; None where the device's peak is not known.

    Frontends of the waveform are counted by formula; backend and classifier, and other frontends,
    by torch's counter in one pass over two utterances, which changes nothing.

    Args:
        model: A SpeakerModel, in the state it is trained in.
        classifier: Its loss.
        device: Where both are.
        precision: Autocast type: "fp32", "bf16" or "fp16".
        samples: Usual length of the crops.
    """
    peak = device_peak(device, precision)
    if peak is None:
        return None
    try:
        return Utilisation(peak, step_flops(model, classifier, device, samples))
    except Exception as error:  # a figure for the log must not stop training
        get_logger().warning("no MFU: operations cannot be counted (%s)", error)
        return None


def step_flops(
    model: Any, classifier: nn.Module, device: torch.device, samples: int
) -> Callable[[int], float]:
    """Return a function from the samples of an utterance to the operations of a training step.

    What torch's counter has counted on ``samples`` is taken to grow as the length does.
    """
    frontend = model.frontend
    was_training = model.training
    model.eval()  # no layer is dropped, and no statistics are touched
    try:
        if getattr(frontend, "kind", None) in KINDS:
            states = _states(frontend, samples, device)
            counted = _counted(model.backend, classifier, states)
            per_sample = sum(counted) / samples
            config, parts = frontend.model.config, trained_parts(frontend)
            return lambda n: training_flops(config, n, parts) + n * per_sample
        forward, backward = _counted(model, classifier, torch.zeros(2, samples, device=device))
    finally:
        model.train(was_training)
    again = forward if getattr(frontend, "gradient_checkpointing", False) else 0.0
    per_sample = (forward + backward + again) / samples
    return lambda n: n * per_sample


def trained_parts(frontend: Any) -> TrainedParts:
    """Return what a TransformerFrontend trains."""
    return TrainedParts(
        frozen=frontend.frozen,
        frozen_below=frontend.frozen_below,
        lora=frontend.lora,
        gradient_checkpointing=frontend.gradient_checkpointing,
        layers=frontend.num_layers - 1,
        cls_token=frontend.cls_token,
    )


def _states(frontend: Any, samples: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return states of two utterances, with gradients if the frontend is trained."""
    shape = (2, frontend.output_lengths(samples), frontend.hidden_size)
    trained = not frontend.frozen or frontend.lora is not None
    one = torch.zeros(shape, device=device, requires_grad=trained)
    return tuple(one.clone() for _ in range(frontend.num_layers))


def _counted(network: nn.Module, classifier: nn.Module, entered: Any) -> tuple[float, float]:
    """Return the operations of a forward and of a backward pass for one of two utterances."""
    device = next(classifier.parameters()).device
    trained = [p for m in (network, classifier) for p in m.parameters() if p.requires_grad]
    trained += [t for t in entered if t.requires_grad]
    labels = torch.arange(2, device=device)
    # The counter's hooks on what enters a module refuse leaves of the graph, which is what enters
    # the weight norm of a convolution. A view of a parameter is none.
    views = {name: p.view_as(p) for name, p in network.named_parameters()}
    with FlopCounterMode(display=False) as counter:
        outputs = torch.func.functional_call(network, views, (entered,))
        loss = classifier(outputs, labels, 0.0, 0.0).loss
        forward = counter.get_total_flops()
        torch.autograd.grad(loss, trained, allow_unused=True)
    return forward / 2, (counter.get_total_flops() - forward) / 2
