"""w2v-BERT 2.0: features equal to its extractor's, states, sizes, padding."""

import numpy as np
import pytest
import torch

from wesp_lap.frontends.transformer import TransformerFrontend
from wesp_lap.frontends.w2v_bert import stacked_features

TINY = {
    "model_type": "wav2vec2-bert",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_depthwise_kernel_size": 5,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def frontend(**changes):
    torch.manual_seed(0)
    return TransformerFrontend(config={**TINY, **changes}).eval()


def extracted(waves):
    """Return the extractor's features of unpadded waveforms, and the mask of their frames."""
    from transformers import SeamlessM4TFeatureExtractor

    extractor = SeamlessM4TFeatureExtractor(
        feature_size=80, num_mel_bins=80, padding_value=1.0, stride=2
    )
    found = extractor([wave.numpy() for wave in waves], sampling_rate=16000, return_tensors="pt")
    return found["input_features"], found["attention_mask"]


@pytest.mark.parametrize("samples", [560, 720, 879, 880, 8000, 16000, 16160])
def test_features_are_the_extractors(samples):
    wave = noise(samples, seed=samples)
    features, mask = extracted([wave])
    frames = int(mask.sum())
    assert frames == frontend().output_lengths(samples)
    # The extractor computes in float64 and rounds to float32 in the end.
    for dtype, tolerance in ((torch.float64, 1e-4), (torch.float32, 5e-4)):
        ours = stacked_features(wave.to(dtype).unsqueeze(0), None)
        assert ours.shape == (1, frames, 160) and ours.dtype == dtype
        torch.testing.assert_close(ours.float(), features[:, :frames], atol=tolerance, rtol=0)


def test_features_of_a_padded_batch_are_the_extractors():
    lengths = [8000, 5201, 560, 7999]
    waves = noise(4, 8000)
    for row, length in enumerate(lengths):
        waves[row, length:] = 0
    ours = stacked_features(waves.double(), lengths).float()
    features, mask = extracted([waves[row, :length] for row, length in enumerate(lengths)])
    assert ours.shape == features.shape
    assert mask.sum(1).tolist() == [frontend().output_lengths(length) for length in lengths]
    chosen = mask.bool()
    torch.testing.assert_close(ours[chosen], features[chosen], atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [8000, 8160])
def test_states_are_those_of_the_library_with_its_extractor(samples):
    """Also for an odd number of frames, the last of which the extractor masks."""
    front, wave = frontend(), noise(samples)
    features, mask = extracted([wave])
    with torch.no_grad():
        states = front(wave.unsqueeze(0))
        found = front.model(features, attention_mask=mask, output_hidden_states=True)
    assert len(states) == front.num_layers == 4
    for state, expected in zip(states, found.hidden_states, strict=True):
        frames = front.output_lengths(samples)
        assert state.shape == (1, frames, 32)
        torch.testing.assert_close(state, expected[:, :frames], atol=1e-3, rtol=1e-3)


def test_frame_counts():
    front = frontend()
    samples = (399, 559, 560, 879, 880, 16000, 32000, 48000)
    assert [front.output_lengths(n) for n in samples] == [0, 0, 1, 1, 2, 49, 99, 149]
    for frames in (1, 2, 30):
        assert front.output_lengths(front.samples_for(frames)) == frames
        assert front.output_lengths(front.samples_for(frames) - 1) == frames - 1


def test_size_of_the_published_model():
    with torch.device("meta"):
        front = TransformerFrontend(config={"model_type": "wav2vec2-bert"})
    dim, inner = 1024, 4096
    feed_forward = 2 * dim + (dim * inner + inner) + (inner * dim + dim)
    attention = 2 * dim + 4 * (dim * dim + dim) + (64 + 8 + 1) * (dim // 16)
    convolution = 2 * dim + 2 * dim * dim + 31 * dim + 2 * dim + dim * dim
    layer = 2 * feed_forward + attention + convolution + 2 * dim
    expected = 2 * 160 + (160 * dim + dim) + dim + 24 * layer
    assert sum(p.numel() for p in front.parameters()) == expected == 580_493_120
    assert (front.num_layers, front.hidden_size) == (25, 1024)


@pytest.mark.parametrize("positions", ["relative_key", "relative", "rotary", None])
def test_each_state_of_a_padded_row_is_that_of_the_row_alone(positions):
    front = frontend(position_embeddings_type=positions)
    lengths = [8000, 880, 5361]
    waves = noise(3, 8000)
    with torch.no_grad():
        alone = [front(waves[row : row + 1, :n]) for row, n in enumerate(lengths)]
        for garbage in (100.0, float("nan")):
            for row, n in enumerate(lengths):
                waves[row, n:] = garbage
            padded = front(waves, lengths)
            for row, n in enumerate(lengths):
                for state, wanted in zip(padded, alone[row], strict=True):
                    frames = front.output_lengths(n)
                    torch.testing.assert_close(state[row, :frames], wanted[0], atol=1e-4, rtol=1e-4)


def test_what_follows_the_layers_is_left_out(tmp_path):
    front = frontend(add_adapter=True, use_intermediate_ffn_before_adapter=True)
    plain = frontend()
    assert set(front.state_dict()) == set(plain.state_dict())
    from transformers import AutoModel

    whole = AutoModel.from_config(type(front.model.config)(**{**TINY, "add_adapter": True}))
    whole.save_pretrained(tmp_path)
    opened = TransformerFrontend(weights=str(tmp_path)).eval()
    assert opened.output_lengths(8000) == opened(noise(1, 8000))[-1].shape[1]
    again = TransformerFrontend(**opened.options())
    again.load_state_dict(opened.state_dict())
    waves = noise(2, 6000)
    assert torch.equal(again.eval()(waves)[-1], opened(waves)[-1])


@pytest.mark.parametrize("spec_augment", [False, True])
def test_every_trainable_parameter_gets_a_gradient(spec_augment):
    np.random.seed(0)
    front = frontend(apply_spec_augment=spec_augment).train()
    sum(state.square().sum() for state in front(noise(2, 16000))).backward()
    assert [n for n, p in front.named_parameters() if p.requires_grad and p.grad is None] == []
    assert front.model.masked_spec_embed.requires_grad == spec_augment


def test_a_dropped_layer_repeats_the_state_before_it():
    front = frontend(layerdrop=0.999999).train()
    states = front(noise(2, 8000))
    assert len(states) == 4
    assert all(torch.equal(state, states[0]) for state in states)


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
