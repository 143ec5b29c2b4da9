"""A backend trained on filterbank features."""

import numpy as np
import pytest
import soundfile
import torch

from wesp_lap.errors import ConfigError
from wesp_lap.extraction import extract
from wesp_lap.kaldi.ark import read_vectors
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.model import SpeakerModel
from wesp_lap.tensors import load_tensors
from wesp_lap.training.run import train

OPTIONS = {"num_mel_bins": 24, "dither": 1.0, "spec_augment": True}


def test_a_frozen_phase_another_one_and_extraction(make_settings, tiny_corpus, tmp_path):
    sections = {
        "frontend": {"name": "fbank", **OPTIONS},
        "backend": {"name": "superb_astp", "embed_dim": 16},
    }
    frozen = {"freeze_frontend": True, "epochs": 1}
    train(make_settings(**sections, training=frozen), tmp_path / "one")
    joint = make_settings(**sections, training={"epochs": 1}, init_from=str(tmp_path / "one"))
    train(joint, tmp_path / "two")
    started, ended = (
        load_tensors(tmp_path / "two" / "checkpoints" / name / "model.safetensors")
        for name in ("epoch_000", "epoch_001")
    )
    same = {name for name in ended if torch.equal(started[name], ended[name])}
    assert same == {"backend.layer_pool.logits"}  # of one state, whose weight is always 1
    model = SpeakerModel.from_pretrained(tmp_path / "two" / "final")
    assert model.frontend.options()["num_mel_bins"] == OPTIONS["num_mel_bins"]
    extract(tmp_path / "two" / "final", tiny_corpus.data, tmp_path / "out", "cpu")
    keys, vectors = read_vectors(tmp_path / "out" / "xvector.scp")
    assert keys == tiny_corpus.utterances
    wave, _ = soundfile.read(DataDir.load(tiny_corpus.data).wav[keys[5]], dtype="float32")
    expected = model.embed(torch.from_numpy(wave)).numpy()
    np.testing.assert_allclose(vectors[5], expected, atol=1e-6)


def test_a_phase_with_other_features_is_refused(make_settings, tmp_path):
    backend = {"name": "superb_astp", "embed_dim": 16}
    first = {"name": "fbank", "num_mel_bins": 24}
    train(make_settings(frontend=first, backend=backend, training={"epochs": 1}), tmp_path / "one")
    other = make_settings(
        frontend={**first, "window": "povey"}, backend=backend, init_from=str(tmp_path / "one")
    )
    with pytest.raises(ConfigError, match=r"frontend\.window: povey.*hamming"):
        train(other, tmp_path / "two")
