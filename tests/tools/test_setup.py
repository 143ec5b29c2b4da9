"""tools/setup.sh: takes what is there, makes what is missing, and fails with one sentence.

No test installs anything: the interpreters are small scripts that answer as Python would.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Answers the questions of setup.sh. VENV and PIP stand for what these modules do.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >> "{calls}"
case "$*" in
  *"not (3, 10)"*) exit {unsuited} ;;
  *"Python %d"*) echo "Python {version}" ;;
  *"%d.%d"*) echo "{version}" ;;
  *flock*) exit 0 ;;
  *"import ensurepip"*) exit {no_ensurepip} ;;
  *"import pip"*) exit 0 ;;
  *sys.executable*) echo "$0" ;;
  "-m venv"*) {venv} ;;
  "-m pip"*) {pip} ;;
  *missing_requirements*)
    [ -n "{complete}" ] && exit 0
    [[ $0 == *.venv* ]] && exit 0
    echo torch
    exit 1
    ;;
  *) exit 99 ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A clone with a fake python3 on its PATH; returns a function that runs setup.sh there."""
    root, programs = tmp_path / "my clone", tmp_path / "programs"
    (root / "tools").mkdir(parents=True)
    programs.mkdir()
    for name in ("tools/setup.sh", "tools/missing_requirements.py", "setup.py"):
        shutil.copy(ROOT / name, root / name)
    for name in (
        "bash",
        "cksum",
        "mkdir",
        "rm",
        "mv",
        "cp",
        "cat",
        "sed",
        "grep",
        "tail",
        "dirname",
    ):
        (programs / name).symlink_to(shutil.which(name))
    for name in ("find", "sleep", "touch"):
        (programs / name).symlink_to(shutil.which(name))

    class Clone:
        path = root
        calls = tmp_path / "calls"

        def python(self, name="python3", **answers):
            """Install a fake interpreter and return its path."""
            given = {
                "calls": self.calls,
                "unsuited": 0,
                "version": "3.11",
                "no_ensurepip": 0,
                "venv": 'mkdir -p "$3/bin"; cp "$0" "$3/bin/python"',
                "pip": 'echo "Collecting torch"',
                "complete": "",
            }
            path = programs / name
            path.write_text(FAKE_PYTHON.format(**{**given, **answers}))
            path.chmod(0o755)
            return path

        def run(self, *words, script=None, **environment):
            command = ["bash", "-c", script] if script else ["bash", "tools/setup.sh", *words]
            return subprocess.run(
                command,
                cwd=root,
                env={"PATH": str(programs), "HOME": str(tmp_path), **environment},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )

        def count(self, what):
            return self.calls.read_text().count(what) if self.calls.exists() else 0

    return Clone()


def fails_with(done, *words):
    assert done.returncode != 0 and done.stdout == ""
    sentences = [line for line in done.stderr.splitlines() if "installing" not in line]
    assert len(sentences) == 1 and sentences[0].startswith("setup: "), done.stderr
    for word in words:
        assert word in sentences[0]


def test_makes_the_environment_once(clone):
    clone.python()
    first = clone.run("mini")
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"{clone.path}/.venv/bin/python\n"
    assert "installing" in first.stderr
    second = clone.run("mini")
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert clone.count("-m pip") == 1
    assert clone.count("[mini]") == 1


def test_a_larger_set_serves_the_smaller_and_not_the_other_way(clone):
    clone.python()
    for extra, installs in (("base", 1), ("mini", 2), ("base", 2), ("dev", 3), ("mini", 3)):
        assert clone.run(extra).returncode == 0
        assert clone.count("-m pip install") == installs


def test_another_setup_py_brings_the_environment_up_to_date(clone):
    clone.python()
    clone.run()
    with open(clone.path / "setup.py", "a") as stream:
        stream.write("# changed\n")
    assert clone.run().returncode == 0
    assert clone.count("-m pip install") == 2 and clone.count("-m venv") == 1


def test_interrupted_installation_is_taken_up_again(clone):
    clone.python(pip="exit 1")
    assert clone.run().returncode == 1
    clone.python()
    shutil.rmtree(clone.path / ".venv" / "bin")
    (clone.path / ".venv" / "half").write_text("half")
    assert clone.run().returncode == 0
    assert not (clone.path / ".venv" / "half").exists()


def test_moved_clone_gets_a_new_environment(clone):
    clone.python()
    clone.run()
    marker = clone.path / ".venv" / ".wesp_lap"
    marker.write_text(marker.read_text().replace(str(clone.path), "/elsewhere"))
    assert clone.run().returncode == 0
    assert clone.count("-m venv") == 2


