"""egs/voxceleb and egs/cnceleb, all stages, on miniatures in the published layouts."""

import re
from pathlib import Path

import pytest
import torch
from helpers import run_recipe

from wesp_lap.files import read_json
from wesp_lap.kaldi.tables import read_table
from wesp_lap.tensors import load_tensors

STAGES = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]
PHASES = ["frozen", "joint", "large_margin"]
METHODS = [f"{phase} {method}" for phase in PHASES for method in ("cosine", "asnorm", "qmf")]


def small(tiny_config: Path, exp_dir: Path) -> list[str]:
    """Return what makes a recipe small."""
    return [
        f"--exp_dir={exp_dir}",
        f"--config={tiny_config}",
        "--nproc=1",  # egs/mini is tested with two
        "--top_n=3",
        "--num_pairs=60",
        "--utterances_per_shard=8",
    ]


def voxceleb(corpora: Path) -> list[str]:
    lists = ("veri_test2.txt", "list_test_all2.txt", "list_test_hard2.txt")
    return [
        f"--vox1={corpora / 'voxceleb1'}",
        f"--vox2={corpora / 'voxceleb2'}",
        f"--trials={','.join(str(corpora / 'voxceleb1' / name) for name in lists)}",
        f"--musan={corpora / 'musan'}",
        f"--rirs={corpora / 'rirs'}",
    ]


def cnceleb(corpora: Path) -> list[str]:
    names = ("cnceleb1", "cnceleb2", "musan", "rirs")
    return [f"--{name}={corpora / name}" for name in names]


def results(exp_dir: Path) -> dict[str, list[str]]:
    """Return the methods of each trial list in the results."""
    found: dict[str, list[str]] = {}
    for line in (exp_dir / "results.tsv").read_text().splitlines()[1:]:
        trials, method, *_ = line.split("\t")
        found.setdefault(trials, []).append(method)
    return found


@pytest.fixture(scope="module")
def voxceleb_run(spoken_miniatures, tiny_config, tmp_path_factory):
    exp_dir = tmp_path_factory.mktemp("voxceleb") / "exp"
    words = [*voxceleb(spoken_miniatures), *small(tiny_config, exp_dir)]
    done = run_recipe("voxceleb", *words)
    assert done.returncode == 0, done.stdout[-3000:]
    return exp_dir, words, done.stdout


@pytest.mark.slow
def test_voxceleb_runs_all_stages_and_phases(voxceleb_run):
    exp_dir, _, text = voxceleb_run
    assert re.findall(r"Stage (\d+): ", text) == STAGES
    lists = [f"vox1_{name}_cleaned.kaldi" for name in "OEH"]
    assert results(exp_dir) == dict.fromkeys(lists, METHODS)
    assert (exp_dir / "export").resolve() == exp_dir / "large_margin/export"
    for phase in PHASES:
        assert (exp_dir / phase / "export/manifest.json").is_file()
    wav = read_table(exp_dir / "data/vox2_dev/wav.scp")
    assert all(re.fullmatch(r"id\d{5}/[\w-]{11}/\d{5}\.wav", key) for key in wav)
    assert all(path.endswith(".m4a") for path in wav.values())


