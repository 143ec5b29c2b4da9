"""Masked prediction as a whole: what enters the loss, gradients, and that it can be learnt."""

import contextlib

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pretraining_corpus import as_mask
from torch.nn.parallel import DistributedDataParallel

from wesp_lap.coerce import Section
from wesp_lap.frontends.transformer import TransformerFrontend
from wesp_lap.pretraining.encoders import ENCODERS, build_encoder
from wesp_lap.pretraining.masking import MaskSettings, masked_frames
from wesp_lap.pretraining.mixing import MixingSettings, mix_utterances
from wesp_lap.pretraining.network import PretrainNetwork
from wesp_lap.pretraining.objective import ObjectiveSettings, predict
from wesp_lap.seeding import generator

SMALL = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 64,
    "conv_channels": 16,
    "position_kernel": 16,
    "position_groups": 4,
    "layerdrop": 0.0,
}
STILL = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
CLUSTERS = 6  # of which the tones below are four
SAMPLES = 9600


def make(name="hubert", encoder=None, **options):
    torch.manual_seed(0)
    model = build_encoder(Section(name, {**SMALL, **STILL, **(encoder or {})}))
    objective = ObjectiveSettings(projected_size=16)
    return PretrainNetwork(model, CLUSTERS, **{"objective": objective, **options}).train()


def batch(network, rows=3, samples=SAMPLES, seed=0):
    draws = torch.Generator().manual_seed(seed)
    waves = 0.1 * torch.randn(rows, samples, generator=draws)
    frames = network.output_lengths(samples)
    return waves, torch.randint(0, CLUSTERS, (rows, frames), generator=draws)


def gradients(network, waves, labels, **options):
    network.zero_grad()
    sums = network(waves, labels, generator(1), **options)
    sums["loss"].backward()
    return {name: p.grad.clone() for name, p in network.named_parameters()}, sums


@pytest.mark.parametrize("name", ENCODERS)
def test_the_loss_is_that_of_masked_frames_and_the_penalty(name):
    """The encoder's own forward pass with a given mask, then the head on what it gives."""
    network = make(name)
    waves, labels = batch(network)
    sums = network(waves, labels, generator(1))
    mask = as_mask(masked_frames(*labels.shape, MaskSettings(), generator(1)), labels.shape[1])
    mask = torch.from_numpy(mask)
    encoder = network.encoder
    encoder.config.apply_spec_augment = True  # with masks that are given
    states = encoder(waves, mask_time_indices=mask).last_hidden_state
    wanted = predict(network.head, states[mask], labels[mask])
    square = encoder.feature_extractor(waves).square().mean()
    loss = wanted.loss + 10 * int(mask.sum()) * square
    torch.testing.assert_close(sums["loss"], loss)
    torch.testing.assert_close(sums["cross_entropy"], wanted.loss.detach())
    torch.testing.assert_close(sums["penalty"], square.detach())
    assert sums["correct"] == wanted.correct
    assert sums["masked"] == sums["frames"] == mask.sum()
    assert sums.keys() == {"loss", "cross_entropy", "penalty", "correct", "masked", "frames"}
    assert not any(value.requires_grad for name, value in sums.items() if name != "loss")
    assert all(value.dim() == 0 for value in sums.values())


def test_labels_of_other_frames_do_not_matter():
    network = make()
    waves, labels = batch(network)
    masked = masked_frames(*labels.shape, MaskSettings(), generator(1))
    mask = torch.from_numpy(as_mask(masked, labels.shape[1]))
    other = (labels + 1) % CLUSTERS
    plain = network(waves, labels, generator(1))["loss"]
    assert torch.equal(plain, network(waves, labels.where(mask, other), generator(1))["loss"])
    assert not torch.equal(plain, network(waves, other.where(mask, labels), generator(1))["loss"])


