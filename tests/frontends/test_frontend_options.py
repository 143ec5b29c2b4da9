"""Options that say how a frontend is trained, and what is left of it."""

import contextlib

import pytest
import torch
from helpers import tiny_frontend

from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError
from wesp_lap.frontends import FRONTENDS
from wesp_lap.frontends.transformer import TransformerFrontend

KINDS = ("wavlm", "hubert", "wav2vec2", "wav2vec2-conformer", "hubert-conformer")
BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
SPECTRAL = ("wav2vec2-bert", "whisper")
IN_WHISPER = {
    "num_hidden_layers": "encoder_layers",
    "hidden_dropout": "dropout",
    "feat_proj_dropout": "attention_dropout",
}
NORMS = {"post-norm": BASE, "pre-norm": LARGE}
NO_DROPOUT = {"dropout": 0.0}


def make(kind="wavlm", norm=BASE, seed=0, config=None, **options):
    torch.manual_seed(seed)
    family = norm if kind in KINDS[:3] else {}
    changes = {**family, "num_hidden_layers": 3, **(config or {})}
    if kind == "whisper":
        changes = {IN_WHISPER.get(name, name): value for name, value in changes.items()}
    whole = tiny_frontend(kind, **changes)
    return build(FRONTENDS, Section("transformer", {"config": whole, **options}), "frontend")


def gradients(front, waves, seed=5):
    """Gradients of a loss that no state leaves out and no norm makes constant."""
    torch.manual_seed(seed)
    states = front(waves)
    weight = torch.linspace(-1, 1, states[0].numel()).view_as(states[0])
    sum((state * weight).sin().sum() for state in states if state.requires_grad).backward()
    return {name: p.grad for name, p in front.named_parameters() if p.grad is not None}, states


@contextlib.contextmanager
def kept_for_backward():
    """Collect the sizes in bytes of what autograd keeps while the block runs."""
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


