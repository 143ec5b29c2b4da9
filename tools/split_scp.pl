#!/usr/bin/env python3
"""Split the lines of a file into consecutive parts of nearly equal size.

Usage: split_scp.pl [--utt2spk=FILE] IN OUT1 OUT2 ...
       split_scp.pl -j N JOB [--one-based] [--utt2spk=FILE] IN [OUT]
  --utt2spk    keep the lines of a speaker together; the first field is the utterance
  --utt2dur    balance the seconds of this file instead of the number of lines
  -j N JOB     write only part JOB of N, numbered from 0, or from 1 with --one-based

"-" is standard input as IN and standard output as OUT.
"""

import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))

from wesp_lap.kaldi.balance import cut  # noqa: E402


class Fault(Exception):
    """What is wrong, as a sentence."""


def parse(words):
    options = {"-j": None, "--one-based": False, "--utt2spk": None, "--utt2dur": None}
    while words and words[0].startswith("-") and words[0] != "-":
        name, equals, value = words.pop(0).partition("=")
        if name == "-j":
            if len(words) < 2 or not all(word.isdigit() for word in words[:2]):
                raise Fault("-j takes two whole numbers: of jobs, and of this job")
            options["-j"] = int(words.pop(0)), int(words.pop(0))
        elif name == "--one-based":
            options[name] = True
        elif name in ("--utt2spk", "--utt2dur") and (equals or words):
            options[name] = value if equals else words.pop(0)
        else:
            raise Fault(f"unknown option {name}; see --help")
    return options, words


def outputs(options, files):
    """Return the file of each part; None for parts that are not wanted."""
    if options["-j"] is None:
        if not files:
            raise Fault("give the files to write: IN OUT1 OUT2 ...")
        return files
    jobs, job = options["-j"]
    job -= options["--one-based"]
    if not 0 <= job < jobs or len(files) > 1:
        raise Fault(f"-j {jobs} {options['-j'][1]} is not a job of {jobs}, or more than one OUT")
    return [(files or ["-"])[0] if index == job else None for index in range(jobs)]


def lines_of(name):
    try:
        with sys.stdin.buffer if name == "-" else open(name, "rb") as stream:
            return stream.readlines()
    except OSError as error:
        raise Fault(f"{name}: {error.strerror}") from error


def table(name):
    rows = {}
    for number, line in enumerate(lines_of(name), 1):
        fields = line.split()
        if len(fields) != 2:
            raise Fault(f"{name}:{number}: expected 2 fields")
        rows[fields[0]] = fields[1]
    return rows


def groups_of(name, lines, options):
    """Return lists of lines that stay together, and the weight of each."""
    speakers = table(options["--utt2spk"]) if options["--utt2spk"] else None
    seconds = table(options["--utt2dur"]) if options["--utt2dur"] else None
    groups, weights = {}, {}
    for number, line in enumerate(lines, 1):
        fields = line.split(None, 1)
        if not fields and (speakers or seconds):
            raise Fault(f"{name}:{number}: a blank line")
        for option in ("--utt2spk", "--utt2dur"):
            rows = speakers if option == "--utt2spk" else seconds
            if rows is not None and fields[0] not in rows:
                raise Fault(f"{name}:{number}: {fields[0].decode()} is not in {options[option]}")
        group = number if speakers is None else speakers[fields[0]]
        groups.setdefault(group, []).append(line)
        weight = 1 if seconds is None else max(1, round(1000 * float(seconds[fields[0]])))
        weights[group] = weights.get(group, 0) + weight
    return list(groups.values()), list(weights.values())


def main(words):
    if words[:1] in (["--help"], ["-h"]):
        print(__doc__.strip())
        return 0
    try:
        options, files = parse(words)
        if not files:
            raise Fault("which file? Usage: split_scp.pl [--utt2spk=FILE] IN OUT1 OUT2 ...")
        names = outputs(options, files[1:])
        groups, weights = groups_of(files[0], lines_of(files[0]), options)
        if len(groups) < len(names):
            what = "speakers" if options["--utt2spk"] else "lines"
            raise Fault(f"{files[0]}: {len(groups)} {what} cannot be split into {len(names)} parts")
        for name, part in zip(names, cut(weights, len(names))):  # noqa: B905
            if name is not None:
                with sys.stdout.buffer if name == "-" else open(name, "wb") as stream:
                    stream.writelines(line for index in part for line in groups[index])
    except (Fault, OSError) as fault:
        return f"{sys.argv[0]}: {fault}"
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly in "... | head"
    sys.exit(main(sys.argv[1:]))
