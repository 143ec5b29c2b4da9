"""What a check found: each finding with the command or sentence that mends it."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from wesp_lap.files import PathLike

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One finding: an error stops a recipe, a warning does not."""

    level: Level
    text: str
    mend: str


def some(names: Collection[str], limit: int = 5) -> str:
    """Return the first few names and how many more there are."""
    shown = ", ".join(islice(names, limit))
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def command(name: str, data: PathLike, options: str = "") -> str:
    """Return the command line that runs a command of the toolkit on a data directory."""
    return f"python -m wesp_lap.bin.{name} {shlex.quote(str(data))} {options}".rstrip()


def has_errors(problems: Iterable[Problem]) -> bool:
    """Return True when at least one problem is an error."""
    return any(problem.level == "error" for problem in problems)


def format_problems(problems: Sequence[Problem]) -> str:
    """Return all problems as text, errors before warnings, each followed by its mend."""
    lines = []
    for level in ("error", "warning"):
        group = [problem for problem in problems if problem.level == level]
        if group:
            lines.append(f"{len(group)} {level}{'s' if len(group) > 1 else ''}:")
        for problem in group:
            lines += [f"  {line}" for line in f"- {problem.text}".split("\n")]
            lines.append(f"      mend: {problem.mend}")
    return "\n".join(lines)


def verdict(problems: Sequence[Problem]) -> str:
    """Return ``ok`` or the number of errors and warnings."""
    counts = []
    for level in ("error", "warning"):
        count = sum(problem.level == level for problem in problems)
        if count:
            counts.append(f"{count} {level}{'s' if count > 1 else ''}")
    if not has_errors(problems):
        counts.insert(0, "ok")
    return ", ".join(counts)
