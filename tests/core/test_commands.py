"""The commands of wesp_lap.bin keep to one form, so that their help says everything."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import wesp_lap.bin

FILES = sorted(Path(wesp_lap.bin.__path__[0]).glob("[a-z]*.py"))
# Passes the whole command line on to torchrun.
COMMANDS = [path for path in FILES if path.stem != "launch"]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_every_parameter_of_a_command_is_typed_and_explained(path):
    last = ast.unparse(ast.parse(path.read_text()).body[-1])
    start, _, name = last.rstrip(")").rpartition("(")
    assert start == "if __name__ == '__main__':\n    run_command"
    command = getattr(import_module(f"wesp_lap.bin.{path.stem}"), name)
    text = inspect.getdoc(command)
    for parameter in inspect.signature(command).parameters.values():
        assert parameter.annotation is not parameter.empty
        if parameter.kind is not parameter.VAR_KEYWORD:
            assert f"    {parameter.name}: " in text, f"--{parameter.name} is not explained"


def test_all_commands_are_met():
    assert {"make_shards", "train", "extract", "score", "report"} < {path.stem for path in COMMANDS}
