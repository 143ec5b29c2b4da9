"""tools/steps.sh: stages run in their range, and a failure is one sentence."""

import importlib.util
import signal
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
SCRIPT = f"""#!/usr/bin/env bash
stage=1
stop_stage=100
. {TOOLS}/parse_options.sh
. {TOOLS}/steps.sh
helper() {{ (cat /no/such/file | wc -l); echo "not reached"; }}
if run_stage 1 "Data"; then echo one; fi
if run_stage 3 "Training"; then
  BODY
  echo three
fi
if run_stage 4 "Scoring"; then echo four; fi
"""


@pytest.fixture
def run(tmp_path):
    def run_script(*words, body=":", environment=None):
        (tmp_path / "run.sh").write_text(SCRIPT.replace("BODY", body))
        return subprocess.run(
            ["bash", "run.sh", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            # A job in the background ignores SIGINT and hands that on; bash cannot undo it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return run_script


def lines_without_time(text):
    return [line.split(" ", 1)[1] if line[2:3] == ":" else line for line in text.splitlines()]


def test_each_stage_says_when_it_begins_and_ends(run):
    done = run()
    assert done.returncode == 0 and done.stderr == ""
    assert lines_without_time(done.stdout) == [
        "Stage 1: Data",
        "one",
        "Stage 1 done in 0 s",
        "Stage 3: Training",
        "three",
        "Stage 3 done in 0 s",
        "Stage 4: Scoring",
        "four",
        "Stage 4 done in 0 s",
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--stage", "3"], ["three", "four"]),
        (["--stop-stage", "1"], ["one"]),
        (["--stop_stage=3", "--stage=2"], ["three"]),
    ],
)
def test_only_the_wanted_stages_run(run, words, expected):
    done = run(*words)
    assert [line for line in done.stdout.splitlines() if ":" not in line] == expected


def test_no_stage_in_range_is_said(run):
    done = run("--stage", "9")
    assert done.returncode == 0 and done.stdout == ""
    assert "nothing to do" in done.stderr and "--stage 9" in done.stderr


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("false", 1),
        ("helper", 1),
        ("(exit 7)", 7),
        ("exit 7", 7),
        ("value=$(exit 5)", 5),
        ("false | cat", 1),
        ("echo $no_such_variable", 1),
        ("no_such_command", 127),
    ],
)
def test_failure_is_one_sentence_with_the_stage(run, body, code):
    done = run(body=body)
    assert done.returncode == code
    assert "three" not in done.stdout.splitlines() and "Stage 4" not in done.stdout
    sentences = [line for line in done.stderr.splitlines() if line.startswith("run.sh: stage")]
    assert sentences == [
        f"run.sh: stage 3 (Training) failed with exit code {code}; see the message above; "
        "re-run the same command to continue"
    ]


@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 143)])
def test_interruption_is_named_as_such(run, name, code):
    done = run(body=f"kill -{name} $$; sleep 0.1")
    assert done.returncode == code
    assert "run.sh: stage 3 (Training) was interrupted" in done.stderr


@pytest.mark.parametrize("name", ["USR1", "USR2", "TERM"])
def test_signals_for_training_leave_the_recipe_to_it(run, name):
    """Like a scheduler, the command signals the recipe; then it leaves as training does."""
    done = run(body=f"bash -c 'kill -{name} $PPID; sleep 0.1; exit 75'")
    assert done.returncode == 75
    assert "stage 3 (Training) was asked to leave and has saved its state" in done.stderr
    assert "re-run the same command to continue" in done.stderr


def test_signals_for_training_are_nothing_to_other_stages(run):
    done = run(body="kill -USR1 $$; kill -USR2 $$; sleep 0.1")
    assert done.returncode == 0
    assert "Stage 4" in done.stdout


FAKE_PYTHON = """#!/usr/bin/env bash
echo "omp=$OMP_NUM_THREADS"
printf '%s\\n' "$@"
exit ${CODE:-0}
"""


@pytest.fixture
def launch(run, tmp_path):
    fake = tmp_path / "python"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    (tmp_path / "nproc").write_text("#!/bin/sh\necho 8\n")
    (tmp_path / "nproc").chmod(0o755)
    base = {"PYTHON": str(fake), "PATH": f"{tmp_path}:/usr/local/bin:/usr/bin:/bin"}

    def launch_with(call, **environment):
        return run("--stage", "3", body=call, environment={**base, **environment})

    return launch_with


def test_one_node_is_launched_standalone(launch):
    done = launch("launch_train 2 1 unused wesp_lap.bin.train --config 'a b.yaml'")
    _, threads, *words = done.stdout.splitlines()
    assert threads == "omp=4"
    assert words[0] == "-m" and importlib.util.find_spec(words[1])
    assert words[2:7] == ["--nproc_per_node", "2", "--nnodes", "1", "--standalone"]
    assert words[9:13] == ["-m", "wesp_lap.bin.train", "--config", "a b.yaml"]


def test_several_nodes_meet_at_the_host(launch):
    done = launch("launch_train 4 2 node1:29400 tools/x.py", SLURM_JOB_ID="77", MAX_RESTARTS="2")
    text = " ".join(done.stdout.splitlines())
    assert "--nnodes 2 --rdzv_backend c10d --rdzv_endpoint node1:29400 --rdzv_id 77" in text
    assert "--max_restarts 2 tools/x.py" in text and "standalone" not in text


def test_threads_are_shared_but_never_none_and_the_users_choice_wins(launch):
    assert "omp=1\n" in launch("launch_train 16 1 h m").stdout
    assert "omp=3\n" in launch("launch_train 16 1 h m", OMP_NUM_THREADS="3").stdout


def test_failed_launch_fails_the_stage(launch):
    done = launch("launch_train 1 1 h m", CODE="9")
    assert done.returncode == 9 and "stage 3 (Training) failed with exit code 9" in done.stderr
