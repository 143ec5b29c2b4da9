"""Write the data directories and trial lists of LibriSpeech."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.corpora.librispeech import SUBSETS, prepare_librispeech


def prepare_data(
    out: str,
    librispeech: str,
    subsets: list[str] | None = None,
    per_label: int = 16000,
    seed: int = 42,
    allow_missing: bool = False,
    val_trials: str | None = None,
    test_trials: str | None = None,
) -> None:
    """Write OUT/train, OUT/val, OUT/test and OUT/trials/librispeech_{val,test}.kaldi.

    Args:
        out: Folder of the data directories.
        librispeech: LibriSpeech, with SPEAKERS.TXT.
        subsets: Subsets to take, NAME[,NAME...]; by default all seven.
        per_label: Non-target trials per list, before they are rounded up; about as many targets.
        seed: Seed of the trials.
        allow_missing: Go on when speakers have no files.
        val_trials: Published list (trials-dev.csv) to take instead of drawing one.
        test_trials: Published list (trials-test.csv) to take instead of drawing one.
    """
    made = prepare_librispeech(
        out,
        librispeech,
        tuple(subsets or SUBSETS),
        per_label,
        seed,
        allow_missing,
        val_trials,
        test_trials,
    )
    for data in made.values():
        print(f"{data.path}: {len(data.utt2spk):,} utterances, {len(data.spk2utt):,} speakers")


if __name__ == "__main__":
    run_command(prepare_data)
