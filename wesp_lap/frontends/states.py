"""The states of all layers from one pass through a model of the transformers library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from wesp_lap.frontends.family import Family


def layer_states(
    family: Family, model: Any, waves: Tensor, lengths: Sequence[int] | None
) -> tuple[Tensor, ...]:
    """Run the model and collect the input of its layers, their outputs, and the final norm.

    Not through ``output_hidden_states``: that leaves dropped layers out of the stack and gives the
    last state of pre-norm models before their final LayerNorm.
    """
    layers = family.layers(model)
    outputs: dict[int, Tensor] = {}

    def keep(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Tensor | tuple) -> None:
            outputs[index] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [family.keep_first(model, lambda state: outputs.update({0: state}))]
    handles += [layer.register_forward_hook(keep(n)) for n, layer in enumerate(layers, 1)]
    try:
        last = family.last_state(model, waves, lengths)
    finally:
        for handle in handles:
            handle.remove()
    states = [outputs[0]]
    for number in range(1, len(layers)):
        states.append(outputs.get(number, states[-1]))  # a dropped layer repeats its input
    return (*states, last)
