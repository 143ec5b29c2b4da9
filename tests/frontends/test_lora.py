"""Low-rank adapters: they learn, the weights under them do not, and merging changes nothing."""

import sys

import pytest
import torch
from helpers import tiny_frontend
from torch import nn

from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError
from wesp_lap.frontends import FRONTENDS
from wesp_lap.frontends.lora import LoraSettings

KINDS = (
    "wavlm",
    "hubert",
    "wav2vec2",
    "wav2vec2-conformer",
    "hubert-conformer",
    "wav2vec2-bert",
    "whisper",
)
LORA = {"rank": 4, "alpha": 8}


def make(kind="wavlm", lora=LORA, config=None, **options):
    torch.manual_seed(0)
    options = {"config": tiny_frontend(kind, **(config or {})), **options}
    if lora is not None:
        options["lora"] = lora
    return build(FRONTENDS, Section("transformer", options), "frontend")


def teach(front, waves, steps=3):
    """Some steps of an optimizer on what may be trained; returns the names of what that is."""
    trained = {name: p for name, p in front.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(trained.values(), lr=0.01)
    front.train()
    for step in range(steps):
        optimizer.zero_grad()
        states = front(waves)
        weight = torch.linspace(-1, 1, states[0].numel()).view_as(states[0])
        sum((state * weight).sin().sum() for state in states).backward()
        assert all(p.grad is not None for p in trained.values())
        if step > 0:  # in the first one, the zero factor keeps the gradient from the other
            assert all(p.grad.abs().max() > 0 for p in trained.values())
        optimizer.step()
    return set(trained)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "in-training-mode"])
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_learn_and_nothing_else_changes(kind, frozen):
    front = make(kind)
    front.freeze(frozen)
    waves = torch.randn(2, 8000)
    before = {name: t.clone() for name, t in front.state_dict().items()}
    trained = teach(front, waves)
    after = front.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == trained == {name for name in before if "lora_" in name}
    assert len(trained) == 2 * 2 * 2  # factors, targets, layers
    fixed = front.fixed_state()
    assert fixed.keys() == before.keys() - trained


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_changed_by_new_adapters(kind):
    plain, front = make(kind, lora=None).eval(), make(kind).eval()
    waves = torch.randn(2, 8000)
    with torch.no_grad():
        for one, other in zip(plain(waves), front(waves), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_adapters_give_the_same_states_and_names(kind):
    front = make(kind)
    waves = torch.randn(2, 8000)
    teach(front, waves)
    with torch.no_grad():
        before = front.eval()(waves)
        front.merge_lora()
        after = front(waves)
    start = make(kind, lora=None).eval()
    for state, wanted, first in zip(after[1:], before[1:], start(waves)[1:], strict=True):
        torch.testing.assert_close(state, wanted, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(state, first, atol=1e-3)
    assert front.state_dict().keys() == start.state_dict().keys()
    assert front.options() == start.options()
    assert front.lora is None
    trained = {name for name, p in front.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in start.named_parameters() if p.requires_grad}


def test_by_hand():
    """alpha / rank * B A on top of the projection."""
    front = make(lora={"rank": 2, "alpha": 6, "targets": ["out_proj"]}).eval()
    projection = front.model.encoder.layers[0].attention.out_proj
    first, second = projection.lora_A["default"].weight, projection.lora_B["default"].weight
    assert (first.shape, second.shape) == ((2, 32), (32, 2))
    nn.init.normal_(second)
    frames = torch.randn(5, 32)
    base = nn.functional.linear(frames, projection.base_layer.weight, projection.base_layer.bias)
    torch.testing.assert_close(projection(frames), base + 3 * frames @ first.T @ second.T)


def test_saved_options_rebuild_it():
    front = make(lora={**LORA, "dropout": 0.25})
    options = front.options()
    assert options["lora"] == {
        "rank": 4,
        "alpha": 8.0,
        "dropout": 0.25,
        "targets": ["q_proj", "v_proj"],
    }
    again = build(FRONTENDS, Section("transformer", options), "frontend")
    again.load_state_dict(front.state_dict())
    assert again.options() == options


def test_a_frozen_frontend_is_in_evaluation_mode_but_for_the_adapters():
    front = make(lora={**LORA, "dropout": 0.5}, config={"apply_spec_augment": True}, layerdrop=0.9)
    front.freeze()
    front.train()
    waves = torch.randn(2, 8000)
    assert torch.equal(front(waves)[-1], front(waves)[-1])  # the adapters are still zero
    nn.init.normal_(front.model.encoder.layers[0].attention.q_proj.lora_B["default"].weight)
    assert torch.equal(front(waves)[0], front(waves)[0])
    assert not torch.equal(front(waves)[1], front(waves)[1])
    front.eval()
    assert torch.equal(front(waves)[-1], front(waves)[-1])
    assert not front.has_random_depth


@pytest.mark.parametrize("kind", KINDS[:-1])  # Whisper's layers have no dropout of their own
def test_activations_are_recomputed_under_adapters_of_a_frozen_frontend(kind):
    kept, gradients = [], []
    waves = torch.randn(2, 16000)
    for on in (False, True):
        front = make(kind, gradient_checkpointing=on)
        front.freeze()
        front.train()
        sizes = {}

        def pack(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            states = front(waves)
        kept.append(sum(sizes.values()))
        states[-1].square().sum().backward()
        gradients.append([p.grad for p in front.parameters() if p.requires_grad])
    assert kept[1] < 0.1 * kept[0]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_adapters_of_fixed_layers_are_fixed():
    front = make(frozen_below=1)
    trained = {name for name, p in front.named_parameters() if p.requires_grad}
    assert len(trained) == 4
    assert all(".layers.1." in name and "lora_" in name for name in trained)


def test_wrong_settings_are_named():
    with pytest.raises(
        ConfigError, match=r"lora.targets: unknown 'query'; known: .*k_proj, out_proj"
    ):
        make(lora={"targets": ["query"]})
    with pytest.raises(ConfigError, match=r"'q_porj' .did you mean 'q_proj'"):
        make(lora={"targets": ["q_porj"]})
    with pytest.raises(ConfigError, match=r"frontend.lora: rank >= 1, alpha > 0"):
        make(lora={"rank": 0})
    with pytest.raises(ConfigError, match=r"targets is empty"):
        make(lora={"targets": []})
    with pytest.raises(ConfigError, match=r"frontend.lora: unknown 'r'; known: .*rank"):
        make(lora={"r": 4})
    with pytest.raises(ValueError, match="there are adapters already"):
        make().add_lora(LoraSettings())


def test_without_peft_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"needs the peft package: pip install 'wesp_lap\[lora\]"):
        make()
    make(lora=None).freeze()
