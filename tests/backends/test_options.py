"""Options that no backend can work with are refused by name, before anything is trained."""

import pytest

from wesp_lap.backends import BACKENDS
from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError


def refusal(name, num_layers=4, input_dim=32, **options):
    with pytest.raises(ConfigError) as caught:
        build(
            BACKENDS,
            Section(name, options),
            "backend",
            num_layers=num_layers,
            input_dim=input_dim,
        )
    return str(caught.value)


@pytest.mark.parametrize(
    "name, option",
    [
        ("adapter_mfa", "embed_dim"),
        ("ecapa_tdnn", "embed_dim"),
        ("l_tdnn_d3", "channels"),
        ("l_tdnn_ecapa", "channels"),
        ("l_tdnn_ecapa", "embed_dim"),
        ("resnet34", "channels"),
        ("resnet34", "embed_dim"),
        ("superb_astp", "embed_dim"),
        ("universal_pooling", "conv_dim"),
        ("xvector", "channels"),
        ("xvector", "embed_dim"),
        ("xvector", "pooled_dim"),
    ],
)
@pytest.mark.parametrize("size", [0, -8])
def test_sizes_below_one(name, option, size):
    assert f"backend '{name}': {option} must be at least 1, got {size}" == refusal(
        name, **{option: size}
    )


def test_width_between_the_poolings():
    for name, heads in (("lap_astp", 4), ("l_tdnn_d3", 8)):
        assert "pooled width must be at least 1, got 0" in refusal(name, heads=heads, pooled_dim=0)


@pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5])
def test_dropout_of_the_scores(probability):
    """A probability of one would divide by zero."""
    expected = f"score_dropout must lie in [0, 1), got {probability}"
    assert expected in refusal("lap_astp", heads=4, score_dropout=probability)
    pool = {"name": "lap", "heads": 4, "score_dropout": probability}
    assert expected in refusal("mhfa", layer_pool=pool)


def test_lap_on_filterbanks_names_the_cause():
    assert "at least 2 layer states, got 1" in refusal("lap_astp", num_layers=1, input_dim=80)
