"""Whisper's encoder: states equal to the library's, sizes, padding, loading without a decoder."""

import numpy as np
import pytest
import torch

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.frontends.transformer import TransformerFrontend

# One second of positions instead of thirty.
TINY = {
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "max_source_positions": 50,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 32,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
PUBLISHED = {  # d_model, layers, heads, bins; parameters of the encoder
    "tiny": (384, 4, 6, 80, 8_208_384),
    "base": (512, 6, 8, 80, 20_590_592),
    "small": (768, 12, 12, 80, 88_154_112),
    "medium": (1024, 24, 16, 80, 307_216_384),
    "large-v3": (1280, 32, 20, 128, 636_968_960),
}


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def frontend(seed=0, **changes):
    torch.manual_seed(seed)
    return TransformerFrontend(config={**TINY, **changes}).eval()


def library(front):
    """Return the library's own encoder with the frontend's weights."""
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    encoder = WhisperEncoder(front.model.config).eval()
    encoder.load_state_dict(front.model.state_dict())
    return encoder


def padded_features(wave, seconds, bins=80):
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=bins, chunk_length=seconds)
    return extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt")["input_features"]


def library_states(encoder, features):
    with torch.no_grad():
        return encoder(features, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("bins", [80, 128])
def test_states_of_the_longest_input_are_the_librarys(bins):
    front, wave = frontend(num_mel_bins=bins), noise(16000)
    expected = library_states(library(front), padded_features(wave, 1, bins))
    with torch.no_grad():
        states = front(wave.unsqueeze(0))
    assert len(states) == front.num_layers == len(expected) == 4
    for state, wanted in zip(states, expected, strict=True):
        assert state.shape == (1, 50, 32) == (1, front.output_lengths(16000), front.hidden_size)
        torch.testing.assert_close(state, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("samples", [320, 960, 5000, 9999, 15_840, 15_999])
def test_a_shorter_utterance_enters_the_layers_as_in_the_library(samples):
    """The convolutions hear the silence that the library pads with; no frame attends to it."""
    front, wave = frontend(), noise(samples)
    encoder, frames = library(front), front.output_lengths(samples)
    first = library_states(encoder, padded_features(wave, 1))[0][:, :frames]
    with torch.no_grad():
        states = front(wave.unsqueeze(0))
        torch.testing.assert_close(states[0], first, atol=1e-5, rtol=1e-5)
        for layer, state in zip(encoder.layers, states[1:-1], strict=False):
            first = layer(first, None)
            first = first[0] if isinstance(first, tuple) else first
            torch.testing.assert_close(state, first, atol=1e-5, rtol=1e-5)
        last = encoder.layers[-1](first, None)
        last = encoder.layer_norm(last[0] if isinstance(last, tuple) else last)
        torch.testing.assert_close(states[-1], last, atol=1e-5, rtol=1e-5)


def test_frame_counts():
    front = frontend()
    assert [front.output_lengths(n) for n in (319, 320, 639, 640, 16000)] == [0, 1, 1, 2, 50]
    for frames in (1, 2, 30):
        assert front.output_lengths(front.samples_for(frames)) == frames
        assert front.output_lengths(front.samples_for(frames) - 1) == frames - 1


def test_what_is_too_long_says_how_to_cut_it():
    with pytest.raises(DataError, match=r"1.5 s at once, but Whisper takes at most 1 s: .*--chunk"):
        frontend()(noise(1, 24000))


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_of_the_published_encoders(name):
    dim, layers, heads, bins, expected = PUBLISHED[name]
    config = {
        "model_type": "whisper",
        "d_model": dim,
        "encoder_layers": layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * dim,
        "num_mel_bins": bins,
    }
    with torch.device("meta"):
        front = TransformerFrontend(config=config)
    convolutions = 3 * bins * dim + dim + 3 * dim * dim + dim
    layer = 4 * dim * dim + 3 * dim + 8 * dim * dim + 5 * dim + 4 * dim
    counted = convolutions + 1500 * dim + layers * layer + 2 * dim
    assert sum(p.numel() for p in front.parameters()) == counted == expected
    assert (front.num_layers, front.hidden_size) == (layers + 1, dim)


@pytest.mark.parametrize("garbage", [0.0, 100.0, float("nan")])
def test_each_state_of_a_padded_row_is_that_of_the_row_alone(garbage):
    front = frontend()
    lengths = [16000, 640, 15_500, 7777]
    waves = noise(4, 16000)
    with torch.no_grad():
        alone = [front(waves[row : row + 1, :n]) for row, n in enumerate(lengths)]
        for row, n in enumerate(lengths):
            waves[row, n:] = garbage
        padded = front(waves, lengths)
    for row, n in enumerate(lengths):
        for state, wanted in zip(padded, alone[row], strict=True):
            frames = front.output_lengths(n)
            torch.testing.assert_close(state[row, :frames], wanted[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("whole", ["WhisperModel", "WhisperForConditionalGeneration"])
def test_a_whole_whisper_is_loaded_without_its_decoder(whole, tmp_path, capfd):
    import transformers

    torch.manual_seed(1)
    config = {name: value for name, value in TINY.items() if name != "model_type"}
    model = getattr(transformers, whole)(transformers.WhisperConfig(**config)).eval()
    model.save_pretrained(tmp_path / "whole")
    front = TransformerFrontend(weights=str(tmp_path / "whole")).eval()
    assert "decoder" not in "".join(capfd.readouterr())  # transformers lists what it leaves out
    encoder = model.get_encoder()
    assert set(front.state_dict()) == {f"model.{name}" for name in encoder.state_dict()}
    wave = noise(16000)
    expected = library_states(encoder, padded_features(wave, 1))
    for state, wanted in zip(front(wave.unsqueeze(0)), expected, strict=True):
        torch.testing.assert_close(state, wanted, atol=1e-5, rtol=1e-5)
    front.model.save_pretrained(tmp_path / "encoder")
    again = TransformerFrontend(weights=str(tmp_path / "encoder")).eval()
    assert torch.equal(again(wave.unsqueeze(0))[-1], front(wave.unsqueeze(0))[-1])


def test_missing_tensors_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    frontend().model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["layers.1.fc1.bias"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 tensors of the whisper model .* layers.1.fc1.bias"):
        TransformerFrontend(weights=str(tmp_path))


def test_options_rebuild_it():
    front = frontend()
    again = TransformerFrontend(**front.options())
    again.load_state_dict(front.state_dict())
    waves = noise(2, 8000)
    assert torch.equal(again.eval()(waves)[-1], front(waves)[-1])
    assert again.options() == front.options()


def test_every_trainable_parameter_gets_a_gradient_and_the_positions_stay():
    front = frontend().train()
    sum(state.square().sum() for state in front(noise(2, 8000))).backward()
    silent = {name for name, p in front.named_parameters() if p.grad is None}
    assert silent == {"model.embed_positions.weight"}
    assert not front.model.embed_positions.weight.requires_grad


def test_a_dropped_layer_repeats_the_state_before_it():
    states = frontend(encoder_layerdrop=0.999999).train()(noise(2, 8000))
    assert len(states) == 4
    assert all(torch.equal(state, states[0]) for state in states[:3])


def test_layerdrop_and_spec_augment_are_options():
    front = TransformerFrontend(config=TINY, layerdrop=0.5, spec_augment=True).train()
    assert front.model.config.encoder_layerdrop == front.model.layerdrop == 0.5
    assert front.has_random_depth
    front = TransformerFrontend(config=TINY, spec_augment=True)
    np.random.seed(0)
    waves = noise(1, 16000)
    with torch.no_grad():
        plain, masked = front.eval()(waves)[0], front.train()(waves)[0]
    share = (plain != masked).any(-1).float().mean()
    assert 0.1 < share < 0.6  # two spans of ten frames of the spectrogram, and their neighbours


def test_fewer_layers_of_which_one_is_frozen():
    whole, waves = frontend(), noise(2, 8000)
    cut = TransformerFrontend(config=TINY, keep_layers=2, frozen_below=1).eval()
    cut.load_state_dict({name: whole.state_dict()[name] for name in cut.state_dict()})
    with torch.no_grad():
        for state, wanted in zip(cut(waves), whole(waves)[:3], strict=True):
            assert torch.equal(state, wanted)
    sum(state.sum() for state in cut.train()(waves)).backward()
    trained = {name for name, p in cut.named_parameters() if p.grad is not None}
    assert trained and all(".layers.1." in name for name in trained)


def test_adapters_get_gradients():
    pytest.importorskip("peft")
    from wesp_lap.frontends.lora import LoraSettings

    front = TransformerFrontend(config=TINY, lora=LoraSettings(rank=2)).train()
    front(noise(2, 8000))[-1].square().sum().backward()
    trained = [name for name, p in front.named_parameters() if p.grad is not None]
    assert len(trained) == 2 * 2 * 3 and all("lora_" in name for name in trained)
