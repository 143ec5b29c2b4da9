"""Encoders of self-pre-training: sizes of the paper, how they start, and how they are saved."""

import json
import math

import pytest
import torch
from helpers import ROOT
from torch import nn

from wesp_lap.coerce import Section
from wesp_lap.config import load_phase
from wesp_lap.errors import ConfigError
from wesp_lap.frontends.transformer import TransformerFrontend
from wesp_lap.pretraining.encoders import ENCODERS, build_encoder, save_encoder
from wesp_lap.pretraining.network import PretrainNetwork

SMALL = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 64,
    "conv_channels": 16,
    "position_kernel": 16,
    "position_groups": 4,
}
# Encoder; with projection to 256 and 504 classes (Interspeech 2023 paper: 94.6, 94.7, 172.2 M).
SIZES = {
    "hubert": (94_371_712, 94_697_600),
    "wavlm": (94_381_936, 94_707_824),
    "conformer": (172_633_984, 172_959_872),
}


def small(name, seed=0, **changes):
    torch.manual_seed(seed)
    return build_encoder(Section(name, {**SMALL, **changes}))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_the_paper(name):
    with torch.device("meta"):
        encoder = build_encoder(Section(name))
        network = PretrainNetwork(encoder, 500)
    assert (count(encoder), count(network)) == SIZES[name]
    if name == "conformer":  # the figure that the paper prints leaves out what is between
        parts = count(encoder.feature_extractor) + count(encoder.encoder)
        assert parts == 172_238_208
        assert {count(layer) for layer in encoder.encoder.layers} == {13_609_728}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_has_what_its_section_says(name):
    config = small(name, dropout=0.25, attention_dropout=0.15, layerdrop=0.3).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 4)
    assert (config.intermediate_size, set(config.conv_dim)) == (64, {16})
    assert (config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups) == (16, 4)
    assert config.hidden_dropout == config.feat_proj_dropout == 0.25
    assert (config.attention_dropout, config.layerdrop) == (0.15, 0.3)
    assert config.activation_dropout == (0.1 if name == "conformer" else 0.0)
    assert config.feat_extract_norm == "group" and not config.do_stable_layer_norm


@pytest.mark.parametrize("name", ENCODERS)
def test_the_control_from_random_weights_has_the_encoder_of_pre_training(name):
    """The frontend that is trained with speaker labels alone is the one that is pre-trained."""
    conf = ROOT / "egs" / "voxceleb" / "conf" / "self_pretraining"
    tree = load_phase(conf / f"{name}_random_ecapa.yaml", "joint")
    with torch.device("meta"):
        control = TransformerFrontend(config=tree["frontend"]["config"]).model.config
        encoder = build_encoder(Section(name)).config
    assert control.to_diff_dict() == encoder.to_diff_dict()


def test_distances_of_wavlm():
    config = small("wavlm").config
    assert (config.num_buckets, config.max_bucket_distance) == (320, 800)
    config = small("wavlm", num_buckets=16, max_distance=1280).config
    assert (config.num_buckets, config.max_bucket_distance) == (16, 1280)


@pytest.fixture(scope="module", params=ENCODERS)
def wide(request):
    """One layer as wide as the paper's."""
    torch.manual_seed(0)
    return build_encoder(Section(request.param, {"num_layers": 1}))


def spread(tensor, std):
    """A normal distribution: mean 0, and as many values beyond two deviations as it has."""
    assert tensor.std().item() == pytest.approx(std, rel=0.03)
    assert abs(tensor.mean().item()) < 4 * std / math.sqrt(tensor.numel())
    assert (tensor.abs() > 2 * std).float().mean().item() == pytest.approx(0.0455, abs=0.006)


def test_maps_of_the_layers_start_as_in_bert(wide):
    linear = [m for m in wide.encoder.layers.modules() if isinstance(m, nn.Linear)]
    assert len(linear) > 5
    for module in linear:
        assert not module.bias.any()
        if module.weight.numel() > 10_000:
            spread(module.weight, 0.02)
    if wide.config.model_type == "wavlm":
        spread(wide.encoder.layers[0].attention.rel_attn_embed.weight, 0.02)
        assert (wide.encoder.layers[0].attention.gru_rel_pos_const == 1).all()


def test_convolutions_over_the_waveform_start_kaiming_normal(wide):
    for layer in wide.feature_extractor.conv_layers:
        assert layer.conv.bias is None
        spread(layer.conv.weight, math.sqrt(2 / layer.conv.weight[0].numel()))


