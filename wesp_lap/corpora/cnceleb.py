"""CN-Celeb1 and CN-Celeb2 as they are published to data directories and trial lists."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wesp_lap.audio.io import AudioInfo
from wesp_lap.corpora.cnceleb_lists import (
    CNCELEB1,
    CNCELEB2,
    Corpus,
    EvalLists,
    file_name,
    genre_of,
    read_corpus,
    read_lists,
    speaker_of,
)
from wesp_lap.corpora.combine import Joint, choose_joints, joint_name, write_joints
from wesp_lap.corpora.scan import audio_files, write_data_dir
from wesp_lap.errors import ConfigError, DataError, problem_list, raise_problems
from wesp_lap.files import PathLike, Stamp
from wesp_lap.kaldi.headers import read_headers
from wesp_lap.kaldi.problems import some
from wesp_lap.kaldi.tables import read_table, write_table
from wesp_lap.kaldi.trials import Trials, write_trials
from wesp_lap.log import get_logger

_TABLES = ("wav.scp", "utt2spk", "spk2utt", "utt2dur")
_BAD_FILES = "bad_files"
_AVERAGE = "CNC-Eval-Avg.lst"
_CONCATENATED = "CNC-Eval-Concat.lst"


def prepare_cnceleb(
    out: PathLike,
    cnceleb1: PathLike,
    cnceleb2: PathLike | None = None,
    combine_seconds: float = 5.0,
    nj: int = 0,
    exclude: PathLike | None = None,
) -> None:
    """Write OUT/train and OUT/eval, the enrolment map, both trial lists and maps of genres.

    Training speakers are those of dev/dev.lst of CN-Celeb1 (of data/ without it, less those of the
    evaluation) and all of CN-Celeb2. Their short utterances are joined by speaker and genre, see
    ``combine.choose_joints``, to FLAC files below OUT/train/combined; longer ones keep their file.
    OUT/train/utt2parts says which published utterances every training utterance holds.

    The evaluation has the keys of the published lists, whatever the suffix of the files:
    enroll/FILE.wav, test/FILE.wav, and SPEAKER/FILE.wav for the single enrolment utterances.
    trials/CNC-Eval-Avg.lst names models, whose embedding is the mean over the utterances of
    enroll.map; trials/CNC-Eval-Concat.lst names the concatenated recordings. enroll.map serves
    both: in it, a recording is a model of one utterance. by/genre gives the genre of both sides of
    the trials; by/test_genre that of the test side, and ``*`` for every enrolment; by/speaker the
    speaker.

    A finished run is known by its stamp; an unfinished one goes on where it stopped.

    Args:
        out: folder of the data directories.
        cnceleb1: CN-Celeb1 with data/ and eval/{enroll,test,lists}, or the folder it lies in.
        cnceleb2: CN-Celeb2 with data/; its speakers join the training set.
        combine_seconds: utterances shorter than this are joined; 0 joins none.
        nj: processes that join; 0 for one per core.
        exclude: table whose first column names training utterances to leave out, SPEAKER/FILE.wav.

    Raises:
        DataError: everything that is wrong with folders, lists and files together; then every
            file that cannot be read, which OUT/train/bad_files lists too.
    """
    if combine_seconds < 0:
        raise ConfigError(f"combine_seconds must not be negative, got {combine_seconds}")
    target = Path(out)
    first = read_corpus(Path(cnceleb1), CNCELEB1)
    corpora = [first]
    if cnceleb2 is not None:
        corpora.append(read_corpus(Path(cnceleb2), CNCELEB2))
    lists = read_lists(first)
    faults = [fault for corpus in corpora for fault in corpus.faults] + lists.faults
    raise_problems("CN-Celeb is not as it was published", faults)
    left_out = {} if exclude is None else read_table(exclude)
    wav = _training_files(corpora, lists, left_out, exclude)
    stamp = _stamp(target, corpora, wav, combine_seconds)
    if stamp.is_fresh():
        get_logger().info("%s: up to date", target)
        return
    tables = [*_write_train(target / "train", wav, combine_seconds, nj, left_out)]
    tables += _write_eval(target / "eval", first, lists)
    stamp.write(tables)


def _training_files(
    corpora: Sequence[Corpus],
    lists: EvalLists,
    left_out: Mapping[str, str],
    exclude: PathLike | None,
) -> dict[str, str]:
    """Return the files of the training speakers by key, without those that ``exclude`` names.

    Raises:
        DataError: speakers that are in the evaluation or in both corpora, or nothing excluded.
    """
    held_out = {speaker_of(key) for key in lists.keys}
    first = corpora[0]
    if not (first.root / "dev" / "dev.lst").is_file():
        first.speakers = [name for name in first.speakers if name not in held_out]
    faults = [
        f"{corpus.root}: {len(shared)} training speakers are in the evaluation too: {some(shared)}"
        for corpus in corpora
        if (shared := sorted(held_out.intersection(corpus.speakers)))
    ]
    shared = sorted(set.intersection(*(set(corpus.speakers) for corpus in corpora)))
    if len(corpora) > 1 and shared:
        faults.append(f"{len(shared)} speakers are in both corpora: {some(shared)}")
    wav = {}
    for corpus in corpora:
        wanted = set(corpus.speakers)
        for name, (path, _) in corpus.files.items():
            if name.split("/")[0] in wanted:
                wav[f"{name}.wav"] = path
    unknown = sorted(left_out.keys() - wav.keys())
    if unknown:
        faults.append(f"{exclude}: {len(unknown)} are no training utterances: {some(unknown)}")
    wav = {key: wav[key] for key in sorted(wav) if key not in left_out}
    if not wav:
        faults.append(f"{first.root}: no training utterances")
    raise_problems("CN-Celeb cannot be divided into training and evaluation", faults)
    return wav


def _stamp(
    target: Path, corpora: Sequence[Corpus], wav: Mapping[str, str], combine_seconds: float
) -> Stamp:
    """Return the stamp of a whole run: names and sizes of all audio files, and the lists."""
    digest = hashlib.sha256()
    for corpus in corpora:
        for path, size in corpus.files.values():
            digest.update(f"{path}\0{size}\n".encode())
    digest.update("\n".join(wav).encode())
    settings = {"combine_seconds": combine_seconds, "audio": digest.hexdigest()}
    lists = sorted((corpora[0].root / "eval" / "lists").glob("*"))
    return Stamp(target / ".prepared.json", settings, lists)


def _write_train(
    folder: Path,
    wav: Mapping[str, str],
    combine_seconds: float,
    nj: int,
    left_out: Mapping[str, str],
) -> list[Path]:
    """Join what is short, write the tables, and return what must be there."""
    folder.mkdir(parents=True, exist_ok=True)
    infos, faults = _headers(wav)
    _report(folder, faults, left_out)
    parts = _group(wav, infos, combine_seconds)
    joined = folder.absolute() / "combined"
    target = {name: str(joined / f"{file_name(name)}.flac") for name in parts}
    joints = [
        Joint(target[name], tuple(wav[k] for k in keys), sum(infos[k].samples for k in keys))
        for name, keys in parts.items()
        if len(keys) > 1
    ]
    keys_of = {path: key for key, path in wav.items()}
    by_path = {wav[key]: info for key, info in infos.items()}
    _remove_others(joined, {joint.target for joint in joints})
    faults = write_joints(joints, by_path, folder, nj)
    _report(folder, {keys_of[path]: text for path, text in faults.items()}, left_out)
    scp = {name: target[name] if len(keys) > 1 else wav[name] for name, keys in parts.items()}
    seconds = {name: sum(infos[key].seconds for key in keys) for name, keys in parts.items()}
    write_data_dir(folder, scp, {name: speaker_of(name) for name in scp}, seconds)
    write_table(folder / "utt2parts", {name: " ".join(keys) for name, keys in parts.items()})
    write_table(folder / "utt2genre", {name: genre_of(name) for name in parts})
    _say(folder, scp, seconds, f"{len(wav)} published ones, {len(joints)} joined")
    tables = [folder / name for name in (*_TABLES, "utt2parts", "utt2genre")]
    return tables + [Path(joint.target) for joint in joints]


def _remove_others(folder: Path, wanted: set[str]) -> None:
    """Remove what runs with other settings have joined."""
    for path in audio_files(folder) if folder.is_dir() else ():
        if str(path) not in wanted:
            path.unlink()


def _group(
    wav: Mapping[str, str], infos: Mapping[str, AudioInfo], at_least: float
) -> dict[str, list[str]]:
    """Return the published utterances of every training utterance."""
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for key in wav:
        group = groups.setdefault((speaker_of(key), genre_of(key)), {})
        group[key] = infos[key].seconds
    parts = (keys for group in groups.values() for keys in choose_joints(group, at_least))
    return {joint_name(keys): keys for keys in parts}


def _headers(files: Mapping[str, str]) -> tuple[dict[str, AudioInfo], dict[str, str]]:
    infos, faults = read_headers({key: Path(path) for key, path in files.items()})
    for key, info in infos.items():
        if info.channels != 1 or not info.samples:
            faults[key] = f"{files[key]}: {info.channels} channels, {info.samples} samples"
    return infos, faults


def _report(folder: Path, faults: Mapping[str, str], left_out: Mapping[str, str]) -> None:
    """Raise all faults of training files, and list them in a file that --exclude takes.

    What is left out already stays in the list: it may be the very file that was given.
    """
    table = folder / _BAD_FILES
    if faults or left_out:
        write_table(table, {**left_out, **faults})
    else:
        table.unlink(missing_ok=True)
    if faults:
        mend = (
            f"Fetch them again, or leave them out: --exclude {table}, for which run.sh has "
            "--data_options"
        )
        title = f"{folder}: training files that cannot be used, all listed in {table}"
        raise DataError(problem_list(title, list(faults.values()), mend))


def _write_eval(folder: Path, corpus: Corpus, lists: EvalLists) -> list[Path]:
    """Write the evaluation set and what belongs to it; return the files."""
    wav = {key: corpus.files[file_name(key)][0] for key in lists.keys}
    infos, faults = _headers(wav)
    raise_problems(f"{folder}: evaluation files that cannot be used", list(faults.values()))
    seconds = {key: infos[key].seconds for key in wav}
    write_data_dir(folder, wav, {key: speaker_of(key) for key in wav}, seconds)
    models = {model: " ".join(keys) for model, keys in lists.utterances.items()}
    alone = {recording: recording for recording in lists.recordings.values()}
    write_table(folder / "enroll.map", {**models, **alone})
    _write_trials(folder / "trials", lists)
    _write_genres(folder / "by", lists)
    speakers = {key: speaker_of(key) for key in (*alone, *(test for _, test, _ in lists.trials))}
    speakers |= {model: model.split("-", 1)[0] for model in models}
    write_table(folder / "by" / "speaker", speakers)
    _say(folder, wav, seconds, f"{len(models)} models, {len(lists.trials)} trials in each list")
    names = [*_TABLES, "enroll.map", "by/genre", "by/test_genre", "by/speaker"]
    return [folder / name for name in (*names, f"trials/{_AVERAGE}", f"trials/{_CONCATENATED}")]


def _write_trials(folder: Path, lists: EvalLists) -> None:
    tests = [test for _, test, _ in lists.trials]
    labels = np.array([label for _, _, label in lists.trials], np.int8)
    models = [model for model, _, _ in lists.trials]
    recordings = [lists.recordings[model] for model in models]
    write_trials(folder / _AVERAGE, Trials(models, tests, labels))
    write_trials(folder / _CONCATENATED, Trials(recordings, tests, labels))


def _write_genres(folder: Path, lists: EvalLists) -> None:
    """Write the genre of every id of the trials; that of a model of several genres is "mixed"."""
    tests = {test: genre_of(test) for _, test, _ in lists.trials}
    genres = dict(tests)
    for model, keys in lists.utterances.items():
        found = {genre_of(key) for key in keys}
        genre = found.pop() if len(found) == 1 else "mixed"
        genres |= {model: genre, lists.recordings.get(model, model): genre}
    write_table(folder / "genre", genres)
    write_table(folder / "test_genre", {key: tests.get(key, "*") for key in genres})


def _say(folder: Path, wav: Mapping[str, str], seconds: Mapping[str, float], more: str) -> None:
    speakers = len({speaker_of(key) for key in wav})
    hours = sum(seconds.values()) / 3600
    text = "%s: %d utterances of %d speakers, %.2f h; %s"
    get_logger().info(text, folder, len(wav), speakers, hours, more)
