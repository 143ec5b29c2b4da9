"""Phases in a row: what is frozen, what is handed on, what is refused."""

import json
import shutil

import pytest
import torch

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.model import SpeakerModel
from wesp_lap.tensors import load_tensors, save_tensors
from wesp_lap.training.checkpoint import CheckpointFolder
from wesp_lap.training.checkpoint_files import read_speakers
from wesp_lap.training.run import train


def checkpoint(exp_dir, epoch):
    return exp_dir / "checkpoints" / f"epoch_{epoch:03d}"


def weights(exp_dir, epoch):
    return load_tensors(checkpoint(exp_dir, epoch) / "model.safetensors")


def classifier(exp_dir, epoch):
    return load_tensors(checkpoint(exp_dir, epoch) / "classifier.safetensors")["weight"]


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture
def frozen(make_settings, tmp_path):
    """A finished frozen phase with three classes per speaker."""
    settings = make_settings(
        training={"freeze_frontend": True}, data={"augment": {"speed_perturb": True}}
    )
    train(settings, tmp_path / "frozen")
    return tmp_path / "frozen"


def test_a_frozen_phase_trains_the_backend_and_leaves_the_frontend_alone(frozen):
    names = changed(weights(frozen, 0), weights(frozen, 2))
    assert names
    assert not any(name.startswith("frontend.") for name in names)
    trainable = {n for n in weights(frozen, 0) if n.startswith("backend.")}
    assert names == trainable
    assert not torch.equal(classifier(frozen, 0), classifier(frozen, 2))


def test_the_next_phase_starts_where_the_last_one_ended(frozen, make_settings, tmp_path):
    settings = make_settings(init_from=str(frozen))
    train(settings, tmp_path / "joint")
    assert changed(weights(frozen, 2), weights(tmp_path / "joint", 0)) == set()
    assert torch.equal(classifier(tmp_path / "joint", 0), classifier(frozen, 2))
    assert classifier(frozen, 2).shape == (3, 16, 24)
    assert read_speakers(checkpoint(tmp_path / "joint", 2)) == {
        f"spk{number:02d}": number for number in range(8)
    }


def test_a_joint_phase_trains_every_frontend_parameter(frozen, make_settings, tmp_path):
    train(make_settings(init_from=str(frozen)), tmp_path / "joint")
    before, after = weights(tmp_path / "joint", 0), weights(tmp_path / "joint", 2)
    still = {name for name in before if name not in changed(before, after)}
    assert still == {"frontend.model.masked_spec_embed"}


def test_slice_1x_keeps_the_classes_of_the_original_speed(frozen, make_settings, tmp_path):
    settings = make_settings(init_from=str(frozen), training={"classifier": "slice_1x"})
    train(settings, tmp_path / "joint")
    assert torch.equal(classifier(tmp_path / "joint", 0), classifier(frozen, 2)[..., :8])


def test_a_sliced_classifier_cannot_train_on_perturbed_speeds(frozen, make_settings, tmp_path):
    settings = make_settings(
        init_from=str(frozen),
        training={"classifier": "slice_1x"},
        data={"augment": {"speed_perturb": True}},
    )
    with pytest.raises(ConfigError, match="8 classes for 8 speakers, none for perturbed speeds"):
        train(settings, tmp_path / "joint")


def test_a_later_phase_with_another_backend_is_refused(frozen, make_settings, tmp_path):
    settings = make_settings(init_from=str(frozen), backend={"pooled_dim": 64})
    with pytest.raises(ConfigError, match=r"backend: these settings say .*64.* trained with .*32"):
        train(settings, tmp_path / "joint")


def test_a_later_phase_whose_weights_would_compute_something_else_is_refused(
    frozen, make_settings, tmp_path
):
    """A key of the configuration that changes no shape, beside one that acts in training only."""
    config = {"hidden_act": "relu", "hidden_dropout": 0.3}
    settings = make_settings(init_from=str(frozen), frontend={"config": config})
    with pytest.raises(ConfigError) as caught:
        train(settings, tmp_path / "joint")
    assert str(caught.value).startswith("frontend.config.hidden_act: relu here, gelu in ")
    assert "dropout" not in str(caught.value)


