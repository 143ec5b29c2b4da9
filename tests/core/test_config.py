from dataclasses import dataclass, field

import pytest

from wesp_lap.coerce import Section, from_mapping
from wesp_lap.config import (
    apply_overrides,
    build,
    check_section,
    load_phase,
    load_yaml,
    merge,
    phase_names,
    save_yaml,
    to_plain,
)
from wesp_lap.errors import ConfigError


@dataclass(frozen=True)
class Loop:
    epochs: int = 10
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError("epochs must be at least 1")


@dataclass(frozen=True)
class Settings:
    backend: Section
    lr: float
    loop: Loop = field(default_factory=Loop)
    init_from: str | None = None


GOOD = {"backend": {"name": "lap", "heads": 4}, "lr": 1}


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_settings_from_a_mapping():
    settings = from_mapping(Settings, {**GOOD, "loop": {"epochs": 3}})
    assert settings == Settings(Section("lap", {"heads": 4}), 1.0, Loop(3))
    assert type(settings.lr) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lrr": 1}, r"settings: unknown 'lrr' \(did you mean 'lr'\?\); known: backend, init_from"),
        ({"loop": {"epoch": 1}}, r"loop: unknown 'epoch' \(did you mean 'epochs'\?\)"),
        ({"zzzzzz": 1}, r"unknown 'zzzzzz'; known"),
        ({"lr": "fast"}, "lr: expected a number, got 'fast'"),
        ({"loop": {"epochs": 1.5}}, r"loop\.epochs: expected a whole number, got 1\.5"),
        ({"loop": 3}, "loop: expected 'key: value' entries, got 3"),
        ({"loop": {"epochs": 0}}, "loop: epochs must be at least 1"),
        ({"backend": {"heads": 4}}, "backend: expected a section with a 'name'"),
        ({"backend": "lap"}, "backend: expected 'key: value' entries, got 'lap'"),
        ({"init_from": 3}, "init_from: expected text, got 3"),
    ],
)
def test_every_wrong_entry_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(Settings, {**GOOD, **change})


def test_missing_entries_are_named_together():
    with pytest.raises(ConfigError, match=r"phase: missing phase\.backend, phase\.lr"):
        from_mapping(Settings, {}, "phase")


def test_a_file_inherits_through_several_bases(tmp_path):
    (tmp_path / "conf").mkdir()
    write(
        tmp_path,
        root="lr: 1e-5\nlist: [1, 2]\n"
        "loss: {name: aam, scale: 30, margin: {first: 0.2, last: 0.3}}\n",
    )
    write(tmp_path / "conf", middle="base: ../root.yaml\nlist: [3]\nseed: 1\n")
    write(tmp_path / "conf", leaf="base: middle.yaml\nloss: {margin: {last: 0.5}}\nseed: 2\n")
    assert load_yaml(tmp_path / "conf" / "leaf.yaml") == {
        "lr": 1e-5,
        "loss": {"name": "aam", "scale": 30, "margin": {"first": 0.2, "last": 0.5}},
        "list": [3],
        "seed": 2,
    }


def test_a_section_with_another_name_drops_the_inherited_options(tmp_path):
    write(
        tmp_path,
        root="optimizer: {name: sgd, momentum: 0.9}\n",
        other="base: root.yaml\noptimizer: {name: adamw, eps: 1e-8}\n",
        same="base: root.yaml\noptimizer: {name: sgd, nesterov: true}\n",
    )
    assert load_yaml(tmp_path / "other.yaml") == {"optimizer": {"name": "adamw", "eps": 1e-8}}
    assert load_yaml(tmp_path / "same.yaml") == {
        "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True}
    }


def test_merging_leaves_its_inputs_alone():
    base, change = {"a": {"x": 1}}, {"a": {"y": 2}}
    assert merge(base, change) == {"a": {"x": 1, "y": 2}}
    assert base == {"a": {"x": 1}} and change == {"a": {"y": 2}}


def test_bases_that_inherit_from_each_other_are_refused(tmp_path):
    write(tmp_path, a="base: b.yaml\n", b="base: ./a.yaml\n", self="base: self.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: inherits from itself through 'base'"):
        load_yaml(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match=r"self\.yaml: inherits from itself"):
        load_yaml(tmp_path / "self.yaml")


def test_two_children_of_one_base_are_no_cycle(tmp_path):
    write(tmp_path, root="seed: 1\n", a="base: root.yaml\n", b="base: a.yaml\nseed: 2\n")
    assert load_yaml(tmp_path / "b.yaml") == {"seed": 2}


def test_a_missing_base_names_the_child(tmp_path):
    write(tmp_path, a="base: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"gone\.yaml: no such file \(named as 'base' in .*a\.y"):
        load_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\n", "not valid YAML"),
        (b"a: \xff\n", "not valid YAML"),
        (b"- 1\n", "expected 'key: value' lines"),
        (b"", "expected 'key: value' lines"),
        (b"a: 1\na: 2\n", "line 1: key given twice: a"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, message):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"x\.yaml: {message}"):
        load_yaml(tmp_path / "x.yaml")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"x\.yaml: no such file$"):
        load_yaml(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match=f"{tmp_path}: cannot be read: Is a directory"):
        load_yaml(tmp_path)


def test_overrides_reach_into_the_tree():
    tree = {"a": {"b": {"c": 1, "d": 2}}, "list": [1, 2]}
    overrides = {"a.b.c": "1e-3", "list": "[5]", "new.x": "text", "a.b.e": "null"}
    assert apply_overrides(tree, overrides) == {
        "a": {"b": {"c": 1e-3, "d": 2, "e": None}},
        "list": [5],
        "new": {"x": "text"},
    }
    assert tree == {"a": {"b": {"c": 1, "d": 2}}, "list": [1, 2]}


