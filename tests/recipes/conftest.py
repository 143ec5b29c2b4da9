"""Settings with which a recipe takes a minute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, real_speech_folder, tiny_pretraining, tiny_system

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
    folder = tmp_path_factory.mktemp("corpora with a space")
    _lay_out(folder, corpus / "train", corpus / "eval", corpus / "musan", corpus / "rirs")
    return folder


@pytest.fixture(scope="session")
def spoken_miniatures(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same of real speech where it is there, else the embedded corpus."""
    place = real_speech_folder()
    if not place.is_dir():
        return request.getfixturevalue("miniatures")
    folder = tmp_path_factory.mktemp("real corpora")
    noises = place / "musan_mini", place / "rirs_mini"
    _lay_out(folder, place / "svmini_train", place / "svmini_dev", *noises, utterances=6)
    return folder


def _lay_out(
    folder: Path, train: Path, tested: Path, musan: Path, rirs: Path, utterances: int = 0
) -> None:
    few = {"utterances": utterances}
    for layout, options in {
        "voxceleb1": LayoutOptions(str(tested), speakers=8, test_speakers=6, num_trials=200, **few),
        "voxceleb2": LayoutOptions(str(train), speakers=10, test_speakers=2, **few),
        "cnceleb1": LayoutOptions(
            str(train), test_data=str(tested), speakers=6, test_speakers=8, **few
        ),
        "cnceleb2": LayoutOptions(str(train), skip=6, speakers=10, **few),
        "musan": LayoutOptions(str(musan), **few),
        "rirs": LayoutOptions(str(rirs), **few),
    }.items():
        lay_out(layout, folder / layout, options)


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
