"""Every settings file of the recipes: it loads, and has the size and the schedule of its paper."""

import functools
import inspect
import json
import re

import pytest
import torch
from helpers import ROOT
from published_systems import LORA_PARAMETERS, LOSS_OF, OWN_FRONTENDS, PROTOCOLS, SYSTEMS
from published_systems import LOSSES as PUBLISHED_LOSSES

from wesp_lap.coerce import Section
from wesp_lap.config import build, load_yaml, phase_names, to_plain
from wesp_lap.errors import ConfigError
from wesp_lap.losses import LOSSES
from wesp_lap.model import ModelSettings, SpeakerModel
from wesp_lap.model_sizes import PUBLISHED_FRONTENDS
from wesp_lap.training.groups import parameter_groups
from wesp_lap.training.lr_schedules import LR_SCHEDULES
from wesp_lap.training.optimizers import OPTIMIZERS
from wesp_lap.training.settings import load_settings

EGS = ROOT / "egs"
RECIPES = ("voxceleb", "cnceleb", "vctk", "librispeech")
HUB = {
    "facebook/wav2vec2-base": "wav2vec2-base",
    "facebook/hubert-base-ls960": "hubert-base",
    "facebook/w2v-bert-2.0": "w2v-bert-2.0",
    "microsoft/wavlm-base": "wavlm-base",
    "microsoft/wavlm-base-plus": "wavlm-base-plus",
    "microsoft/wavlm-large": "wavlm-large",
}


tree_of = functools.cache(load_yaml)


def files(recipe):
    return sorted((EGS / recipe / "conf").glob("**/*.yaml"))


def is_system(path):
    """A file with frontend and backend; the others are there to be inherited from."""
    return {"frontend", "backend"} <= set(tree_of(path))


def name_of(path, recipe):
    return path.relative_to(EGS / recipe / "conf").with_suffix("").as_posix()


SYSTEM_FILES = {
    f"{recipe}/{name_of(path, recipe)}": path
    for recipe in RECIPES
    for path in files(recipe)
    if is_system(path)
}


@functools.cache
def phases_of(path):
    return phase_names(path) or [None]


@functools.cache
def has_no_weights(path):
    frontend = tree_of(path)["frontend"]
    return frontend["name"] == "transformer" and not {"weights", "config"} & set(frontend)


@functools.cache
def settings_of(path, phase):
    given = {"data.shards": "shard.list"}
    if has_no_weights(path):
        given["frontend.weights"] = "/exp/pretraining/model"
    return load_settings(path, given, phase)


def published(frontend, weights=None):
    """Put a published configuration in the place of weights that are on the hub."""
    if frontend.name != "transformer" or frontend.options.get("config") is not None:
        return frontend
    options = {k: v for k, v in frontend.options.items() if k != "weights"}
    known = PUBLISHED_FRONTENDS[weights or HUB[frontend.options["weights"]]]
    return Section(frontend.name, {**options, **known.options})


def on_meta(frontend, backend):
    sections = [frontend.as_mapping(), backend.as_mapping()]
    return _on_meta(json.dumps(sections, sort_keys=True))


@functools.cache
def _on_meta(sections):
    frontend, backend = (Section(s.pop("name"), s) for s in json.loads(sections))
    if frontend.options.get("lora") is not None:
        pytest.importorskip("peft")
    with torch.device("meta"):
        return SpeakerModel(ModelSettings(frontend, backend))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def steps_of(settings):
    """Steps of an epoch: 50 for files that take all utterances."""
    return settings.data.sampling.options.get("epoch_steps", 50)


def test_every_system_has_a_row_here_and_the_other_way_round():
    assert sorted(SYSTEM_FILES) == sorted(SYSTEMS)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_model_has_the_size_of_its_row(name):
    path, row = SYSTEM_FILES[name], SYSTEMS[name]
    for phase in phases_of(path):
        settings = settings_of(path, phase)
        frontends = {row.frontend: published(settings.frontend)} if row.frontend else {}
        if has_no_weights(path):
            frontends = {
                size: published(settings.frontend, weights)
                for weights, size in OWN_FRONTENDS.items()
            }
        elif not row.frontend:
            frontends = {0: settings.frontend}
        adapted = phase == "frozen" and name.endswith("w2v_bert/lora_adapter_mfa")
        for size, frontend in frontends.items():
            model = on_meta(frontend, settings.backend)
            assert count(model.backend) == row.backend
            assert count(model.frontend) == size + (LORA_PARAMETERS if adapted else 0)


