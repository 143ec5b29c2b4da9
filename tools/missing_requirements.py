"""Print what setup.py asks for and this interpreter lacks; exit 1 when something is missing.

Reads only package metadata, so that it takes a tenth of a second where importing torch takes
more than one.

Usage: python tools/missing_requirements.py [base|mini|ffmpeg|urls|lmdb|vad|dev]
"""

from __future__ import annotations

import ast
import sys
from importlib import metadata
from pathlib import Path


def requirements(setup_py: Path, extra: str) -> list[str]:
    """Return the requirements of an installation with ``extra``, as setup.py writes them."""
    tree = ast.parse(setup_py.read_text(encoding="utf-8"))
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    options = {
        keyword.arg: ast.literal_eval(keyword.value)
        for keyword in call.keywords
        if keyword.arg in ("install_requires", "extras_require")
    }
    extras = {"base": [], **options["extras_require"]}
    return options["install_requires"] + extras[extra]


def missing(wanted: list[str]) -> list[str]:
    """Return those of the ``wanted`` requirements that are absent or of another version."""
    try:
        from packaging.requirements import Requirement
    except ImportError:  # transformers brings it, so an environment without it lacks more
        return wanted
    lacking = []
    for text in wanted:
        requirement = Requirement(text)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            lacking.append(text)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            lacking.append(f"{text} (has {version})")
    return lacking


def main() -> int:
    """Check the interpreter that runs this file."""
    extra = sys.argv[1] if len(sys.argv) > 1 else "base"
    lacking = missing(requirements(Path(__file__).parents[1] / "setup.py", extra))
    if sys.version_info < (3, 10):  # noqa: UP036  (it runs in the interpreter under test)
        lacking.insert(0, "Python 3.10")
    if lacking:
        print(", ".join(lacking))
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
