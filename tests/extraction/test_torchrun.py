"""Extraction in two processes of torchrun: equal to one, restartable, and never a hang."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
from helpers import ROOT

from wesp_lap.extraction import extract
from wesp_lap.kaldi.datadir import DataDir

# The command with parts of 4 utterances; process DIES_AT_ONCE of 2 dies before its first one.
SCRIPT = """
import os, signal, sys
from wesp_lap.bin.extract import main
from wesp_lap.cli import run_command
from wesp_lap.extraction import run

run.PART = 4
if os.environ.get("DIES_AT_ONCE") == os.environ["RANK"]:
    run.choose_device = lambda device: os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    run_command(main)
"""


@pytest.fixture
def launch(model_dir, tmp_path):
    """Start the command on a data directory in two processes; everything is killed at the end."""
    script = tmp_path / "command.py"
    script.write_text(SCRIPT)

    def start(data, out, **environment):
        command = [sys.executable, "-m", "wesp_lap.bin.launch", "--standalone"]
        command += ["--nproc_per_node=2", script, "--model", model_dir, "--data", data]
        return subprocess.Popen(
            [str(word) for word in [*command, "--out", out, "--nj", 1, "--device", "cpu"]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
            start_new_session=True,
        )

    yield start
    kill_all(tmp_path)


def kill_all(folder):
    """SIGKILL launcher and processes, which have sessions of their own."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder) in (process / "cmdline").read_text():
                os.kill(int(process.name), signal.SIGKILL)


def finish(process):
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def test_two_processes_give_what_one_gives_also_after_they_were_killed(
    launch, model_dir, tiny_corpus, tmp_path
):
    extract(model_dir, tiny_corpus.data, tmp_path / "one", "cpu", jobs=1)
    expected = (tmp_path / "one" / "xvector.ark").read_bytes()
    out = tmp_path / "two"
    process = launch(tiny_corpus.data, out)
    deadline = time.monotonic() + 120
    while not list(out.glob("parts/*/done.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.005)
    kill_all(tmp_path)
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("parts/*/done.json")}
    whole_before = (out / "xvector.scp").exists()
    assert kept or whole_before
    code, output = finish(launch(tiny_corpus.data, out))
    assert code == 0, output
    assert output.count("32 embeddings") == 1
    assert (out / "xvector.ark").read_bytes() == expected
    assert sorted(os.listdir(out)) == ["done.json", "xvector.ark", "xvector.json", "xvector.scp"]


def test_a_process_that_dies_ends_the_others_with_an_error(launch, tiny_corpus, tmp_path):
    out = tmp_path / "out"
    code, output = finish(launch(tiny_corpus.data, out, DIES_AT_ONCE="1"))
    assert code != 0
    assert "killed by signal 9" in output and "Traceback" not in output
    assert not (out / "xvector.scp").exists()


def test_what_the_processes_find_wrong_is_said_once(launch, tiny_corpus, tmp_path):
    corpus = DataDir.load(tiny_corpus.data)
    files = dict(corpus.wav)
    for key in (corpus.utterances[0], corpus.utterances[5]):  # one in a part of each process
        files[key] = str(tmp_path / f"{key}.wav")
        soundfile.write(files[key], [[0.0, 0.0]] * 1000, 16000)
    DataDir(tmp_path, files, corpus.utt2spk, {}, {}).write(tmp_path / "data")
    code, output = finish(launch(tmp_path / "data", tmp_path / "out"))
    assert code == 1
    assert output.count("error:") == 1 and "Traceback" not in output
    assert "(2 problems)" in output
    assert all(f"  {corpus.utterances[number]}: " in output for number in (0, 5))
