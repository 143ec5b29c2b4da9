"""What a check before a run found, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from wesp_lap.errors import WespError
from wesp_lap.kaldi.problems import Problem

Result = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Check:
    """One line of the table: an error stops the run, a warning does not."""

    name: str
    level: Result
    text: str
    mend: str = ""


def ok(name: str, text: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name, "ok", text)


def from_problems(name: str, problems: Iterable[Problem], text: str = "") -> list[Check]:
    """Return a line for each problem, and without problems the line ``text``, if there is any."""
    found = [Check(name, one.level, one.text, one.mend) for one in problems]
    return found or ([ok(name, text)] if text else [])


def guarded(name: str, mend: str, work: Callable[[], list[Check]]) -> list[Check]:
    """Run a check; an error that it raises is its result."""
    try:
        return work()
    except WespError as error:
        return [Check(name, "error", str(error), mend)]


def has_errors(checks: Iterable[Check]) -> bool:
    """Return True when at least one check is an error."""
    return any(check.level == "error" for check in checks)


def format_checks(checks: Sequence[Check]) -> str:
    """Return the table: result, name and text of every check, mends below, counts at the end."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        first, *rest = check.text.split("\n")
        lines.append(f"{check.level:8} {check.name:{width}}  {first}")
        rest += [f"mend: {check.mend}"] if check.mend else []
        lines += [f"{'':8} {'':{width}}  {line}" for line in rest]
    counts = []
    for level in ("error", "warning"):
        count = sum(check.level == level for check in checks)
        if count:
            counts.append(f"{count} {level}{'s' if count > 1 else ''}")
    lines.append(", ".join(counts) or "all is ready")
    return "\n".join(lines)
