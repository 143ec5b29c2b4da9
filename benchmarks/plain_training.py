"""Training as a plain script does it: nothing but PyTorch and the transformers library.

A part of training.py, which compares with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import reference_backends
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wesp_lap.losses.margin_softmax import AamSoftmax

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class PlainNetwork(nn.Module):
    """The library's WavLM with its own attention, LAP + ASTP in short code, and AAM-Softmax.

    Args:
        config: Keys of WavLM's configuration.
        backend: Options of LAP + ASTP.
        frozen: Train backend and classifier only.
        loss: The classifier; its weights are computed with in float32.
    """

    def __init__(
        self, config: dict[str, Any], backend: dict[str, Any], frozen: bool, loss: AamSoftmax
    ) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        config = {key: value for key, value in config.items() if key != "model_type"}
        settings = AutoConfig.for_model("wavlm", **config)
        self.wavlm = AutoModel.from_config(settings)
        self.wavlm.masked_spec_embed.requires_grad_(False)
        self.frozen = frozen
        if frozen:
            self.wavlm.requires_grad_(False)
        layers, width = settings.num_hidden_layers + 1, settings.hidden_size
        self.backend = reference_backends.LapAstp(layers, width, **backend)
        self.loss = loss

    def train(self, mode: bool = True) -> PlainNetwork:
        """Switch the mode; a frozen WavLM stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.wavlm.eval()
        return self

    def forward(self, waves: Tensor, labels: Tensor, margin: float) -> Tensor:
        """Return the loss of crops (B, S)."""
        with torch.set_grad_enabled(not self.frozen and torch.is_grad_enabled()):
            states = self.wavlm(waves, output_hidden_states=True).hidden_states
        return self.loss(self.backend(states), labels, margin, 0.0).loss


class PlainLoop:
    """Steps of zero_grad, forward, backward, clip and update, and nothing else.

    Args:
        network: Called with crops, labels and margin; returns the loss.
        optimizer: From the trained parameters.
        device: Where all of it is.
        precision: Autocast type: "fp32", "bf16" or "fp16".
        grad_clip: Largest norm of the gradient.
        margin: Of the loss.
        ranks: Number of processes; more than one are joined by DDP.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        device: torch.device,
        precision: str,
        grad_clip: float,
        margin: float,
        ranks: int = 1,
    ) -> None:
        self.network: nn.Module = network.to(device).train()
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        if ranks > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.network = DistributedDataParallel(network, device_ids=ids)
        self._optimizer = optimizer(self._parameters)
        self._device, self._dtype = device.type, DTYPES.get(precision)
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._grad_clip, self._margin = grad_clip, margin

    def __call__(self, waves: Tensor, labels: Tensor) -> None:
        """Take a step."""
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device, self._dtype, enabled=self._dtype is not None):
            loss = self.network(waves, labels, self._margin)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._parameters, self._grad_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