def test_a_later_phase_may_regularise_otherwise(frozen, make_settings, tmp_path):
    config = {"hidden_dropout": 0.3, "layerdrop": 0.1, "apply_spec_augment": True}
    settings = make_settings(
        init_from=str(frozen), frontend={"config": config}, training={"epochs": 1}
    )
    train(settings, tmp_path / "joint")
    assert changed(weights(frozen, 2), weights(tmp_path / "joint", 0)) == set()


def test_the_saved_model_is_a_speaker_model(frozen):
    model = SpeakerModel.from_pretrained(checkpoint(frozen, 2))
    assert model.embed(torch.randn(16000)).shape == (16,)
    assert (frozen / "final").resolve() == checkpoint(frozen, 2).resolve()


def test_speakers_of_another_corpus_are_refused(frozen, make_settings, tmp_path):
    table = checkpoint(frozen, 2) / "speakers.txt"
    table.write_text(table.read_text().replace("spk05", "somebody"))
    with pytest.raises(DataError, match=r"not in the model's speaker map .1 problem.*\n  spk05"):
        train(make_settings(init_from=str(checkpoint(frozen, 2))), tmp_path / "joint")


def test_log_and_metrics_tell_the_same_story(frozen):
    records = [json.loads(line) for line in (frozen / "metrics.jsonl").read_text().splitlines()]
    assert [(r["epoch"], r["step"]) for r in records] == [(1, 2), (1, 4), (2, 2), (2, 4)]
    assert records[0]["margin"] > 0
    assert records[-1]["margin"] == 0.2
    log = (frozen / "train.log").read_text()
    assert "epoch 2/2 step 4/4" in log
    assert f"loss {records[-1]['loss']:.3f}" in log


def test_only_the_last_checkpoints_are_kept(make_settings, tmp_path):
    train(make_settings(training={"epochs": 4, "keep_checkpoints": 2}), tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["epoch_000", "epoch_003", "epoch_004", "latest"]


def test_settings_are_written_and_others_refused_afterwards(make_settings, tmp_path):
    train(make_settings(), tmp_path)
    with pytest.raises(ConfigError, match=r"seed: 42 there, 43 now.*another --exp_dir"):
        train(make_settings(seed=43), tmp_path)
    train(make_settings(training={"log_every": 1}), tmp_path)  # changes nothing in the result


def test_a_phase_does_not_go_on_with_other_data_or_another_start(
    frozen, make_settings, tmp_path, tiny_corpus
):
    from wesp_lap.data.shards import make_shards

    shards = tmp_path / "shard.list"
    make_shards(tiny_corpus.data, tmp_path / "shards", shards)
    settings = make_settings(data={"shards": str(shards)}, init_from=str(frozen))
    train(settings, tmp_path / "joint")
    changed_audio = tmp_path / "data"
    changed_audio.mkdir()
    for name in ("utt2spk", "wav.scp"):
        lines = (tiny_corpus.data / name).read_text().splitlines()
        (changed_audio / name).write_text("\n".join(lines[:-1]) + "\n")
    make_shards(changed_audio, tmp_path / "shards", shards)
    with pytest.raises(ConfigError, match=r"other content of shards\); give another"):
        train(settings, tmp_path / "joint")
    make_shards(tiny_corpus.data, tmp_path / "shards", shards)
    state = checkpoint(frozen, 2) / "state.json"
    state.write_text(state.read_text().replace('"model.safetensors": "', '"model.safetensors": "0'))
    with pytest.raises(ConfigError, match="init_from"):
        train(settings, tmp_path / "joint")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data": {"batch_size": 64}}, "32 utterances do not fill one batch of 64"),
        ({"data": {"shards": "nowhere.list"}}, "nowhere.list: no such shard list"),
        ({"data": {"augment": {"noise_prob": 0.5}}}, "no noise bank"),
        ({"training": {"precision": "fp16"}}, "fp16 on a CPU"),
        ({"init_from": "nowhere"}, "init_from nowhere: neither an experiment directory"),
    ],
)
def test_what_cannot_work_is_named_before_training(make_settings, tmp_path, changes, message):
    with pytest.raises((ConfigError, DataError), match=message):
        train(make_settings(**changes), tmp_path)


