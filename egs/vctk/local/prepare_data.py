"""Write the data directories and trial lists of VCTK, with its audio at 16 kHz."""

from __future__ import annotations

from typing import Literal

from wesp_lap.cli import run_command
from wesp_lap.corpora.vctk import DROPPED_SPEAKERS, prepare_vctk


def prepare_data(
    out: str,
    vctk: str,
    split: Literal["published", "drawn"] = "published",
    held_out: int = 18,
    microphone: Literal["mic1", "mic2"] = "mic1",
    first_prompt: int = 25,
    drop: list[str] | None = None,
    per_label: int = 8000,
    seed: int = 42,
    nj: int = 0,
    val_trials: str | None = None,
    test_trials: str | None = None,
) -> None:
    """Write OUT/train, OUT/val, OUT/test, OUT/flac16k and OUT/trials/vctk_{val,test}.kaldi.

    Args:
        out: Folder of the data directories.
        vctk: VCTK, release 0.92 or 0.80, with speaker-info.txt.
        split: Hold out the speakers of the published code, or draw others.
        held_out: Speakers in each of val and test when they are drawn.
        microphone: Which of the two microphones of release 0.92.
        first_prompt: Prompts with a smaller number are left out.
        drop: Speakers to leave out, NAME[,NAME...]; by default p280 and p315.
        per_label: Target trials per list, and non-target trials, before they are rounded up.
        seed: Seed of the trials, and of speakers that are drawn.
        nj: Processes that convert audio; 0 for one per core.
        val_trials: Published list (trials-valid.csv) to take instead of drawing one.
        test_trials: Published list (trials-test.csv) to take instead of drawing one.
    """
    made = prepare_vctk(
        out,
        vctk,
        split,
        held_out,
        microphone,
        first_prompt,
        tuple(drop or DROPPED_SPEAKERS),
        per_label,
        seed,
        nj,
        val_trials,
        test_trials,
    )
    for data in made.values():
        print(f"{data.path}: {len(data.utt2spk):,} utterances, {len(data.spk2utt):,} speakers")


if __name__ == "__main__":
    run_command(prepare_data)
