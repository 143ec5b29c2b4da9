"""Whole small runs of pre-training, as a user runs them, against networks stepped by hand."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from helpers import ROOT
from pretraining_corpus import ENCODER, make_corpus
from torch.utils.flop_counter import FlopCounterMode

from wesp_lap.bin.pretrain import main
from wesp_lap.config import load_yaml, save_yaml, to_plain
from wesp_lap.data.index import load_utterances
from wesp_lap.data.noise_bank import make_noise_bank
from wesp_lap.data.stream import open_stream
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.extraction.sources import open_source
from wesp_lap.frontends.transformer import TransformerFrontend
from wesp_lap.pretraining.clusters import KMeansSettings
from wesp_lap.pretraining.features import FeatureSettings
from wesp_lap.pretraining.frames import Workers
from wesp_lap.pretraining.held_out import HeldOutValidator, split_utterances
from wesp_lap.pretraining.labelling import make_labels
from wesp_lap.pretraining.labels import LabelStore
from wesp_lap.pretraining.learning import Sampling, learn_clusters
from wesp_lap.pretraining.operations import step_flops
from wesp_lap.pretraining.run import build_network, open_state, pretrain
from wesp_lap.pretraining.targets import FrameTargets, encoder_framing
from wesp_lap.pretraining.task import FIGURES, NETWORK_FILE, PretrainTask
from wesp_lap.tensors import load_tensors
from wesp_lap.training import memory
from wesp_lap.training.distributed import Process
from wesp_lap.training.engine import Engine, seed_step
from wesp_lap.training.interruption import Interruption
from wesp_lap.training.lr_schedules import Polynomial

CPU = torch.device("cpu")
# Nothing random but masks, and an update that is the gradient itself.
PLAIN = {
    "encoder": {"dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0},
    "optimizer": {"name": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
    "lr_schedule": {"name": "constant", "lr": 1.0},
    "training": {"epochs": 1, "grad_clip": 0.0},
    "validation": {"share": 0.0},
}


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def of_one_step(tree, step_seconds=8.0):
    sampling = {"max_seconds": step_seconds, "epoch_steps": 1}
    return {**PLAIN, **tree, "data": {"sampling": sampling}}


def gradients_by_hand(settings, world_size=1, chunks=1):
    """Return the initial weights and the gradient of the first step over all processes."""
    torch.manual_seed(settings.seed)
    store, utterances = LabelStore.open(settings.labels), load_utterances(settings.data.shards)
    network = build_network(settings, store.num_clusters).train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    targets = FrameTargets(utterances, store, encoder_framing(network.encoder.config))
    total, frames = 0.0, 0
    for rank in range(world_size):
        parts = utterances, targets, settings.data.stream, settings.seed, rank, world_size
        batch = next(open_stream(*parts).epoch(0))
        seed_step(settings.seed, 0, 0, rank)
        split = batch.waves.tensor_split(chunks), batch.labels.tensor_split(chunks)
        for waves, labels in zip(*split, strict=True):
            rng = np.random.default_rng(np.random.randint(0, 2**32, 4, dtype=np.uint32))
            sums = network(waves, labels, rng)
            total, frames = total + sums["loss"], frames + int(sums["frames"])
    (total / frames).backward()
    return before, {name: p.grad for name, p in network.named_parameters()}


def assert_stepped(folder, before, gradients):
    after = load_tensors(folder / "final" / NETWORK_FILE)
    moved = 0
    for name, gradient in gradients.items():
        if gradient is None:
            continue
        scale = max(float(gradient.abs().max()), 1e-3)
        error = float((before[name] - after[name] - gradient).abs().max())
        assert error < 2e-4 * scale + 2e-6, name
        moved += 1
    assert moved > 20


@pytest.mark.parametrize("chunks", [1, 3])
def test_the_gradient_is_divided_by_the_masked_frames_of_all_chunks(
    pretrain_settings, tmp_path, chunks
):
    settings = pretrain_settings(**of_one_step({}))
    settings = with_training(settings, accumulate=chunks)
    pretrain(settings, tmp_path)
    assert_stepped(tmp_path, *gradients_by_hand(settings, chunks=chunks))


def with_training(settings, **changes):
    training = dataclasses.replace(settings.training, **changes)
    return dataclasses.replace(settings, training=training)


@pytest.mark.slow
def test_two_processes_are_one_with_both_batches(pretrain_settings, tmp_path):
    settings = pretrain_settings(**of_one_step({}, 4.0))
    save_yaml(tmp_path / "settings.yaml", to_plain(settings))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "wesp_lap.bin.launch", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "wesp_lap.bin.pretrain", "--config", str(tmp_path / "settings.yaml")]
    command += ["--exp_dir", str(tmp_path / "exp")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_stepped(tmp_path / "exp", *gradients_by_hand(settings, world_size=2))


@pytest.mark.parametrize("name", ["hubert", "wavlm", "conformer"])
def test_a_user_pretrains_an_encoder_and_opens_it(pretrain_settings, tmp_path, name):
    """By the command, with phases; the encoder gives the states that the network had."""
    tree = to_plain(pretrain_settings(encoder={"name": name, **ENCODER}))
    shards, labels = tree["data"].pop("shards"), tree.pop("labels")
    tree["phases"] = {
        "iteration_1": {"training": {"epochs": 1}},
        "iteration_2": {"training": {"epochs": 3}, "mixing": {"prob": 0.5}},
    }
    save_yaml(tmp_path / "hubert.yaml", tree)
    words = {"data.shards": shards, "lr_schedule.max_lr": "5e-3"}
    exp = tmp_path / "exp"
    assert main(str(tmp_path / "hubert.yaml"), str(exp), "iteration_1", labels, **words) == 0
    written = load_yaml(exp / "config.yaml")
    assert written["lr_schedule"]["max_lr"] == 5e-3 and written["mixing"] is None
    assert "| update 15 | loss " in (exp / "train.log").read_text()
    settings = pretrain_settings(encoder={"name": name, **ENCODER})
    network = build_network(settings, 8).eval()
    network.load_state_dict(load_tensors(exp / "final" / NETWORK_FILE))
    frontend = TransformerFrontend(weights=str(exp / "encoder")).eval()
    waves = torch.randn(2, 16000)
    with torch.no_grad():
        states = network.encoder(waves).last_hidden_state
        assert torch.equal(frontend(waves)[-1], states)


def test_the_same_command_makes_a_lost_encoder_again_and_trains_nothing(
    pretrain_settings, tmp_path, monkeypatch
):
    settings = pretrain_settings(training={"epochs": 1})
    pretrain(settings, tmp_path)
    before = load_tensors(tmp_path / "encoder" / "model.safetensors")
    (tmp_path / "encoder" / "config.json").unlink()
    monkeypatch.setattr(Engine, "step", None)
    assert pretrain(settings, tmp_path)
    after = load_tensors(tmp_path / "encoder" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "encoder" / "config.json").is_file()


def test_records_say_what_was_learnt(pretrain_settings, tmp_path):
    settings = pretrain_settings(
        training={"epochs": 12, "log_every": 15}, lr_schedule={"max_lr": 5e-3, "warmup_steps": 20}
    )
    pretrain(settings, tmp_path)
    steps = [record for record in records(tmp_path) if "validation" not in record]
    assert [record["update"] for record in steps] == [15 * n for n in range(1, 13)]
    utterances, store = load_utterances(settings.data.shards), LabelStore.open(settings.labels)
    keys = [utterances.key(row) for row in range(len(utterances))]
    labels = np.concatenate([store.labels(key) for key in keys])
    share = np.bincount(labels).max() / len(labels)
    assert {record["majority"] for record in steps} == {round(float(share), 6)}
    # The corpus has four tones of a voice to a speaker: what is masked can be guessed.
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    assert steps[-1]["loss"] < math.log2(8)
    assert 0 <= steps[-1]["unmasked_accuracy"] <= 1 and steps[-1]["penalty"] > 0
    values = [r["validation"] for r in records(tmp_path) if "validation" in r]
    assert len(values) == 13 and len({v["frames"] for v in values}) == 1
    assert values[-1]["loss"] < values[0]["loss"]


def test_held_out_utterances_are_never_trained_on(pretrain_settings, tmp_path, monkeypatch):
    settings = pretrain_settings(training={"epochs": 2})
    step, seen = Engine.step, set()

    def watched(self, batch, plan):
        seen.update(batch.keys)
        return step(self, batch, plan)

    monkeypatch.setattr(Engine, "step", watched)
    pretrain(settings, tmp_path)
    utterances = load_utterances(settings.data.shards)
    split = split_utterances(settings, utterances)
    held = {split.held_out.key(row) for row in range(len(split.held_out))}
    assert len(held) == 3 and not held & seen
    assert held | seen == {utterances.key(row) for row in range(len(utterances))}
    turned = utterances.take(np.arange(len(utterances))[::-1])
    other = split_utterances(settings, turned).held_out
    assert {other.key(row) for row in range(len(other))} == held


def test_validation_is_the_same_for_any_number_of_processes(pretrain_settings):
    """Sums of two processes are those of one, with the same masks every time."""
    settings = pretrain_settings(validation={"share": 0.4})
    store = LabelStore.open(settings.labels)
    held = split_utterances(settings, load_utterances(settings.data.shards)).held_out
    torch.manual_seed(0)
    network = build_network(settings, store.num_clusters).eval()
    targets = FrameTargets(held, store, encoder_framing(network.encoder.config))

    def sums(rank, world_size):
        process = Process(rank, world_size, CPU)
        with torch.no_grad():
            return HeldOutValidator(settings, held, targets, process)._sums(network)

    whole = sums(0, 1)
    assert whole[FIGURES.index("masked")] > 0
    torch.testing.assert_close(sums(0, 2) + sums(1, 2), whole)
    assert torch.equal(sums(0, 1), whole)
    one = HeldOutValidator(settings, held, targets, Process(0, 1, CPU))
    network.train()
    state = torch.random.get_rng_state()
    assert one(network) == one(network)
    assert network.training and torch.equal(torch.random.get_rng_state(), state)


def test_a_bad_batch_is_skipped_and_counted_in_no_figure(pretrain_settings, tmp_path, monkeypatch):
    compute, calls = PretrainTask.compute, []

    def poisoned(self, network, waves, labels, plan):
        calls.append(1)
        if len(calls) == 3:
            waves = waves * float("inf")
        return compute(self, network, waves, labels, plan)

    monkeypatch.setattr(PretrainTask, "compute", poisoned)
    pretrain(pretrain_settings(training={"epochs": 1, "log_every": 5}), tmp_path)
    steps = [record for record in records(tmp_path) if "validation" not in record]
    assert [record["skipped"] for record in steps] == [1, 0, 0]
    assert all(math.isfinite(record["loss"]) for record in steps)
    assert "step skipped" in (tmp_path / "train.log").read_text()


def test_rates_of_the_published_schedule():
    """Warm-up of 32,000 updates to 5e-4, then a line to 0 at the last update."""
    for total, half_way in ((400_000, 216_000), (800_000, 416_000), (250_000, 141_000)):
        schedule = Polynomial(5e-4, warmup_steps=32_000)
        assert schedule.lr(16_000, total, 5000) == pytest.approx(2.5e-4)
        assert schedule.lr(32_000, total, 5000) == pytest.approx(5e-4)
        assert schedule.lr(half_way, total, 5000) == pytest.approx(2.5e-4)
        assert schedule.lr(total, total, 5000) == 0


def test_the_operations_of_a_step_are_those_that_torch_counts(pretrain_settings):
    """But for the first convolution, behind whose input nothing learns."""
    for name in ("hubert", "wavlm", "conformer"):
        sizes = {**ENCODER, "hidden_size": 64, "intermediate_size": 128, "position_groups": 1}
        settings = pretrain_settings(encoder={"name": name, **sizes})
        network = build_network(settings, 8).train()
        network.encoder.config.layerdrop = 0.0
        labels = torch.zeros(2, network.output_lengths(32000), dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            network(torch.randn(2, 32000), labels, np.random.default_rng(0))
        # A backward pass takes twice as many; of grouped convolutions torch counts other numbers.
        counted = 3 * counter.get_total_flops() / 2
        assert step_flops(network)(32000) == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"encoder": {"hiden_size": 16}}, "hidden_size"),
        ({"encoder": {"name": "hubert2"}}, "hubert"),
        ({"masking": {"lenght": 4}}, "length"),
        ({"lr_schedule": {"warmup_step": 4}}, "warmup_steps"),
        ({"data": {"sampling": {"name": "utterances"}}}, "batches by length"),
        ({"data": {"augment": {}}}, "augment"),
        ({"mixing": {"noise_prob": 0.5}}, "no noise bank"),
        ({"training": {"grad_mult": 0.0}}, "grad_mult"),
        ({"training": {"sharding": "full"}}, "sharding"),
        ({"validation": {"share": 0.9}}, "share"),
    ],
)
def test_wrong_settings_are_named(pretrain_settings, changes, message):
    with pytest.raises(ConfigError, match=message):
        pretrain_settings(**changes)


@pytest.mark.parametrize("warmup, warned", [(5, False), (6, True)])
def test_a_warm_up_that_training_does_not_outlast_is_named(
    pretrain_settings, tmp_path, warmup, warned
):
    sampling = {"epoch_steps": 6}
    settings = pretrain_settings(
        data={"sampling": sampling},
        lr_schedule={"warmup_steps": warmup},
        training={"epochs": 1},
        validation={"share": 0.0},
    )
    pretrain(settings, tmp_path)
    log = (tmp_path / "train.log").read_text()
    assert ("rises for 6 updates, but training ends after 6" in log) == warned


def test_crops_that_masks_would_fill_are_refused(pretrain_settings, tmp_path):
    settings = pretrain_settings(masking={"length": 30})
    with pytest.raises(ConfigError, match=r"masks of 30 frames need crops of at least 0\.62"):
        pretrain(settings, tmp_path)


@pytest.mark.parametrize(
    "share, message",
    [
        (0.0, r"0 utterances of at least 9\.0 s"),
        (0.1, r"of 32 utterances 0 last 9 s .*none of them would be left"),
    ],
)
def test_a_corpus_of_short_utterances_is_refused(pretrain_settings, tmp_path, share, message):
    sampling = {"shortest_seconds": 9.0, "longest_seconds": 10.0, "max_seconds": 20.0}
    settings = pretrain_settings(data={"sampling": sampling}, validation={"share": share})
    with pytest.raises(DataError, match=message):
        pretrain(settings, tmp_path)


def test_other_data_labels_or_encoder_are_not_gone_on_with(
    pretrain_settings, tiny_corpus, pretrain_corpus, tmp_path
):
    settings = pretrain_settings(training={"epochs": 1})
    pretrain(settings, tmp_path / "exp")
    _, labels = make_corpus(tiny_corpus.data, pretrain_corpus[0].parent, clusters=6)
    other = dataclasses.replace(settings, labels=str(labels))
    with pytest.raises(ConfigError, match="other content of labels"):
        pretrain(other, tmp_path / "exp")
    wider = pretrain_settings(training={"epochs": 1}, encoder={"intermediate_size": 64})
    with pytest.raises(ConfigError, match=r"encoder\.intermediate_size: 32 there, 64 now"):
        pretrain(wider, tmp_path / "exp")


def test_mixing_with_noise_trains(pretrain_settings, tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32000)
    for name in ("noise", "music", "speech"):
        folder = tmp_path / "musan" / name
        folder.mkdir(parents=True)
        soundfile.write(folder / f"{name}-0000.wav", noise, 16000, subtype="PCM_16")
    make_noise_bank(tmp_path / "bank", tmp_path / "musan")
    mixing = {"prob": 1.0, "noise_prob": 0.5}
    settings = pretrain_settings(
        mixing=mixing, data={"noise_bank": str(tmp_path / "bank")}, training={"epochs": 1}
    )
    pretrain(settings, tmp_path / "exp")
    assert (tmp_path / "exp" / "encoder" / "config.json").is_file()


def test_an_engine_refuses_more_chunks_than_utterances(pretrain_settings):
    settings = with_training(pretrain_settings(), accumulate=3)
    state = open_state(settings, build_network(settings, 8), CPU)
    task = PretrainTask(settings, state, 0.5)

    class Batches:
        smallest_batch = 2

    with pytest.raises(ConfigError, match="into chunks of at least 1; lower it"):
        Engine(settings, task, Process(0, 1, CPU), Batches(), Interruption())


def test_the_largest_batch_is_tried_without_a_trace(pretrain_settings, tmp_path, monkeypatch):
    """As on a GPU; and when it does not fit, what is advised are settings of pre-training."""
    sampling = {"max_seconds": 8.0}
    settings = pretrain_settings(data={"sampling": sampling}, training={"epochs": 1})
    pretrain(settings, tmp_path / "plain")
    monkeypatch.setattr(memory, "is_wanted", lambda settings, task, device: True)
    pretrain(settings, tmp_path / "tried")
    one, other = (
        load_tensors(tmp_path / run / "final" / NETWORK_FILE) for run in ("plain", "tried")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    compute = PretrainTask.compute

    def limited(self, network, waves, labels, plan):
        if len(waves) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute(self, network, waves, labels, plan)

    monkeypatch.setattr(PretrainTask, "compute", limited)
    advice = (
        r"Raise training\.accumulate to 2; or lower data\.sampling\.max_seconds to 4; or set "
        r"training\.gradient_checkpointing to true; or set training\.precision to bf16"
    )
    with pytest.raises(memory.OutOfMemoryError, match=advice):
        pretrain(settings, tmp_path / "refused")


def test_a_second_iteration_learns_from_the_layers_of_the_first(pretrain_settings, tmp_path):
    """Labels at 50 Hz: one for each frame of a crop."""
    first = pretrain_settings(training={"epochs": 1})
    pretrain(first, tmp_path / "one")
    source = open_source(None, first.data.shards)
    features = FeatureSettings("layer", str(tmp_path / "one" / "encoder"), 1)
    parts = KMeansSettings(6, n_init=1), Sampling(1.0), Workers("cpu", 1)
    learn_clusters(source, tmp_path / "clusters", features, *parts)
    make_labels(source, tmp_path / "clusters", tmp_path / "labels", Workers("cpu", 1))
    pretrain(dataclasses.replace(first, labels=str(tmp_path / "labels")), tmp_path / "two")
    log = (tmp_path / "two" / "train.log").read_text()
    assert "6 clusters at 50 Hz" in log
    assert (tmp_path / "two" / "encoder" / "config.json").is_file()