def test_weights_of_the_frontend_count_by_content_wherever_they_lie(
    make_settings, tmp_path, tiny_model_settings
):
    """As an experiment that is copied with the encoder that was pre-trained in it."""
    from wesp_lap.frontends.transformer import TransformerFrontend

    def settings(name):
        return make_settings(frontend={"config": None, "weights": str(tmp_path / name)})

    for name in ("one", "another"):
        config = tiny_model_settings["frontend"]["config"]
        TransformerFrontend(config=config).model.save_pretrained(tmp_path / name)
    train(settings("one"), tmp_path / "exp")
    shutil.copytree(tmp_path / "one", tmp_path / "copy", copy_function=shutil.copyfile)
    train(settings("copy"), tmp_path / "exp")
    with pytest.raises(ConfigError, match=r"other content of frontend\.weights"):
        train(settings("another"), tmp_path / "exp")


def test_a_frontend_from_weights_trains_and_goes_on_without_them(
    make_settings, tmp_path, tiny_model_settings
):
    from wesp_lap.frontends.transformer import TransformerFrontend

    config = tiny_model_settings["frontend"]["config"]
    TransformerFrontend(config=config).model.save_pretrained(tmp_path / "weights")
    frontend = {"config": None, "weights": str(tmp_path / "weights")}
    first = make_settings(frontend=frontend, training={"freeze_frontend": True})
    train(first, tmp_path / "frozen")
    (tmp_path / "weights").rename(tmp_path / "gone")
    train(make_settings(frontend=frontend, init_from=str(tmp_path / "frozen")), tmp_path / "joint")
    assert len(CheckpointFolder(tmp_path / "joint" / "checkpoints").epoch_ends()) == 2


def test_averaging_takes_the_mean_of_floats_and_the_last_counter(frozen, tmp_path):
    from wesp_lap.training.average import average_models

    average_models([checkpoint(frozen, 1), checkpoint(frozen, 2)]).save_pretrained(tmp_path / "avg")
    mean = load_tensors(tmp_path / "avg" / "model.safetensors")
    one, two = weights(frozen, 1), weights(frozen, 2)
    name = "backend.time_pool.embedding.weight"
    torch.testing.assert_close(mean[name], (one[name] + two[name]) / 2)
    counter = "backend.time_pool.embedding_norm.num_batches_tracked"
    assert mean[counter] == two[counter] > one[counter]
    assert mean[counter].dtype == torch.int64


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(frozen, make_settings, caplog):
    folder = CheckpointFolder(frozen / "checkpoints")
    tensors = weights(frozen, 2)
    tensors["backend.layer_pool.output.bias"] += 1e-3
    save_tensors(checkpoint(frozen, 2) / "model.safetensors", tensors)
    assert folder.newest().epoch == 1


def test_a_run_that_failed_before_its_first_step_can_be_mended(make_settings, tmp_path):
    with pytest.raises(DataError):
        train(make_settings(data={"batch_size": 64}), tmp_path)
    train(make_settings(), tmp_path)
    assert (tmp_path / "final").exists()


