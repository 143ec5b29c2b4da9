"""Kaldi's helpers by their names: run as a user of a shell would, against plain Python."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT

TOOLS = ROOT / "tools"


@pytest.fixture
def run(tmp_path):
    def run_tool(name, *words, text=None, code=0):
        done = subprocess.run(
            [str(TOOLS / name), *map(str, words)],
            cwd=tmp_path,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHON": sys.executable},
        )
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    return run_tool


@pytest.fixture
def data(tmp_path):
    """Three speakers with 2, 3 and 4 utterances; audio paths point nowhere."""
    folder = tmp_path / "data"
    folder.mkdir()
    keys = [
        f"{speaker}-{number}"
        for speaker, n in zip("abc", (2, 3, 4), strict=True)
        for number in range(n)
    ]
    tables = {
        "wav.scp": [f"{key} /nowhere/{key}.wav" for key in keys],
        "utt2spk": [f"{key} {key[0]}" for key in keys],
        "utt2dur": [f"{key} {index + 2}.5" for index, key in enumerate(reversed(keys))],
        "utt2lang": [f"{key} de" for key in keys],
        "spk2utt": [f"{one} " + " ".join(k for k in keys if k[0] == one) for one in "abc"],
    }
    for name, lines in tables.items():
        (folder / name).write_text("".join(f"{line}\n" for line in sorted(lines)))
    return folder


def keys(folder):
    return [line.split()[0] for line in (folder / "utt2spk").read_text().splitlines()]


def test_validate(run, data):
    words = ["--no-feats", "--no-text", "--no-spk-sort", "--non-print", "--no-wav", data]
    assert "9 utterances, 3 speakers" in run("validate_data_dir.sh", *words)
    with open(data / "utt2spk", "a") as stream:
        stream.write("a b c\n")
    run("validate_data_dir.sh", *words, code=1)
    assert "unknown option --no-such" in run("validate_data_dir.sh", "--no-such", data, code=2)
    assert "which data directory?" in run("validate_data_dir.sh", code=2)
    assert run("validate_data_dir.sh", "--help").startswith("Checks a data directory")


def test_validate_looks_at_audio_and_trials(run, data, tmp_path):
    run("validate_data_dir.sh", "--no-feats", data, code=1)
    (tmp_path / "trials").write_text("a-0 a-9 target\na-0 b-0 nontarget\n")
    run("validate_data_dir.sh", data, "--audio", "none", "--trials=trials", code=1)


def test_fix(run, data):
    with open(data / "utt2spk", "a") as stream:
        stream.write("x x\n")
    assert "removed 1 utterances not in wav.scp: x" in run("fix_data_dir.sh", data)
    assert len(keys(data)) == 9 and (data / ".backup/utt2spk").exists()
    run("fix_data_dir.sh", "--min-utterances", "3", "--utt-extra-files", "utt2x", data)
    assert {key[0] for key in keys(data)} == {"b", "c"}
    assert "one data directory" in run("fix_data_dir.sh", data, data, code=2)
    assert "unknown option --minimum" in run("fix_data_dir.sh", "--minimum", "3", data, code=2)


def test_subset(run, data, tmp_path):
    all_keys, part = keys(data), tmp_path / "part"
    cases = {
        ("--first",): all_keys[:3],
        ("--last",): all_keys[-3:],
        ("--shortest",): all_keys[-3:],
        ("--per-spk",): ["a-0", "a-1", "b-0", "b-1", "b-2", "c-0", "c-1", "c-2"],
    }
    for options, wanted in cases.items():
        run("subset_data_dir.sh", *options, data, 3, part)
        assert keys(part) == wanted, options
    found = [
        run("subset_data_dir.sh", "--seed", seed, data, 4, part) and keys(part)
        for seed in (1, 1, 2, 3, 4)
    ]
    assert found[0] == found[1] and len({tuple(one) for one in found}) > 1
    run("subset_data_dir.sh", "--speakers", data, 1, part)
    assert len({key[0] for key in keys(part)}) == 1
    (tmp_path / "list").write_text("c\na\n")
    run("subset_data_dir.sh", "--spk-list", "list", data, part)
    assert {key[0] for key in keys(part)} == {"a", "c"}
    (tmp_path / "list").write_text("b-1\n")
    run("subset_data_dir.sh", "--utt-list", "list", data, part)
    assert keys(part) == ["b-1"]
    for words in (
        ["--median", data, 3, part],
        ["--first", data, part],
        ["--utt-list", "list", data],
    ):
        run("subset_data_dir.sh", *words, code=2)
    run("subset_data_dir.sh", "--first", "--last", data, 3, part, code=2)
    assert "holds 9 utterances" in run("subset_data_dir.sh", "--first", data, 99, part, code=1)


def test_copy_combine_and_split(run, data, tmp_path):
    run("copy_data_dir.sh", "--utt-prefix=n-", "--spk-suffix", "x", data, "copy")
    assert keys(tmp_path / "copy") == [f"n-{key}" for key in keys(data)]
    assert (tmp_path / "copy/spk2utt").read_text().startswith("ax n-a-0 n-a-1\n")
    (tmp_path / "list").write_text("b\n")
    run("copy_data_dir.sh", data, "b", "--spk_list", "list")
    assert keys(tmp_path / "b") == ["b-0", "b-1", "b-2"]
    assert "9" in run("combine_data.sh", "--extra-files", "utt2x", "both", data, "b")
    run("combine_data.sh", "--skip-fix", "true", "all", data, "copy")
    assert len(keys(tmp_path / "all")) == 18
    assert "at least one SOURCE" in run("combine_data.sh", "all", code=2)
    assert "give another directory" in run("copy_data_dir.sh", data, data, code=1)
    run("split_data.sh", data, 2)
    parts = [keys(data / "split2" / number) for number in "12"]
    assert parts == [keys(data)[:5], keys(data)[5:]]
    run("split_data.sh", "--per-utt", data, 4)
    assert sorted(len(keys(data / "split4utt" / number)) for number in "1234") == [2, 2, 2, 3]
    assert "3 speakers cannot be split into 4" in run("split_data.sh", data, 4, code=1)
    run("split_data.sh", "--per-speaker", data, 2, code=2)


def test_get_utt2dur(run, data):
    (data / "utt2dur").unlink()
    assert "/nowhere/a-0.wav" in run("get_utt2dur.sh", data, code=1)
    (data / "segments").write_text("".join(f"{key} a-0 1 3.5\n" for key in keys(data)))
    run("get_utt2dur.sh", "--nj", "4", "--cmd", "run.pl", data)
    assert (data / "utt2dur").read_text().splitlines() == [f"{key} 2.500" for key in keys(data)]


def test_scripts_find_the_toolkit_from_anywhere_and_through_a_link(data, tmp_path):
    (tmp_path / "utils").symlink_to(TOOLS)
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "utils/validate_data_dir.sh", "--no-wav", "data"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_speaker_tables_turn_into_each_other(run, data):
    text = (data / "utt2spk").read_text()
    assert run("utt2spk_to_spk2utt.pl", data / "utt2spk") == (data / "spk2utt").read_text()
    assert run("utt2spk_to_spk2utt.pl", text=text) == (data / "spk2utt").read_text()
    assert run("utt2spk_to_spk2utt.pl", "-", text=text) == (data / "spk2utt").read_text()
    assert run("spk2utt_to_utt2spk.pl", data / "spk2utt") == text
    assert run("spk2utt_to_utt2spk.pl", text=(data / "spk2utt").read_text()) == text
    assert run("utt2spk_to_spk2utt.pl", text="2 y\n1 x\n3 y\n") == "y 2 3\nx 1\n"
    assert ":2: expected 2 fields, found 'b'" in run(
        "utt2spk_to_spk2utt.pl", text="a b\nb\n", code=1
    )
    assert "-:1: expected a speaker" in run("spk2utt_to_utt2spk.pl", text="a\n", code=1)
    assert "No such file" in run("utt2spk_to_spk2utt.pl", "none", code=1)
    run("utt2spk_to_spk2utt.pl", "--sorted", code=1)


def test_perl_and_python_run_the_scripts_too(data):
    for interpreter in ("perl", sys.executable):
        done = subprocess.run(
            [interpreter, TOOLS / "utt2spk_to_spk2utt.pl", data / "utt2spk"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == (data / "spk2utt").read_text()


def test_a_reader_that_stops_early_is_no_error(tmp_path):
    (tmp_path / "u").write_text("".join(f"u{number} s{number}\n" for number in range(50000)))
    for command in ("utt2spk_to_spk2utt.pl u", "spk2utt_to_utt2spk.pl u", "filter_scp.pl u u"):
        done = subprocess.run(
            ["bash", "-c", f"{TOOLS}/{command} | head -n 1"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(done.stdout.splitlines()) == 1 and done.stderr == ""


def test_filter_against_plain_sets(run, tmp_path):
    draw = random.Random(1)
    names = [f"k{number}" for number in range(40)]
    for _ in range(2):
        listed = draw.sample(names, 15)
        lines = [f"{draw.choice(names)}  {draw.choice(names)}\tx\n" for _ in range(60)]
        (tmp_path / "list").write_text("".join(f"{one} y\n" for one in listed))
        (tmp_path / "in").write_text("".join(lines))
        for field in (1, 2):
            wanted = [line for line in lines if line.split()[field - 1] in listed]
            words = ["-f", field] if field != 1 else []
            assert run("filter_scp.pl", *words, "list", "in") == "".join(wanted)
            others = [line for line in lines if line not in wanted]
            found = run("filter_scp.pl", "--exclude", *words, "list", text="".join(lines))
            assert found == "".join(others)
    (tmp_path / "in").write_text("k1 a\nk2 b\n")
    assert run("filter_scp.pl", "-", "in", text="k2\n") == "k2 b\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-f", "0", "l"], "-f takes the number of a field"),
        (["--invert", "l"], "unknown option --invert"),
        ([], "which list?"),
        (["-", "-"], "cannot be the list and the file"),
        (["-f", "3", "l", "l"], "l:1: a line with less than 3 fields"),
        (["none", "l"], "none: No such file"),
    ],
)
def test_wrong_uses_of_the_filter_are_one_sentence(run, tmp_path, words, message):
    (tmp_path / "l").write_text("a b\n")
    errors = run("filter_scp.pl", *words, text="", code=1)
    assert message in errors and errors.count("\n") == 1


def test_split_scp_parts_joined_are_the_whole(run, tmp_path):
    for lines in (7, 8, 9):
        (tmp_path / "in").write_text("".join(f"k{number} x\n" for number in range(lines)))
        run("split_scp.pl", "in", "o1", "o2", "o3")
        parts = [(tmp_path / name).read_text() for name in ("o1", "o2", "o3")]
        assert "".join(parts) == (tmp_path / "in").read_text()
        assert {part.count("\n") for part in parts} <= {lines // 3, lines // 3 + 1}
        jobs = [run("split_scp.pl", "-j", "3", job, "in") for job in range(3)]
        assert jobs == parts
        text = (tmp_path / "in").read_text()
        assert run("split_scp.pl", "-j", "3", "3", "--one-based", "-", "-", text=text) == parts[2]
    assert "9 lines cannot be split into 10" in run("split_scp.pl", "-j", "10", "0", "in", code=1)
    assert "not a job of 3" in run("split_scp.pl", "-j", "3", "3", "in", code=1)


def test_split_scp_keeps_speakers_together(run, data, tmp_path):
    run("split_scp.pl", f"--utt2spk={data}/utt2spk", data / "wav.scp", "o1", "o2")
    first, second = ((tmp_path / name).read_text() for name in ("o1", "o2"))
    assert first + second == (data / "wav.scp").read_text() and first.count("\n") == 5
    (tmp_path / "dur").write_text("".join(f"{k} {9 if k[0] == 'a' else 1}\n" for k in keys(data)))
    run("split_scp.pl", f"--utt2spk={data}/utt2spk", "--utt2dur=dur", data / "wav.scp", "o1", "o2")
    assert (tmp_path / "o1").read_text().count("\n") == 2
    words = [f"--utt2spk={data}/utt2spk", data / "wav.scp", "1", "2", "3", "4"]
    assert "3 speakers cannot be split into 4" in run("split_scp.pl", *words, code=1)
    (tmp_path / "in").write_text("nobody x\n")
    assert "in:1: nobody is not in" in run("split_scp.pl", words[0], "in", "o", code=1)


def test_run_replaces_the_number_and_logs_everything(run, tmp_path):
    run("run.pl", "JOB=1:3", "log/x.JOB.log", "echo", "number JOB", ";", "echo", "err", ">&2")
    for number in "123":
        lines = (tmp_path / f"log/x.{number}.log").read_text().splitlines()
        assert lines[0] == f'# echo "number {number}" ; echo err >&2'
        assert lines[3:5] == [f"number {number}", "err"] and "# Ended (code 0) at" in lines[-1]
    run(
        "run.pl",
        "--mem",
        "2G",
        "--gpu",
        "1",
        "-l",
        "x=y",
        "log/y",
        "seq",
        "3",
        "|",
        "tac",
        ">",
        "out",
    )
    assert (tmp_path / "out").read_text() == "3\n2\n1\n"
    run("run.pl", "N=4", "log/n.N.log", "echo", '"a b" c', "N")
    assert '"a b" c 4' in (tmp_path / "log/n.4.log").read_text()


def test_failed_jobs_are_named_with_their_logs(run, tmp_path):
    errors = run("run.pl", "JOB=1:4", "log/x.JOB.log", "[", "JOB", "-lt", "3", "]", code=1)
    assert errors == "run.pl: 2 / 4 failed, read log/x.3.log, log/x.4.log\n"
    assert "# Ended (code 1)" in (tmp_path / "log/x.3.log").read_text()
    assert run("run.pl", "log/y", "exit", "7", code=1) == "run.pl: job failed, log is in log/y\n"
    assert "# Ended (code 7)" in (tmp_path / "log/y").read_text()
    run("run.pl", "log/y", "kill", "-9", "$BASHPID", code=1)
    assert "write JOB=1:N" in run("run.pl", "x.JOB.log", "false", code=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["JOB=1:3", "log", "true"], "3 jobs cannot share the log log"),
        (["JOB=3:1", "JOB.log", "true"], "numbers start at 1"),
        (["JOB=0:1", "JOB.log", "true"], "numbers start at 1"),
        (["--max-jobs-run", "0", "log", "true"], "takes a number from 1"),
        (["--memory", "2G", "log", "true"], "unknown option --memory"),
        (["log"], "a log file and a command are wanted"),
    ],
)
def test_wrong_uses_of_run_are_one_sentence(run, words, message):
    errors = run("run.pl", *words, code=1)
    assert message in errors and errors.count("\n") == 1


@pytest.mark.parametrize("limit", [1, 2])
def test_no_more_jobs_at_a_time_than_wanted(run, tmp_path, limit):
    # A job counts those that run while it does, by files.
    # One that ends meanwhile makes ls complain.
    body = "touch run.JOB; sleep 0.1; ls run.* 2>/dev/null | wc -l; rm run.JOB"
    run("run.pl", "--max-jobs-run", limit, "JOB=1:5", "JOB.log", "bash", "-c", body)
    counts = [int((tmp_path / f"{n}.log").read_text().splitlines()[3]) for n in range(1, 6)]
    assert max(counts) <= limit


def test_jobs_end_with_the_program(tmp_path):
    words = [TOOLS / "run.pl", "JOB=1:2", "JOB.log", "echo", "$BASHPID", ";", "sleep", "60"]
    runner = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL)
    logs = [tmp_path / "1.log", tmp_path / "2.log"]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not all(
        log.exists() and log.read_text().count("\n") == 4 for log in logs
    ):
        time.sleep(0.02)
    pids = [int(log.read_text().splitlines()[3]) for log in logs]
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(20) == 128 + signal.SIGTERM
    while time.monotonic() < deadline and any(map(alive, pids)):
        time.sleep(0.02)
    assert not any(map(alive, pids))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("script", sorted(path.name for path in TOOLS.glob("*.pl")))
def test_every_script_has_help(run, script):
    assert f"Usage: {script}" in run(script, "--help")