@pytest.mark.parametrize("kind", KINDS + SPECTRAL)
def test_recomputed_activations_give_the_same_states_and_gradients(kind):
    # Dropout is on: the second computation must draw what the first one drew.
    fronts = [make(kind, gradient_checkpointing=on, dropout=0.2).train() for on in (False, True)]
    plain, again = (gradients(front, torch.linspace(-1, 1, 16000).view(2, -1)) for front in fronts)
    for one, other in zip(plain[1], again[1], strict=True):
        assert torch.equal(one, other)
    assert plain[0].keys() == again[0].keys()
    assert len(plain[0]) > 40
    for name, gradient in plain[0].items():
        torch.testing.assert_close(again[0][name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_activations_are_recomputed_with_dropped_layers(norm):
    config = {"num_hidden_layers": 6}
    found = []
    for on in (False, True):
        front = make(norm=norm, config=config, gradient_checkpointing=on, layerdrop=0.5).train()
        found.append(gradients(front, torch.randn(2, 8000)))
    (plain, states), (again, others) = found
    assert len(states) == len(others) == 7
    assert plain.keys() == again.keys()
    assert len(plain) < sum(p.requires_grad for p in front.parameters())  # some were dropped


def test_less_is_kept_when_activations_are_recomputed():
    kept = []
    for on in (False, True):
        front = make(config={"num_hidden_layers": 6}, gradient_checkpointing=on).train()
        with kept_for_backward() as sizes:
            states = front(torch.randn(2, 48000))
        kept.append(sum(sizes.values()))
        assert states[-1].requires_grad
    assert kept[1] < 0.2 * kept[0]


BELOW = {
    "convolutions": ("feature_extractor.",),
    "projection": ("feature_extractor.", "feature_projection."),
    0: ("feature_", "encoder.pos_conv", "encoder.layer_norm", "masked_spec"),
    2: (
        "feature_",
        "encoder.pos_conv",
        "encoder.layer_norm",
        "masked_spec",
        "encoder.layers.0.",
        "encoder.layers.1.",
    ),
}


@pytest.mark.parametrize("below", BELOW, ids=str)
@pytest.mark.parametrize("kind", KINDS[:3])
def test_what_is_below_gets_no_gradient(kind, below):
    front = make(kind, frozen_below=below).train()
    found, _ = gradients(front, torch.randn(2, 8000))
    expected = {
        name
        for name, _ in front.named_parameters()
        if not name.removeprefix("model.").startswith(BELOW[below])
        and "masked_spec_embed" not in name
    }
    assert found.keys() == expected
    assert all(p.requires_grad == (name in expected) for name, p in front.named_parameters())


@pytest.mark.parametrize("kind", KINDS[:4])
def test_the_final_norm_is_above_all_layers(kind):
    front = make(kind, norm=LARGE, frozen_below=3).train()
    trained = {name for name, p in front.named_parameters() if p.requires_grad}
    assert trained == {"model.encoder.layer_norm.weight", "model.encoder.layer_norm.bias"}


@pytest.mark.parametrize("below, fixed", [(0, 1), (2, 3)])
@pytest.mark.parametrize("kind", KINDS + SPECTRAL)
def test_what_is_fixed_is_computed_as_in_evaluation_and_not_kept(kind, below, fixed):
    config = {"num_hidden_layers": 6, "apply_spec_augment": True, "hidden_dropout": 0.5}
    front = make(kind, config=config, frozen_below=below, layerdrop=0.6)
    waves = torch.randn(2, 16000)
    with torch.no_grad():
        expected = front.eval()(waves)
    front.train()
    for seed in range(4):
        torch.manual_seed(seed)
        states = front(waves)
        for state, wanted in zip(states[:fixed], expected[:fixed], strict=True):
            torch.testing.assert_close(state, wanted)
            assert not state.requires_grad
    assert not torch.allclose(states[-1], expected[-1])


def test_layers_above_the_fixed_ones_are_dropped():
    front = make(config={"num_hidden_layers": 6}, frozen_below=2, layerdrop=0.999999).train()
    states = front(torch.randn(2, 8000))
    assert not torch.equal(states[1], states[2])
    assert all(torch.equal(state, states[2]) for state in states[3:])
    assert not front.model.encoder.training


def test_masks_act_above_the_projection():
    config = {"apply_spec_augment": True, "mask_time_prob": 0.3}
    waves = torch.randn(2, 16000)
    for below, masked in (("projection", True), (0, False)):
        front = make(config=config, frozen_below=below, dropout=0.0).train()
        one, other = front(waves)[0], front(waves)[0]
        assert torch.equal(one, other) != masked


def test_the_more_is_fixed_the_less_is_kept():
    kept = []
    for below in (None, "convolutions", "projection", 0, 1, 2, 3):
        front = make(frozen_below=below).train()
        with kept_for_backward() as sizes:
            front(torch.randn(2, 32000))
        kept.append(sum(sizes.values()))
    assert kept[0] > 1.5 * kept[1]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == 0 < kept[-2]


def test_what_a_model_does_not_have_is_named():
    with pytest.raises(ConfigError, match=r"frozen_below: 4, but the model has 3 layers"):
        make(frozen_below=4)
    with pytest.raises(ConfigError, match=r"'rest' does not fit"):
        make(frozen_below="rest")
    message = r"a wav2vec2-bert model has no convolutions; give projection or a number of layers"
    with pytest.raises(ConfigError, match=message):
        make("wav2vec2-bert", frozen_below="convolutions")
    with pytest.raises(ConfigError, match="cls_token: not for whisper"):
        make("whisper", cls_token=True)


def test_a_frozen_frontend_keeps_nothing_for_the_backward_pass():
    front = make()
    front.freeze()
    front.train()
    with kept_for_backward() as sizes:
        states = front(torch.randn(2, 8000))
    assert sizes == {}
    assert not any(state.requires_grad for state in states)


def test_a_frozen_frontend_works_in_the_precision_of_autocast():
    front = make()
    front.freeze()
    seen = []
    front.model.encoder.layers[0].feed_forward.output_dense.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    with torch.autocast("cpu", torch.bfloat16):
        front(torch.randn(2, 8000))
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("kind", KINDS + SPECTRAL)
def test_fewer_layers_have_the_states_of_the_whole_model(kind, norm):
    whole, part = make(kind, norm).eval(), make(kind, norm, keep_layers=1).eval()
    own = part.state_dict()
    assert len(own) < len(whole.state_dict())
    part.load_state_dict({name: t for name, t in whole.state_dict().items() if name in own})
    waves = torch.randn(2, 8000)
    states = part(waves)
    assert part.num_layers == len(states) == 2
    for state, wanted in zip(states, whole(waves), strict=False):
        assert torch.equal(state, wanted)


def test_all_layers_are_the_whole_model():
    whole, part = make(norm=LARGE).eval(), make(norm=LARGE, keep_layers=3).eval()
    waves = torch.randn(1, 8000)
    assert torch.equal(part(waves)[-1], whole(waves)[-1])


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_fewer_layers_are_rebuilt_from_saved_options(norm):
    front = make(norm=norm, keep_layers=2)
    again = build(FRONTENDS, Section("transformer", front.options()), "frontend")
    again.load_state_dict(front.state_dict())
    assert again.options() == front.options()


@pytest.mark.parametrize("layers", [0, 4])
def test_there_must_be_as_many_layers_as_are_kept(layers):
    with pytest.raises(ConfigError, match=rf"keep_layers: {layers}, but the model has 3 layers"):
        make(keep_layers=layers)


def test_fewer_layers_of_pretrained_weights(tmp_path):
    whole = make().eval()
    whole.model.save_pretrained(tmp_path)
    part = TransformerFrontend(weights=str(tmp_path), keep_layers=2).eval()
    waves = torch.randn(1, 8000)
    assert torch.equal(part(waves)[-1], whole(waves)[2])


@pytest.mark.parametrize("kind", KINDS + SPECTRAL)
def test_without_dropout_training_repeats(kind):
    config = {"hidden_dropout": 0.3, "activation_dropout": 0.3, "feat_proj_dropout": 0.3}
    waves = torch.randn(2, 8000)
    for options, repeats in ((NO_DROPOUT, True), ({}, False)):
        front = make(kind, config=config, **options).train()
        assert torch.equal(front(waves)[-1], front(waves)[-1]) == repeats


def test_dropout_stands_for_all_but_that_of_the_activation():
    config = make(dropout=0.25, config={"activation_dropout": 0.05}).model.config
    assert config.hidden_dropout == config.attention_dropout == config.feat_proj_dropout == 0.25
    assert config.activation_dropout == 0.05


def test_dropout_null_keeps_the_configuration():
    config = make(config={"hidden_dropout": 0.125}).model.config
    assert (config.hidden_dropout, config.attention_dropout) == (0.125, 0.1)


@pytest.mark.parametrize("option", ["dropout", "layerdrop"])
def test_dropout_and_layerdrop_are_probabilities(option):
    with pytest.raises(ConfigError, match=rf"{option} must be from 0 to 1.*got 1.5"):
        make(**{option: 1.5})


@pytest.mark.parametrize("kind", KINDS)
def test_the_cls_token_is_the_first_of_one_more_frame(kind):
    front, plain = make(kind, cls_token=True).eval(), make(kind).eval()
    waves = torch.randn(2, 8000)
    assert front.output_lengths(8000) == plain.output_lengths(8000) + 1 == 25
    entered = []
    for model in (front.model, plain.model):
        # That Conformer does not call its position convolution.
        conformer = kind == "wav2vec2-conformer"
        first = model.encoder.dropout if conformer else model.encoder.pos_conv_embed
        first.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0].clone()))
    states = front(waves)
    plain(waves)
    assert all(state.shape == (2, 25, 32) for state in states)
    with_it, without = entered
    assert torch.equal(with_it[:, 1:], without)
    assert torch.equal(with_it[:, 0], torch.ones(2, 32))


