"""The settings of self-pre-training have the published sizes and schedules."""

import pytest
import torch
from helpers import ROOT

from wesp_lap.config import build, phase_names
from wesp_lap.pretraining.encoders import build_encoder
from wesp_lap.pretraining.settings import load_settings
from wesp_lap.training.lr_schedules import LR_SCHEDULES

# Parameters of the backbones as HuBERT, WavLM and the self-pre-training paper state or imply them.
SIZES = {
    "hubert": 94_371_712,
    "hubert_400k": 94_371_712,
    "wavlm": 94_381_936,
    "conformer": 172_633_984,
}
UPDATES = {"iteration_1": 250_000, "iteration_2": 800_000}
# Learning rate of updates with a straight line up to 5e-4 and one down to 0.
RATES = {
    250_000: {16_000: 2.5e-4, 32_000: 5e-4, 141_000: 2.5e-4},
    400_000: {16_000: 2.5e-4, 32_000: 5e-4, 216_000: 2.5e-4},
    800_000: {16_000: 2.5e-4, 32_000: 5e-4, 416_000: 2.5e-4},
}
FILES = [
    path
    for recipe in ("voxceleb", "cnceleb")
    for path in sorted((ROOT / "egs" / recipe / "conf/pretraining").glob("*.yaml"))
    if path.stem != "common"
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parts[-4]}-{path.stem}")
def test_size_and_schedule(path):
    assert phase_names(path) == list(UPDATES)
    for phase in UPDATES:
        settings = load_settings(path, {"data.shards": "s", "labels": "l"}, phase)
        steps = settings.data.sampling.options["epoch_steps"]
        updates = settings.training.epochs * steps
        wanted = 400_000 if path.stem.endswith("400k") and phase == "iteration_2" else None
        assert updates == (wanted or UPDATES[phase])
        schedule = build(LR_SCHEDULES, settings.lr_schedule, "lr_schedule")
        for step, rate in RATES[updates].items():
            assert schedule.lr(step, updates, steps) == pytest.approx(rate)
        assert schedule.lr(updates, updates, steps) == 0
        options = settings.optimizer.options
        assert options == {"betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.01}
        assert (settings.masking.prob, settings.masking.length) == (0.8, 10)
        assert (settings.mixing is not None) == (settings.encoder.name == "wavlm")
    with torch.device("meta"):
        encoder = build_encoder(settings.encoder)
    assert sum(p.numel() for p in encoder.parameters()) == SIZES[path.stem]