def test_options_given_with_a_new_name_stay_in_any_order():
    tree = {"optimizer": {"name": "sgd", "momentum": 0.9}}
    given = {"optimizer.name": "adamw", "optimizer.eps": "1e-8"}
    for names in (list(given), list(given)[::-1]):
        got = apply_overrides(tree, {name: given[name] for name in names})
        assert got == {"optimizer": {"name": "adamw", "eps": 1e-8}}


@pytest.mark.parametrize("text", ["[", "{a: 1, a: 2}"])
def test_an_override_that_is_no_yaml_is_named(text):
    with pytest.raises(ConfigError, match=r"--loss\.scale: cannot read '.*' as YAML"):
        apply_overrides({}, {"loss.scale": text})


def test_saved_settings_load_equal(tmp_path):
    settings = Settings(
        Section("lap", {"heads": 4, "rate": 1e-5, "text": "1e5", "shape": (1, 2), "none": None}),
        3e-4,
        Loop(2, "bf16"),
        "exp/1e3",
    )
    save_yaml(tmp_path / "config.yaml", settings)
    tree = load_yaml(tmp_path / "config.yaml")
    assert tree == to_plain(settings)
    loaded = from_mapping(Settings, tree)
    assert to_plain(loaded) == to_plain(settings)
    assert list(tree) == ["backend", "lr", "loop", "init_from"]
    save_yaml(tmp_path / "again.yaml", loaded)
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()


class Head:
    def __init__(self, input_dim: int, heads: int, dropout: float = 0.1) -> None:
        if heads < 1:
            raise ValueError(f"heads must be positive, got {heads}")
        self.values = (input_dim, heads, dropout)


TABLE = {"head": Head, "make": lambda scale=1: scale}


def test_a_section_is_a_call():
    head = build(TABLE, Section("head", {"heads": 2, "dropout": 0}), "backend", input_dim=8)
    assert head.values == (8, 2, 0.0) and type(head.values[2]) is float
    assert build(TABLE, Section("make", {"scale": 3}), "backend") == 3


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (Section("haed"), r"backend: unknown 'haed' \(did you mean 'head'\?\); known: head, make"),
        (
            Section("head", {"head": 2}),
            r"backend 'head': unknown 'head' \(did you mean 'heads'\?\)",
        ),
        (Section("head", {"heads": 2, "input_dim": 8}), "backend 'head': unknown 'input_dim'"),
        (Section("head"), "backend 'head': missing heads"),
        (Section("head", {"heads": "two"}), r"backend\.heads: expected a whole number, got 'two'"),
    ],
)
def test_a_section_is_checked_against_the_signature(section, message):
    with pytest.raises(ConfigError, match=message):
        check_section(TABLE, section, "backend", ("input_dim",))


def test_what_the_constructor_refuses_is_named_with_its_section():
    with pytest.raises(ConfigError, match="backend 'head': heads must be positive, got 0"):
        build(TABLE, Section("head", {"heads": 0}), "backend", input_dim=8)


PHASES = """
base: root.yaml
optimizer: {lr: 3}
phases:
  first: {seed: 1, optimizer: {name: adam, decay: 1}, loss: {margin: 0.2}}
  second: {seed: 2, optimizer: {name: sgd}}
  third: {loss: {margin: 0.5}}
"""


def test_a_phase_has_what_the_file_and_the_phases_before_it_say(tmp_path):
    write(tmp_path, root="loss: {name: aam, scale: 30}\n", system=PHASES)
    path = tmp_path / "system.yaml"
    assert phase_names(path) == ["first", "second", "third"]
    assert load_phase(path, "first") == {
        "seed": 1,
        "loss": {"name": "aam", "scale": 30, "margin": 0.2},
        "optimizer": {"name": "adam", "decay": 1},
    }
    assert load_phase(path, "third") == {
        "seed": 2,
        "loss": {"name": "aam", "scale": 30, "margin": 0.5},
        "optimizer": {"name": "sgd"},
    }


def test_an_inheriting_file_changes_drops_and_adds_phases(tmp_path):
    leaf = "base: system.yaml\nphases: {second: null, third: {seed: 7}, fourth: {seed: 9}}\n"
    write(tmp_path, root="loss: {name: aam}\n", system=PHASES, leaf=leaf)
    assert phase_names(tmp_path / "leaf.yaml") == ["first", "third", "fourth"]
    third = load_phase(tmp_path / "leaf.yaml", "third")
    assert (third["seed"], third["loss"]["margin"]) == (7, 0.5)
    assert third["optimizer"] == {"name": "adam", "decay": 1}


def test_a_wrong_phase_is_named_with_those_there_are(tmp_path):
    write(tmp_path, root="seed: 1\n", system=PHASES)
    with pytest.raises(ConfigError, match=r"several phases.*--phase first, second, third"):
        load_phase(tmp_path / "system.yaml")
    with pytest.raises(ConfigError, match=r"no phase 'joint'; its phases: first, second, third"):
        load_phase(tmp_path / "system.yaml", "joint")
    with pytest.raises(ConfigError, match=r"no phase 'joint'; its phases: none"):
        load_phase(tmp_path / "root.yaml", "joint")
    assert load_phase(tmp_path / "root.yaml") == {"seed": 1}
    assert phase_names(tmp_path / "root.yaml") == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("phases: [a]", r"phases: expected 'name: settings' lines"),
        ("phases: {a: 3}", r"phases\.a: expected settings, not 3"),
    ],
)
def test_phases_are_sections(tmp_path, text, message):
    write(tmp_path, system=text)
    with pytest.raises(ConfigError, match=message):
        phase_names(tmp_path / "system.yaml")
