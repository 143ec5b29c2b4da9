"""Lay any speech out on disk as a published corpus: a miniature to try a recipe with."""

from __future__ import annotations

from typing import Literal

from wesp_lap.cli import run_command
from wesp_lap.corpora.layouts import LayoutOptions, lay_out


def lay_out_corpus(
    layout: str,
    out: str,
    data: str = "",
    test_data: str = "",
    trials: str = "",
    audio: Literal["m4a", "wav"] = "m4a",
    archives: bool = False,
    skip: int = 0,
    speakers: int = 0,
    test_speakers: int = 0,
    utterances: int = 0,
    enroll_utterances: int = 2,
    num_trials: int = 1000,
    seed: int = 7,
) -> None:
    """Write OUT with the names and lists of a corpus, and OUT/layout.tsv.

    Args:
        layout: voxceleb1, voxceleb2, musan, rirs, cnceleb1, cnceleb2, librispeech or vctk.
        out: folder to write; nothing is done when it holds this miniature already.
        data: Kaldi data directory (utt2ses, spk2gender and text are used when there); for musan
            and rirs a folder laid out so, or nothing to have noises made up.
        test_data: data directory of the test speakers; by default some of --data are.
        trials: voxceleb1: trial list on the source; by default pairs are drawn.
        audio: voxceleb2: m4a as published, which needs ffmpeg, or wav.
        archives: voxceleb1, voxceleb2: zip archives and their parts instead of files.
        skip: speakers of --data to leave out first.
        speakers: at most so many speakers of --data; 0 for all.
        test_speakers: how many speakers are for testing; 0 for a quarter, or all of --test_data.
        utterances: at most so many per speaker, or noises of a kind; 0 for all.
        enroll_utterances: cnceleb1: utterances of an enrolment model.
        num_trials: voxceleb1: trials per list that are drawn.
        seed: of what is drawn.
    """
    options = LayoutOptions(
        data,
        test_data,
        trials,
        audio,
        archives,
        skip,
        speakers,
        test_speakers,
        utterances,
        enroll_utterances,
        num_trials,
        seed,
    )
    lay_out(layout, out, options)
    print(out)


if __name__ == "__main__":
    run_command(lay_out_corpus)
