"""The largest batches are tried before training, without a trace; a shortage says what to do."""

import numpy as np
import pytest
import torch

from wesp_lap.data.plan import EpochPlan
from wesp_lap.data.sampling import LengthSampling, UtteranceSampling
from wesp_lap.tensors import load_tensors
from wesp_lap.training import memory
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.classification import TrainingStep
from wesp_lap.training.engine import Engine
from wesp_lap.training.run import train

FILES = ("model.safetensors", "classifier.safetensors", "optimizer.safetensors")
LENGTHS = {"name": "lengths", "max_seconds": 8, "longest_seconds": 2.5}


@pytest.fixture
def small_gpu(monkeypatch):
    """Return a function that makes chunks of more than so many utterances too large."""
    monkeypatch.setattr(memory, "is_wanted", lambda settings, task, device: True)
    forward, tried = TrainingStep.forward, []

    def set_limit(most):
        def limited(self, waves, *arguments):
            tried.append(tuple(waves.shape))
            if len(waves) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(self, waves, *arguments)

        monkeypatch.setattr(TrainingStep, "forward", limited)
        return tried

    return set_limit


def test_a_phase_is_the_same_after_its_largest_batches_were_tried(
    make_settings, tmp_path, small_gpu, monkeypatch
):
    settings = make_settings(
        frontend={"config": {"layerdrop": 0.5, "apply_spec_augment": True, "mask_time_length": 2}},
        optimizer={"name": "adamw"},
        training={"epochs": 1, "ema_decay": 0.9},
    )
    tried = small_gpu(100)
    train(settings, tmp_path / "tried")
    assert tried[0] == (8, 8000)
    assert len(tried) == 1 + 4
    monkeypatch.undo()
    train(settings, tmp_path / "not_tried")
    for name in FILES:
        one, other = (
            load_tensors(tmp_path / run / "final" / name) for run in ("tried", "not_tried")
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_everything_a_batch_changes_is_put_back(make_settings, shard_list):
    from wesp_lap.data.index import load_utterances
    from wesp_lap.training.phase import open_phase

    settings = make_settings(frontend={"config": {"layerdrop": 0.5}})
    phase = open_phase(settings, None, None, load_utterances(shard_list), torch.device("cpu"))
    phase.model.eval()
    norm = phase.model.backend.time_pool.embedding_norm
    draws = []
    for _ in range(2):
        torch.manual_seed(1)
        np.random.seed(1)
        with memory.unchanged(phase):
            assert norm.training
            assert phase.model.frontend.model.config.layerdrop == 0
            waves = torch.randn(4, 8000)
            phase.classifier(phase.model(waves), torch.arange(4), 0.2, 0.0).loss.backward()
            assert norm.num_batches_tracked == 1
        draws.append((torch.rand(()).item(), np.random.random()))
        assert not norm.training
        assert phase.model.frontend.model.config.layerdrop == 0.5
        assert norm.num_batches_tracked == 0
        assert torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))
        assert all(p.grad is None for p in phase.model.parameters())
    torch.manual_seed(1)
    np.random.seed(1)
    assert draws == [(torch.rand(()).item(), np.random.random())] * 2


def test_a_batch_that_does_not_fit_is_refused_with_what_would(make_settings, tmp_path, small_gpu):
    small_gpu(2)
    with pytest.raises(memory.OutOfMemoryError) as caught:
        train(make_settings(), tmp_path)
    text = str(caught.value)
    assert "8 crops of 0.50 s per process, computed in 1 chunks" in text
    assert "Raise training.accumulate to 4; or lower data.batch_size to 2; or set" in text
    assert "frontend.gradient_checkpointing to true; or set training.precision to bf16" in text
    assert CheckpointFolder(tmp_path / "checkpoints").newest() is None
    # Nothing is in the way of the same directory with the advice taken.
    train(make_settings(training={"accumulate": 4, "epochs": 1}), tmp_path)
    assert (tmp_path / "final").exists()


def test_by_length_the_advice_is_about_seconds(make_settings, tmp_path, small_gpu):
    small_gpu(3)
    settings = make_settings(data={"sampling": {**LENGTHS, "max_seconds": 16}})
    with pytest.raises(memory.OutOfMemoryError, match=r"lower data\.sampling\.max_seconds to 8;"):
        train(settings, tmp_path)


def test_when_nothing_fits_shorter_crops_are_advised(make_settings, tmp_path, small_gpu):
    small_gpu(1)
    settings = make_settings(
        frontend={"gradient_checkpointing": True}, training={"precision": "bf16"}
    )
    with pytest.raises(memory.OutOfMemoryError) as caught:
        train(settings, tmp_path)
    assert "Lower data.crop_seconds (data.sampling.longest_seconds by length); or train on" in str(
        caught.value
    )


def test_another_error_is_not_taken_for_a_shortage(make_settings, tmp_path, small_gpu, monkeypatch):
    small_gpu(100)

    def broken(*arguments):
        raise RuntimeError("device-side assert triggered")

    monkeypatch.setattr(Engine, "_accumulate", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        train(make_settings(), tmp_path)


def test_a_shortage_in_a_later_step_leaves_the_last_checkpoint(
    make_settings, tmp_path, monkeypatch
):
    settings = make_settings(training={"checkpoint_every": 2})
    train(settings, tmp_path / "whole")
    accumulate, steps = Engine._accumulate, []

    def short_of_memory(self, *arguments):
        steps.append(1)
        if len(steps) == 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore")
        return accumulate(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_accumulate", short_of_memory)
        with pytest.raises(memory.OutOfMemoryError) as caught:
            train(settings, tmp_path / "parts")
    text = str(caught.value)
    assert "out of memory on cpu in epoch 2 step 4, with 8 crops of 0.50 s: CUDA out of" in text
    assert "The last checkpoint is whole" in text
    assert "Raise training.accumulate to 2; or lower data.batch_size to 4" in text
    assert CheckpointFolder(tmp_path / "parts" / "checkpoints").newest() == Moment(1, 2)
    train(settings, tmp_path / "parts")
    for name in FILES:
        one, other = (load_tensors(tmp_path / run / "final" / name) for run in ("whole", "parts"))
        assert all(torch.equal(one[key], other[key]) for key in one), name


class Corpus:
    def __init__(self, samples):
        self.samples = np.asarray(samples)
        self.tar = np.zeros(len(samples), dtype=np.int64)
        self.speaker = np.arange(len(samples)) % 7


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_largest_batches_are_those_of_the_epoch(world_size):
    rng = np.random.default_rng(0)
    corpus = Corpus(rng.integers(20000, 400000, 500))
    sampling = LengthSampling(corpus, 0, 0, world_size, max_seconds=60)
    plans = [EpochPlan(sampling, rank, world_size, 5) for rank in range(world_size)]
    sizes = [(len(b.rows), b.samples) for plan in plans for b in plan.batches(0)]
    largest = plans[0].largest_batches()
    assert largest == plans[-1].largest_batches()
    assert set(largest) <= set(sizes)
    assert max(samples for _, samples in sizes) in {samples for _, samples in largest}
    assert max(rows for rows, _ in sizes) in {rows for rows, _ in largest}
    assert max(r * s for r, s in sizes) == max(r * s for r, s in largest)


def test_crops_of_one_length_have_one_largest_batch():
    sampling = UtteranceSampling(Corpus([50000] * 23), 10, 32000, 2)
    sizes = {len(b.rows) for rank in (0, 1) for b in EpochPlan(sampling, rank, 2, 5).batches(0)}
    assert EpochPlan(sampling, 1, 2, 5).largest_batches() == [(max(sizes), 32000)]
