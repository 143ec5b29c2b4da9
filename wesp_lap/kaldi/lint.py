"""Checks of trial lists, before anything is scored with them."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping

from wesp_lap.errors import DataError
from wesp_lap.files import PathLike
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.problems import Problem, some
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import Trials, read_trials


def lint_trials(
    path: PathLike,
    data: PathLike | None = None,
    train: PathLike | None = None,
    enroll_map: PathLike | None = None,
) -> list[Problem]:
    """Find everything that is wrong with a trial list.

    Args:
        path: trial list.
        data: data directory that should hold the ids.
        train: training data directory that should share no speaker with the trials.
        enroll_map: lines ``model utterance utterance ...`` when the first column names models; by
            default ``enroll.map`` of ``data``, when it has one.
    """
    return lint(
        path,
        None if data is None else DataDir.load(data),
        None if train is None else DataDir.load(train),
        enroll_map,
    )[1]


def lint(
    path: PathLike,
    data: DataDir | None,
    train: DataDir | None,
    enroll_map: PathLike | None = None,
) -> tuple[Trials | None, list[Problem]]:
    """Do the work of ``lint_trials`` for loaded directories; return the trials as well."""
    try:
        trials = read_trials(path)
    except DataError as error:
        mend = f"name a list with lines such as 'enroll test target'; {path} has none or others"
        return None, [Problem("error", str(error), mend)]
    if enroll_map is None and data is not None and (data.path / "enroll.map").exists():
        enroll_map = data.path / "enroll.map"
    try:
        models = {} if enroll_map is None else _models(read_table(enroll_map), trials)
    except DataError as error:
        mend = "write one line 'model utterance utterance ...' per model"
        return trials, [Problem("error", str(error), mend)]
    problems = _labels(path, trials) + _repeated(path, trials)
    problems += _with_themselves(path, trials, models)
    if data is not None:
        speakers = _speakers(data, models)
        problems += _bad_models(str(enroll_map), models, data)
        problems += _missing(path, trials, data, models)
        problems += _contradictions(path, trials, data, speakers)
    if train is not None:
        speakers = {} if data is None else _speakers(data, models)
        problems += _overlap(path, trials, models, speakers, train)
    return trials, problems


def describe(trials: Trials) -> str:
    """Return the size of a list in words."""
    if trials.labels is None:
        return f"{len(trials)} trials without labels"
    targets = int(trials.labels.sum())
    return f"{len(trials)} trials, {targets} target, {len(trials) - targets} nontarget"


def _labels(path: PathLike, trials: Trials) -> list[Problem]:
    if trials.labels is None or 0 < trials.labels.sum() < len(trials):
        return []
    kind = "target" if trials.labels[0] else "nontarget"
    text = f"{path}: all {len(trials)} trials are {kind}, so no error rate is defined"
    mend = "use a list with both kinds; for a blind list write two columns: awk '{print $1, $2}'"
    return [Problem("error", text, mend)]


def _repeated(path: PathLike, trials: Trials) -> list[Problem]:
    pairs = list(zip(trials.enroll, trials.test, strict=True))
    if len(set(pairs)) == len(pairs):
        return []
    labels = [0] * len(pairs) if trials.labels is None else trials.labels.tolist()
    first: dict[tuple[str, str], int] = {}
    same: list[str] = []
    other: list[str] = []
    for number, (pair, label) in enumerate(zip(pairs, labels, strict=True), 1):
        if pair not in first:
            first[pair] = label
            continue
        group = same if first[pair] == label else other
        group.append(f"{path}:{number}: {pair[0]} {pair[1]}")
    problems = []
    if other:
        text = f"{path}: {len(other)} trials stand there again with the other label: {some(other)}"
        problems.append(Problem("error", text, "find out which label is right, remove the other"))
    if same:
        text = f"{path}: {len(same)} trials are repeated and count twice: {some(same)}"
        mend = f"keep the first of each: awk '!seen[$0]++' {shlex.quote(str(path))}"
        problems.append(Problem("warning", text, mend))
    return problems


def _with_themselves(
    path: PathLike, trials: Trials, models: Mapping[str, list[str]]
) -> list[Problem]:
    pairs = enumerate(zip(trials.enroll, trials.test, strict=True), 1)
    selves = [
        f"{path}:{number}: {one} {other}" if one != other else f"{path}:{number}: {one}"
        for number, (one, other) in pairs
        if one == other or (one in models and other in models[one])
    ]
    if not selves:
        return []
    text = f"{path}: {len(selves)} trials compare an utterance with itself: {some(selves)}"
    mend = "remove these lines; such a trial is a target whatever the system does"
    return [Problem("error", text, mend)]


def _models(table: Mapping[str, str], trials: Trials) -> dict[str, list[str]]:
    """Return the utterances of the models that the list has."""
    used = set(trials.enroll)
    return {model: line.split() for model, line in table.items() if model in used}


def _speakers(data: DataDir, models: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the speaker of every utterance, and of every model whose utterances agree on one."""
    speakers = dict(data.utt2spk)
    for model, utterances in models.items():
        names = {data.utt2spk.get(utterance) for utterance in utterances}
        name = names.pop()
        if not names and name is not None and model not in speakers:
            speakers[model] = name
    return speakers


