"""Frames of MFCC and of encoder layers, against the same computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import tiny_frontend

import wesp_lap  # noqa: F401  (torchaudio loads without its compiled part)
from wesp_lap.errors import ConfigError
from wesp_lap.extraction import open_source
from wesp_lap.extraction.batches import Batch
from wesp_lap.frontends.transformer import TransformerFrontend
from wesp_lap.pretraining import features, frames
from wesp_lap.pretraining.features import (
    FeatureSettings,
    Framing,
    LayerFeatures,
    MfccFeatures,
    load_features,
)
from wesp_lap.pretraining.frames import Extractor


def noise(samples, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def batch_of(*waves) -> Batch:
    longest = max(map(len, waves))
    rows = np.stack([np.pad(wave, (0, longest - len(wave))) for wave in waves])
    return Batch(list(range(len(waves))), rows, [len(wave) for wave in waves])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A HuBERT of three layers with group norm, as save_pretrained writes it."""
    torch.manual_seed(0)
    config = tiny_frontend("hubert", num_hidden_layers=3, feat_extract_norm="group")
    folder = tmp_path_factory.mktemp("encoder")
    TransformerFrontend(config=config).model.save_pretrained(folder)
    return folder


def hidden_states(encoder, wave):
    from transformers import AutoModel

    with torch.inference_mode():
        model = AutoModel.from_pretrained(encoder).eval()
        return model(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states


def test_mfcc_are_those_of_torchaudio_on_plain_samples():
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    functional = pytest.importorskip("torchaudio.functional")
    waves = noise(16000), noise(9000, 1)
    ours = MfccFeatures()(batch_of(*waves))
    for wave, frames_ in zip(waves, ours, strict=True):
        plain = kaldi.mfcc(torch.from_numpy(wave)[None], use_energy=False).T
        first = functional.compute_deltas(plain)
        theirs = torch.cat([plain, first, functional.compute_deltas(first)]).T
        assert frames_.shape == theirs.shape == (MfccFeatures().framing.count(len(wave)), 39)
        assert (frames_ - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("window, shift, rate", [(400, 160, 100), (400, 320, 50)])
def test_frames_are_counted_as_they_are_cut(window, shift, rate):
    framing = Framing(window, shift)
    assert framing.rate == rate
    for samples in (0, 1, 399, 400, 559, 560, 719, 720, 16000, 124800):
        starts = [s for s in range(0, samples, shift) if s + window <= samples]
        assert framing.count(samples) == len(starts)


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_a_layer_is_that_hidden_state(encoder, layer):
    wave = noise(12345)
    source = LayerFeatures(encoder, layer, "cpu")
    (ours,) = source(batch_of(wave))
    assert source.framing == Framing(400, 320) and source.dim == 32
    assert len(ours) == source.framing.count(12345) == 38
    torch.testing.assert_close(ours, hidden_states(encoder, wave)[layer][0], atol=1e-5, rtol=1e-4)


def test_rows_of_a_batch_are_the_rows_alone(encoder):
    waves = noise(8000), noise(5000, 1), noise(400, 2)
    source = LayerFeatures(encoder, 2, "cpu")
    for wave, together in zip(waves, source(batch_of(*waves)), strict=True):
        (alone,) = source(batch_of(wave))
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_pieces_of_a_long_utterance_give_all_of_its_frames(encoder, monkeypatch):
    wave = noise(50_000)
    source = LayerFeatures(encoder, 2, "cpu")
    (whole,) = source(batch_of(wave))
    monkeypatch.setattr(features, "_LONGEST", 16_000)
    (pieces,) = source(batch_of(wave))
    assert pieces.shape == whole.shape
    # 49 frames of a piece take 15760 samples; the next one starts where frame 49 does.
    (second,) = source(batch_of(wave[49 * 320 : 49 * 320 + 15_760]))
    torch.testing.assert_close(pieces[49:98], second)


def test_nothing_is_random(encoder):
    wave = noise(16000)
    source = LayerFeatures(encoder, 3, "cpu")
    assert torch.equal(source(batch_of(wave))[0], source(batch_of(wave))[0])


def test_frames_of_a_corpus_in_batches_are_those_one_by_one(encoder, tiny_corpus):
    source = open_source(tiny_corpus.data)
    settings = FeatureSettings("layer", str(encoder), 2)
    parts = [range(5), range(5, 8)]
    single = list(Extractor(settings, source)(parts))
    batched = Extractor(settings, source, threads=2)
    batched._batch_samples = 100_000
    together = list(batched(parts))
    assert [one.key for one in single] == [two.key for two in together] == source.keys[:8]
    for one, two in zip(single, together, strict=True):
        assert one.samples == two.samples == len(source.load(one.row))
        np.testing.assert_allclose(one.values, two.values, atol=1e-4)


def test_a_model_type_whose_frames_do_not_fit_is_refused(encoder, monkeypatch):
    monkeypatch.setattr(TransformerFrontend, "output_lengths", lambda self, samples: samples // 320)
    with pytest.raises(ConfigError, match="labels would not fit the audio"):
        LayerFeatures(encoder, 1, "cpu")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"kind": "layer"}, "--model DIR"),
        ({"kind": "mfcc", "model": "x"}, "mfcc has none"),
        ({"kind": "layer", "model": "nowhere"}, "not the directory of an encoder"),
        ({"kind": "layer", "model": "nowhere", "layer": -1}, "--layer must not be negative"),
        ({"kind": "plp"}, "must be mfcc or layer"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        load_features(FeatureSettings(**options))


def test_a_layer_that_is_not_there_is_refused(encoder):
    with pytest.raises(ConfigError, match=r"--layer 4: .*the model has 3 layers"):
        load_features(FeatureSettings("layer", str(encoder), 4))


def test_the_identity_is_that_of_the_weights(encoder, tmp_path):
    import shutil

    here = FeatureSettings("layer", str(encoder), 2).identity()
    moved = shutil.copytree(encoder, tmp_path / "moved")
    assert FeatureSettings("layer", str(moved), 2).identity() == here
    assert FeatureSettings("layer", str(moved), 3).identity() != here
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert FeatureSettings("layer", str(moved), 2).identity() != here


def test_one_thread_is_undone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with features.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert frames.as_array(torch.ones(1)).dtype == np.float32
