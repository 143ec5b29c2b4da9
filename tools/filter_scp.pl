#!/usr/bin/env python3
"""Print the lines whose first field is in a list.

Usage: filter_scp.pl [--exclude] [-f FIELD] LIST [FILE ...] > out.scp
  LIST       the first field of each of its lines counts
  FILE       what to filter; standard input if there is none
  -f FIELD   number of the field to look up, from 1
  --exclude  print the lines that are not in the list

"-" stands for standard input in both places, but only in one at a time.
"""

import signal
import sys


class Fault(Exception):
    """What is wrong, as a sentence."""


def parse(words):
    exclude, field = False, 1
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--exclude":
            exclude = True
        elif word == "-f":
            number = words.pop(0) if words else ""
            if not number.isdigit() or int(number) < 1:
                raise Fault(f"-f takes the number of a field, from 1, not {number!r}")
            field = int(number)
        else:
            raise Fault(f"unknown option {word}; known are --exclude, -f FIELD and --help")
    if not words:
        raise Fault("which list? Usage: filter_scp.pl [--exclude] [-f FIELD] LIST [FILE ...]")
    files = words[1:] or ["-"]
    if [words[0], *files].count("-") > 1:
        raise Fault("standard input cannot be the list and the file, too")
    return exclude, field, words[0], files


def rows(name, fields):
    """Yield the lines of a file with their fields; each has at least ``fields`` of them."""
    try:
        with sys.stdin.buffer if name == "-" else open(name, "rb") as stream:
            for number, line in enumerate(stream, 1):
                words = line.split(None, fields)
                if len(words) < fields:
                    raise Fault(f"{name}:{number}: a line with less than {fields} fields")
                yield line, words
    except OSError as error:
        raise Fault(f"{name}: {error.strerror}") from error


def main(words):
    if words[:1] in (["--help"], ["-h"]):
        print(__doc__.strip())
        return 0
    try:
        exclude, field, list_name, files = parse(words)
        wanted = {words[0] for _, words in rows(list_name, 1)}
        for name in files:
            sys.stdout.buffer.writelines(
                line
                for line, words in rows(name, field)
                if (words[field - 1] in wanted) != exclude
            )
    except Fault as fault:
        return f"{sys.argv[0]}: {fault}"
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly in "... | head"
    sys.exit(main(sys.argv[1:]))
