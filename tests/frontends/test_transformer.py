"""The frontends' contract, on small random models of each architecture."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from helpers import tiny_frontend

from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError
from wesp_lap.frontends import FRONTENDS
from wesp_lap.frontends.transformer import TransformerFrontend

MODEL_TYPES = ("wavlm", "hubert", "wav2vec2", "wav2vec2-conformer", "hubert-conformer")

# Post-norm with group norm in the convolutions (base models), pre-norm with layer norm (large).
BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}


def frontend(model_type="wavlm", seed=0, **changes):
    torch.manual_seed(seed)
    family = {} if model_type == "wav2vec2-conformer" else BASE
    return TransformerFrontend(config=tiny_frontend(model_type, **{**family, **changes})).eval()


def encoder_trace(front, waves):
    """Run the model and record what really enters its first layer and leaves each one."""
    seen = []

    def entered(module, arguments, keywords):
        seen.append(arguments[0] if arguments else keywords["hidden_states"])

    def left(module, inputs, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    layers = front.model.encoder.layers
    handles = [layers[0].register_forward_pre_hook(entered, with_kwargs=True)]
    handles += [layer.register_forward_hook(left) for layer in layers]
    last = front.model(waves).last_hidden_state
    for handle in handles:
        handle.remove()
    return [*seen[:-1], last]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("family", [BASE, LARGE], ids=["base", "large"])
def test_states_are_the_layers_input_and_outputs(model_type, family):
    if model_type.endswith("conformer"):
        family = {}
    front = frontend(model_type, **family)
    waves = torch.randn(2, 8000)
    with torch.no_grad():
        states, expected = front(waves), encoder_trace(front, waves)
    assert front.num_layers == len(states) == 3
    for state, wanted in zip(states, expected, strict=True):
        assert state.shape == (2, front.output_lengths(8000), front.hidden_size)
        assert torch.equal(state, wanted)


@pytest.mark.parametrize("model_type", ["hubert", "wavlm"])
def test_a_dropped_layer_repeats_the_state_before_it(model_type):
    front = frontend(model_type, num_hidden_layers=6).train()
    for module in front.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    front.model.config.layerdrop = 0.999999
    states = front(torch.randn(2, 8000))
    assert len(states) == 7
    kept = 1 if model_type == "wavlm" else 0  # WavLM keeps its first layer: it owns the bias table
    assert all(torch.equal(state, states[kept]) for state in states[kept:])
    assert kept == 0 or not torch.equal(states[0], states[1])


@pytest.mark.parametrize(
    "samples, frames",
    list(
        zip(
            (399, 400, 719, 720, 16000, 32000, 48000, 64000, 80000, 96000, 160000),
            (0, 1, 1, 2, 49, 99, 149, 199, 249, 299, 499),
            strict=True,
        )
    ),
)
def test_frame_counts(samples, frames):
    front = frontend()
    assert front.output_lengths(samples) == frames
    if frames > 0 and samples <= 16000:
        with torch.no_grad():
            assert front(torch.randn(1, samples))[0].shape[1] == frames


def test_fewest_samples_that_give_two_frames():
    assert frontend().samples_for(2) == 720


def test_evaluation_repeats_bit_for_bit():
    front = frontend()
    waves = torch.randn(2, 8000)
    for one, other in zip(front(waves), front(waves), strict=True):
        assert torch.equal(one, other)


def test_spec_augment_masks_at_least_two_spans_of_ten_frames():
    front = frontend(apply_spec_augment=True, mask_time_min_masks=2)
    for module in front.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    waves = torch.randn(4, 32000)
    masked = []
    front.model.encoder.register_forward_pre_hook(
        lambda module, inputs: masked.append(inputs[0].detach().clone())
    )
    with torch.no_grad():
        front.eval()(waves)
        front.train()(waves)
    plain, changed = masked
    rows = (plain != changed).any(-1).sum(1)
    assert ((rows >= 11) & (rows <= 20)).all()


def test_a_frozen_frontend_stays_in_evaluation_mode_without_gradients():
    front = frontend()
    front.freeze()
    front.train()
    assert not front.model.training
    assert not any(state.requires_grad for state in front(torch.randn(2, 4000)))
    assert not any(p.requires_grad for p in front.parameters())
    front.freeze(False)
    front.train()
    assert front.model.training
    assert all(state.requires_grad for state in front(torch.randn(2, 4000)))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_trainable_parameter_gets_a_gradient(model_type):
    front = frontend(model_type).train()
    states = front(torch.randn(2, 8000))
    sum(state.square().sum() for state in states).backward()
    silent = [n for n, p in front.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []


def test_normalisation_removes_level_and_offset():
    torch.manual_seed(0)
    config = tiny_frontend()
    plain = TransformerFrontend(config=config).eval()
    normal = TransformerFrontend(config=config, normalize_wav=True).eval()
    normal.load_state_dict(plain.state_dict())
    waves = torch.randn(2, 4000)
    expected = plain(
        (waves - waves.mean(1, keepdim=True)) / waves.std(1, keepdim=True, correction=0)
    )
    for state, wanted in zip(normal(0.1 * waves + 0.3), expected, strict=True):
        torch.testing.assert_close(state, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_saved_directory_is_opened_with_equal_states(model_type, tmp_path):
    front = frontend(model_type)
    front.model.save_pretrained(tmp_path)
    opened = TransformerFrontend(weights=str(tmp_path)).eval()
    waves = torch.randn(2, 4000)
    for one, other in zip(front(waves), opened(waves), strict=True):
        torch.testing.assert_close(one, other)


def test_options_rebuild_the_architecture():
    front = TransformerFrontend(config=tiny_frontend(), normalize_wav=True)
    again = TransformerFrontend(**front.options())
    again.load_state_dict(front.state_dict())
    assert again.normalize_wav
    assert again.options() == front.options()


def test_can_be_copied():
    front = frontend()
    waves = torch.randn(1, 4000)
    assert torch.equal(copy.deepcopy(front)(waves)[-1], front(waves)[-1])


def test_weights_with_missing_tensors_are_refused_by_name(tmp_path):
    from safetensors.torch import load_file, save_file

    frontend().model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(
        name for name in tensors if name.endswith("layers.1.feed_forward.output_dense.bias")
    )
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"layers.1.feed_forward.output_dense.bias"):
        TransformerFrontend(weights=str(tmp_path))


def test_weights_with_nan_are_refused_by_name(tmp_path):
    model = TransformerFrontend(config=tiny_frontend()).model
    name = "encoder.layers.1.attention.q_proj.weight"
    with torch.no_grad():
        model.get_parameter(name)[0, 0] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"1 tensors hold NaN .*: {name}; use another copy"):
        TransformerFrontend(weights=str(tmp_path))


@pytest.mark.parametrize("content", [b"junkjunk" * 30, b"", pickle.dumps({"a": Path("b")})])
def test_damaged_pickles_say_which_weights_they_are(content, tmp_path):
    """Torch's reader has errors of many kinds for them."""
    TransformerFrontend(config=tiny_frontend()).model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ConfigError, match=r"frontend weights '.*' cannot be loaded: \S+"):
        TransformerFrontend(weights=str(tmp_path))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_size": "abc"}, "'hidden_size'.*expected int, got str"),
        ({"conv_dim": [16]}, r"conv_dim\)? = 1"),
        ({"hidden_act": "gelux"}, "KeyError 'gelux'"),
        ({"num_attention_heads": 5}, "divisible"),
        ({"num_hidden_layers": 0}, "no Transformer layer"),
        ({"model_type": ["wavlm"]}, r"model_type \['wavlm'\] is not one of"),
    ],
)
def test_values_that_make_no_model_are_errors_of_the_configuration(changes, message):
    section = Section("transformer", {"config": {**tiny_frontend(), **changes}})
    with pytest.raises(ConfigError, match=f"^frontend.*{message}"):
        build(FRONTENDS, section, "frontend")


