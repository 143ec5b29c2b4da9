#!/usr/bin/env python3
"""Run a command, or several numbered ones at a time, with its output in a log file.

Usage: run.pl [options] [JOB=1:N] LOG COMMAND WORDS ...
  JOB=1:N            run N times with JOB replaced by 1 to N in LOG and in the command; JOB may be
                     any name; JOB=3 runs number 3 only
  --max-jobs-run N   how many run at a time (also -tc N); by default one per core
  --gpu N            with N above 0, by default one per GPU runs at a time

The words of the command are joined for bash, those with white space in quotes, so that \\| and \\>
work as in Kaldi. The log begins with the command and ends with its exit code. Options of
other job systems (--mem, --num-threads, --time, --config, -l, -q, -V, -pe, -sync) are accepted
and have no effect. Exits with 1 when any job has failed, and says which log to read.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

# Options of other job systems, and how many words follow each.
_IGNORED = {"--mem": 1, "--num-threads": 1, "--time": 1, "--config": 1}
_IGNORED.update({"-V": 0, "-l": 1, "-q": 1, "-sync": 1, "-pe": 2})
_running = {}
_stopped = False


class Fault(Exception):
    """What is wrong with the command line, as a sentence."""


def cores():
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def gpus():
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, check=False).stdout
    except OSError:
        return 1
    return max(1, listed.count(b"\n"))


def parse(words):
    """Return the name that stands for the number, the numbers, the limit, the log, the command."""
    name, numbers, limit, gpu = None, range(1, 2), None, "0"
    while words:
        job = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", words[0])
        if words[0].startswith("-"):
            option = words.pop(0)
            if option in ("--max-jobs-run", "-tc"):
                value = words.pop(0) if words else ""
                if not value.isdigit() or int(value) < 1:
                    raise Fault(f"{option} takes a number from 1, not {value!r}")
                limit = int(value)
            elif option == "--gpu":
                gpu = words.pop(0) if words else ""
            elif option in _IGNORED:
                del words[: _IGNORED[option]]
            else:
                raise Fault(f"unknown option {option}; see --help")
        elif job and name is None:
            name, first, last = job[1], int(job[2]), int(job[3] or job[2])
            if not 1 <= first <= last:
                raise Fault(f"{words[0]}: numbers start at 1 and do not decrease")
            numbers = range(first, last + 1)
            words.pop(0)
        else:
            break
    if len(words) < 2:
        raise Fault("a log file and a command are wanted: run.pl [JOB=1:N] LOG COMMAND WORDS ...")
    if name is not None and name not in words[0] and len(numbers) > 1:
        raise Fault(f"{len(numbers)} jobs cannot share the log {words[0]}; put {name} in its name")
    if limit is None:
        limit = cores() if gpu in ("0", "") else gpus()
    return name, numbers, limit, words[0], " ".join(map(quoted, words[1:]))


def quoted(word):
    """Quote a word for bash when it holds white space; operators and variables keep their sense."""
    if word and not re.search(r"\s", word):
        return word
    return shlex.quote(word) if '"' in word else f'"{word}"'


def run(command, log):
    """Run one command and return its exit code, negative when a signal ended it."""
    start = time.time()
    os.makedirs(os.path.dirname(log) or ".", exist_ok=True)
    with open(log, "w") as stream:
        stream.write(f"# {command}\n# Started at {time.ctime()}\n#\n")
        stream.flush()
        if _stopped:
            return -signal.SIGTERM
        # A session of its own, so that all of it can be ended at once.
        process = subprocess.Popen(
            ["bash", "-c", f"( {command} )"],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        _running[process.pid] = process
        code = process.wait()
        del _running[process.pid]
    seconds = round(time.time() - start)
    how = f"code {code}" if code >= 0 else f"code 0; signal {-code}"
    with open(log, "a") as stream:
        stream.write(f"# Accounting: time={seconds} threads=1\n")
        stream.write(f"# Ended ({how}) at {time.ctime()}, elapsed time {seconds} seconds\n")
    return code


def stop(number, _frame):
    """End all jobs when this program is told to end."""
    global _stopped
    _stopped = True
    for pid in list(_running):
        try:
            os.killpg(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    print(f"run.pl: interrupted by signal {number}; all jobs were ended", file=sys.stderr)
    os._exit(128 + number)


def main(words):
    if words[:1] in (["--help"], ["-h"]):
        print(__doc__.strip())
        return 0
    try:
        name, numbers, limit, log, command = parse(words)
    except Fault as fault:
        return f"run.pl: {fault}"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)

    def numbered(text, number):
        return text if name is None else text.replace(name, str(number))

    logs = [numbered(log, number) for number in numbers]
    commands = [numbered(command, number) for number in numbers]
    try:
        with ThreadPoolExecutor(min(limit, len(logs))) as pool:
            codes = list(pool.map(run, commands, logs))
    except OSError as error:
        return f"run.pl: {error}"
    failed = [one for one, code in zip(logs, codes) if code]  # noqa: B905
    if not failed:
        return 0
    if len(logs) == 1:
        forgotten = " (write JOB=1:N before the log to run several jobs)" if "JOB" in log else ""
        return f"run.pl: job failed, log is in {failed[0]}{forgotten if name is None else ''}"
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    return f"run.pl: {len(failed)} / {len(logs)} failed, read {', '.join(failed[:5])}{more}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