@pytest.mark.parametrize(
    "kind, norm",
    [(kind, norm) for kind in KINDS for norm in ("group", "layer")] + [("wav2vec2-bert", None)],
)
def test_the_cls_token_in_padded_batches(kind, norm):
    config = {"feat_extract_norm": norm} if norm else {}
    front = make(kind, config=config, cls_token=True).eval()
    lengths = [8000, 720, 5000]
    waves = torch.randn(3, 8000)
    with torch.no_grad():
        alone = [front(waves[row : row + 1, :n]) for row, n in enumerate(lengths)]
        padded = front(waves, lengths)
    for row, n in enumerate(lengths):
        frames = front.output_lengths(n)
        for state, wanted in zip(padded, alone[row], strict=True):
            torch.testing.assert_close(state[row, :frames], wanted[0], atol=1e-4, rtol=1e-4)


def test_frame_counts_with_a_cls_token():
    front = make(cls_token=True)
    assert [front.samples_for(frames) for frames in (1, 2, 3)] == [400, 400, 720]
    assert [front.output_lengths(n) for n in (399, 400, 720)] == [0, 2, 3]
    assert front.options()["cls_token"] is True


@pytest.mark.parametrize("kind", KINDS + SPECTRAL)
@pytest.mark.parametrize("samples", [720, 3280])
def test_crops_no_longer_than_a_mask_are_not_masked(kind, samples):
    front = make(kind, config={"apply_spec_augment": True}, dropout=0.0).train()
    waves = torch.randn(2, samples)
    assert front.output_lengths(samples) <= 10
    states = front(waves)
    with torch.no_grad():
        torch.testing.assert_close(states[0], front.eval()(waves)[0])
    assert front.model.config.apply_spec_augment


