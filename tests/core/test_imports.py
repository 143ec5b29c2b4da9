"""What importing the package brings with it: the torchaudio guard, and nothing heavy."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "torchaudio", "transformers", "sklearn", "scipy", "matplotlib", "fire", "numpy"}

# Stands in for torchaudio: a Python part that takes two names from the part that loads libraries.
PACKAGE = """
from torchaudio import _extension
from torchaudio._extension import _IS_ALIGN_AVAILABLE, fail_if_no_align
from torchaudio._extension import _IS_RIR_AVAILABLE, fail_if_no_rir

@fail_if_no_align
def forced_align():
    return "aligned"

def resample(wave):
    return wave
"""
LOADS = """
_IS_TORCHAUDIO_EXT_AVAILABLE = _IS_ALIGN_AVAILABLE = _IS_RIR_AVAILABLE = True
fail_if_no_align = fail_if_no_rir = lambda function: function
"""


def python(code, *paths):
    path = os.pathsep.join([*map(str, paths), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def make_torchaudio(folder, extension):
    (folder / "torchaudio" / "_extension").mkdir(parents=True)
    (folder / "torchaudio" / "__init__.py").write_text(PACKAGE)
    (folder / "torchaudio" / "_extension" / "__init__.py").write_text(extension)


def test_importing_the_package_imports_nothing_heavy():
    loaded = python("import sys, wesp_lap; print(*sys.modules)").split()
    assert "wesp_lap" in loaded and not HEAVY & set(loaded)


def test_kaldi_tables_need_no_torch():
    code = "import sys, wesp_lap.kaldi.trials, wesp_lap.scoring.metrics; print(*sys.modules)"
    loaded = python(code).split()
    assert "numpy" in loaded and not (HEAVY - {"numpy"}) & set(loaded)


def test_a_torchaudio_that_loads_is_left_alone(tmp_path):
    make_torchaudio(tmp_path, LOADS)
    code = "import wesp_lap, torchaudio; print(torchaudio.forced_align(), torchaudio.resample(1))"
    assert python(code, tmp_path) == "aligned 1"


@pytest.mark.parametrize(
    "fault",
    ["OSError('libcudart.so.13: no such file')", "ImportError('x.so')", "RuntimeError('CUDA 13')"],
)
def test_without_its_compiled_part_the_python_part_works(tmp_path, fault):
    make_torchaudio(tmp_path, f"half = 1\nraise {fault}\n")
    code = f"""
    import wesp_lap, torchaudio
    assert torchaudio.resample(1) == 1
    assert not torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE
    assert not (torchaudio._IS_ALIGN_AVAILABLE or torchaudio._IS_RIR_AVAILABLE)
    try:
        torchaudio.forced_align()
    except RuntimeError as error:
        assert str({fault}) in str(error) and "forced_align" in str(error)
        print("refused with the cause")
    """
    assert python(code, tmp_path) == "refused with the cause"


def test_other_faults_of_torchaudio_are_not_hidden(tmp_path):
    make_torchaudio(tmp_path, "raise ZeroDivisionError\n")
    code = """
    import wesp_lap
    try:
        import torchaudio
    except ZeroDivisionError:
        print("raised")
    """
    assert python(code, tmp_path) == "raised"


def test_without_torchaudio_nothing_changes(tmp_path):
    # A finder that knows no torchaudio stands for a machine that has none.
    code = """
    import sys, importlib.machinery
    real = importlib.machinery.PathFinder.find_spec
    def find_spec(name, path=None, target=None):
        return None if name.startswith("torchaudio") else real(name, path, target)
    importlib.machinery.PathFinder.find_spec = find_spec
    import importlib.util, wesp_lap
    assert importlib.util.find_spec("torchaudio") is None
    try:
        import torchaudio
    except ModuleNotFoundError as error:
        print(error)
    """
    assert python(code) == "No module named 'torchaudio'"


def test_the_guard_is_installed_once():
    code = """
    import sys, importlib, wesp_lap
    before = len(sys.meta_path)
    wesp_lap._torchaudio.install_guard()
    importlib.reload(wesp_lap)
    print(len(sys.meta_path) - before)
    """
    assert python(code) == "0"
