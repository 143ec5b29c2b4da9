"""Commands as a user runs them: everything on the command line is understood before work starts."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wesp_lap.cli import run_command
from wesp_lap.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]

COMMAND = '''
import json, pathlib
from typing import Literal
from wesp_lap.cli import run_command
from wesp_lap.errors import DataError

def main(data: str, rate: float = 0.5, count: int | None = None, lists: list[str] | None = None,
         keep: bool = False, form: Literal["wav", "flac"] = "wav", sizes: list[int] = (1,)) -> None:
    """Do the work.

    Args:
        data: Where the data are.
        rate: How fast.
    """
    values = dict(data=data, rate=rate, count=count, lists=lists, keep=keep, form=form, sizes=sizes)
    pathlib.Path("ran.json").write_text(json.dumps(values))
    if data == "broken":
        raise DataError("broken: no such data; give another one")

if __name__ == "__main__":
    run_command(main)
'''

OVERRIDES = '''
import json, pathlib
from wesp_lap.cli import run_command

def main(config: str, exp_dir: str, **overrides: str) -> None:
    """Train.

    Args:
        config: YAML file.
    """
    pathlib.Path("ran.json").write_text(json.dumps([config, exp_dir, overrides]))

if __name__ == "__main__":
    run_command(main)
'''


@pytest.fixture
def shell(tmp_path):
    """Return a function that runs a command and says what it did: (process, values or None)."""

    def run(source, *words):
        (tmp_path / "command.py").write_text(source)
        done = subprocess.run(
            [sys.executable, "command.py", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        mark = tmp_path / "ran.json"
        values = json.loads(mark.read_text()) if mark.exists() else None
        mark.unlink(missing_ok=True)
        return done, values

    return run


DEFAULTS = {
    "data": "d",
    "rate": 0.5,
    "count": None,
    "lists": None,
    "keep": False,
    "form": "wav",
    "sizes": [1],
}


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (["d"], {}),
        (["--data", "d", "--rate=1e-5", "--count", "3"], {"rate": 1e-5, "count": 3}),
        (["d", "--lists", "a,b/c", "--sizes", "2,3"], {"lists": ["a", "b/c"], "sizes": [2, 3]}),
        (["d", "--keep", "--form", "flac"], {"keep": True, "form": "flac"}),
        (["d", "--nokeep"], {}),
        (["--data", "007", "--rate", "-2"], {"data": "007", "rate": -2.0}),
    ],
)
def test_words_become_values_of_the_annotated_types(shell, words, change):
    done, values = shell(COMMAND, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert values == {**DEFAULTS, **change}


@pytest.mark.parametrize(
    "words",
    [["--help"], ["-h"], ["d", "--help"], ["--data", "d", "--help"], ["--help", "--rat", "1"]],
)
def test_help_never_runs_the_command(shell, words):
    done, values = shell(COMMAND, *words)
    assert done.returncode == 0 and values is None
    assert "Where the data are." in done.stdout + done.stderr


def test_help_never_runs_a_command_that_takes_any_setting(shell):
    done, values = shell(OVERRIDES, "c.yaml", "exp", "--lr", "1", "--help")
    assert done.returncode == 0 and values is None
    assert "YAML file." in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["d", "--rat", "1"], "--rat"),
        (["d", "1", "2", "a", "False", "wav", "1", "spare"], "spare"),
        ([], "data"),
        (["d", "--rate", "fast"], "error: --rate: expected a number, got 'fast'"),
        (["d", "--count", "1.5"], "error: --count: expected a whole number, got 1.5"),
        (["d", "--count"], "error: --count: expected a whole number, got True"),
        (["d", "--form", "mp3"], "error: --form: 'mp3' is not one of wav, flac"),
        (["d", "--keep=maybe"], "error: --keep: expected true or false, got 'maybe'"),
        (["d", "--sizes", "1,x"], "error: --sizes[1]: expected a whole number, got 'x'"),
    ],
)
def test_a_wrong_command_line_ends_with_2_before_any_work(shell, words, message):
    done, values = shell(COMMAND, *words)
    assert done.returncode == 2 and values is None
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_named_error_is_one_sentence_and_code_1(shell):
    done, values = shell(COMMAND, "broken")
    assert done.returncode == 1 and values is not None
    assert done.stderr == "error: broken: no such data; give another one\n"


def test_any_setting_can_be_given_to_a_command_with_overrides(shell):
    words = ["--a.b-c", "1e-5", "--optimizer.name=sgd", "--data.shards", "a b"]
    done, values = shell(OVERRIDES, "c.yaml", "--exp_dir", "exp", *words)
    assert done.returncode == 0
    settings = {"a.b_c": "1e-5", "optimizer.name": "sgd", "data.shards": "a b"}
    assert values == ["c.yaml", "exp", settings]


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("x: bad"), 1), (ConfigError("y: bad"), 1), (BrokenPipeError(), 1)],
)
def test_exit_codes_of_errors_in_the_work(error, code, capsys):
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(command, [])
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert said == (f"error: {error}\n" if str(error) else "")


def test_a_full_disk_is_one_sentence(capsys):
    def command() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "exp/scores/O.score")

    with pytest.raises(SystemExit) as ended:
        run_command(command, [])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: exp/scores/O.score: No space left on device; make room")


def test_other_faults_of_files_keep_their_traceback():
    with pytest.raises(FileNotFoundError):
        run_command(lambda: Path("no/such/file").read_text() and 0, [])


def test_an_interrupt_is_no_traceback(capsys):
    def command() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_command(command, [])
    assert ended.value.code == 130 and capsys.readouterr().err == "interrupted\n"


def test_the_code_that_a_command_returns_is_the_exit_code():
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: 3, [])
    assert ended.value.code == 3


def test_faults_of_the_program_keep_their_traceback():
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(command, [])