@pytest.mark.parametrize("name", SYSTEMS)
def test_loss_and_optimizer_of_each_phase_are_built_on_what_is_trained(name):
    path = SYSTEM_FILES[name]
    for phase in phases_of(path):
        settings = settings_of(path, phase)
        weights = "hubert-base" if has_no_weights(path) else None
        model = on_meta(published(settings.frontend, weights), settings.backend)
        with torch.device("meta"):
            loss = build(LOSSES, settings.loss, "loss", embed_dim=model.embed_dim, num_classes=9)
        model.frontend.freeze(settings.training.freeze_frontend)
        groups = parameter_groups(settings.groups, model, loss)
        build(OPTIMIZERS, settings.optimizer, "optimizer", parameters=groups, lr=0.0)
        trained = {part.split(".")[0] for group in groups for part in [group["name"]]}
        alone = settings.training.freeze_frontend and settings.frontend.options.get("lora") is None
        assert ("frontend" in trained) == (not alone and count(model.frontend) > 0)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_phases_are_those_of_the_paper(name):
    path = SYSTEM_FILES[name]
    protocol = PROTOCOLS[SYSTEMS[name].protocol]
    assert [phase or "" for phase in phases_of(path)] == list(protocol)
    for phase, row in protocol.items():
        settings = settings_of(path, phase or None)
        loop, data, steps = settings.training, settings.data, steps_of(settings)
        assert (loop.epochs, loop.freeze_frontend) == (row.epochs, row.frozen)
        assert (data.batch_size, data.crop_seconds) == (row.batch, row.crop)
        assert (data.augment.speed_perturb, data.augment.noise_prob) == (row.speed, row.noise)
        total = loop.epochs * steps
        assert settings.margin.margin(0, steps) == row.margin[0]
        assert settings.margin.margin(total - 1, steps) == row.margin[1]
        assert settings.loss.options.get("topk", 0) == row.topk
        assert settings.margin.penalty_for(row.margin[1]) == pytest.approx(row.penalty)
        assert settings.optimizer.name == row.optimizer
        assert settings.optimizer.options.get("weight_decay", 0) == row.decay
        rates = rates_of(json.dumps(settings.lr_schedule.as_mapping()), total, steps)
        shown = (rates[0], max(rates), rates[total // 2], rates[-1])
        assert shown == pytest.approx(row.rates, rel=1e-2, abs=2e-4 * max(row.rates))


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_margin_rises_between_the_epochs_of_the_paper(name):
    path = SYSTEM_FILES[name]
    for phase, row in PROTOCOLS[SYSTEMS[name].protocol].items():
        settings = settings_of(path, phase or None)
        steps = steps_of(settings)
        begin, end = (epoch * steps for epoch in row.ramp)
        first, last = row.margin
        margins = [settings.margin.margin(step, steps) for step in range(end + 1)]
        assert set(margins[: begin + 1]) == {first} and margins[end] == last
        assert begin == end or first < margins[begin + 1] < margins[end - 2] < last


@pytest.mark.parametrize("name", SYSTEMS)
def test_loss_and_augmentation_are_those_of_the_paper(name):
    path, protocol = SYSTEM_FILES[name], SYSTEMS[name].protocol
    *loss, augmentations = PUBLISHED_LOSSES[LOSS_OF.get(protocol, protocol)]
    for phase in phases_of(path):
        settings = settings_of(path, phase)
        known = inspect.signature(LOSSES[settings.loss.name]).parameters
        options = {key: parameter.default for key, parameter in known.items()}
        options |= settings.loss.options
        shown = [options.get(key) for key in ("scale", "sub_centers", "fallback")]
        assert [settings.loss.name, *shown] == loss
        assert settings.data.augment.set == augmentations


@pytest.mark.parametrize("recipe", ["voxceleb", "vctk", "librispeech"])
def test_of_the_first_layer_rival_what_follows_the_projection_learns_in_the_end(recipe):
    path = SYSTEM_FILES[f"{recipe}/universal_pooling/wav2vec2_layer_mean"]
    settings = settings_of(path, None)
    model = on_meta(published(settings.frontend), settings.backend)
    model.frontend.freeze(settings.training.freeze_frontend)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 4_719_488 + 1_536 + 7_087_872  # position convolution, norm, layer
    steps = settings.groups.unfreeze_after * steps_of(settings)
    assert steps == pytest.approx(10_000 * 10_000 / 13_000, abs=0.1)


@functools.cache
def rates_of(section, total, steps):
    options = json.loads(section)
    schedule = build(LR_SCHEDULES, Section(options.pop("name"), options), "lr_schedule")
    return [schedule.lr(step, total, steps) for step in range(total)]


@pytest.mark.parametrize("name", [name for name in SYSTEMS if SYSTEMS[name].frontend is None])
def test_without_the_weights_of_ones_own_pre_training_it_is_said_what_to_give(name):
    path = SYSTEM_FILES[name]
    with pytest.raises(ConfigError, match=r"--frontend\.weights, by its name or directory"):
        load_settings(path, {"data.shards": "shard.list"}, phases_of(path)[0])


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_inheriting_file_changes_what_it_inherits(recipe):
    """Files of another recipe may lend all they say."""
    for path in files(recipe):
        base = re.search(r"^base: (\S+)$", path.read_text(), re.MULTILINE)
        if base and (EGS / recipe) in (path.parent / base[1]).resolve().parents:
            assert tree_of(path) != tree_of((path.parent / base[1]).resolve()), path


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_two_files_of_a_recipe_say_the_same(recipe):
    seen = {}
    for path in filter(is_system, files(recipe)):
        whole = [[phase, to_plain(settings_of(path, phase))] for phase in phases_of(path)]
        other = seen.setdefault(json.dumps(whole, sort_keys=True), path)
        assert other == path


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_readme_lists_every_file_and_no_other(recipe):
    families = sorted({name.split("/")[1] for name in SYSTEM_FILES})
    text = (EGS / recipe / "README.md").read_text()
    listed = set(re.findall(rf"`((?:{'|'.join(families)})/\w+)`", text))
    assert listed == {name_of(p, recipe) for p in files(recipe) if is_system(p)}
