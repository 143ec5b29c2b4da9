import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
import yaml

from wesp_lap.coerce import coerce, format_yaml, from_text, parse_yaml
from wesp_lap.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("-2E3", -2000.0), (".5e1", 5.0), ("1.e+2", 100.0), ("1.0e-05", 1e-5)],
)
def test_numbers_with_an_exponent_are_floats_as_in_yaml_1_2(text, value):
    got = parse_yaml(f"a: {text}")["a"]
    assert type(got) is float and got == value


@pytest.mark.parametrize("text", ["1e", "e5", "1e5x", "v1e5", "1e-", "'1e5'"])
def test_text_that_only_resembles_a_number_stays_text(text):
    assert parse_yaml(f"a: {text}")["a"] == text.strip("'")


def test_a_key_given_twice_is_named_with_its_line():
    with pytest.raises(ConfigError, match=r"line 3: key given twice: lr"):
        parse_yaml("seed: 1\noptimizer:\n  lr: 1\n  name: sgd\n  lr: 2\n")
    assert parse_yaml("a: {x: 1}\nb: {x: 2}\n") == {"a": {"x": 1}, "b": {"x": 2}}


def test_a_list_as_key_is_a_configuration_error():
    with pytest.raises(ConfigError, match="line 1: a key is a list"):
        parse_yaml("{[1]: 2}")


def test_yaml_makes_no_objects():
    with pytest.raises(yaml.YAMLError):
        parse_yaml("a: !!python/object/apply:os.getcwd []")


@pytest.mark.parametrize(
    "value",
    ["1e5", "12e4567", "yes", "null", "1", "", "a: b", "- x", "é", 1e-5, 1e20, 3, True, None],
)
def test_what_is_formatted_is_parsed_to_the_same_value_and_type(value):
    got = parse_yaml(format_yaml({"a": value, "b": [value]}))
    assert got == {"a": value, "b": [value]} and type(got["a"]) is type(value)


@pytest.mark.parametrize(
    ("value", "annotation", "result"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (1e-5, float, 1e-5),
        (True, bool, True),
        ("x", str, "x"),
        (None, int | None, None),
        (4, int | None, 4),
        ("b", Literal["a", "b"], "b"),
        ([1, 2], list[int], [1, 2]),
        ((1, 2), Sequence[float], [1.0, 2.0]),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ([1], int | list[int], [1]),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ({"a": [1]}, Mapping[str, Any], {"a": [1]}),
        ({"a": 1}, dict, {"a": 1}),
    ],
)
def test_values_that_fit(value, annotation, result):
    got = coerce(value, annotation, "here")
    assert got == result and type(got) is type(result)
    if isinstance(got, (list, tuple)):
        assert [type(item) for item in got] == [type(item) for item in result]


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (1.5, int, r"here: expected a whole number, got 1\.5"),
        (True, int, "here: expected a whole number, got True"),
        (True, float, "here: expected a number, got True"),
        ("1", int, "here: expected a whole number, got '1'"),
        ("1", float, "here: expected a number, got '1'"),
        (1, bool, "here: expected true or false, got 1"),
        (1, str, "here: expected text, got 1"),
        (None, int, "here: expected a whole number, got None"),
        ("x", int | None, "here: expected a whole number, got 'x'"),
        ("c", Literal["a", "b"], "here: 'c' is not one of a, b"),
        ("ab", list[str], "here: expected a list, got 'ab'"),
        ([1, "x"], list[int], r"here\[1\]: expected a whole number, got 'x'"),
        ([1], dict[str, int], r"here: expected a mapping, got \[1\]"),
        ({"a": "x"}, dict[str, int], "here.a: expected a whole number, got 'x'"),
        ("x", int | list[int], "here: 'x' does not fit"),
    ],
)
def test_values_that_do_not_fit_are_named(value, annotation, message):
    with pytest.raises(ConfigError, match=message):
        coerce(value, annotation, "here")


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("5", int, 5),
        ("1e-5", float, 1e-5),
        ("5", float, 5.0),
        (".inf", float, math.inf),
        ("True", bool, True),
        ("False", bool, False),
        ("5", str, "5"),
        ("1e5", str | None, "1e5"),
        ("None", str | None, None),
        ("", str | None, None),
        ("a,b", list[str], ["a", "b"]),
        ("1e5,x:y", list[str], ["1e5", "x:y"]),
        ("[a, b]", list[str], ["a", "b"]),
        ("0.01,5e-2", list[float], [0.01, 0.05]),
        ("3", list[int] | None, [3]),
        ("wav", Literal["flac", "wav"], "wav"),
    ],
)
def test_words_of_the_command_line(text, annotation, value):
    got = from_text(text, annotation, "--x")
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "message"),
    [
        ("five", int, "--x: expected a whole number, got 'five'"),
        ("1.5", int, r"--x: expected a whole number, got 1\.5"),
        ("", int, "--x: expected a whole number, got None"),
        ("[", int, r"--x: cannot read '\['"),
        ("1,a", list[int], r"--x\[1\]: expected a whole number, got 'a'"),
        ("mp3", Literal["flac", "wav"], "--x: 'mp3' is not one of flac, wav"),
        ("1", bool, "--x: expected true or false, got 1"),
    ],
)
def test_words_that_do_not_fit_name_their_flag(text, annotation, message):
    with pytest.raises(ConfigError, match=message):
        from_text(text, annotation, "--x")
