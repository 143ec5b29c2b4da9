"""Options of the recipes that fit no other option are refused before anything is done."""

import pytest
from helpers import run_recipe


@pytest.mark.parametrize(
    "words, message",
    [
        (["--phases="], "--phases is empty; name phases of"),
        (["--phases=large_margin"], "phase 'large_margin' starts from 'joint', which"),
        (["--phases=joint frozen"], "phase 'joint' starts from 'frozen', which"),
        (["--next_phases=large_margin"], "phase 'large_margin' starts from 'joint', which"),
    ],
)
def test_phases_that_cannot_start_are_refused(words, message, tiny_config, tmp_path):
    done = run_recipe(
        "voxceleb", f"--exp_dir={tmp_path / 'exp'}", f"--config={tiny_config}", "--stage=3", *words
    )
    assert done.returncode == 2, done.stdout
    assert message in done.stdout


def test_a_phase_starts_from_one_that_an_earlier_run_has_trained(tiny_config, tmp_path):
    (tmp_path / "exp/frozen/final").mkdir(parents=True)
    words = [f"--exp_dir={tmp_path / 'exp'}", f"--config={tiny_config}", "--stage=3"]
    done = run_recipe("voxceleb", *words, "--phases=joint")
    assert "no trial lists in" in done.stdout  # which comes next


@pytest.mark.parametrize(
    "words, message",
    [
        (["--controls=rnd"], "--controls are random and public, not 'rnd'"),
        (["--controls=random"], "--baseline public is not among: self_pretrained random"),
        (["--num_nodes=2", "--stage=7"], "only pre-training runs on several nodes"),
        (
            ["--num_nodes=2", "--stage=4", "--stop_stage=4"],
            "--num_nodes 2 needs --HOST_NODE_ADDR",
        ),
        (["--stop_stage=0", "--phases=frozen jont"], "no phase 'jont' in"),
        (["--stop_stage=0", "--public_config=none"], "no settings file none, nor"),
    ],
)
@pytest.mark.parametrize("recipe", ["voxceleb", "cnceleb"])
def test_what_would_stop_self_pre_training_at_its_end_is_refused(recipe, words, message, tmp_path):
    done = run_recipe(recipe, f"--exp_dir={tmp_path / 'exp'}", *words, script="run_pretrain.sh")
    assert done.returncode == 2, done.stdout
    assert message in done.stdout and "Traceback" not in done.stdout


def test_self_pre_training_on_a_download_finds_the_shards_that_run_sh_has_made(tmp_path):
    """--download stands for both corpora of CN-Celeb, which name the folder of the shards."""
    words = [f"--exp_dir={tmp_path / 'exp'}", f"--download={tmp_path}", "--stage=3"]
    done = run_recipe("cnceleb", *words, "--stop_stage=3", script="run_pretrain.sh")
    assert str(tmp_path / "exp/data/train_cnceleb1_2/shard.list") in done.stdout
