"""egs/mini from a synthetic corpus to the results table, at a tiny setting."""

import re

import numpy as np
import pytest
import torch
from helpers import ROOT, run_recipe, tiny_frontend

from wesp_lap.files import read_json
from wesp_lap.kaldi.ark import read_vectors, verify
from wesp_lap.kaldi.scores import read_scores
from wesp_lap.model import SpeakerModel
from wesp_lap.tensors import load_tensors

CORPUS = (
    "--num_train_speakers 6 --num_train_sessions 2 --num_train_utterances 3 "
    "--num_eval_speakers 4 --num_eval_sessions 2 --num_eval_utterances 2 "
    "--num_noises 3 --num_tunes 2 --num_talkers 3 --num_rooms 2"
)
METHODS = ["untrained cosine", "cosine", "asnorm", "qmf"]


@pytest.fixture(scope="module")
def words(tmp_path_factory, tiny_config, tiny_pretrain_config):
    folder = tmp_path_factory.mktemp("mini with a space")
    return [
        f"--exp_dir={folder / 'exp'}",
        f"--corpus={folder / 'corpus'}",
        f"--corpus_options={CORPUS}",
        f"--config={tiny_config}",
        f"--pretrain_config={tiny_pretrain_config}",
        "--top_n=4",
        "--num_pairs=200",
        "--utterances_per_shard=16",
    ]


@pytest.fixture(scope="module")
def exp_dir(words):
    return type(ROOT)(words[0].removeprefix("--exp_dir="))


@pytest.fixture(scope="module")
def system(exp_dir):
    """The folder of the phase that is evaluated."""
    return exp_dir / "large_margin"


@pytest.fixture(scope="module")
def first_run(words):
    pytest.importorskip("espeakng_loader")
    done = run_recipe("mini", *words)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_every_stage_runs_and_ends_in_a_table(first_run, exp_dir):
    stages = ["1", "2", "3", "3", "4", "5", "6", "7", "8", "10"]  # 3 is pre-training, then training
    assert re.findall(r"Stage (\d+): ", first_run) == stages
    rows = [line.split("\t") for line in (exp_dir / "results.tsv").read_text().splitlines()]
    assert rows[0] == ["trials", "method", "eer", "mindcf01", "mindcf05"]
    assert [row[:2] for row in rows[1:]] == [
        [trials, method] for trials in ("trials", "trials_hard") for method in METHODS
    ]
    for row in rows[1:]:
        assert 0 <= float(row[2]) <= 100
        assert " | ".join(row[0].ljust(11) for _ in "x") in first_run


def test_training_ran_in_two_processes_through_all_phases(first_run, exp_dir):
    for phase in ("frozen", "joint", "large_margin"):
        assert "2 x cpu" in (exp_dir / phase / "train.log").read_text()
        assert (exp_dir / phase / "final" / "model.safetensors").is_file()


def test_the_frontend_was_pre_trained_on_the_training_set(first_run, exp_dir):
    for iteration in ("iteration_1", "iteration_2"):
        folder = exp_dir / "pretraining" / iteration
        assert "2 x cpu" in (folder / "train.log").read_text()
        assert (folder / "encoder/model.safetensors").is_file()
        labels = read_json(folder / "labels/labels.json")
        assert labels["rate"] == (100 if iteration == "iteration_1" else 50)
    begun = load_tensors(exp_dir / "frozen/checkpoints/epoch_000/model.safetensors")
    encoder = load_tensors(exp_dir / "pretraining/iteration_2/encoder/model.safetensors")
    name = "encoder.layers.0.attention.q_proj.weight"
    torch.testing.assert_close(begun[f"frontend.model.{name}"], encoder[name])


def test_embeddings_are_whole_and_belong_to_the_averaged_model(first_run, exp_dir, system):
    import kaldiio
    import soundfile

    keys, matrix = read_vectors(system / "embeddings/eval/xvector.scp")
    assert len(keys) == 4 * 2 * 2
    verify(system / "embeddings/eval/xvector")
    theirs = kaldiio.load_scp(str(system / "embeddings/eval/xvector.scp"))
    np.testing.assert_array_equal(theirs[keys[0]], matrix[0])
    wav = dict(
        line.split(None, 1) for line in (exp_dir / "data/eval/wav.scp").read_text().splitlines()
    )
    wave, _ = soundfile.read(wav[keys[0]], dtype="float32")
    model = SpeakerModel.from_pretrained(exp_dir / "export")
    np.testing.assert_allclose(model.embed(torch.from_numpy(wave)), matrix[0], atol=1e-5)


def test_scores_of_all_methods_cover_the_trials(first_run, exp_dir, system):
    for suffix in ("", ".asnorm", ".qmf"):
        trials, scores = read_scores(system / "scores" / f"trials{suffix}.score")
        lines = (exp_dir.parent / "corpus/eval/trials").read_text().splitlines()
        assert len(scores) == len(trials.enroll) == len(lines)


