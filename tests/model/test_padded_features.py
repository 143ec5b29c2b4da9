"""Rows of a padded batch get the embedding they have alone: frontends on spectral features."""

import pytest
import torch
from test_padded_batches import alone, fill_padding, random_batch
from torch import nn

from wesp_lap.coerce import Section
from wesp_lap.model import ModelSettings, SpeakerModel

W2V_BERT = {
    "model_type": "wav2vec2-bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
WHISPER = {
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "max_source_positions": 60,
}
FRONTENDS = {
    "fbank": Section("fbank"),
    "fbank-mean": Section("fbank", {"cmn": False, "num_mel_bins": 40}),
    **{
        f"w2v-bert-{place}": Section(
            "transformer", {"config": {**W2V_BERT, "position_embeddings_type": place}}
        )
        for place in ("relative_key", "relative", "rotary")
    },
    "w2v-bert-cls": Section("transformer", {"config": W2V_BERT, "cls_token": True}),
    "whisper": Section("transformer", {"config": WHISPER}),
}
BACKENDS = {
    "ecapa_tdnn": {"channels": 16, "embed_dim": 16},
    "lap_astp": {"heads": 4, "pooled_dim": 32, "embed_dim": 16},
    "superb_astp": {"embed_dim": 16},
}


def make_model(frontend, backend="superb_astp"):
    """A model whose every scale, bias and running statistic differs from what it starts with."""
    torch.manual_seed(0)
    section = Section(backend, BACKENDS[backend])
    model = SpeakerModel(ModelSettings(FRONTENDS[frontend], section))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, *((-0.5, 0.5) if "bias" in name else (0.5, 1.5)))
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def assert_same(batched, single):
    """Up to rounding: these features are logarithms, and the states of Whisper have no norm."""
    assert torch.isfinite(single).all()
    assert torch.cosine_similarity(batched.double(), single.double()).min() > 1 - 1e-8
    assert (batched - single).abs().max() < 1e-4 * single.abs().max()


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_padding_is_never_read(frontend):
    model = make_model(frontend)
    waves, lengths = random_batch()
    single = alone(model, waves, lengths)
    assert (single[0] - single[1]).abs().max() > 1e-3 * single.abs().max()
    for garbage in (0.0, 1e4, float("nan")):
        assert_same(model.embed(fill_padding(waves, lengths, garbage), lengths), single)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("frontend", ["fbank", "w2v-bert-relative_key", "whisper"])
def test_any_lengths_and_each_backend(frontend, backend):
    if frontend == "fbank" and backend == "lap_astp":
        pytest.skip("layer pooling needs several states")
    model = make_model(frontend, backend)
    for seed in range(3):
        waves, lengths = random_batch(seed, rows=4)
        garbage = fill_padding(waves, lengths, -1e3)
        assert_same(model.embed(garbage, torch.tensor(lengths)), alone(model, waves, lengths))


@pytest.mark.parametrize("frontend", ["fbank", "w2v-bert-relative_key", "whisper"])
def test_rows_too_short_for_two_frames_are_repeated_as_they_are_alone(frontend):
    model = make_model(frontend)
    waves = torch.randn(3, 4000)
    lengths = [300, model.min_samples - 1, 4000]
    assert_same(
        model.embed(fill_padding(waves, lengths, 7.0), lengths), alone(model, waves, lengths)
    )


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_a_saved_model_gives_the_same_embeddings(frontend, tmp_path):
    model = make_model(frontend)
    model.save_pretrained(tmp_path)
    waves, lengths = random_batch(rows=3)
    loaded = SpeakerModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.embed(waves, lengths), model.embed(waves, lengths))