def test_the_position_convolution_starts_small(wide):
    conv = wide.encoder.pos_conv_embed.conv
    direction = conv.parametrizations.weight.original1
    spread(conv.weight, math.sqrt(4 / (128 * 768)))
    torch.testing.assert_close(conv.weight, direction)  # the lengths belong to it
    assert not conv.bias.any()


def test_mask_vector_and_projection_start_uniform(wide):
    mask = wide.masked_spec_embed
    assert mask.shape == (768,) and 0 <= mask.min() < 0.02 and 0.98 < mask.max() < 1
    weight, bound = wide.feature_projection.projection.weight, 1 / math.sqrt(512)
    assert 0.99 * bound < weight.max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_norms_start_as_identities(wide):
    for name, module in wide.named_modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm1d):
            assert (module.weight == 1).all() and not module.bias.any(), name


def test_convolutions_of_a_conformer_start_as_torch_has_them():
    torch.manual_seed(0)
    encoder = build_encoder(Section("conformer", {"num_layers": 1}))
    module = encoder.encoder.layers[0].conv_module
    for conv in (module.pointwise_conv1, module.depthwise_conv, module.pointwise_conv2):
        bound = 1 / math.sqrt(conv.weight[0].numel())
        assert 0.99 * bound < conv.weight.max() <= bound


def test_equal_seeds_give_equal_encoders():
    one, same, other = (small("wavlm", seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["masked_spec_embed"], other["masked_spec_embed"])


@pytest.mark.parametrize("name", ["hubert", "wavlm"])
def test_plain_transformers_open_what_is_saved(name, tmp_path):
    from transformers import AutoFeatureExtractor, AutoModel

    encoder = small(name).eval()
    save_encoder(encoder, tmp_path / "encoder")
    opened, report = AutoModel.from_pretrained(tmp_path / "encoder", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    waves = torch.randn(2, 8000)
    with torch.no_grad():
        wanted = encoder(waves).last_hidden_state
        torch.testing.assert_close(opened.eval()(waves).last_hidden_state, wanted)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "encoder")
    entered = extractor(waves[0].numpy(), sampling_rate=16000, return_tensors="pt").input_values
    assert torch.equal(entered[0], waves[0])


@pytest.mark.parametrize("name", ENCODERS)
def test_the_sixth_state_of_the_frontend_is_the_output_of_the_sixth_layer(name, tmp_path):
    encoder = small(name, num_layers=7).train()
    with torch.no_grad():  # statistics of batch norms move, and must be saved as they are
        encoder(torch.randn(4, 8000))
    save_encoder(encoder, tmp_path)
    front = TransformerFrontend(weights=str(tmp_path)).eval()
    sixth = []
    encoder.eval().encoder.layers[5].register_forward_hook(
        lambda module, inputs, output: sixth.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    waves = torch.randn(2, 8000)
    with torch.no_grad():
        last = encoder(waves).last_hidden_state
        states = front(waves)
    assert len(states) == 8
    torch.testing.assert_close(states[6], sixth[0])
    torch.testing.assert_close(states[7], last)


def test_saving_replaces_what_was_there_and_leaves_nothing_beside_it(tmp_path):
    folder = tmp_path / "deep" / "encoder"
    for seed in (0, 1):
        encoder = small("hubert", seed).eval()
        save_encoder(encoder, folder)
        waves = torch.randn(1, 4000)
        opened = TransformerFrontend(weights=str(folder)).eval()
        torch.testing.assert_close(opened(waves)[-1], encoder(waves).last_hidden_state)
    assert [path.name for path in folder.parent.iterdir()] == ["encoder"]
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert json.loads((folder / "config.json").read_text())["model_type"] == "hubert"


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("hubrt", {}, "did you mean 'hubert'"),
        ("hubert", {"hiden_size": 32}, "did you mean 'hidden_size'"),
        ("hubert", {"num_buckets": 320}, "unknown 'num_buckets'"),
        ("hubert", {"hidden_size": 100}, "not divisible by num_heads"),
        ("hubert", {"hidden_size": 60, "num_heads": 4}, "not divisible by position_groups"),
        ("hubert", {"num_layers": 0}, "num_layers must be positive"),
        ("hubert", {"dropout": 1.0}, "dropout must be from 0 to 1"),
        ("wavlm", {"num_buckets": 30}, "multiple of 4"),
        ("wavlm", {"max_distance": 80}, "max_distance"),
        ("conformer", {"depthwise_kernel": 30}, "depthwise_kernel must be odd"),
    ],
)
def test_wrong_sections_are_named(name, options, message):
    with pytest.raises(ConfigError, match=f"encoder.*{message}"):
        build_encoder(Section(name, options))
