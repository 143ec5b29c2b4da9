"""Settings of augmentation, and what they need from a noise bank."""

import numpy as np
import pytest
from augment_reference import Source

from wesp_lap.audio.augment import Augmenter, AugmentSettings
from wesp_lap.errors import DataError


def test_categories_of_the_sets():
    common = {"noise", "music", "speech"}
    assert set(AugmentSettings(noise_prob=0.1).categories) == {*common, "rir"}
    assert set(AugmentSettings(set="mhfa", noise_prob=1.0).categories) == {*common, "simulated_rir"}
    assert AugmentSettings(set="mhfa", volume_prob=1.0).categories == ()


@pytest.mark.parametrize(
    ("name", "missing"), [("lap", "music"), ("wespeaker", "rir"), ("mhfa", "simulated_rir")]
)
def test_a_source_without_a_category_is_refused(name, missing):
    source = Source()
    source.tables[missing] = np.empty((0, 3), dtype=int)
    with pytest.raises(DataError, match=f"the noise bank holds no {missing}"):
        Augmenter(AugmentSettings(set=name, noise_prob=0.1), source)
    with pytest.raises(DataError, match="there is no noise bank"):
        Augmenter(AugmentSettings(set=name, noise_prob=0.1))


@pytest.mark.parametrize("name", ["noise_prob", "volume_prob", "codec_prob"])
@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_a_probability_outside_0_to_1_is_refused(name, probability):
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\], got {probability}"):
        AugmentSettings(**{name: probability})


def test_other_bad_settings_are_refused():
    with pytest.raises(ValueError, match="set must be one of lap, wespeaker, mhfa, got 'LAP'"):
        AugmentSettings(set="LAP")
    with pytest.raises(ValueError, match="volume_db must not be negative, got -3"):
        AugmentSettings(volume_db=-3)