def test_masked_frames_are_not_heard():
    """Sound that only masked frames hear changes the penalty, and nothing that is predicted."""
    network = make(objective=ObjectiveSettings(projected_size=16, penalty=0.0))
    for layer in network.encoder.feature_extractor.conv_layers:
        if hasattr(layer, "layer_norm"):
            layer.layer_norm = torch.nn.Identity()  # its statistics run over all frames
    waves, labels = batch(network, rows=1)
    masked = masked_frames(*labels.shape, MaskSettings(), generator(1))[0]
    first = next(n for n in masked if set(range(n, n + 10)) <= set(masked))
    louder = waves.clone()
    louder[:, 320 * (first + 2) : 320 * (first + 8)] *= 3
    plain, other = (network(w, labels, generator(1)) for w in (waves, louder))
    torch.testing.assert_close(plain["loss"], other["loss"])
    assert plain["penalty"] != other["penalty"]
    louder[:, :SAMPLES:2] *= 3
    assert not torch.allclose(plain["loss"], network(louder, labels, generator(1))["loss"])


def test_frames_that_are_not_masked_are_counted_when_asked_for():
    network = make()
    waves, labels = batch(network)
    plain, _ = gradients(network, waves, labels)
    counted, sums = gradients(network, waves, labels, count_unmasked=True)
    assert sums["masked"] + sums["unmasked"] == labels.numel()
    assert sums["frames"] == sums["masked"]
    assert 0 <= sums["unmasked_correct"] <= sums["unmasked"]
    assert sums["unmasked_cross_entropy"] > 0
    assert all(torch.equal(plain[name], counted[name]) for name in plain)


def test_frames_that_are_not_masked_may_have_a_weight():
    objective = ObjectiveSettings(projected_size=16, unmasked_weight=0.5)
    network = make(objective=objective)
    waves, labels = batch(network)
    _, sums = gradients(network, waves, labels)
    assert sums["frames"] == labels.numel()
    wanted = sums["cross_entropy"] + 0.5 * sums["unmasked_cross_entropy"]
    torch.testing.assert_close(
        sums["loss"].detach(), wanted + 10 * sums["penalty"] * labels.numel()
    )


def test_gradients_of_the_convolutions_are_smaller_by_the_factor():
    found = {}
    for factor in (1.0, 0.1):
        network = make(grad_mult=factor)
        found[factor], _ = gradients(network, *batch(network))
    for name, gradient in found[1.0].items():
        factor = 0.1 if "feature_extractor" in name else 1.0
        torch.testing.assert_close(found[0.1][name], factor * gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_parameter_gets_a_finite_gradient(name, precision):
    network = make(name, encoder={"dropout": 0.1})
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else None
    with autocast or contextlib.nullcontext():
        found, sums = gradients(network, *batch(network))
    assert sums["loss"].dtype == torch.float32
    for parameter, gradient in found.items():
        assert gradient.isfinite().all() and gradient.abs().max() > 0, parameter


@pytest.mark.parametrize("name", ENCODERS)
def test_recomputed_activations_give_the_same_gradients(name):
    """And the same statistics of batch norms: every batch counts once."""
    found = []
    for on in (False, True):
        network = make(name, encoder={"dropout": 0.2}, gradient_checkpointing=on)
        torch.manual_seed(5)
        parameters, _ = gradients(network, *batch(network))
        buffers = dict(network.named_buffers())
        found.append({**parameters, **{n: b for n, b in buffers.items() if "running" in n}})
    assert any("running_var" in key for key in found[0]) == (name == "conformer")
    for parameter, gradient in found[0].items():
        torch.testing.assert_close(found[1][parameter], gradient, rtol=1e-4, atol=1e-5)


def test_mixing_is_for_training_and_leaves_the_labels():
    settings = MixingSettings(prob=1.0)
    network, plain = make(mixing=settings), make()
    waves, labels = batch(network)
    rng, again = generator(1), generator(1)
    mixed = mix_utterances(waves, settings, again)
    wanted = plain(mixed, labels, again)["loss"]  # masks come after the mixing
    torch.testing.assert_close(network(waves, labels, rng)["loss"], wanted)
    network.eval()
    plain.eval()
    one, other = (n(waves, labels, generator(1))["loss"] for n in (network, plain))
    assert torch.equal(one, other)


def test_noise_comes_from_its_source():
    settings = MixingSettings(prob=1.0, noise_prob=1.0)
    with pytest.raises(ValueError, match="no source of noise"):
        make(mixing=settings)
    drawn = []

    def noise(rng: np.random.Generator) -> torch.Tensor:
        drawn.append(rng)
        return torch.ones(500)

    network = make(mixing=settings, noise=noise)
    network(*batch(network), generator(1))
    assert len(drawn) == 3


def test_distributed_training_gives_the_same_gradients():
    network = make(encoder={"num_layers": 4, "layerdrop": 0.5})
    assert network.has_random_depth and not make().has_random_depth
    waves, labels = batch(network)
    torch.manual_seed(3)
    sums = network(waves, labels, generator(1))
    sums["loss"].backward()
    plain = {name: p.grad for name, p in network.named_parameters()}
    assert any(gradient is None for gradient in plain.values())  # of layers that were dropped
    network.zero_grad()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(network, find_unused_parameters=True)
        torch.manual_seed(3)
        again = parallel(waves, labels, generator(1))
        again["loss"].backward()
    finally:
        dist.destroy_process_group()
    assert torch.equal(again["loss"], sums["loss"])
    for name, parameter in network.named_parameters():
        if plain[name] is not None:
            torch.testing.assert_close(parameter.grad, plain[name])


def test_a_label_or_two_may_be_missing_at_the_end():
    network = make().eval()
    waves, labels = batch(network)
    sums = network(waves, labels[:, :-2], generator(1), count_unmasked=True)
    assert sums["masked"] + sums["unmasked"] == 3 * (labels.shape[1] - 2)
    more = torch.cat([labels, labels[:, :1]], dim=1)
    for wrong in (labels[:, :-3], more, labels[:2]):
        with pytest.raises(ValueError, match=r"do not fit 3 crops of 29 frames"):
            network(waves, wrong, generator(1))


def test_shortest_crops():
    network = make()
    samples = network.min_samples
    assert network.output_lengths(samples) == 11
    assert network(*batch(network, samples=samples), generator(1))["masked"] > 0
    with pytest.raises(ValueError, match="10 frames are too few"):
        network(*batch(network, samples=samples - 1), generator(1))


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.5])
def test_the_factor_on_the_gradient_is_a_share(factor):
    with pytest.raises(ValueError, match="grad_mult"):
        make(grad_mult=factor)


