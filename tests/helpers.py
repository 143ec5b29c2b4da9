"""What several rooms' tests need and is no fixture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

_SPECTRAL: dict[str, dict[str, object]] = {
    "wav2vec2-bert": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_depthwise_kernel_size": 5,
        "apply_spec_augment": False,
        "layerdrop": 0.0,
    },
    "whisper": {
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "max_source_positions": 200,
    },
}


def real_speech_folder() -> Path:
    """Return where real recordings for development would be."""
    named = os.environ.get("WESP_LAP_TEST_DATA")
    return Path(named) if named else ROOT.parent / "shared" / "data"


def tiny_frontend(model_type: str = "wavlm", **changes: object) -> dict[str, object]:
    """Return a ``frontend.config`` of two narrow layers that is built in milliseconds."""
    if model_type in _SPECTRAL:
        return {"model_type": model_type, **_SPECTRAL[model_type], **changes}
    config: dict[str, object] = {
        "model_type": model_type,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
        "feat_extract_norm": "layer",
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "apply_spec_augment": False,
        "layerdrop": 0.0,
    }
    if model_type == "wavlm":
        config["num_buckets"] = 16
    return {**config, **changes}


def tiny_system() -> dict[str, object]:
    """Return the settings of a system whose phases take seconds, laid out like the recipes'."""
    return {
        "frontend": {"name": "transformer", "config": tiny_frontend()},
        "backend": {"name": "lap_astp", "heads": 4, "pooled_dim": 32, "embed_dim": 16},
        "loss": {"name": "aam"},
        "margin": {"final": 0.2, "ramp_epochs": 1},
        "data": {
            "batch_size": 8,
            "crop_seconds": 1.0,
            "num_workers": 0,
            "augment": {"noise_prob": 0.5},
        },
        "optimizer": {"name": "adam"},
        "lr_schedule": {"name": "warmup_cosine", "max_lr": 1e-3},
        "training": {"log_every": 2},
        "phases": {
            "frozen": {
                "data": {"augment": {"speed_perturb": True}},
                "training": {"epochs": 1, "freeze_frontend": True},
            },
            "joint": {
                "data": {"augment": {"speed_perturb": False}},
                "training": {"epochs": 2, "freeze_frontend": False},
            },
            "large_margin": {
                "loss": {"topk": 0},
                "margin": {"final": 0.5, "ramp_epochs": 0, "penalty": 0.0},
                "training": {"epochs": 1},
            },
        },
    }


def tiny_pretraining() -> dict[str, object]:
    """Return settings of two iterations of pre-training that take seconds."""
    return {
        "encoder": {
            "name": "hubert",
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "intermediate_size": 64,
            "conv_channels": 16,
            "position_kernel": 16,
            "position_groups": 4,
        },
        "optimizer": {"name": "adamw"},
        "lr_schedule": {"name": "polynomial", "max_lr": 1e-3, "warmup_steps": 2},
        "data": {
            "num_workers": 0,
            "sampling": {"name": "lengths", "max_seconds": 8, "longest_seconds": 4},
        },
        "training": {"epochs": 1},
        "phases": {"iteration_1": {"seed": 1}, "iteration_2": {"seed": 2}},
    }


def run_recipe(recipe: str, *words: object, script: str = "run.sh") -> subprocess.CompletedProcess:
    """Run ``egs/RECIPE/SCRIPT`` with this interpreter; output and errors come back together."""
    environment = {**os.environ, "PYTHON": sys.executable}
    environment.pop("OMP_NUM_THREADS", None)
    return subprocess.run(
        ["bash", str(ROOT / "egs" / recipe / script), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
        env=environment,
        check=False,
    )