def test_weights_that_are_nowhere_say_where_they_were_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"cannot be loaded.*hub cache.*Without network"):
        TransformerFrontend(weights=str(tmp_path / "nothing"))


def make(**options):
    return build(FRONTENDS, Section("transformer", options), "frontend")


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match=r"did you mean 'hidden_size'"):
        make(config={"model_type": "wavlm", "hiden_size": 32})
    with pytest.raises(ConfigError, match=r"'bert' is not one of wavlm, hubert"):
        make(config={"model_type": "bert"})
    with pytest.raises(ConfigError, match=r"either 'weights' or 'config'"):
        make()
    with pytest.raises(ConfigError, match=r"did you mean 'weights'"):
        make(wieghts="x")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_each_state_of_a_padded_row_is_that_of_the_row_alone(model_type, norm):
    front = frontend(model_type, feat_extract_norm=norm)
    lengths = [8000, 720, 5000]
    waves = torch.randn(3, 8000)
    with torch.no_grad():
        alone = [front(waves[row : row + 1, :n]) for row, n in enumerate(lengths)]
        for row, n in enumerate(lengths):
            waves[row, n:] = 100.0
        padded = front(waves, lengths)
    for row, n in enumerate(lengths):
        for state, wanted in zip(padded, alone[row], strict=True):
            frames = front.output_lengths(n)
            torch.testing.assert_close(state[row, :frames], wanted[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"num_hidden_layers": 1}, r"encoder\.layers\.1\."),
        ({"model_type": "hubert"}, "gru_rel_pos"),
    ],
)
def test_weights_with_more_layers_or_other_ones_than_configured_are_refused(
    tmp_path, change, named
):
    frontend("wavlm", num_hidden_layers=2).model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=rf"have no place in the \w+ model.*{named}"):
        TransformerFrontend(weights=str(tmp_path))


def test_layerdrop_of_the_configuration_is_a_probability():
    with pytest.raises(ConfigError, match=r"layerdrop must lie in \[0, 1\), got 2"):
        frontend(layerdrop=2.0)
