"""What a model type must say of itself to serve as a frontend."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Family(Protocol):
    """The ways in which one kind of model differs from others.

    Everything takes the model of the transformers library; a family keeps no state of its own.
    """

    lora_targets: tuple[str, ...]
    """Names of the layers' modules that get adapters when no others are given."""

    frames_enter_encoder: bool
    """Whether the encoder is called with frames (B, T, D) and a keyword ``attention_mask``."""

    def auto_model(self) -> Any:
        """Return the class that builds and loads models, as transformers' AutoModel does."""

    def adapt(self, model: Any) -> None:
        """Change what must be changed in a model that was just built or loaded."""

    def output_lengths(self, config: Any, samples: int) -> int:
        """Return the number of frames T for a number of samples; 0 when there are too few."""

    def samples_for(self, config: Any, frames: int) -> int:
        """Return the fewest samples that give a number of frames."""

    def layers(self, model: Any) -> nn.ModuleList:
        """Return the Transformer layers."""

    def encoder(self, model: Any) -> nn.Module:
        """Return the module that runs the layers and, in its training mode, drops some of them."""

    def before_layers(self, model: Any) -> Mapping[str, Sequence[nn.Module | nn.Parameter]]:
        """Return what acts before the first layer, in order.

        By the names that ``frozen_below`` may have: "convolutions" and "projection", if there are
        such parts. Anything else before the first layer is under "rest".
        """

    def drop_layers(self, model: Any, keep: int) -> None:
        """Leave the first layers only, whose states stay what they were in the whole model."""

    def keep_first(self, model: Any, keep: Callable[[Tensor], None]) -> RemovableHandle:
        """Have ``keep`` called with the input of the first layer, also when that is dropped."""

    def last_state(self, model: Any, waves: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """Run the model on waveforms (B, S), zero beyond the lengths; return its last state."""

    def padding_ignored(
        self, model: Any, lengths: Sequence[int], frames: Sequence[int]
    ) -> contextlib.AbstractContextManager[None]:
        """Let no frame of a row depend on its padding, while the block runs."""

    def unused_parameters(self, model: Any) -> Iterator[nn.Parameter]:
        """Yield what never gets a gradient, which DDP would wait for."""
