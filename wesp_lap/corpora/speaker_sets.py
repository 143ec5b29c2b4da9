"""The sets of a corpus that one trains on, validates with and tests with, as they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from wesp_lap.corpora.published_trials import read_published
from wesp_lap.corpora.scan import write_data_dir
from wesp_lap.files import PathLike
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.tables import write_table
from wesp_lap.kaldi.trials import Trials, write_trials


def get_trials(
    utt2spk: Mapping[str, Mapping[str, str]],
    published: Mapping[str, PathLike | None],
    draw: Callable[[Mapping[str, str]], Trials],
) -> dict[str, Trials]:
    """Return a list for each set that ``published`` names: the given one, or one that is drawn.

    Args:
        utt2spk: speakers of the utterances, by set.
        published: list by set, see ``read_published``; None where one is to be drawn.
        draw: makes a list of a set's utterances.
    """
    return {
        name: draw(utt2spk[name]) if path is None else read_published(path, utt2spk[name])
        for name, path in published.items()
    }


def write_sets(
    out: PathLike,
    corpus: str,
    wav: Mapping[str, Mapping[str, str]],
    utt2spk: Mapping[str, Mapping[str, str]],
    attributes: Mapping[str, Mapping[str, str]],
    trials: Mapping[str, Trials],
) -> dict[str, DataDir]:
    """Write OUT/SET for every set and OUT/trials/CORPUS_SET.kaldi.

    Args:
        out: folder of the data directories.
        corpus: name of the corpus.
        wav: audio file of every utterance, by set.
        utt2spk: speaker of every utterance, by set.
        attributes: tables of speakers by file name, such as spk2gender.
        trials: lists by set.

    Returns:
        The data directories by set.
    """
    folder, result = Path(out), {}
    for name, files in wav.items():
        result[name] = write_data_dir(folder / name, files, utt2spk[name])
        speakers = set(utt2spk[name].values())
        for table, values in attributes.items():
            write_table(folder / name / table, {one: values[one] for one in speakers})
    for name, pairs in trials.items():
        write_trials(folder / "trials" / f"{corpus}_{name}.kaldi", pairs)
    return result
