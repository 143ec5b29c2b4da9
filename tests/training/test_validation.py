"""Validation: who is held out, what is measured, and that training never notices."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from helpers import ROOT

from wesp_lap.analysis.training_log import read_training_log
from wesp_lap.config import save_yaml
from wesp_lap.data.access import AccessSettings
from wesp_lap.data.index import load_utterances
from wesp_lap.data.indexing import index_shards
from wesp_lap.data.raw_list import make_raw_list
from wesp_lap.data.shards import make_shards
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import read_json
from wesp_lap.kaldi.tables import read_table
from wesp_lap.model import SpeakerModel
from wesp_lap.tensors import load_tensors
from wesp_lap.training.average import average_models
from wesp_lap.training.distributed import Process
from wesp_lap.training.held_out import ValidationSettings, split_utterances
from wesp_lap.training.run import train
from wesp_lap.training.validation import Validator

FILES = ("model.safetensors", "classifier.safetensors", "optimizer.safetensors")
HELD = {"speakers": 3, "utterances": 4, "seconds": 1, "trials": 1000}
ALONE = Process(0, 1, torch.device("cpu"))


@pytest.fixture
def utterances(shard_list):
    return load_utterances(shard_list)


@pytest.fixture
def own_set(tiny_corpus, tmp_path):
    """Validation settings of a set of its own: two utterances of each speaker, all pairs."""
    data = tmp_path / "own"
    data.mkdir()
    for name in ("utt2spk", "wav.scp"):
        lines = (tiny_corpus.data / name).read_text().splitlines()
        kept = [f"own-{line}" for line in lines if line.split()[0][-1] in "01"]
        (data / name).write_text("\n".join(kept) + "\n")
    table = read_table(data / "utt2spk")
    (data / "utt2spk").write_text("".join(f"{key} other-{own}\n" for key, own in table.items()))
    make_shards(data, tmp_path / "own_shards", tmp_path / "own.list")
    pairs = itertools.combinations(sorted(table), 2)
    lines = (f"{a} {b} {'target' if table[a] == table[b] else 'nontarget'}\n" for a, b in pairs)
    (tmp_path / "own.trials").write_text("".join(lines))
    return {
        "shards": str(tmp_path / "own.list"),
        "trials_list": str(tmp_path / "own.trials"),
        "seconds": 1,
    }


def divide(corpus, **settings):
    return split_utterances(ValidationSettings(**settings), corpus, AccessSettings())


def end(exp_dir, epoch):
    return exp_dir / "checkpoints" / f"epoch_{epoch:03d}"


def assert_same_training(one, other, epoch=2):
    for name in FILES:
        ours, theirs = (load_tensors(end(exp_dir, epoch) / name) for exp_dir in (one, other))
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert torch.equal(tensor, theirs[key]), f"{name}: {key}"


def test_held_out_speakers_leave_training_and_make_balanced_trials(utterances):
    split = divide(utterances, **HELD)
    held = split.record["speakers"]
    assert len(held) == 3 and not {*held} & {*split.training.speakers}
    assert len(split.training) == 20 and len(split.training.speakers) == 5
    keys = [split.training.key(row) for row in range(20)]
    assert keys == [k for k in map(utterances.key, range(32)) if k[:5] not in held]
    trials = split.validation.trials
    assert {*trials.enroll, *trials.test} <= {f"{s}-{n}" for s in held for n in range(4)}
    pairs = [*zip(trials.enroll, trials.test, strict=True)]
    assert len({frozenset(pair) for pair in pairs}) == len(pairs) and all(a != b for a, b in pairs)
    same = np.array([a[:5] == b[:5] for a, b in pairs])
    np.testing.assert_array_equal(same, trials.labels == 1)
    assert same.sum() == 18 == (~same).sum()  # 3 speakers with 6 pairs each


def test_speakers_and_trials_depend_on_their_seed_alone(utterances, shard_list, tmp_path):
    first = divide(utterances, **HELD)
    assert divide(utterances, **HELD).record == first.record
    others = [divide(utterances, **HELD, seed=seed).record["speakers"] for seed in range(1, 6)]
    assert any(one != first.record["speakers"] for one in others)
    turned = tmp_path / "turned.list"
    turned.write_text("\n".join(reversed(shard_list.read_text().split())) + "\n")
    assert divide(load_utterances(turned), **HELD).record == first.record


def test_what_cannot_be_held_out_is_named(utterances):
    with pytest.raises(DataError, match=r"speakers \(7\) of 8 cannot be held out.*at least 2 must"):
        divide(utterances, speakers=7, utterances=2)
    with pytest.raises(DataError, match=r"0 have 5 utterances or more \(validation.utterances\)"):
        divide(utterances, speakers=2, utterances=5)
    for wrong in ({"speakers": 1}, {"shards": "a"}, {"shards": "a", "trials_list": "b"}):
        with pytest.raises(ValueError, match=r"at least 2|go together|not both"):
            ValidationSettings(**{"speakers": 2 if len(wrong) == 2 else 0, **wrong})


@pytest.mark.parametrize("mean", [True, False])
def test_the_error_rate_is_that_of_the_cosines_of_middle_crops(
    utterances, tiny_corpus, tiny_model_settings, make_settings, mean
):
    torch.manual_seed(1)
    model = SpeakerModel(make_settings().model)
    split = divide(utterances, **HELD, mean=mean)
    settings = ValidationSettings(**HELD, mean=mean)
    found = Validator(settings, split.validation, AccessSettings(), ALONE)(model)
    trials = split.validation.trials
    embeddings = {}
    for key in {*trials.enroll, *trials.test}:
        wave, _ = soundfile.read(read_table(tiny_corpus.data / "wav.scp")[key], dtype="float32")
        start = (len(wave) - 16000) // 2
        embeddings[key] = model.embed(torch.from_numpy(wave[start : start + 16000])).double()
    center = torch.stack([*embeddings.values()]).mean(dim=0) if mean else 0
    scores = [
        torch.cosine_similarity(embeddings[a] - center, embeddings[b] - center, dim=0).item()
        for a, b in zip(trials.enroll, trials.test, strict=True)
    ]
    scores, targets = np.array(scores), trials.labels == 1
    rates = [
        ((scores[~targets] >= t).mean(), (scores[targets] < t).mean()) for t in np.unique(scores)
    ]
    nearest = min(abs(a - b) for a, b in rates)
    assert found.eer in [100 * max(a, b) for a, b in rates if abs(a - b) <= nearest + 1e-9]
    cost = min([0.05 * miss + 0.95 * false for false, miss in rates] + [0.05]) / 0.05
    assert found.min_dcf_005 == pytest.approx(cost)
    assert found.trials == 36


def test_whole_utterances_and_short_ones_are_embedded(utterances, make_settings):
    model = SpeakerModel(make_settings().model)
    for seconds in (0, 10, 0.001):
        settings = ValidationSettings(**{**HELD, "seconds": seconds})
        split = split_utterances(settings, utterances, AccessSettings())
        assert Validator(settings, split.validation, AccessSettings(), ALONE)(model).eer <= 100


def test_a_model_without_error_rates_only_warns(utterances, make_settings, caplog):
    model = SpeakerModel(make_settings().model)
    split = divide(utterances, **HELD)
    validator = Validator(ValidationSettings(**HELD), split.validation, AccessSettings(), ALONE)
    for value in (float("nan"), 0.0):
        for tensor in model.backend.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(value)
        assert validator(model) is None


def test_training_goes_on_as_if_there_were_no_validation(make_settings, own_set, tmp_path):
    """With everything on that draws random numbers or keeps statistics."""
    changes = {
        "frontend": {
            "config": {"layerdrop": 0.3, "apply_spec_augment": True, "mask_time_length": 2}
        },
        "data": {"augment": {"speed_perturb": True}},
    }
    train(make_settings(**changes), tmp_path / "without")
    train(make_settings(**changes, validation=own_set), tmp_path / "with")
    assert_same_training(tmp_path / "without", tmp_path / "with")
    state = read_json(end(tmp_path / "with", 1) / "state.json")
    assert state["validation"]["trials"] == 120


def test_training_is_that_without_the_held_out_speakers(make_settings, tiny_corpus, tmp_path):
    whole, fewer = tmp_path / "whole" / "raw.list", tmp_path / "fewer" / "raw.list"
    for path in (whole, fewer):
        path.parent.mkdir()
    make_raw_list(tiny_corpus.data, whole)
    index_shards(whole)
    data = {"shards": str(whole), "batch_size": 5}
    train(make_settings(validation=HELD, data=data), tmp_path / "held")
    held = read_json(tmp_path / "held" / "validation.json")["speakers"]
    lines = whole.read_text().splitlines(keepends=True)
    fewer.write_text("".join(line for line in lines if json.loads(line)["spk"] not in held))
    index_shards(fewer)
    train(make_settings(data={**data, "shards": str(fewer)}), tmp_path / "without")
    assert_same_training(tmp_path / "held", tmp_path / "without")
    speakers = (end(tmp_path / "held", 2) / "speakers.txt").read_text()
    assert speakers == (end(tmp_path / "without", 2) / "speakers.txt").read_text()


@pytest.fixture
def validated(make_settings, tmp_path):
    train(make_settings(validation=HELD, data={"batch_size": 5}), tmp_path / "first")
    return tmp_path / "first"


def test_results_stand_in_checkpoints_metrics_and_log(validated):
    results = [read_json(end(validated, e) / "state.json")["validation"] for e in (0, 1, 2)]
    assert all(0 <= one["eer"] <= 100 and one["trials"] == 36 for one in results)
    lines = [json.loads(line) for line in (validated / "metrics.jsonl").read_text().splitlines()]
    records = [line for line in lines if "validation" in line]
    assert [(r["epoch"], r["validation"]) for r in records] == [*enumerate(results)]
    assert len(read_training_log(validated)) == len(lines) - 3
    log = (validated / "train.log").read_text()
    best = min((1, 2), key=lambda e: (results[e]["eer"], results[e]["min_dcf_0.01"]))
    assert f"validation: EER {results[2]['eer']:.2f} %" in log
    assert f"(36 trials, 3 speakers), best so far epoch {best}" in log.splitlines()[-1]
    assert (validated / "best").resolve() == end(validated, best).resolve()


def test_validation_comes_every_so_many_epochs_and_at_the_end(make_settings, tmp_path):
    settings = make_settings(
        validation={**HELD, "every": 2, "at_start": False},
        data={"batch_size": 10},
        training={"epochs": 3},
    )
    train(settings, tmp_path)
    states = [read_json(end(tmp_path, epoch) / "state.json") for epoch in range(4)]
    assert [state["validation"] is not None for state in states] == [False, False, True, True]


def test_interrupted_between_epochs_it_goes_on_the_same(make_settings, validated, tmp_path):
    from wesp_lap.training import trainer

    settings = make_settings(validation=HELD, data={"batch_size": 5})
    with pytest.MonkeyPatch.context() as patch:
        run_steps = trainer.Trainer._run_steps

        def stop(self, epoch, first):
            if epoch == 1:
                raise InterruptedError
            return run_steps(self, epoch, first)

        patch.setattr(trainer.Trainer, "_run_steps", stop)
        with pytest.raises(InterruptedError):
            train(settings, tmp_path / "parts")
    train(settings, tmp_path / "parts")
    assert_same_training(validated, tmp_path / "parts")
    states = [read_json(end(e, 2) / "state.json") for e in (validated, tmp_path / "parts")]
    assert states[0]["validation"] == states[1]["validation"]


def test_later_phases_never_train_on_what_was_held_out(make_settings, validated, tmp_path):
    """The second phase does not validate; the third one does again."""
    held = read_json(validated / "validation.json")
    changes = {"data": {"batch_size": 5}, "training": {"epochs": 1}}
    train(make_settings(init_from=str(validated), **changes), tmp_path / "second")
    assert read_json(tmp_path / "second" / "validation.json")["speakers"] == held["speakers"]
    assert "20 utterances, 0.01 h, 5 speakers" in (tmp_path / "second" / "train.log").read_text()
    again = make_settings(init_from=str(tmp_path / "second"), validation=HELD, **changes)
    train(again, tmp_path / "third")
    assert read_json(tmp_path / "third" / "validation.json") == held
    assert len(read_table(end(tmp_path / "third", 1) / "speakers.txt")) == 5


def test_other_speakers_than_before_are_refused(make_settings, validated, tmp_path):
    for change, message in (
        ({"speakers": 2}, r"speakers: 3 there, 2 here\); give the same values in all phases"),
        ({"seed": 5}, "seed: 0 there, 5 here"),
    ):
        settings = make_settings(init_from=str(validated), validation={**HELD, **change})
        with pytest.raises(ConfigError, match=message):
            train(settings, tmp_path / "second")
    train(make_settings(training={"epochs": 1}), tmp_path / "all")
    settings = make_settings(init_from=str(tmp_path / "all"), validation=HELD)
    with pytest.raises(ConfigError, match=r"all was trained on all speakers.*validation\.shards"):
        train(settings, tmp_path / "second")


def test_a_phase_starts_from_the_best_checkpoint_on_request(make_settings, validated, tmp_path):
    changes = {"data": {"batch_size": 5}, "training": {"epochs": 1}, "validation": HELD}
    link = validated / "best"
    link.unlink()
    link.symlink_to("checkpoints/epoch_001")
    settings = make_settings(init_from=str(validated), init_checkpoint="best", **changes)
    train(settings, tmp_path / "second")
    first, second = (
        load_tensors(folder / "model.safetensors")
        for folder in (end(validated, 1), end(tmp_path / "second", 0))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    link.unlink()
    with pytest.raises(DataError, match=r"init_checkpoint: .* trained without validation"):
        train(settings, tmp_path / "third")


def test_an_own_set_is_checked(make_settings, own_set, tmp_path, caplog):
    def refused(text, message):
        path = tmp_path / "wrong.trials"
        path.write_text(text)
        settings = make_settings(validation={**own_set, "trials_list": str(path)})
        with pytest.raises(DataError, match=message):
            train(settings, tmp_path / "exp")

    refused("own-spk00-0 own-spk00-1\n", r"wrong\.trials: validation needs target and non-target")
    refused("own-spk00-0 own-spk00-1 target\n", "needs target and non-target")
    refused(
        "own-spk00-0 nobody target\nown-spk00-0 own-spk01-0 nontarget\n",
        r"own\.list: no utterance for 1 of 3 names in the validation trials: nobody",
    )


def test_speakers_that_are_trained_on_are_warned_about(
    make_settings, shard_list, tiny_corpus, tmp_path
):
    validation = {
        "shards": str(shard_list),
        "trials_list": str(tiny_corpus.trials),
        "seconds": 0.5,
        "at_start": False,
    }
    train(make_settings(validation=validation, training={"epochs": 1}), tmp_path)
    assert (
        "8 of the 8 speakers of validation.shards are trained on"
        in (tmp_path / "train.log").read_text()
    )


def test_another_validation_is_refused_on_a_resume(make_settings, validated):
    changed = make_settings(validation={**HELD, "seed": 7}, data={"batch_size": 5})
    with pytest.raises(ConfigError, match=r"validation\.seed: 0 there, 7 now"):
        train(changed, validated)


@dataclasses.dataclass(frozen=True)
class Rank(Process):
    """One of several processes that keeps what it would send."""

    sent: list = dataclasses.field(default_factory=list)

    def gather(self, values):
        self.sent.append(values)
        return values.unsqueeze(0).repeat(self.world_size, 1, 1)

    def broadcast(self, values):
        return values


def test_utterances_are_dealt_evenly_over_processes(utterances, make_settings):
    """Each process embeds as many, and in the gathered order nothing is lost or moved."""
    model = SpeakerModel(make_settings().model)
    settings = ValidationSettings(**HELD)
    validation = divide(utterances, **HELD).validation
    whole = Validator(settings, validation, AccessSettings(), ALONE)
    with torch.no_grad():
        expected = whole._embed(model.eval())
        for world in (2, 5):
            ranks = [Rank(rank, world, torch.device("cpu")) for rank in range(world)]
            for rank in ranks:
                Validator(settings, validation, AccessSettings(), rank)._embed(model)
            sent = torch.stack([rank.sent[0] for rank in ranks])
            assert sent.shape[:2] == (world, -(-12 // world))
            together = sent.transpose(0, 1).flatten(0, 1)[:12]
            torch.testing.assert_close(together, expected)


def test_two_processes_validate_the_saved_model(make_settings, utterances, tmp_path):
    """Statistics that differ between the processes are those of the first one for both."""
    settings = make_settings(
        validation=HELD, data={"batch_size": 10}, training={"epochs": 1, "ema_decay": 0.5}
    )
    save_yaml(tmp_path / "settings.yaml", settings)
    words = ["--standalone", "--nproc_per_node=2", "-m", "wesp_lap.bin.train"]
    words += ["--config", tmp_path / "settings.yaml", "--exp_dir", tmp_path / "exp"]
    done = subprocess.run(
        [sys.executable, "-m", "wesp_lap.bin.launch", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    model = average_models([end(tmp_path / "exp", 1)], ema=True)
    validation = divide(utterances, **HELD).validation
    alone = Validator(ValidationSettings(**HELD), validation, AccessSettings(), ALONE)(model)
    found = read_json(end(tmp_path / "exp", 1) / "state.json")["validation"]
    assert found == alone.as_dict()
