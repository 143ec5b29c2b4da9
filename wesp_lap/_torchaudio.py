"""Make torchaudio importable next to a torch that its compiled part does not fit.

torchaudio's wheels on the package index are linked against CUDA. On a CPU-only torch
``import torchaudio`` raises OSError, and since transformers' speech models and peft import
torchaudio whenever it is installed, they fail too. Nothing here needs the compiled part, so
where it cannot load, a stand-in takes the place of the one module that loads it, and the
pure-Python part (functional, transforms, compliance.kaldi) keeps working.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

_EXTENSION = "torchaudio._extension"


class _ExtensionLoader(importlib.abc.Loader):
    """Runs the real loader of ``torchaudio._extension``; falls back to the stand-in."""

    def __init__(self, real: importlib.abc.Loader) -> None:
        self._real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self._real.exec_module(module)
        except (ImportError, OSError, RuntimeError) as error:
            _fill_stand_in(module, error)


class _ExtensionFinder(importlib.abc.MetaPathFinder):
    """Intercepts the import of ``torchaudio._extension`` and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _EXTENSION:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _ExtensionLoader(spec.loader)
        return spec


def _fill_stand_in(module: ModuleType, error: Exception) -> None:
    """Give ``module`` the names that torchaudio's Python code imports from it."""

    def fail_with_cause(function: Callable) -> Callable:
        def fail(*_args: object, **_kwargs: object) -> None:
            raise RuntimeError(
                f"{function.__name__} needs torchaudio's compiled part, which does not load "
                f"next to this torch ({error})"
            )

        return fail

    module.__dict__.update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _IS_RIR_AVAILABLE=False,
        fail_if_no_align=fail_with_cause,
        fail_if_no_rir=fail_with_cause,
        _check_cuda_version=lambda: None,
    )


def install_guard() -> None:
    """Install the import hook once; costs nothing until torchaudio is imported."""
    if not any(isinstance(finder, _ExtensionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ExtensionFinder())
