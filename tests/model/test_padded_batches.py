"""Rows of a padded batch get the embedding they have alone, whatever the padding holds."""

import pytest
import torch
from helpers import tiny_frontend
from torch import nn

from wesp_lap.coerce import Section
from wesp_lap.errors import DataError
from wesp_lap.model import ModelSettings, SpeakerModel

BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
BACKENDS = {
    "lap_astp": {"heads": 4, "pooled_dim": 32, "embed_dim": 16},
    "superb_astp": {"embed_dim": 16},
}
FRONTENDS = {
    **{
        f"{kind}-{name}": (kind, family)
        for kind in ("wavlm", "hubert", "wav2vec2")
        for name, family in (("base", BASE), ("large", LARGE))
    },
    "hubert-batch-norm": ("hubert", {"conv_pos_batch_norm": True}),
    "hubert-conformer": ("hubert-conformer", BASE),
    **{
        f"conformer-{norm}-{place}": (
            "wav2vec2-conformer",
            {"feat_extract_norm": norm, "position_embeddings_type": place},
        )
        for norm in ("group", "layer")
        for place in ("relative", "rotary", None)
    },
}


def make_model(frontend="wavlm-base", backend="lap_astp", normalize_wav=False):
    """A model whose every scale, bias and running statistic differs from what it starts with."""
    torch.manual_seed(0)
    kind, changes = FRONTENDS[frontend]
    options = {"config": tiny_frontend(kind, **changes), "normalize_wav": normalize_wav}
    model = SpeakerModel(
        ModelSettings(Section("transformer", options), Section(backend, BACKENDS[backend]))
    )
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, *((-0.5, 0.5) if "bias" in name else (0.5, 1.5)))
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def random_batch(seed=0, rows=6, samples=17000):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(720, samples, (rows,), generator=generator).tolist()
    return torch.randn(rows, samples, generator=generator), lengths


def fill_padding(waves, lengths, value):
    waves = waves.clone()
    for wave, length in zip(waves, lengths, strict=True):
        wave[length:] = value
    return waves


def alone(model, waves, lengths):
    rows = zip(waves, lengths, strict=True)
    return torch.stack([model.embed(wave[:length].clone()) for wave, length in rows])


def assert_same(batched, single):
    assert torch.isfinite(single).all()
    assert torch.cosine_similarity(batched.double(), single.double()).min() > 1 - 1e-8
    assert (batched - single).abs().max() < 3e-5 * single.abs().max()


@pytest.mark.parametrize("normalize_wav", [False, True], ids=["as-read", "normalised"])
@pytest.mark.parametrize("frontend", FRONTENDS)
def test_padding_is_never_read(frontend, normalize_wav):
    model = make_model(frontend, normalize_wav=normalize_wav)
    waves, lengths = random_batch()
    single = alone(model, waves, lengths)
    assert (single[0] - single[1]).abs().max() > 1e-3 * single.abs().max()
    for garbage in (0.0, 1e4, float("nan")):
        assert_same(model.embed(fill_padding(waves, lengths, garbage), lengths), single)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_lengths_and_each_backend(backend):
    model = make_model(backend=backend)
    for seed in range(3):
        waves, lengths = random_batch(seed, rows=4)
        garbage = fill_padding(waves, lengths, -1e3)
        assert_same(model.embed(garbage, torch.tensor(lengths)), alone(model, waves, lengths))


class MeanOnly(nn.Module):
    """A backend that knows nothing of padding."""

    embed_dim = 32

    def forward(self, states):
        return torch.stack(tuple(states)).mean(dim=(0, 2))


def test_a_backend_that_does_not_know_padding_gets_rows_without_it():
    model = make_model()
    model.backend = MeanOnly()
    model._backend_knows_padding = False
    waves, lengths = random_batch()
    batched = model.embed(fill_padding(waves, lengths, float("nan")), lengths)
    assert_same(batched, alone(model, waves, lengths))


def test_plain_padding_would_change_the_embedding():
    """The comparison above can fail: zeros at the end are heard by the model itself."""
    model = make_model()
    waves, lengths = random_batch()
    with torch.inference_mode():
        plain = model(fill_padding(waves, lengths, 0.0))
    single = alone(model, waves, lengths)
    assert (plain - single).abs().max() > 0.05 * single.abs().max()


def test_rows_too_short_for_two_frames_are_repeated_as_they_are_alone():
    model = make_model()
    waves = torch.randn(3, 4000)
    lengths = [300, 719, 4000]
    assert_same(
        model.embed(fill_padding(waves, lengths, 7.0), lengths), alone(model, waves, lengths)
    )
    torch.testing.assert_close(
        model.embed(waves[:1], [300])[0], model.embed(waves[0, :300].repeat(3))
    )


def test_equal_lengths_take_the_way_of_training():
    model = make_model()
    waves = torch.randn(3, 5000)
    with torch.inference_mode():
        expected = model(waves[:, :4000])
    assert torch.equal(model.embed(waves, [4000] * 3), expected)
    assert torch.equal(model.embed(waves[:, :4000]), expected)


def test_nothing_of_a_padded_batch_stays_in_the_model():
    model = make_model("conformer-group-relative")
    waves, lengths = random_batch()
    with torch.no_grad():
        before = model(waves)
        model.train().embed(waves, lengths)
        assert model.training
        assert torch.equal(model.eval()(waves), before)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "length, reason", [(0, "waveform 1 is empty"), (9, "waveform 1 holds NaN")]
)
def test_the_row_that_cannot_be_used_is_named(length, reason):
    waves = torch.zeros(2, 2000)
    waves[1, 5] = float("inf")
    with pytest.raises(DataError, match=reason):
        make_model().embed(waves, [1000, length])


@pytest.mark.parametrize("lengths", [[100], [100, 3000], [100, -1]])
def test_lengths_that_do_not_fit_are_refused(lengths):
    with pytest.raises(ValueError, match="do not fit"):
        make_model().embed(torch.zeros(2, 2000), lengths)
