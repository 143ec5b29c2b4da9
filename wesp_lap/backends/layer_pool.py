"""The choice of how a backend joins the layer states of a frontend to one sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from wesp_lap.backends.lap import LayerAttentivePooling
from wesp_lap.backends.superb import WeightedSum
from wesp_lap.coerce import Section
from wesp_lap.config import build


class SingleLayer(nn.Module):
    """One layer state as it is; has no parameters.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state.
        layer: Which state, 0 to N - 1; negative ones count from the last, -1.
    """

    def __init__(self, num_layers: int, input_dim: int, layer: int = -1) -> None:
        super().__init__()
        if not -num_layers <= layer < num_layers:
            raise ValueError(f"layer {layer} is none of the {num_layers} states of the frontend")
        self.output_dim = input_dim
        self.layer = layer

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Take one of N states (B, T, D)."""
        return states[self.layer]


LAYER_POOLS: Mapping[str, Callable[..., nn.Module]] = {
    "lap": LayerAttentivePooling,
    "single": SingleLayer,
    "superb": WeightedSum,
}


def build_layer_pool(section: Section | None, num_layers: int, input_dim: int) -> nn.Module:
    """Build a layer pool: N states (B, T, D) to one sequence (B, T, ``output_dim``).

    Args:
        section: Name and options; None takes SUPERB's weighted sum, or the state itself when the
            frontend has only one.
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state.
    """
    section = section or Section("superb" if num_layers > 1 else "single")
    return build(
        LAYER_POOLS, section, "backend.layer_pool", num_layers=num_layers, input_dim=input_dim
    )