def test_crops_longer_than_a_mask_are_masked():
    front = make(config={"apply_spec_augment": True}, dropout=0.0).train()
    waves = torch.randn(2, 3600)
    assert front.output_lengths(3600) == 11
    assert not torch.equal(front(waves)[0], front.eval()(waves)[0])


def test_nothing_is_fixed_in_a_frontend_that_is_trained_whole():
    assert make(norm=LARGE).fixed_state().keys() == {"model.masked_spec_embed"}


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2-conformer"])
def test_statistics_of_batch_norms_are_fixed_with_their_layers(kind):
    config = {"conv_pos_batch_norm": True} if kind == "hubert" else {}
    front = make(kind, config=config, frozen_below=1).train()
    before = {name: t.clone() for name, t in front.fixed_state().items()}
    assert any("running_mean" in name for name in before)
    front(torch.randn(2, 8000))
    after = front.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    if kind == "wav2vec2-conformer":
        moved = "model.encoder.layers.1.conv_module.batch_norm.running_mean"
        assert moved not in before
        assert after[moved].abs().sum() > 0


def test_everything_is_fixed_in_a_frozen_frontend():
    front = make("hubert", config={"conv_pos_batch_norm": True})
    front.freeze()
    assert front.fixed_state().keys() == front.state_dict().keys()


WIDE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    **LARGE,
}
PUBLISHED = {
    "wav2vec2-base": ({"model_type": "wav2vec2"}, 94_371_712),
    "hubert-base": ({"model_type": "hubert"}, 94_371_712),
    "wavlm-base": ({"model_type": "wavlm"}, 94_381_936),
    "wavlm-large": ({"model_type": "wavlm", **WIDE}, 315_453_120),
    "wav2vec2-large-lv60": ({"model_type": "wav2vec2", "conv_bias": True, **WIDE}, 315_438_720),
    "conformer": (
        {"model_type": "wav2vec2-conformer", "position_embeddings_type": None},
        172_633_984,
    ),
    "hubert-conformer": ({"model_type": "hubert-conformer"}, 172_633_984),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_number_of_parameters(name):
    config, expected = PUBLISHED[name]
    with torch.device("meta"):
        front = TransformerFrontend(config=config)
    assert sum(parameter.numel() for parameter in front.parameters()) == expected


@pytest.mark.parametrize("name", ["conformer", "hubert-conformer"])
def test_number_of_parameters_of_a_conformer_layer(name):
    with torch.device("meta"):
        front = TransformerFrontend(config=PUBLISHED[name][0])
    layers = front.model.encoder.layers
    assert [sum(p.numel() for p in layer.parameters()) for layer in layers] == [13_609_728] * 12
