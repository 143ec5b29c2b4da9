"""egs/librispeech and egs/vctk on miniatures of their corpora, and VoxCeleb2's validation set."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, run_recipe

from wesp_lap.corpora.layouts import LayoutOptions, lay_out
from wesp_lap.files import read_json
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.scores import read_scores
from wesp_lap.kaldi.trials import read_trials

OPTIONS = {
    "librispeech": "--subsets train-clean-100,dev-clean,test-clean --per_label 12",
    "vctk": "--split drawn --held_out 2 --first_prompt 1 --per_label 8",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_recipe(name, tiny_corpus, tiny_config, tmp_path):
    """From the published layout to scores; the epoch is chosen on the validation speakers."""
    layout = LayoutOptions(data=str(tiny_corpus.data), test_speakers=2)
    lay_out(name, tmp_path / "corpus", layout)
    exp = tmp_path / "exp"
    words = [
        "--stage=1",
        "--stop_stage=5",  # from here on nothing is its own
        f"--{name}={tmp_path / 'corpus'}",
        f"--exp_dir={exp}",
        f"--config={tiny_config}",
        "--next_phases=",
        f"--data_options={OPTIONS[name]}",
        "--nproc=1",
        "--nj=1",
        "--utterances_per_shard=8",
    ]
    done = run_recipe(name, *words)
    assert done.returncode == 0, done.stdout[-3000:]
    trials, _ = read_scores(exp / "frozen" / "scores" / f"{name}_test.kaldi.score")
    assert trials.labels is not None
    assert len(np.unique(trials.labels)) == 2
    validation = read_json(exp / "frozen" / "validation.json")
    lists = exp / "data" / name / "trials"
    assert validation["trials"] == len(read_trials(lists / f"{name}_val.kaldi").enroll)
    assert f"{exp}/frozen/model: mean of epoch_001" in done.stdout
    sets = [DataDir.load(exp / "data" / name / part) for part in ("train", "val", "test")]
    assert [len(data.spk2utt) for data in sets] == [4, 2, 2]


def test_validation_set_of_voxceleb2(tiny_corpus, tmp_path):
    data = DataDir.load(tiny_corpus.data)
    keys = {key: f"{key[:5]}/video{int(key[-1]) // 2}/{key}.wav" for key in data.utt2spk}
    wav = {keys[key]: path for key, path in data.wav.items()}
    DataDir(tmp_path, wav, {key: key[:5] for key in wav}, {}, {}).write(tmp_path / "vox2_test")
    script = ROOT / "egs/voxceleb/local/make_validation.py"
    words = ["--data", tmp_path / "vox2_test", "--out", tmp_path / "val", "--nj", "1"]
    command = [sys.executable, script, *words, "--per_label", "30"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trials = read_trials(tmp_path / "val" / "trials.kaldi")
    pairs = zip(trials.enroll, trials.test, strict=True)
    videos = np.array([one.rsplit("/", 1)[0] == other.rsplit("/", 1)[0] for one, other in pairs])
    assert trials.labels is not None
    # 30 targets and 30 others in whole rounds of 8 speakers and of 28 pairs.
    assert np.bincount(trials.labels).tolist() == [56, 32]
    assert videos[trials.labels == 1].sum() == 16
    assert f"--validation.shards {tmp_path}/val/shard.list" in done.stdout
    assert len((tmp_path / "val" / "shard.list").read_text().split()) == 1
    assert "8 speakers, the test set of VoxCeleb2 has 118" in done.stderr
    failed = subprocess.run(
        [sys.executable, str(script), str(tiny_corpus.data), str(tmp_path / "no")],
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 1
    assert "32 keys are not SPEAKER/VIDEO/FILE" in failed.stderr


@pytest.mark.parametrize("name", OPTIONS)
def test_without_a_corpus_the_recipe_says_what_it_needs(name, tmp_path, tiny_config):
    done = run_recipe(name, "--stage=1", f"--exp_dir={tmp_path}", f"--config={tiny_config}")
    assert done.returncode == 2
    assert f"give --{name}, or a --data that has {name}/{{train,val,test}}" in done.stdout