@pytest.mark.slow
def test_a_second_run_of_voxceleb_does_nothing_again(voxceleb_run):
    exp_dir, words, text = voxceleb_run
    kept = [*exp_dir.rglob("*.ark"), *exp_dir.rglob("*.safetensors")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    again = run_recipe("voxceleb", *words)
    assert again.returncode == 0, again.stdout[-3000:]
    assert before == {path: path.stat().st_mtime_ns for path in kept}
    tables = [[x for x in out.splitlines() if x.startswith("| ")] for out in (text, again.stdout)]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_prepared_data_serve_another_experiment_without_the_corpora(voxceleb_run, tmp_path):
    """As a data folder that WeSpeaker has prepared would; a phase alone, evaluated alone."""
    exp_dir, words, _ = voxceleb_run
    words = [word for word in words if word.split("=")[0] in ("--config", "--nproc", "--top_n")]
    words += [f"--data={exp_dir / 'data'}", f"--exp_dir={tmp_path / 'exp'}", "--num_pairs=60"]
    done = run_recipe("voxceleb", *words, "--utterances_per_shard=8", "--next_phases=")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "training without noise and reverberation" in done.stdout
    assert results(tmp_path / "exp")["vox1_O_cleaned.kaldi"] == ["cosine", "asnorm", "qmf"]
    assert not (tmp_path / "exp/joint").exists()


@pytest.mark.slow
def test_training_on_voxceleb1_is_tested_on_its_test_speakers(miniatures, tiny_config, tmp_path):
    words = [*voxceleb(miniatures), *small(tiny_config, tmp_path / "exp"), "--train_set=vox1_dev"]
    done = run_recipe("voxceleb", *words, "--stop_stage=1")
    assert done.returncode != 0
    assert "stage 1 (data directories) failed" in done.stdout
    assert "list_test_all2" in done.stdout or "vox1_E_cleaned" in done.stdout


@pytest.mark.slow
def test_cnceleb_runs_all_stages_and_phases(miniatures, tiny_config, tmp_path):
    exp_dir = tmp_path / "exp"
    done = run_recipe("cnceleb", *cnceleb(miniatures), *small(tiny_config, exp_dir))
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.findall(r"Stage (\d+): ", done.stdout) == STAGES
    lists = ("CNC-Eval-Avg.lst", "CNC-Eval-Concat.lst")
    assert results(exp_dir) == dict.fromkeys(lists, METHODS)
    durations = read_table(exp_dir / "data/train_cnceleb1_2/utt2dur")
    assert min(map(float, durations.values())) >= 5


@pytest.mark.parametrize("recipe", ["voxceleb", "cnceleb", "librispeech", "vctk"])
def test_a_bare_recipe_explains_itself(recipe):
    done = run_recipe(recipe)
    assert done.returncode == 0
    for number in range(11):
        assert re.search(rf"\b{number} +[-\w]", done.stdout), number
    assert "--config" in done.stdout


@pytest.mark.parametrize(
    "recipe, words, message",
    [
        ("voxceleb", ["--stage=3"], "give --exp_dir"),
        ("cnceleb", ["--exp_dir=EXP", "--stage=1"], "give --cnceleb1, or a --data that has"),
        ("voxceleb", ["--exp_dir=EXP", "--stage=1"], "give --vox1 and --vox2, or a --data that"),
        ("voxceleb", ["--exp_dir=EXP", "--config=none"], "no settings file none, nor"),
        ("voxceleb", ["--exp_dir=EXP", "--phases=later"], "no phase 'later'"),
        ("voxceleb", ["--exp_dir=EXP", "--gpus=a"], "--gpus takes numbers"),
        ("voxceleb", ["--exp_dir=EXP", "--train_set=vox3"], "--train_set is vox2_dev or vox1_dev"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_sentence(recipe, words, message, tmp_path):
    done = run_recipe(recipe, *(word.replace("EXP", str(tmp_path / "exp")) for word in words))
    assert done.returncode == 2, done.stdout
    assert message in done.stdout and "Traceback" not in done.stdout


@pytest.mark.slow
def test_an_empty_corpus_is_named(tmp_path):
    (tmp_path / "vox").mkdir()
    words = [f"--vox1={tmp_path / 'vox'}", f"--vox2={tmp_path / 'vox'}", "--stage=1"]
    done = run_recipe("voxceleb", *words, f"--exp_dir={tmp_path / 'exp'}")
    assert done.returncode != 0 and str(tmp_path / "vox") in done.stdout
    assert "stage 1 (data directories) failed" in done.stdout


@pytest.mark.slow
def test_self_pre_training_and_its_control(
    voxceleb_run, tiny_config, tiny_pretrain_config, tmp_path
):
    """From prepared data: both iterations, fine-tuning with the encoder and from random weights."""
    exp_dir = tmp_path / "with a space"
    options = "--top_n 3 --num_pairs 60 --utterances_per_shard 8"
    words = [
        f"--data={voxceleb_run[0] / 'data'}",
        f"--exp_dir={exp_dir}",
        *(f"--config={tiny_config}", f"--random_config={tiny_config}"),
        *(f"--pretrain_config={tiny_pretrain_config}", "--num_clusters=8 8"),
        *("--label_layer=1", "--fraction=1.0", "--nproc=1", "--nj=1"),
        *("--controls=random", "--baseline=random", "--next_phases=", f"--run_options={options}"),
    ]
    done = run_recipe("voxceleb", "--stage=3", *words, script="run_pretrain.sh")
    assert done.returncode == 0, done.stdout[-3000:]
    for iteration, rate in (("iteration_1", 100), ("iteration_2", 50)):
        folder = exp_dir / "pretraining" / iteration
        assert read_json(folder / "labels/labels.json")["rate"] == rate
    lines = [line.split("\t") for line in (exp_dir / "grid.tsv").read_text().splitlines()]
    assert [line[:2] for line in lines[1:]] == [
        ["random", "vox2_dev"],
        ["self_pretrained", "vox2_dev"],
    ]
    assert (exp_dir / "grid.png").is_file()
    name = "frontend.model.encoder.layers.0.attention.q_proj.weight"
    tuned = exp_dir / "tuned/self_pretrained/vox2_dev/frozen/model/model.safetensors"
    encoder = load_tensors(exp_dir / "pretraining/iteration_2/encoder/model.safetensors")
    torch.testing.assert_close(load_tensors(tuned)[name], encoder[name.split("model.", 1)[1]])
