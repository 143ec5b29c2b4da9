"""Backends that take one layer state as it is."""

import pytest
import torch
from plain_layers import random_states

from wesp_lap.backends.one_state import FirstFrame, LayerMean
from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError

TABLE = {"first_frame": FirstFrame, "layer_mean": LayerMean}


def test_the_mean_of_the_first_layers_output():
    states = [torch.zeros(1, 3, 2), torch.tensor([[[1.0, 2.0], [3.0, 5.0], [5.0, 2.0]]])]
    assert LayerMean(2, 2)(states).tolist() == [[3.0, 3.0]]


def test_the_first_frame_of_the_last_layer():
    states = [torch.zeros(1, 2, 2), torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])]
    assert FirstFrame(2, 2)(states).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("layer", [0, 2, -2])
def test_the_layer_can_be_chosen(layer):
    states = [state.float() for state in random_states(4)]
    torch.testing.assert_close(LayerMean(4, 10, layer)(states), states[layer].mean(1))
    assert torch.equal(FirstFrame(4, 10, layer)(states), states[layer][:, 0])


@pytest.mark.parametrize("backend", [LayerMean, FirstFrame])
def test_rows_padded_with_anything_give_what_they_give_alone(backend):
    model = backend(3, 10)
    states = [state.float() for state in random_states()]
    frames = [23, 1, 9]
    alone = [model([s[row : row + 1, :n] for s in states]) for row, n in enumerate(frames)]
    for state in states:
        for row, n in enumerate(frames):
            state[row, n:] = float("nan")
    torch.testing.assert_close(model(states, frames), torch.cat(alone))


@pytest.mark.parametrize("backend", [LayerMean, FirstFrame])
def test_there_is_nothing_to_learn_and_the_embedding_is_as_wide_as_a_state(backend):
    model = backend(3, 10)
    assert list(model.parameters()) == []
    assert model.embed_dim == 10


def test_half_precision_averages_in_single():
    state = torch.full((1, 3000, 2), 1.0, dtype=torch.float16)
    state[:, ::2] = 1000
    mean = LayerMean(1, 2, layer=0)
    assert mean([state]).tolist() == mean([state], [3000]).tolist() == [[500.5, 500.5]]


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_layer_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigError, match="layer 5 is none of the 3 states"):
        build(TABLE, Section(name, {"layer": 5}), "backend", num_layers=3, input_dim=4)
