"""The layer that time-delay networks are made of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ConvReluNorm(nn.Module):
    """Convolution over time with bias, ReLU, batch norm, in this order: (B, C, T) to (B, C', T').

    T' = T + 2 padding - dilation (kernel_size - 1).
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        kernel_size: int = 1,
        dilation: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            input_dim, output_dim, kernel_size, padding=padding, dilation=dilation
        )
        self.norm = nn.BatchNorm1d(output_dim)

    @property
    def shrinkage(self) -> int:
        """Frames that the output has less than the input, T - T'."""
        (kernel,), (dilation,) = self.conv.kernel_size, self.conv.dilation
        return dilation * (kernel - 1) - 2 * int(self.conv.padding[0])

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, T) to (B, C', T')."""
        return self.norm(F.relu(self.conv(x), inplace=True))
