"""From a typed function to a command: bind first, run after.

fire runs a function before it notices unknown flags, checks no types and lets ``--help`` start the
work of a command that takes overrides. Here fire only binds; the words are checked against the
annotations, and the function runs once everything on the command line has been understood.
"""

from __future__ import annotations

import atexit
import errno
import functools
import inspect
import os
import sys
import time
import typing
from collections.abc import Callable, Sequence
from typing import Any

import fire
from fire.decorators import SetParseFn

from wesp_lap.coerce import from_text
from wesp_lap.errors import ConfigError, WespError
from wesp_lap.log import set_up_logging

_OTHER_RANKS_WAIT = 3.0
# Not a fault of the program: the disk is full, over quota, read-only or broken.
_DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


class _Bound:
    """Arguments bound to a command; opaque to fire, so that spare words are refused."""

    __slots__ = ("_arguments", "_command", "_keywords")

    def __init__(self, command: Callable, arguments: tuple, keywords: dict[str, Any]) -> None:
        self._command = command
        self._arguments = arguments
        self._keywords = keywords

    def __dir__(self) -> list[str]:
        return []


def run_command(command: Callable[..., int | None], argv: Sequence[str] | None = None) -> None:
    """Run ``command`` with the words of the command line and exit.

    Exit codes: 0 done (or what the command returns), 1 a named error, 2 a wrong command line.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    set_up_logging(rank=int(os.environ.get("RANK", "0")))
    try:
        arguments, keywords = _bind(command, words)
    except ConfigError as error:
        _say(error)
        sys.exit(2)
    try:
        _leave(command(*arguments, **keywords) or 0)
    except WespError as error:
        _say(error)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if error.errno not in _DISK_FAULTS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _say(WespError(f"{where}{error.strerror}; make room or mend the disk, and run it again"))
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _leave(code: int) -> typing.NoReturn:
    """Exit; one of several processes does so without taking the interpreter down.

    Threads of torch's process group may hold tensors of Python for a moment longer. One that lets
    go of them while the interpreter is taken down aborts the process, though all work is done.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _say(error: Exception) -> None:
    rank = int(os.environ.get("RANK", "0"))
    if rank > 0:
        # What all processes of a training run find wrong is said by the first one alone: it ends,
        # and the launcher ends the others while they wait here.
        time.sleep(_OTHER_RANKS_WAIT)
    prefix = f"[rank {rank}] " if rank > 0 else ""
    print(f"{prefix}error: {error}", file=sys.stderr, flush=True)


def _bind(command: Callable, words: list[str]) -> tuple[list[Any], dict[str, Any]]:
    os.environ.setdefault("PAGER", "cat")
    wants_help = any(word in ("--help", "-h") for word in words)

    @functools.wraps(command)
    def bind(*arguments: str, **keywords: str) -> _Bound:
        return _Bound(command, arguments, keywords)

    if wants_help:
        words = ["--", "--help"]
    else:
        SetParseFn(str)(bind)
    bound = fire.Fire(bind, command=words, name=_program_name(), serialize=lambda _: None)
    if not isinstance(bound, _Bound):  # fire has shown the help text
        sys.exit(0)
    return _check_types(command, bound._arguments, bound._keywords)


def _program_name() -> str:
    module = sys.modules["__main__"].__spec__
    return module.name if module is not None else os.path.basename(sys.argv[0])


def _check_types(
    command: Callable, arguments: tuple, keywords: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    hints = typing.get_type_hints(command)
    parameters = inspect.signature(command).parameters
    positional = [
        p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    variadic = next((p for p in parameters.values() if p.kind is p.VAR_POSITIONAL), None)
    checked = []
    for index, word in enumerate(arguments):
        parameter = positional[index] if index < len(positional) else variadic
        assert parameter is not None  # fire refuses spare words
        checked.append(_convert(word, parameter, hints))
    overrides = {
        name: _convert(word, parameters[name], hints) if name in parameters else word
        for name, word in keywords.items()
    }
    return checked, overrides


def _convert(word: Any, parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
    if not isinstance(word, str):  # a default that fire filled in
        return word
    return from_text(word, hints.get(parameter.name, str), f"--{parameter.name}")
