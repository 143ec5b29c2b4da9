"""Draw a trial list among the utterances of a data directory."""

from __future__ import annotations

from pathlib import Path

from wesp_lap.cli import run_command
from wesp_lap.corpora.trial_sampling import sample_trials
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.lint import describe
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import write_trials


def make_trials(
    data: str,
    out: str,
    targets: int,
    nontargets: int,
    match: list[str] | None = None,
    same_session_share: float | None = None,
    utt2session: str | None = None,
    seed: int = 42,
    whole_rounds: bool = False,
) -> None:
    """Write a trial list: targets even over speakers, non-targets even over pairs of speakers.

    The same data, numbers and seed give the same list.

    Args:
        data: Kaldi data directory.
        out: trial list to write.
        targets: number of target trials.
        nontargets: number of non-target trials.
        match: tables of DATA, or files, with an attribute of every speaker: NAME[,NAME...], such
            as spk2gender. Each halves the non-target trials into pairs of speakers that share the
            attribute and pairs that do not.
        same_session_share: share of the target trials that are of one session, 0 to 1.
        utt2session: session of every utterance; DATA/utt2session by default.
        seed: seed of the draw.
        whole_rounds: raise the numbers until all speakers, and all pairs of speakers of a kind,
            have as many trials as each other.
    """
    folder = Path(data)
    tables = {}
    for name in match or []:
        path = folder / name if (folder / name).exists() else Path(name)
        tables[path.name.removeprefix("spk2")] = read_table(path)
    sessions = None
    if same_session_share is not None or utt2session is not None:
        sessions = read_table(utt2session or folder / "utt2session")
    trials = sample_trials(
        DataDir.load(folder).utt2spk,
        targets,
        nontargets,
        tables,
        sessions,
        same_session_share,
        seed,
        whole_rounds,
    )
    write_trials(out, trials)
    print(f"{out}: {describe(trials)}")


if __name__ == "__main__":
    run_command(make_trials)