def test_two_runs_at_once_install_once(clone):
    lock = 'exec "{real}" -c "import fcntl,sys; fcntl.flock(9, fcntl.LOCK_EX)"'
    fake = clone.python(pip="sleep 1; echo Collecting")
    text = fake.read_text().replace(
        "*flock*) exit 0", f"*flock*) {lock.format(real=sys.executable)}"
    )
    fake.write_text(text)
    runs = [
        subprocess.Popen(
            ["bash", "tools/setup.sh"],
            cwd=clone.path,
            env={"PATH": str(fake.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    answers = [run.communicate(timeout=60)[0] for run in runs]
    assert answers == [f"{clone.path}/.venv/bin/python\n"] * 2
    assert clone.count("-m pip install") == 1


def test_active_environment_that_has_everything_is_used(clone):
    active = clone.python(complete="yes")
    done = clone.run(VIRTUAL_ENV="/some/where")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{active}\n", "")
    assert not (clone.path / ".venv").exists()


def test_active_environment_that_lacks_something_is_left_alone(clone):
    clone.python()
    done = clone.run(CONDA_PREFIX="/some/where")
    assert done.returncode == 0 and "lacks torch: using" in done.stderr
    assert done.stdout == f"{clone.path}/.venv/bin/python\n"


def test_sourcing_sets_python_and_path_and_nothing_else(clone):
    clone.python()
    script = (
        "set -euo pipefail; set -- --stage 3; before=$(compgen -v; declare -F)\n"
        ". tools/setup.sh dev; . tools/setup.sh dev\n"
        'echo "$PYTHON|$PATH|${PYTHONPATH:-}|$*"\n'
        'diff <(echo "$before") <(compgen -v; declare -F) | grep "^>" || true'
    )
    (Path(clone.calls).parent / "programs" / "diff").symlink_to(shutil.which("diff"))
    lines = clone.run(script=script).stdout.splitlines()
    python, path, pythonpath, words = lines[0].split("|")
    assert python == f"{clone.path}/.venv/bin/python" and words == "--stage 3"
    assert path.split(":").count(f"{clone.path}/.venv/bin") == 1
    assert pythonpath == ""
    assert set(lines[1:]) <= {"> PYTHON", "> before", "> BASH_LINENO", "> PIPESTATUS", "> _"}


def test_another_environment_finds_the_package_of_this_clone(clone):
    clone.python(complete="yes")
    script = '. tools/setup.sh; . tools/setup.sh; echo "$PYTHONPATH"'
    assert clone.run(script=script, VIRTUAL_ENV="/x").stdout == f"{clone.path}\n"
    assert (
        clone.run(script=script, VIRTUAL_ENV="/x", PYTHONPATH="/y").stdout == f"{clone.path}:/y\n"
    )


def test_failed_set_up_stops_a_sourcing_recipe(clone):
    done = clone.run(script="set -e; . tools/setup.sh; echo 'not reached'")
    assert done.returncode == 1 and done.stdout == ""


def test_no_python(clone):
    fails_with(clone.run(), "no Python 3.10 to 3.13 found", "PYTHON=/path")


def test_python_too_old(clone):
    clone.python(unsuited=1, version="3.8")
    fails_with(clone.run(), "python3 is Python 3.8", "PYTHON=/path")


def test_a_suitable_python_is_found_behind_an_unsuitable_one(clone):
    clone.python(unsuited=1, version="3.8")
    clone.python("python3.12")
    assert clone.run().returncode == 0


def test_chosen_python_too_old(clone):
    old = clone.python("old", unsuited=1, version="3.9")
    clone.python()
    fails_with(clone.run(PYTHON=str(old)), f"PYTHON={old} is Python 3.9")


def test_chosen_python_absent(clone):
    clone.python()
    fails_with(clone.run(PYTHON="/no/python"), "PYTHON=/no/python is no program")


def test_venv_module_missing(clone):
    clone.python(no_ensurepip=1)
    fails_with(clone.run(), "cannot make virtual environments", "apt install python3.11-venv")


def test_pip_fails(clone):
    clone.python(pip="echo 'ERROR: Could not find a version'; exit 1")
    done = clone.run()
    log = clone.path / ".venv" / "setup.log"
    fails_with(done, str(log), "PIP_INDEX_URL", "PIP_FIND_LINKS", "docs/install.md")
    assert "Could not find a version" in log.read_text()
    assert clone.run().returncode == 1, "a failed installation must not count as done"


def test_disk_full(clone):
    clone.python(pip="echo 'OSError: [Errno 28] No space left on device'; exit 1")
    fails_with(clone.run(), "the disk is full", "TMPDIR")


def test_pip_that_leaves_something_out(clone):
    fake = clone.python()
    fake.write_text(fake.read_text().replace("[[ $0 == *.venv* ]] && exit 0", ""))
    fails_with(clone.run(), "pip has not installed torch")


def test_folder_that_cannot_be_written(clone):
    clone.python()
    (clone.path / ".venv").write_text("a file in the way")
    fails_with(clone.run(), "cannot make")


def test_unknown_set(clone):
    clone.python()
    fails_with(clone.run("everything"), "unknown set 'everything'", "base, mini or dev")


def test_help(clone):
    done = clone.run("--help")
    assert done.returncode == 0 and done.stdout.startswith("Finds a Python environment")


def test_requirements_of_this_interpreter_are_judged_from_its_metadata():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import missing_requirements as tool
    finally:
        sys.path.remove(str(ROOT / "tools"))
    wanted = tool.requirements(ROOT / "setup.py", "mini")
    assert "torch>=2.6,<2.14" in wanted and "espeakng-loader==0.2.4" in wanted
    assert "espeakng-loader==0.2.4" not in tool.requirements(ROOT / "setup.py", "base")
    assert tool.missing(["numpy", "pytest>=1"]) == []
    assert tool.missing(["numpy>=999", "no-such-package"])[1] == "no-such-package"
    assert tool.missing(["numpy>=999"])[0].startswith("numpy>=999 (has ")


def test_checking_requirements_does_not_import_torch():
    script = ROOT / "tools" / "missing_requirements.py"
    code = (
        "import runpy, sys\n"
        f"try: runpy.run_path({str(script)!r}, None, '__main__')\n"
        "except SystemExit: print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "False False"
