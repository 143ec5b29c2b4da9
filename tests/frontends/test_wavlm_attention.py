"""WavLM's attention computes what the transformers library's own computes."""

import copy

import pytest
import torch
from helpers import tiny_frontend

from wesp_lap.frontends import wavlm_attention
from wesp_lap.frontends.transformer import TransformerFrontend
from wesp_lap.frontends.wavlm_attention import WavLMAttention, relative_buckets

NORMS = {"post-norm": False, "pre-norm": True}


def library_model(pre_norm=False, std=0.3, **changes):
    """A model of the library with its own attention, and with random values everywhere."""
    from transformers import WavLMConfig, WavLMModel

    torch.manual_seed(0)
    config = tiny_frontend(do_stable_layer_norm=pre_norm, **changes)
    del config["model_type"]
    model = WavLMModel(WavLMConfig(**config))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model


def with_ours(model):
    model = copy.deepcopy(model)
    for layer in model.encoder.layers:
        layer.attention = WavLMAttention(layer.attention)
    return model


def no_dropout(*models):
    for model in models:
        model.train()
        for module in model.modules():
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("pre_norm", NORMS.values(), ids=NORMS)
def test_outputs_and_gradients_are_those_of_the_library(pre_norm, padded):
    theirs = library_model(pre_norm).double()
    ours = with_ours(theirs)
    no_dropout(theirs, ours)
    waves = torch.randn(3, 6000, dtype=torch.float64)
    lengths = torch.tensor([6000, 2000, 3500])
    mask = (torch.arange(6000) < lengths[:, None]).long() if padded else None
    frames = [
        theirs._get_feat_extract_output_lengths(n) for n in (lengths if padded else [6000] * 3)
    ]
    outputs = [model(waves.clone(), mask).last_hidden_state for model in (theirs, ours)]
    weight = torch.randn_like(outputs[0])
    for row, count in enumerate(frames):
        weight[row, count:] = 0
        torch.testing.assert_close(
            outputs[1][row, :count], outputs[0][row, :count], atol=1e-10, rtol=0
        )
    for output in outputs:
        (output * weight).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert len(gradients) > 50
    for name, parameter in ours.named_parameters():
        if name in gradients:
            scale = max(1.0, gradients[name].abs().max().item())
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-10 * scale, rtol=0)


@pytest.mark.parametrize("pre_norm", NORMS.values(), ids=NORMS)
def test_in_single_precision(pre_norm):
    theirs = library_model(pre_norm, std=0.1).eval()
    waves = torch.randn(2, 16000)
    for grad in (True, False):  # another kernel
        with torch.set_grad_enabled(grad):
            expected = theirs(waves).last_hidden_state
            ours = with_ours(theirs)(waves).last_hidden_state
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_dropout_takes_the_same_weights_out():
    theirs = library_model(attention_dropout=0.3).double().encoder.layers[0].attention.train()
    ours = WavLMAttention(theirs).train()
    states = torch.randn(3, 15, 32, dtype=torch.float64)
    outputs = []
    for module in (theirs, ours):
        torch.manual_seed(1)
        outputs.append(module(states)[0])
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-10, rtol=0)
    assert not torch.allclose(outputs[1], ours.eval()(states)[0])


def test_buckets_of_distances():
    given = {
        0: 0,
        1: 161,
        -1: 1,
        79: 239,
        80: 240,
        100: 247,
        400: 295,
        799: 319,
        800: 319,
        5000: 319,
        -100: 87,
        -400: 135,
        -800: 159,
        -5000: 159,
    }
    buckets = relative_buckets(torch.tensor(list(given)), 320, 800)
    assert buckets.tolist() == list(given.values())
    further = relative_buckets(torch.tensor([100, 400, 800, 1000]), 320, 1280)
    assert further.tolist() == [246, 286, 306, 312]


def test_all_buckets_are_those_of_the_library():
    theirs = library_model(num_buckets=320).encoder.layers[0].attention
    distance = torch.arange(-2000, 2001)
    expected = theirs._relative_positions_bucket(distance)
    assert torch.equal(relative_buckets(distance, 320, 800), expected)


def test_a_gate_without_weights_is_seven_quarters():
    attention = WavLMAttention(library_model().encoder.layers[0].attention)
    for parameter in attention.gru_rel_pos_linear.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(attention.gru_rel_pos_const)
    gate = attention.gate(torch.randn(2, 5, 32))
    assert gate.shape == (2, 4, 5, 1)
    assert torch.equal(gate, torch.full_like(gate, 1.75))


@pytest.mark.parametrize("frames", [1, 7, 8, 21])
def test_the_bias_depends_on_the_distance_only(frames):
    attention = WavLMAttention(library_model(num_buckets=320).encoder.layers[0].attention)
    bias = attention.position_bias(frames)[..., :frames]
    assert bias.shape == (4, frames, frames)
    table = attention.rel_attn_embed.weight
    for query in range(frames):
        for key in range(frames):
            bucket = abs(key - query) + (160 if key > query else 0)
            assert torch.equal(bias[:, query, key], table[bucket])


def test_the_bias_of_a_length_does_not_depend_on_the_lengths_before():
    attention = WavLMAttention(library_model().encoder.layers[0].attention)
    first = {frames: attention.position_bias(frames) for frames in (3, 40, 17, 9)}
    for frames, bias in first.items():
        fresh = WavLMAttention(attention)
        assert torch.equal(bias, fresh.position_bias(frames))


def test_training_goes_on_after_inference():
    """What is kept between calls must not be a tensor that inference mode has made."""
    front = TransformerFrontend(config=tiny_frontend()).train()
    with torch.inference_mode():
        front(torch.randn(1, 8000))
    sum(state.sum() for state in front(torch.randn(1, 8000))).backward()


def test_gradients_of_the_gated_bias_by_differences():
    torch.manual_seed(0)
    gate = torch.randn(2, 3, 5, 1, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)

    def product(gate, bias):
        return wavlm_attention._GatedBias.apply(gate, bias, None, torch.float64)

    assert torch.equal(product(gate, bias), (gate * bias)[..., :5])
    assert torch.autograd.gradcheck(product, (gate, bias))


def test_the_gated_bias_is_aligned_as_the_kernels_of_a_gpu_want_it():
    gate, bias = torch.randn(2, 3, 5, 1), torch.randn(3, 5, 8)
    product = wavlm_attention._GatedBias.apply(gate, bias, None, torch.bfloat16)
    assert product.dtype == torch.bfloat16
    assert product.shape == (2, 3, 5, 5)
    assert all(stride % 8 == 0 for stride in product.stride()[:-1])
    assert torch.equal(product, (gate * bias)[..., :5].bfloat16())


def test_layers_are_the_librarys_for_the_library(tmp_path):
    """Saved by one and opened by the other, both ways."""
    from transformers import WavLMModel

    front = TransformerFrontend(config=tiny_frontend()).eval()
    waves = torch.randn(1, 8000)
    front.model.save_pretrained(tmp_path / "ours")
    theirs, report = WavLMModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        expected = theirs.eval()(waves).last_hidden_state
        torch.testing.assert_close(front(waves)[-1], expected, atol=1e-5, rtol=1e-5)
        theirs.save_pretrained(tmp_path / "theirs")
        again = TransformerFrontend(weights=str(tmp_path / "theirs")).eval()
        assert torch.equal(again(waves)[-1], front(waves)[-1])
    assert isinstance(again.model.encoder.layers[1].attention, WavLMAttention)
