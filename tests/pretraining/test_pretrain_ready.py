"""Settings of pre-training are checked before anything is spent."""

import pytest
import yaml
from helpers import tiny_pretraining

from wesp_lap.bin.preflight import main
from wesp_lap.pretraining.ready import check_settings


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "pretrain.yaml"
    path.write_text(yaml.safe_dump(tiny_pretraining(), sort_keys=False))
    return path


def test_all_iterations_are_loaded_without_shards_and_labels(config):
    (check,) = check_settings(config)
    assert (check.level, check.text) == ("ok", f"{config}: iteration_1, iteration_2")


@pytest.mark.parametrize(
    "phases, overrides, message",
    [
        ((), {"masking.prb": "0.5"}, "masking: unknown 'prb' (did you mean 'prob'?)"),
        ((), {"mixing.noise_prob": "0.1"}, "there is no noise bank"),
        (("iteration_3",), {}, "no phase 'iteration_3'"),
    ],
)
def test_what_cannot_load_is_an_error_with_its_mend(config, phases, overrides, message):
    (check,) = check_settings(config, phases, overrides)
    assert check.level == "error" and message in check.text
    assert f"mend {config}" in check.mend


def test_the_command_lays_settings_over_those_of_pre_training(config, tmp_path, capsys):
    assert main(str(tmp_path / "exp"), pretrain_config=str(config)) == 0
    code = main(str(tmp_path / "exp"), pretrain_config=str(config), **{"masking.prb": "1"})
    assert code == 1
    assert "masking: unknown 'prb'" in capsys.readouterr().out
