"""The Conformer of self-pre-training, beside formulas and the library's layers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wesp_lap.coerce import Section
from wesp_lap.errors import ConfigError
from wesp_lap.frontends.transformer import TransformerFrontend
from wesp_lap.pretraining.encoders import build_encoder

SMALL = {
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 3,
    "intermediate_size": 40,
    "conv_channels": 16,
    "position_kernel": 8,
    "position_groups": 4,
    "depthwise_kernel": 5,
}


def uneven(model):
    """Give every norm, bias and running statistic values that change what comes out."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, *((-0.5, 0.5) if "bias" in name else (0.5, 1.5)))
        else:
            nn.init.normal_(parameter, std=0.2)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return model


def small(**changes):
    torch.manual_seed(0)
    return uneven(build_encoder(Section("conformer", {**SMALL, **changes})))


def norm(x, weights, name):
    mean = x.mean(-1, keepdim=True)
    scale = (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    return (x - mean) / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def affine(x, weights, name):
    return x @ weights[f"{name}.weight"].t() + weights[f"{name}.bias"]


def swish(x):
    return x / (1 + torch.exp(-x))


def feed_forward(x, weights, name):
    inner = affine(norm(x, weights, f"{name}.layer_norm"), weights, f"{name}.intermediate_dense")
    return affine(swish(inner), weights, f"{name}.output_dense")


def attention(x, weights, heads):
    q, k, v = (affine(x, weights, f"self_attn.linear_{part}") for part in "qkv")
    size = x.shape[-1] // heads
    parts = []
    for head in range(heads):
        cut = slice(head * size, (head + 1) * size)
        scores = q[:, cut] @ k[:, cut].t() / math.sqrt(size)
        parts.append(scores.softmax(-1) @ v[:, cut])
    return affine(torch.cat(parts, -1), weights, "self_attn.linear_out")


def convolution(x, weights):
    x = norm(x, weights, "conv_module.layer_norm")
    width = x.shape[-1]
    both = x @ weights["conv_module.pointwise_conv1.weight"][:, :, 0].t()
    x = both[:, :width] * torch.sigmoid(both[:, width:])
    kernel = weights["conv_module.depthwise_conv.weight"][:, 0]
    half = kernel.shape[1] // 2
    padded = F.pad(x, (0, 0, half, half))
    x = sum(padded[k : k + len(x)] * kernel[:, k] for k in range(kernel.shape[1]))
    name = "conv_module.batch_norm"
    x = (x - weights[f"{name}.running_mean"]) / (weights[f"{name}.running_var"] + 1e-5).sqrt()
    x = swish(x * weights[f"{name}.weight"] + weights[f"{name}.bias"])
    return x @ weights["conv_module.pointwise_conv2.weight"][:, :, 0].t()


def layer_by_formula(x, weights, heads):
    """One layer on frames (T, D)."""
    x = x + 0.5 * feed_forward(x, weights, "ffn1")
    x = x + attention(norm(x, weights, "self_attn_layer_norm"), weights, heads)
    x = x + convolution(x, weights)
    x = x + 0.5 * feed_forward(x, weights, "ffn2")
    return norm(x, weights, "final_layer_norm")


def position_by_formula(x, conv):
    """The grouped convolution over time, its last frame dropped, on frames (T, D)."""
    weight, groups = conv.weight, conv.groups
    size, kernel = weight.shape[1], weight.shape[2]
    padded = F.pad(x, (0, 0, kernel // 2, kernel // 2))
    result = conv.bias.repeat(len(x), 1)
    for channel in range(x.shape[1]):
        first = channel // (x.shape[1] // groups) * size
        for k in range(kernel):
            taken = padded[k : k + len(x), first : first + size]
            result[:, channel] += taken @ weight[channel, :, k]
    return F.gelu(result)


def test_states_are_those_of_the_formulas(tmp_path):
    encoder = small().double().eval()
    encoder.save_pretrained(tmp_path)
    front = TransformerFrontend(weights=str(tmp_path)).eval().double()
    waves = torch.randn(2, 6000, dtype=torch.float64)
    with torch.no_grad():
        states = front(waves)
        for row in range(2):
            features = encoder.feature_extractor(waves[row : row + 1]).transpose(1, 2)
            x = encoder.feature_projection(features)[0]
            x = x + position_by_formula(x, encoder.encoder.pos_conv_embed.conv)
            x = norm(x, encoder.encoder.state_dict(), "layer_norm")
            torch.testing.assert_close(states[0][row], x, atol=1e-5, rtol=1e-5)
            for state, layer in zip(states[1:], encoder.encoder.layers, strict=True):
                x = layer_by_formula(x, layer.state_dict(), heads=3)
                torch.testing.assert_close(state[row], x, atol=1e-5, rtol=1e-5)


@pytest.fixture
def library_model():
    """The library's Conformer with our weights where it has a place for them."""
    from transformers import AutoConfig, AutoModel

    ours = small(num_layers=1)
    config = AutoConfig.for_model("wav2vec2-conformer", position_embeddings_type=None)
    for key, value in ours.config.to_dict().items():
        if hasattr(config, key) and key != "model_type":
            setattr(config, key, value)
    config.conformer_conv_dropout = ours.config.hidden_dropout
    theirs = AutoModel.from_config(config)
    moved = {"ffn1.layer_norm": "ffn1_layer_norm", "ffn2.layer_norm": "ffn2_layer_norm"}
    weights = {}
    for name, tensor in ours.state_dict().items():
        for old, new in moved.items():
            name = name.replace(old, new)
        weights[name] = tensor
    theirs.load_state_dict(weights)
    return ours, theirs


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_layer_is_that_of_the_library(library_model, training):
    """In training, dropout stands in the same places, and batch norm uses the batch."""
    outputs = []
    frames = torch.randn(3, 30, 24)
    for model in library_model:
        layer = model.encoder.layers[0].train(training)
        torch.manual_seed(1)
        output = layer(frames)
        outputs.append(output[0] if isinstance(output, tuple) else output)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-4)
    statistics = [model.encoder.layers[0].conv_module.batch_norm for model in library_model]
    torch.testing.assert_close(statistics[0].running_mean, statistics[1].running_mean)


def test_the_whole_model_is_not_that_of_the_library(library_model):
    """It has no position convolution in front of the layers, and its norm behind them."""
    waves = torch.randn(1, 6000)
    with torch.no_grad():
        ours, theirs = (model.eval()(waves).last_hidden_state for model in library_model)
    assert (ours - theirs).abs().max() > 0.1


def test_masked_frames_are_those_of_hubert():
    """SpecAugment of fine-tuning puts the mask vector where the library's HuBERT puts it."""
    encoder = small(dropout=0.0, activation_dropout=0.0).train()
    seen = []
    encoder.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(torch.randn(2, 16000))
    masked = (seen[0] == encoder.masked_spec_embed).all(-1).sum(1)
    assert ((masked >= 11) & (masked <= 20)).all()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"conv_depthwise_kernel_size": 4}, "odd and positive"),
        ({"do_stable_layer_norm": True}, "do_stable_layer_norm"),
    ],
)
def test_wrong_configurations_are_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TransformerFrontend(config={"model_type": "hubert-conformer", **wrong})
