"""WeSpeaker's sample stream, from a checkout, for comparison.

Its package imports much that its data path does not need, and uses two functions that newer
torchaudio no longer has; both are put in place here without touching the checkout.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import soundfile
import torch

from wesp_lap._torchaudio import install_guard

install_guard()
import torchaudio  # noqa: E402 - after the guard

BATCH = 64


def loop(
    checkout: Path, shard_list: Path, work: Path, seconds: float, augmentation: str
) -> Callable[[], Iterator[int]]:
    """Return a loop over about one epoch of its Dataset, in batches of stacked crops."""
    dataset = _module(checkout)
    speakers = {f"id{number:05d}": number for number in range(40)}
    augment = augmentation != "none"
    configs: dict[str, Any] = {
        "shuffle": True,
        "shuffle_args": {"shuffle_size": 2500},
        "filter": True,
        "filter_args": {"min_num_frames": 100, "max_num_frames": 800},
        "resample_rate": 16000,
        "speed_perturb": augment,
        "num_frms": round(100 * seconds) - 2,
        "aug_prob": 0.6 if augment else 0.0,
        "frontend": "s3prl",
        "s3prl_args": {},
    }
    source = dataset.Dataset(
        "shard",
        str(shard_list),
        configs,
        speakers,
        reverb_lmdb_file=str(work / "rirs.lmdb") if augment else None,
        noise_lmdb_file=str(work / "noise.lmdb") if augment else None,
        repeat_dataset=False,
    )

    def run() -> Iterator[int]:
        crops = []
        for sample in source:
            crops.append(sample["wav"][0])
            if len(crops) == BATCH:
                yield len(torch.stack(crops))
                crops = []
        if crops:
            yield len(torch.stack(crops))

    return run


def _module(checkout: Path) -> Any:
    """Import wespeaker.dataset.dataset without the package's own imports."""
    if "wespeaker" not in sys.modules:
        package = types.ModuleType("wespeaker")
        package.__path__ = [str(checkout / "wespeaker")]
        sys.modules["wespeaker"] = package
    if not hasattr(torchaudio, "sox_effects"):
        torchaudio.sox_effects = types.SimpleNamespace(apply_effects_tensor=_speed)
        torchaudio.load = _load
        print("(this torchaudio has no sox_effects: wespeaker's speed is changed by its resampler)")
    import wespeaker.dataset.dataset as dataset

    return dataset


def _speed(wave: torch.Tensor, rate: int, effects: list[list[str]]) -> tuple[torch.Tensor, int]:
    factor = float(effects[0][1])
    changed = torchaudio.functional.resample(wave, round(factor * rate), rate)
    return changed, rate


def _load(source: Any) -> tuple[torch.Tensor, int]:
    wave, rate = soundfile.read(source, dtype="float32", always_2d=True)
    return torch.from_numpy(wave.T), rate
