#!/usr/bin/env python3
"""Turn "speaker utterance utterance ..." lines into "utterance speaker" lines.

Usage: spk2utt_to_utt2spk.pl [spk2utt ...] > utt2spk; without a file, or for "-", standard input.
Lines come in the order of the input.
"""

import signal
import sys


def convert(name):
    """Print the lines of one file; return what is wrong, or None."""
    try:
        with sys.stdin.buffer if name == "-" else open(name, "rb") as stream:
            for number, line in enumerate(stream, 1):
                fields = line.split()
                if len(fields) < 2:
                    shown = line.decode(errors="replace").rstrip("\n")
                    return f"{name}:{number}: expected a speaker and utterances, found {shown!r}"
                rows = (b"%s %s\n" % (utterance, fields[0]) for utterance in fields[1:])
                sys.stdout.buffer.writelines(rows)
    except OSError as error:
        return f"{name}: {error.strerror}"
    return None


def main(words):
    if words[:1] in (["--help"], ["-h"]):
        print(__doc__.strip())
        return 0
    for name in words or ["-"]:
        fault = convert(name)
        if fault:
            return f"{sys.argv[0]}: {fault}"
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly in "... | head"
    sys.exit(main(sys.argv[1:]))
