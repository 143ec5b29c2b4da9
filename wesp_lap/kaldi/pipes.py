"""Pipe entries of wav.scp (``sph2pipe x.sph | sox - ... |``), run without a shell."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from typing import IO

from wesp_lap.errors import DataError
from wesp_lap.files import PathLike, atomic_write
from wesp_lap.log import get_logger

_SHELL = frozenset({"||", "&&", ";", "&", ">", ">>", "<", "2>", "2>&1", "|&"})


def is_pipe(entry: str) -> bool:
    """Return True when an entry of a scp file is a command rather than a file."""
    return entry.rstrip().endswith("|")


def run_pipe(entry: str, target: PathLike) -> None:
    """Write the output of a pipe entry to ``target``, atomically.

    The programs get their words as argument lists; there is no shell, so ``$x``, ``;`` and ``>``
    mean nothing special.

    Raises:
        DataError: a program is missing or fails, or nothing comes out.
    """
    get_logger().info("running: %s", entry)
    commands = _split(entry)
    with atomic_write(target, "wb") as stream:
        _chain(entry, commands, stream)
        if not stream.tell():
            raise DataError(f"'{entry}': the command wrote nothing")


def _split(entry: str) -> list[list[str]]:
    lexer = shlex.shlex(entry, posix=True, punctuation_chars="|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    commands: list[list[str]] = [[]]
    try:
        for word in lexer:
            if word == "|":
                commands.append([])
            elif word in _SHELL:
                raise DataError(
                    f"'{entry}': '{word}' means nothing here, as commands run without a shell; "
                    "put such a command into a script of its own and name that"
                )
            else:
                commands[-1].append(word)
    except ValueError as error:
        raise DataError(f"'{entry}': unbalanced quotes") from error
    if commands.pop() or not all(commands) or not commands:
        raise DataError(f"'{entry}': not a chain of commands that ends in '|'")
    return commands


def _chain(entry: str, commands: list[list[str]], stream: IO[bytes]) -> None:
    with tempfile.TemporaryFile() as messages:
        running: list[subprocess.Popen[bytes]] = []
        source: IO[bytes] | int | None = subprocess.DEVNULL
        try:
            for command in commands:
                last = len(running) == len(commands) - 1
                sink = stream if last else subprocess.PIPE
                process = subprocess.Popen(command, stdin=source, stdout=sink, stderr=messages)
                if not isinstance(source, int) and source is not None:
                    source.close()  # or the program before it would never see a broken pipe
                running.append(process)
                source = process.stdout
        except OSError as error:
            for process in running:
                process.kill()
            raise DataError(f"'{entry}': cannot run {command[0]}: {error.strerror}") from error
        finally:
            codes = [process.wait() for process in running]
        if any(codes):
            messages.seek(0)
            said = messages.read().decode(errors="replace").strip().split("\n")[-1]
            raise DataError(f"'{entry}': failed with exit codes {codes}: {said}")
        stream.seek(0, 2)  # the programs moved the file's end, not this object's idea of it
