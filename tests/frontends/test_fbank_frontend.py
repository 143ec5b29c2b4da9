"""Filterbank features as a frontend: the contract, and the whole way through a model."""

import copy
import json

import pytest
import torch

import wesp_lap  # noqa: F401  (torchaudio loads without its compiled part)
from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError
from wesp_lap.frontends import FRONTENDS
from wesp_lap.frontends.fbank import FbankFrontend
from wesp_lap.model import ModelSettings, SpeakerModel


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(frontend=None, backend="ecapa_tdnn", **options):
    torch.manual_seed(0)
    options = {"embed_dim": 16, **options}
    if backend == "ecapa_tdnn":
        options["channels"] = 16
    return SpeakerModel(
        ModelSettings(Section("fbank", frontend or {}), Section(backend, options))
    ).eval()


def test_the_state_is_what_wespeaker_feeds_its_models():
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    wave = noise(8000)
    expected = kaldi.fbank(
        wave.unsqueeze(0) * 32768, num_mel_bins=80, window_type="hamming", dither=0.0
    )
    expected = expected - expected.mean(0)
    (state,) = FbankFrontend()(wave.unsqueeze(0))
    torch.testing.assert_close(state[0], expected, atol=1e-3, rtol=0)


def test_contract():
    frontend = FbankFrontend(num_mel_bins=40)
    states = frontend(noise(3, 5000))
    assert isinstance(states, tuple) and len(states) == frontend.num_layers == 1
    assert states[0].shape == (3, frontend.output_lengths(5000), frontend.hidden_size)
    assert frontend.hidden_size == 40
    assert [frontend.output_lengths(n) for n in (0, 399, 400, 559, 560)] == [0, 0, 1, 1, 2]
    assert frontend.samples_for(2) == 560
    assert list(frontend.parameters()) == list(frontend.buffers()) == []
    assert not frontend.has_random_depth
    assert copy.deepcopy(frontend).options() == frontend.options()


def test_without_cmn_the_mean_stays():
    waves = noise(2, 4000)
    (plain,), (centred,) = FbankFrontend(cmn=False)(waves), FbankFrontend()(waves)
    torch.testing.assert_close(plain - plain.mean(1, keepdim=True), centred)
    assert plain.mean() > 5
    assert centred.mean(1).abs().max() < 1e-5


@pytest.mark.parametrize("cmn", [True, False])
@pytest.mark.parametrize("garbage", [0.0, 1e4, float("nan")])
def test_padded_rows_are_those_of_the_row_alone(cmn, garbage):
    frontend = FbankFrontend(cmn=cmn).eval()
    waves, lengths = noise(4, 6000), [6000, 400, 3333, 5000]
    alone = [frontend(waves[row : row + 1, :n])[0][0] for row, n in enumerate(lengths)]
    for row, length in enumerate(lengths):
        waves[row, length:] = garbage
    (padded,) = frontend(waves, lengths)
    assert torch.isfinite(padded).all()
    for row, expected in enumerate(alone):
        torch.testing.assert_close(padded[row, : len(expected)], expected, atol=1e-5, rtol=1e-6)


def test_float32_under_autocast():
    waves = noise(2, 4000)
    with torch.autocast("cpu", torch.bfloat16):
        (state,) = FbankFrontend()(waves)
    assert torch.equal(state, FbankFrontend()(waves)[0])


@pytest.mark.parametrize("cmn", [True, False])
def test_masks_hide_bands_and_frames_of_a_share_of_the_utterances(cmn):
    torch.manual_seed(0)
    waves = noise(1, 16000).expand(200, -1)
    options = {"spec_augment": True, "time_masks": 2, "freq_masks": 1, "cmn": cmn}
    frontend = FbankFrontend(**options, mask_prob=0.5, time_mask_frames=7, freq_mask_bins=5)
    (plain,), (masked,) = frontend.eval()(waves), frontend.train()(waves)
    changed = (plain - masked).abs() > 1e-3
    share = changed.flatten(1).any(1).float().mean()
    assert 0.35 < share < 0.65
    frames, bands = changed.all(2).sum(1), changed.all(1).sum(1)
    assert frames.max() > 7 and frames.max() <= 14 and bands.max() == 5
    assert (changed.any(2).any(1) == (frames > 0)).all()
    hidden = masked[changed]
    means = plain.mean(1, keepdim=True).expand_as(plain)[changed]
    torch.testing.assert_close(hidden, means, atol=1e-4, rtol=0)


def test_a_frozen_frontend_draws_nothing_in_training():
    waves = noise(2, 4000)
    frontend = FbankFrontend(spec_augment=True, mask_prob=1.0, dither=1.0).train()
    (state,) = frontend.eval()(waves)
    frontend.train()
    assert not torch.equal(frontend(waves)[0], state)
    frontend.freeze()
    assert frontend.frozen and torch.equal(frontend(waves)[0], state)
    frontend.freeze(False)
    assert not torch.equal(frontend(waves)[0], state)


def test_options_rebuild_it_and_survive_a_file():
    options = {"num_mel_bins": 64, "window": "povey", "cmn": False}
    frontend = FbankFrontend(**options, dither=1.0, spec_augment=True, freq_mask_bins=4)
    written = json.loads(json.dumps(frontend.options()))
    again = build(FRONTENDS, Section("fbank", written), "frontend")
    assert again.options() == frontend.options() == options
    assert torch.equal(again.eval()(noise(1, 4000))[0], frontend.eval()(noise(1, 4000))[0])


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"num_mel_bins": 200}, "num_mel_bins 200 is too many"),
        ({"window": "hann"}, "'hann' is not one of hamming, povey"),
        ({"spec_augment": True, "freq_mask_bins": 81}, "freq_mask_bins must be from 1 to 80"),
        ({"mask_prob": 1.5}, "mask_prob from 0 to 1"),
        ({"num_mels": 80}, "did you mean 'num_mel_bins'"),
    ],
)
def test_wrong_options_are_named(options, reason):
    with pytest.raises(ConfigError, match=reason):
        build(FRONTENDS, Section("fbank", options), "frontend")


@pytest.mark.parametrize("backend", ["ecapa_tdnn", "superb_astp"])
def test_a_saved_model_gives_the_same_embeddings(backend, tmp_path):
    saved = model(backend=backend)
    saved.save_pretrained(tmp_path)
    loaded = SpeakerModel.from_pretrained(tmp_path)
    waves = noise(3, 16000)
    assert torch.equal(loaded.embed(waves), saved.embed(waves))
    assert "| frontend | fbank | 0 |" in (tmp_path / "README.md").read_text()
    frontend = json.loads((tmp_path / "config.json").read_text())["frontend"]
    assert frontend["name"] == "fbank" and frontend["window"] == "hamming"


def test_layer_pooling_says_that_one_state_is_too_few():
    with pytest.raises(ConfigError, match=r"layer pooling needs at least 2 layer states, got 1"):
        model(backend="lap_astp", heads=4)