def test_half_a_line_of_a_killed_run_does_not_spoil_the_metrics(make_settings, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "st')
    train(make_settings(), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 4


def test_a_lost_link_to_the_end_is_made_again(make_settings, tmp_path):
    train(make_settings(), tmp_path)
    (tmp_path / "final").unlink()
    train(make_settings(), tmp_path)
    assert (tmp_path / "final").resolve() == checkpoint(tmp_path, 2).resolve()
    assert not (tmp_path / "train.2.log").exists()  # there was nothing to log


def test_a_checkpoint_with_a_broken_state_is_passed_over(frozen):
    (checkpoint(frozen, 2) / "state.json").write_text("")
    assert CheckpointFolder(frozen / "checkpoints").newest().epoch == 1


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_leaves_no_trace(make_settings, tmp_path, monkeypatch, where):
    """Weights, statistics and optimizer end as if the step's batch had not been there."""
    from wesp_lap.training.engine import Engine

    accumulate, steps = Engine._accumulate, []

    def poisoned(self, batch, plan):
        steps.append(len(steps))
        if steps[-1] == 2:
            if where == "loss":
                batch.waves[0, 0] = float("inf")
            output = accumulate(self, batch, plan)
            if where == "gradient":
                next(self._state.classifier.parameters()).grad[0, 0, 0] = float("inf")
            return output
        return accumulate(self, batch, plan)

    monkeypatch.setattr(Engine, "_accumulate", poisoned)
    train(make_settings(training={"epochs": 1}), tmp_path)
    for tensors in (weights(tmp_path, 1), {"classifier": classifier(tmp_path, 1)}):
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert "step skipped" in (tmp_path / "train.log").read_text()


def test_weights_that_are_not_finite_are_never_saved(make_settings, tmp_path, monkeypatch):
    from wesp_lap.errors import WespError
    from wesp_lap.training.trainer import Trainer

    step = Trainer._step

    def diverge(self, epoch, number, batch):
        step(self, epoch, number, batch)
        if (epoch, number) == (1, 3):
            with torch.no_grad():
                self._state.model.backend.time_pool.embedding.weight[0, 0] = float("nan")

    monkeypatch.setattr(Trainer, "_step", diverge)
    with pytest.raises(WespError, match=r"1 tensors hold NaN .*time_pool.embedding.weight"):
        train(make_settings(), tmp_path)
    assert CheckpointFolder(tmp_path / "checkpoints").newest().epoch == 1
    assert not (tmp_path / "final").exists()


def test_a_frontend_with_keys_of_its_own_survives_every_reload(
    make_settings, tmp_path, tiny_model_settings
):
    """Published configurations hold keys that their configuration class does not know."""
    from wesp_lap.frontends.transformer import TransformerFrontend

    source = tmp_path / "weights"
    TransformerFrontend(config=tiny_model_settings["frontend"]["config"]).model.save_pretrained(
        source
    )
    config = json.loads((source / "config.json").read_text())
    config |= {
        "freeze_feat_extract_train": True,
        "replace_prob": 0.5,
        "no_mask_time_overlap": False,
    }
    config |= {"mask_channel_prob": 0.0, "tokenizer_class": "Wav2Vec2CTCTokenizer"}
    (source / "config.json").write_text(json.dumps(config))
    frontend = {"config": None, "weights": str(source)}
    train(make_settings(frontend=frontend, training={"freeze_frontend": True}), tmp_path / "frozen")
    train(make_settings(frontend=frontend, init_from=str(tmp_path / "frozen")), tmp_path / "joint")
    SpeakerModel.from_pretrained(tmp_path / "joint" / "final")


def test_modules_move_before_their_optimizer_is_made(frozen, make_settings):
    """A resumed optimizer's state goes where the parameters are; meta stands for a GPU."""
    from wesp_lap.training import phase

    model = SpeakerModel.from_pretrained(checkpoint(frozen, 2))
    optimizer = phase._optimizer(
        make_settings(), model, torch.nn.Linear(2, 2), torch.device("meta")
    )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert {p.device.type for p in parameters} == {"meta"}


def test_accumulation_needs_equal_chunks_of_two(make_settings, tmp_path):
    with pytest.raises(ConfigError, match=r"accumulate \(8\) must cut the 8 utterances"):
        train(make_settings(training={"accumulate": 8}), tmp_path)
    # By length batch_size does not apply: a batch holds what fits into max_seconds.
    single = {"name": "lengths", "max_seconds": 1, "longest_seconds": 1, "shortest_seconds": 0.1}
    with pytest.raises(ConfigError, match=r"the 1 utterances .*data\.sampling\.max_seconds"):
        train(make_settings(data={"sampling": single}), tmp_path / "lengths")


def test_bf16_trains_on_a_cpu(make_settings, tmp_path):
    train(make_settings(training={"precision": "bf16", "epochs": 1, "grad_clip": 1.0}), tmp_path)
    tensors = weights(tmp_path, 1)
    assert changed(weights(tmp_path, 0), tensors)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32, torch.int64}