def test_what_is_saved_is_the_encoder_alone(tmp_path):
    network = make("wavlm").eval()
    network.save_encoder(tmp_path)
    front = TransformerFrontend(weights=str(tmp_path)).eval()
    waves, _ = batch(network)
    torch.testing.assert_close(front(waves)[-1], network.encoder(waves).last_hidden_state)


def tones(rows, seed):
    """Tones of 25 frames each, and which of four they are: masks hide at most a part of one."""
    draws = np.random.default_rng(seed)
    pitches = 2 * np.pi * np.array([200.0, 500.0, 1100.0, 2300.0]) / 16000
    kinds = draws.integers(4, size=(rows, 4))
    time = np.arange(8000)
    waves = [np.concatenate([np.sin(pitches[kind] * time) for kind in row]) for row in kinds]
    waves = np.stack(waves) + 0.05 * draws.standard_normal((rows, 32000))
    labels = np.repeat(kinds, 25, axis=1)[:, :99]
    return torch.from_numpy(0.3 * waves.astype(np.float32)), torch.from_numpy(labels)


@pytest.mark.parametrize("name", ENCODERS)
def test_hidden_tones_are_learnt_from_what_is_around_them(name):
    objective = ObjectiveSettings(projected_size=16, penalty=0.1)
    network = make(name, objective=objective, grad_mult=1.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, betas=(0.9, 0.98))
    for step in range(40):
        waves, labels = tones(2, seed=step)
        sums = network(waves, labels, generator(step))
        optimizer.zero_grad()
        (sums["loss"] / sums["frames"]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    waves, labels = tones(16, seed=10_000)
    with torch.no_grad():
        sums = network.eval()(waves, labels, generator(1))
    accuracy = float(sums["correct"] / sums["masked"])
    assert labels.flatten().bincount().max() < 0.4 * labels.numel()
    assert accuracy > 0.75, accuracy
