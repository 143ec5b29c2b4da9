"""Frontends: waveform (B, S) to the tuple of N layer states, each (B, T, D).

One contract: ``num_layers`` (N), ``hidden_size`` (D), ``output_lengths(samples)``,
``samples_for(frames)`` and ``forward(waves)``; docs/adding_a_model.md lists all of it. State 0 is
the input of the first Transformer layer, states 1..L are the layers' outputs, so N = L + 1. The
states stay separate tensors: a backend that wants a stack makes it where it can be freed, and one
that sums layers needs none. Filterbank features are a single state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wesp_lap.frontends.fbank import FbankFrontend
from wesp_lap.frontends.transformer import TransformerFrontend

FRONTENDS: Mapping[str, Callable[..., FbankFrontend | TransformerFrontend]] = {
    "fbank": FbankFrontend,
    "transformer": TransformerFrontend,
}
