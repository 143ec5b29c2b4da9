"""Write a part of a data directory."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.errors import ConfigError
from wesp_lap.kaldi import edit


def subset_data_dir(
    src: str,
    out: str,
    first: int | None = None,
    last: int | None = None,
    random: int | None = None,
    per_speaker: int | None = None,
    speakers: int | None = None,
    shortest: int | None = None,
    spk_list: str | None = None,
    utt_list: str | None = None,
    seed: int = 0,
) -> None:
    """Write some utterances of a data directory, chosen in one of eight ways.

    Args:
        src: Kaldi data directory.
        out: data directory to write.
        first: number of utterances, the first ones in the order of the C locale.
        last: number of utterances, the last ones.
        random: number of utterances, chosen at random.
        per_speaker: number of utterances of each speaker, spread evenly over its list.
        speakers: least number of utterances, all those of speakers chosen at random.
        shortest: number of utterances, the shortest ones.
        spk_list: file whose lines begin with the speakers to keep.
        utt_list: file whose lines begin with the utterances to keep.
        seed: seed of the random choices.
    """
    ways: dict[edit.How, int | str | None] = {
        "first": first,
        "last": last,
        "random": random,
        "per_speaker": per_speaker,
        "speakers": speakers,
        "shortest": shortest,
        "spk_list": spk_list,
        "utt_list": utt_list,
    }
    given = [(how, what) for how, what in ways.items() if what is not None]
    if len(given) != 1:
        raise ConfigError(f"give exactly one of {', '.join(f'--{how}' for how in ways)}")
    ((how, what),) = given
    kept, before = edit.subset_data_dir(src, out, how, what, seed)
    print(f"{out}: {kept} of {before} utterances")


if __name__ == "__main__":
    run_command(subset_data_dir)