def test_a_second_run_skips_everything_and_prints_the_same_table(first_run, words, system):
    before = {path: path.stat().st_mtime_ns for path in (system / "embeddings").rglob("*.ark")}
    again = run_recipe("mini", *words)
    assert again.returncode == 0, again.stdout[-3000:]
    table = [line for line in first_run.splitlines() if line.startswith("| trials")]
    assert table == [line for line in again.stdout.splitlines() if line.startswith("| trials")]
    for name in ("average", "score_large_margin", "asnorm", "calibrate", "results", "export"):
        assert f"{name}: up to date" in again.stdout
    assert again.stdout.count("epochs are done") == 5
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_what_was_deleted_is_made_again(first_run, words, system):
    (system / "scores/trials.asnorm.score").unlink()
    again = run_recipe("mini", *words, "--stage=6")
    assert again.returncode == 0, again.stdout[-3000:]
    assert (system / "scores/trials.asnorm.score").is_file()
    assert "asnorm: up to date" not in again.stdout


def sentence_of(done):
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    return done.stdout


def test_an_unknown_setting_stops_the_recipe_with_its_name(first_run, words, tmp_path):
    words = [f"--exp_dir={tmp_path}", *words[1:], "--train_options=--training.epoch 3"]
    assert run_recipe("mini", *words, "--stop_stage=2").returncode == 0
    text = sentence_of(run_recipe("mini", *words, "--stage=3"))
    assert text.count("error: training: unknown 'epoch' (did you mean 'epochs'?)") == 1
    assert "stage 3 (training) failed" in text


@pytest.mark.parametrize(
    "change, message",
    [
        (["--train=nowhere"], "nowhere: no such data directory"),
        (["--trials=TRIALS"], "nobody"),
    ],
    ids=["missing corpus", "unknown trial ids"],
)
def test_bad_input_stops_stage_1_with_its_name(tiny_corpus, tmp_path, change, message):
    trials = tmp_path / "trials"
    trials.write_text("spk00-0 nobody target\nspk00-0 spk01-0 nontarget\n")
    defaults = {
        "--train": tiny_corpus.data,
        "--eval": tiny_corpus.data,
        "--trials": tiny_corpus.trials,
    }
    for word in change:
        name, value = word.split("=")
        defaults[name] = trials if value == "TRIALS" else value
    words = [f"{name}={value}" for name, value in defaults.items()]
    text = sentence_of(run_recipe("mini", *words, f"--exp_dir={tmp_path / 'exp'}"))
    assert message in text
    assert "stage 1 (data directories) failed" in text


def test_own_data_takes_all_three_options(tmp_path):
    done = run_recipe("mini", "--train=x", f"--exp_dir={tmp_path}")
    assert done.returncode == 2
    assert "give --train, --eval and --trials together" in done.stdout


@pytest.mark.slow
def test_learns_from_real_speech(real_speech, tmp_path):
    """The recipe's own settings, cut to 6 joint epochs: well below the untrained network."""
    config = tmp_path / "short.yaml"
    config.write_text(
        f"base: {ROOT / 'egs/mini/conf/mini.yaml'}\nphases:\n"
        "  frozen: {training: {epochs: 1}}\n  joint: {training: {epochs: 6}}\n"
    )
    done = run_recipe(
        "mini",
        f"--train={real_speech / 'svmini_train'}",
        f"--eval={real_speech / 'svmini_dev'}",
        f"--trials={real_speech / 'svmini_dev/trials'}",
        f"--musan={real_speech / 'musan_mini'}",
        f"--rirs={real_speech / 'rirs_mini'}",
        f"--exp_dir={tmp_path / 'exp'}",
        f"--config={config}",
        "--pretrain=false",
        "--phases=frozen joint",
        "--num_avg=1",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    rows = [line.split("\t") for line in (tmp_path / "exp/results.tsv").read_text().splitlines()]
    eer = {row[1]: float(row[2]) for row in rows[1:]}
    assert eer["untrained cosine"] > 22
    assert max(eer["cosine"], eer["asnorm"], eer["qmf"]) < 18


@pytest.mark.slow
def test_other_models_are_chosen_by_name(tiny_corpus, tiny_config, tmp_path):
    """A frontend from a local directory and another backend; without noises, in one process."""
    from wesp_lap.frontends.transformer import TransformerFrontend

    for part, kept in (("train", "01234"), ("eval", "567")):
        (tmp_path / part).mkdir()
        for table in ("wav.scp", "utt2spk"):
            lines = (tiny_corpus.data / table).read_text().splitlines(keepends=True)
            (tmp_path / part / table).write_text("".join(x for x in lines if x[4] in kept))
    (tmp_path / "trials").write_text("spk05-0 spk05-1 target\nspk05-0 spk06-1 nontarget\n")
    config = tiny_frontend("wav2vec2", feat_extract_norm="group")
    TransformerFrontend(config=config).model.save_pretrained(tmp_path / "wav2vec2")
    done = run_recipe(
        "mini",
        *(f"--train={tmp_path / 'train'}", f"--eval={tmp_path / 'eval'}"),
        *(f"--trials={tmp_path / 'trials'}", f"--exp_dir={tmp_path / 'exp'}"),
        *(f"--config={tiny_config}", "--phases=frozen joint", "--nproc=1", "--stop_stage=4"),
        *(f"--frontend={tmp_path / 'wav2vec2'}", "--backend=superb_astp"),
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "training without noise and reverberation" in done.stdout
    model = SpeakerModel.from_pretrained(tmp_path / "exp/joint/model")
    assert model.frontend.model.config.model_type == "wav2vec2"
    assert model.backend_section.name == "superb_astp"
