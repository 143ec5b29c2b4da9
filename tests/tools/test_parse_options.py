"""tools/parse_options.sh: words become variables, and nothing else happens."""

import subprocess
from pathlib import Path

import pytest

PARSER = Path(__file__).parents[2] / "tools" / "parse_options.sh"
SCRIPT = f"""#!/usr/bin/env bash
# Trains a thing.
#
# Usage: bash train.sh [options]

set -euo pipefail
stage=1         # first stage to run
stop_stage=100  # last stage to run
use_gpu=false
exp_dir=exp/default
name=           # a name
here=$(pwd)
words=(1 2)
. {PARSER}
later=1
printf '%s|' "$stage" "$stop_stage" "$use_gpu" "$exp_dir" "$name" "$@"
"""


@pytest.fixture
def run(tmp_path):
    def run_script(*words, text=SCRIPT):
        (tmp_path / "train.sh").write_text(text)
        return subprocess.run(
            ["bash", "train.sh", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )

    return run_script


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "1|100|false|exp/default||"),
        (["--stage", "3", "--stop-stage", "4"], "3|4|false|exp/default||"),
        (["--stop_stage=4", "--use-gpu=true"], "1|4|true|exp/default||"),
        (["--stage", "-1"], "-1|100|false|exp/default||"),
        (["--name", "", "--exp-dir", "a b"], "1|100|false|a b||"),
        (["--name", "--seed 1 --lr 2"], "1|100|false|exp/default|--seed 1 --lr 2|"),
        (["--name=--x=y"], "1|100|false|exp/default|--x=y|"),
        (["--stage", "2", "--stage", "5"], "5|100|false|exp/default||"),
    ],
)
def test_values_arrive(run, words, expected):
    done = run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


@pytest.mark.parametrize("value", ["$(touch pwned)", "`touch pwned`", "x; touch pwned", "a[$(id)]"])
@pytest.mark.parametrize("form", ["two words", "one word"])
def test_values_are_never_evaluated(run, tmp_path, value, form):
    done = run(*(["--exp-dir", value] if form == "two words" else [f"--exp-dir={value}"]))
    assert done.stdout == f"1|100|false|{value}||"
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "words",
    [["--x$(touch pwned)", "1"], ["--a[$(touch pwned)]=1"], ["--stage", "a[$(touch pwned)]"]],
)
def test_names_and_numbers_are_never_evaluated(run, tmp_path, words):
    assert run(*words).returncode == 2
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stage"], "--stage needs a value"),
        (["--stage", "--stop-stage", "3"], "--stage needs a value"),
        (["--stages", "3"], "unknown option --stages; known options: --stage --stop-stage"),
        (["--stages"], "unknown option --stages"),
        (["--later", "3"], "unknown option --later"),
        (["--here", "3"], "unknown option --here"),
        (["--words", "3"], "unknown option --words"),
        (["--PATH", "/tmp"], "unknown option --PATH"),
        (["--stage", "two"], "--stage takes a whole number, not 'two'"),
        (["--use-gpu", "yes"], "--use-gpu takes true or false, not 'yes'"),
        (["stage", "3"], "unexpected word 'stage'"),
        (["--=3"], "unknown option --;"),
    ],
)
def test_wrong_words_stop_the_script_with_one_sentence(run, words, message):
    done = run(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("train.sh: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--stage", "3", "--help"]])
def test_help_shows_the_leading_comment_and_the_defaults(run, words):
    done = run(*words)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("Trains a thing.\n\nUsage: bash train.sh [options]\n")
    assert "--stop-stage (100)" in done.stdout and "last stage to run" in done.stdout
    assert "later" not in done.stdout and "#!/usr" not in done.stdout


def test_help_message_of_the_script_comes_first(run):
    text = SCRIPT.replace("stage=1 ", "help_message='My own words.'\nstage=1 ")
    done = run("--help", text=text)
    assert done.stdout.startswith("My own words.\n") and "--help-message" not in done.stdout


def test_positional_words_are_left_to_scripts_that_want_them(run):
    text = SCRIPT.replace("stage=1 ", "allow_arguments=true\nstage=1 ")
    assert run("--stage", "3", "data", "--x", text=text).stdout.endswith("||data|--x|")
    assert run("--stage", "3", "--", "--x", text=text).stdout.endswith("||--x|")


def test_exported_variables_of_the_caller_do_not_matter(run, monkeypatch):
    monkeypatch.setenv("stage", "77")
    monkeypatch.setenv("secret", "1")
    assert run("--stage", "3").stdout.startswith("3|")
    assert run("--secret", "3").returncode == 2


def test_parser_leaves_nothing_behind(run):
    done = run(text=SCRIPT + "compgen -A function; compgen -v | grep _option || true\n")
    assert done.stdout == "1|100|false|exp/default||"
