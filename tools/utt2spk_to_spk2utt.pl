#!/usr/bin/env python3
"""Turn "utterance speaker" lines into "speaker utterance utterance ..." lines.

Usage: utt2spk_to_spk2utt.pl [utt2spk] > spk2utt; without a file, or for "-", standard input.
Speakers come in the order in which they appear first.
"""

import signal
import sys


def main(words):
    if words[:1] in (["--help"], ["-h"]):
        print(__doc__.strip())
        return 0
    if len(words) > 1 or (words and words[0].startswith("-") and words[0] != "-"):
        return f"{sys.argv[0]}: one utt2spk file or none, found: {' '.join(words)}"
    name = words[0] if words else "-"
    speakers = {}
    try:
        with sys.stdin.buffer if name == "-" else open(name, "rb") as stream:
            for number, line in enumerate(stream, 1):
                fields = line.split()
                if len(fields) != 2:
                    shown = line.decode(errors="replace").rstrip("\n")
                    return f"{sys.argv[0]}: {name}:{number}: expected 2 fields, found {shown!r}"
                speakers.setdefault(fields[1], []).append(fields[0])
    except OSError as error:
        return f"{sys.argv[0]}: {name}: {error.strerror}"
    rows = (b"%s %s\n" % (one, b" ".join(keys)) for one, keys in speakers.items())
    sys.stdout.buffer.writelines(rows)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly in "... | head"
    sys.exit(main(sys.argv[1:]))
