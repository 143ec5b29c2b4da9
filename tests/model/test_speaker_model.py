"""SpeakerModel: one way to build, save and load."""

import json

import pytest
import torch
from helpers import tiny_frontend

from wesp_lap.coerce import Section, from_mapping
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.model import ModelSettings, SpeakerModel


@pytest.fixture
def model(tiny_model_settings):
    torch.manual_seed(0)
    return SpeakerModel(from_mapping(ModelSettings, tiny_model_settings)).eval()


def test_saved_and_loaded_model_gives_the_same_embeddings(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = SpeakerModel.from_pretrained(tmp_path)
    waves = torch.randn(3, 16000)
    assert torch.equal(loaded(waves), model(waves))
    assert not loaded.training
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert "library_name: wesp_lap" in (tmp_path / "README.md").read_text()


def test_a_model_saved_twice_has_the_same_config(model, tmp_path):
    model.save_pretrained(tmp_path / "one")
    SpeakerModel.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    one, two = ((tmp_path / name / "config.json").read_text() for name in ("one", "two"))
    assert one == two


def test_a_model_from_pretrained_weights_needs_them_only_once(tiny_model_settings, tmp_path):
    """The saved directory holds all it takes, so that the frontend's source may disappear."""
    built = SpeakerModel(from_mapping(ModelSettings, tiny_model_settings))
    built.frontend.model.save_pretrained(tmp_path / "hub")
    frontend = {"name": "transformer", "weights": str(tmp_path / "hub")}
    settings = from_mapping(ModelSettings, {**tiny_model_settings, "frontend": frontend})
    model = SpeakerModel(settings).eval()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "hub").rename(tmp_path / "gone")
    waves = torch.randn(1, 8000)
    assert torch.equal(SpeakerModel.from_pretrained(tmp_path / "model")(waves), model(waves))


def test_embed_is_the_forward_pass_of_one_utterance(model):
    wave = torch.randn(12345)
    model.train()
    embedding = model.embed(wave)
    assert model.training
    assert embedding.shape == (16,)
    with torch.inference_mode():  # attention takes another kernel when a gradient is wanted
        assert torch.equal(embedding, model.eval()(wave.unsqueeze(0))[0])


def test_embed_takes_what_soundfile_reads_without_a_type(model):
    wave = torch.randn(8000)
    assert torch.equal(model.embed(wave.double()), model.embed(wave))


def test_embed_leaves_the_mode_as_it_was_when_it_fails(model, monkeypatch):
    def broken(waves):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.frontend, "forward", broken)
    model.train()
    with pytest.raises(RuntimeError, match="out of memory"):
        model.embed(torch.randn(8000))
    assert model.training


def test_a_model_can_be_trained_after_embed():
    """The rotary positions of a Conformer are kept from one call to the next."""
    config = {**tiny_frontend("wav2vec2-conformer"), "position_embeddings_type": "rotary"}
    frontend, backend = Section("transformer", {"config": config}), Section("layer_mean")
    model = SpeakerModel(ModelSettings(frontend, backend)).train()
    waves = torch.randn(2, 8000)
    model.embed(waves)
    model(waves).sum().backward()
    assert all(p.grad is not None for p in model.frontend.model.encoder.layers[0].parameters())


def test_a_model_without_parameters_embeds():
    fbank, backend = Section("fbank"), Section("layer_mean", {"layer": 0})
    model = SpeakerModel(ModelSettings(fbank, backend))
    waves = torch.randn(2, 8000)
    assert not list(model.parameters())
    assert torch.equal(model.embed(waves), model.eval()(waves))


def test_embed_repeats_what_is_too_short_for_two_frames(model):
    wave = torch.randn(300)
    assert torch.equal(model.embed(wave), model.embed(wave.repeat(3)))


@pytest.mark.parametrize(
    "wave, reason",
    [
        (torch.zeros(0), "empty"),
        (torch.tensor([0.1, float("nan")]), "NaN or infinite"),
        (
            torch.ones(8000, dtype=torch.int16),
            r"int16; divide them, for numbers in \[-1, 1\]",
        ),
    ],
)
def test_embed_names_what_it_cannot_use(model, wave, reason):
    with pytest.raises(DataError, match=reason):
        model.embed(wave)


def test_layer_count_and_width_reach_the_backend(model):
    assert model.backend.layer_pool.squeeze_weight.shape[1] == model.frontend.num_layers == 3
    assert model.embed_dim == 16


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no speaker model here"):
        SpeakerModel.from_pretrained(tmp_path / "nothing")


def test_weights_of_another_model_are_refused_by_name(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["backend"]["pooled_dim"] = 64
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"shape: backend.layer_pool.output.weight \(32, 32\)"):
        SpeakerModel.from_pretrained(tmp_path)


def test_cut_weights_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"model.safetensors: damaged weights"):
        SpeakerModel.from_pretrained(tmp_path)


def test_unknown_backend_and_option_are_named(tiny_model_settings):
    with pytest.raises(ConfigError, match=r"backend: unknown 'lap_atsp' .did you mean 'lap_astp'"):
        from_mapping(
            ModelSettings, {**tiny_model_settings, "backend": {"name": "lap_atsp"}}
        ).check()
    with pytest.raises(ConfigError, match=r"backend 'lap_astp': unknown 'num_layers'"):
        from_mapping(
            ModelSettings, {**tiny_model_settings, "backend": {"name": "lap_astp", "num_layers": 3}}
        ).check()


@pytest.mark.parametrize("shape", [(0, 1000), (1, 1, 1000)])
def test_waveforms_of_another_shape_are_refused(shape, model):
    with pytest.raises(DataError, match=r"of shape \(S,\) or \(B, S\) are needed, got"):
        model.embed(torch.zeros(shape))
