"""Errors that a user can mend: shown as a sentence, never as a traceback."""

from __future__ import annotations

from collections.abc import Sequence


class WespError(Exception):
    """Base of every error whose message says what is wrong, where, and how to mend it."""


class ConfigError(WespError):
    """A setting is unknown, of the wrong type, or out of range."""


class DataError(WespError):
    """A data directory, list, table, shard or audio file is not what it should be."""


def problem_list(title: str, problems: Sequence[str], mend: str = "", limit: int = 20) -> str:
    """Format all ``problems`` under one title: one line each, at most ``limit`` shown."""
    lines = [f"{title} ({len(problems)} problem{'s' if len(problems) != 1 else ''}):"]
    lines += [f"  {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more")
    if mend:
        lines.append(mend)
    return "\n".join(lines)


def raise_problems(title: str, problems: Sequence[str], mend: str = "", limit: int = 20) -> None:
    """Raise one DataError that lists all ``problems``; do nothing when there are none."""
    if problems:
        raise DataError(problem_list(title, problems, mend, limit))