def _bad_models(source: str, models: Mapping[str, list[str]], data: DataDir) -> list[Problem]:
    """Compare the models of the list with the directory that should hold their utterances."""
    problems = []
    utterances = {utterance for line in models.values() for utterance in line}
    lost = sorted(utterances - data.utt2spk.keys())
    if lost:
        text = f"{source}: {len(lost)} utterances of models are not in {data.path}: {some(lost)}"
        problems.append(Problem("error", text, f"add them to {data.path} or correct the map"))
    mixed = sorted(
        model
        for model, line in models.items()
        if len({data.utt2spk[one] for one in line if one in data.utt2spk}) > 1
    )
    if mixed and not _is_placeholder(data):
        text = f"{source}: {len(mixed)} models have utterances of several speakers: {some(mixed)}"
        problems.append(Problem("error", text, "give every model the utterances of one speaker"))
    return problems


def _missing(
    path: PathLike, trials: Trials, data: DataDir, models: Mapping[str, list[str]]
) -> list[Problem]:
    utterances = data.utt2spk.keys()
    # An enrolment may be a model of several utterances: a speaker, or a row of enroll.map.
    known_models = set(data.utt2spk.values()) | models.keys()
    problems = []
    sides: tuple[tuple[str, list[str], Collection[str]], ...] = (
        ("enrolment", trials.enroll, utterances | known_models),
        ("test", trials.test, utterances),
    )
    for side, ids, known in sides:
        lost = sorted(set(ids) - set(known))
        if lost:
            text = f"{path}: {len(lost)} {side} ids are not in {data.path}: {some(lost)}"
            mend = f"add them to {data.path}, give the directory they belong to, or drop the trials"
            problems.append(Problem("error", text, mend))
    return problems


def _is_placeholder(data: DataDir) -> bool:
    """Return True when every utterance stands for its own speaker: nothing is known of them."""
    return len(set(data.utt2spk.values())) == len(data.utt2spk)


def _contradictions(
    path: PathLike, trials: Trials, data: DataDir, speakers: Mapping[str, str]
) -> list[Problem]:
    """Compare labels with the speakers where those of both sides are known."""
    if trials.labels is None or _is_placeholder(data):
        return []
    names = set(data.utt2spk.values())
    wrong = [
        f"{path}:{number}: {one} {other}"
        for number, (one, other, label) in enumerate(
            zip(trials.enroll, trials.test, trials.labels.tolist(), strict=True), 1
        )
        if other in speakers
        and (one in speakers or one in names)
        and (speakers.get(one, one) == speakers[other]) != label
    ]
    if not wrong:
        return []
    text = f"{path}: {len(wrong)} labels contradict {data.path / 'utt2spk'}: {some(wrong)}"
    mend = "correct the labels (target means the same speaker) or the speakers"
    return [Problem("error", text, mend)]


def _overlap(
    path: PathLike,
    trials: Trials,
    models: Mapping[str, list[str]],
    speakers: Mapping[str, str],
    train: DataDir,
) -> list[Problem]:
    ids = set(trials.enroll) | set(trials.test)
    ids |= {utterance for line in models.values() for utterance in line}
    shared = sorted(ids & train.utt2spk.keys())
    problems = []
    if shared:
        text = f"{path}: {len(shared)} ids are training utterances of {train.path}: {some(shared)}"
        problems.append(Problem("error", text, "train without them or use other trials"))
    # An id without a known speaker may be a speaker itself.
    named = {speakers.get(one, one) for one in ids}
    common = sorted(named & set(train.utt2spk.values()))
    if common:
        text = f"{path}: {len(common)} speakers of the trials are in {train.path}: {some(common)}"
        problems.append(Problem("error", text, "remove these speakers from the training data"))
    return problems
