"""Settings with which a recipe takes a minute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, tiny_pretraining, tiny_system

from wesp_lap.corpora.layouts import LayoutOptions, lay_out

_SIZES = (
    "--num_train_speakers 10 --num_train_sessions 2 --num_train_utterances 3 "
    "--num_eval_speakers 8 --num_eval_sessions 2 --num_eval_utterances 2 "
    "--num_noises 3 --num_tunes 2 --num_talkers 3 --num_rooms 2"
)


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded corpus laid out as VoxCeleb1 and 2 (m4a), CN-Celeb1 and 2, MUSAN and RIRs."""
    pytest.importorskip("espeakng_loader")
    corpus = tmp_path_factory.mktemp("embedded")
    subprocess.run(
        [sys.executable, ROOT / "egs/mini/local/make_corpus.py", "--out", corpus, *_SIZES.split()],
        check=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
    )
    train, tested = str(corpus / "train"), str(corpus / "eval")
    folder = tmp_path_factory.mktemp("corpora with a space")
    for layout, options in {
        "voxceleb1": LayoutOptions(tested, test_speakers=6, num_trials=200),
        "voxceleb2": LayoutOptions(train, test_speakers=2),
        "cnceleb1": LayoutOptions(train, test_data=tested, speakers=6),
        "cnceleb2": LayoutOptions(train, skip=6),
        "musan": LayoutOptions(str(corpus / "musan")),
        "rirs": LayoutOptions(str(corpus / "rirs")),
    }.items():
        lay_out(layout, folder / layout, options)
    return folder


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings file of a system whose phases take seconds."""
    path = tmp_path_factory.mktemp("conf") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_system(), sort_keys=False))
    return path


@pytest.fixture(scope="session")
def tiny_pretrain_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings file of two iterations of pre-training that take seconds."""
    path = tmp_path_factory.mktemp("conf") / "tiny_pretrain.yaml"
    path.write_text(yaml.safe_dump(tiny_pretraining(), sort_keys=False))
    return path
