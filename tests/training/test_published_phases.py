"""The phases of LAP are, number by number, those that the published code trains.

All other settings files are compared with their papers in tests/recipes/test_settings_files.py.
"""

from pathlib import Path

import pytest
import torch

from wesp_lap.config import build
from wesp_lap.losses import LOSSES
from wesp_lap.training.lr_schedules import LR_SCHEDULES
from wesp_lap.training.settings import load_settings

CONFIG = Path(__file__).parents[2] / "egs/voxceleb/conf/lap/wavlm_base_plus_lap.yaml"
STEPS = 2132  # of an epoch of VoxCeleb2
CLASSES = 3 * 5994


def phase(name):
    return load_settings(CONFIG, {"data.shards": "shard.list"}, name)


def classifier(settings):
    with torch.device("meta"):
        return build(LOSSES, settings.loss, "loss", embed_dim=192, num_classes=CLASSES)


@pytest.mark.parametrize("name", ["frozen", "joint", "large_margin"])
def test_the_classifier_has_three_classes_per_speaker_in_all_phases(name):
    settings = phase(name)
    assert classifier(settings).weight.shape == (3, 192, 17_982)
    assert classifier(settings).weight.numel() == 10_357_632
    assert settings.training.classifier == "keep_3x"


@pytest.mark.parametrize(
    "name, frozen, epochs, speed, topk, decay, crop, chunks",
    [
        ("frozen", True, 40, True, 5, 5e-5, 2, 1),
        ("joint", False, 10, False, 5, 1e-5, 2, 1),
        ("large_margin", False, 3, False, 0, 1e-5, 6, 4),
    ],
)
def test_what_is_trained_and_how_long(name, frozen, epochs, speed, topk, decay, crop, chunks):
    settings = phase(name)
    loop, data = settings.training, settings.data
    assert (loop.freeze_frontend, loop.epochs, loop.accumulate) == (frozen, epochs, chunks)
    assert (data.augment.speed_perturb, data.augment.noise_prob) == (speed, 0.6)
    assert (data.batch_size, data.crop_seconds) == (512, crop)
    assert settings.loss.options["topk"] == topk
    assert settings.optimizer.name == "adam"
    assert settings.optimizer.options["weight_decay"] == decay


@pytest.mark.parametrize(
    "name, first, last, penalty",
    [("frozen", 0.0, 0.3, 0.06), ("joint", 0.3, 0.3, 0.06), ("large_margin", 0.5, 0.5, 0.0)],
)
def test_margins_and_penalties(name, first, last, penalty):
    settings = phase(name)
    end = settings.training.epochs * STEPS - 1
    assert settings.margin.margin(0, STEPS) == first
    assert settings.margin.margin(end, STEPS) == last
    assert settings.margin.penalty_for(last) == pytest.approx(penalty)


@pytest.mark.parametrize(
    "name, first, peak",
    [("frozen", 1e-5, 1e-3), ("joint", 5e-6, 5e-5), ("large_margin", 5e-6, 5e-6)],
)
def test_learning_rates(name, first, peak):
    settings = phase(name)
    schedule = build(LR_SCHEDULES, settings.lr_schedule, "lr_schedule")
    total = settings.training.epochs * STEPS
    rates = [schedule.lr(step, total, STEPS) for step in range(total)]
    assert rates[0] == pytest.approx(first)
    assert max(rates) == pytest.approx(peak)
    assert name == "large_margin" or rates.index(max(rates)) == int(0.1 * total)
    assert rates[-1] == pytest.approx(first, rel=1e-2)
