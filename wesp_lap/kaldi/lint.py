"""Checks of trial lists, before anything is scored with them."""

from __future__ import annotations

import shlex
from collections.abc import Collection

from wesp_lap.errors import DataError
from wesp_lap.files import PathLike
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.problems import Problem, some
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import Trials, read_trials


def lint_trials(
    path: PathLike, data: PathLike | None = None, train: PathLike | None = None
) -> list[Problem]:
    """Find everything that is wrong with a trial list.

    Args:
        path: trial list.
        data: data directory that should hold the ids.
        train: training data directory that should share no speaker with the trials.
    """
    return lint(
        path,
        None if data is None else DataDir.load(data),
        None if train is None else DataDir.load(train),
    )[1]


def lint(
    path: PathLike, data: DataDir | None, train: DataDir | None
) -> tuple[Trials | None, list[Problem]]:
    """Do the work of ``lint_trials`` for loaded directories; return the trials as well."""
    try:
        trials = read_trials(path)
    except DataError as error:
        mend = f"name a list with lines such as 'enroll test target'; {path} has none or others"
        return None, [Problem("error", str(error), mend)]
    problems = _labels(path, trials) + _repeated(path, trials) + _with_themselves(path, trials)
    if data is not None:
        problems += _missing(path, trials, data) + _contradictions(path, trials, data)
    if train is not None:
        problems += _overlap(path, trials, data, train)
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


def _with_themselves(path: PathLike, trials: Trials) -> list[Problem]:
    pairs = enumerate(zip(trials.enroll, trials.test, strict=True), 1)
    selves = [f"{path}:{number}: {one}" for number, (one, other) in pairs if one == other]
    if not selves:
        return []
    text = f"{path}: {len(selves)} trials compare an utterance with itself: {some(selves)}"
    return [Problem("error", text, "remove these lines; they score 1 whatever the system does")]


def _missing(path: PathLike, trials: Trials, data: DataDir) -> list[Problem]:
    utterances = data.utt2spk.keys()
    # An enrolment may be a model of several utterances: a speaker, or a row of enroll.map.
    models = set(data.utt2spk.values())
    enroll_map = data.path / "enroll.map"
    if enroll_map.exists():
        models |= read_table(enroll_map).keys()
    problems = []
    sides: tuple[tuple[str, list[str], Collection[str]], ...] = (
        ("enrolment", trials.enroll, utterances | models),
        ("test", trials.test, utterances),
    )
    for side, ids, known in sides:
        lost = sorted(set(ids) - set(known))
        if lost:
            text = f"{path}: {len(lost)} {side} ids are not in {data.path}: {some(lost)}"
            mend = f"add them to {data.path}, give the directory they belong to, or drop the trials"
            problems.append(Problem("error", text, mend))
    return problems


def _contradictions(path: PathLike, trials: Trials, data: DataDir) -> list[Problem]:
    """Compare labels with utt2spk where both sides are utterances of the directory."""
    placeholder = len(set(data.utt2spk.values())) == len(data.utt2spk)
    if trials.labels is None or placeholder:
        return []
    speakers = data.utt2spk
    wrong = [
        f"{path}:{number}: {one} {other}"
        for number, (one, other, label) in enumerate(
            zip(trials.enroll, trials.test, trials.labels.tolist(), strict=True), 1
        )
        if one in speakers and other in speakers and (speakers[one] == speakers[other]) != label
    ]
    if not wrong:
        return []
    text = f"{path}: {len(wrong)} labels contradict {data.path / 'utt2spk'}: {some(wrong)}"
    mend = "correct the labels (target means the same speaker) or the speakers"
    return [Problem("error", text, mend)]


def _overlap(path: PathLike, trials: Trials, data: DataDir | None, train: DataDir) -> list[Problem]:
    ids = set(trials.enroll) | set(trials.test)
    shared = sorted(ids & train.utt2spk.keys())
    problems = []
    if shared:
        text = f"{path}: {len(shared)} ids are training utterances of {train.path}: {some(shared)}"
        problems.append(Problem("error", text, "train without them or use other trials"))
    speakers = {data.utt2spk[one] for one in ids & data.utt2spk.keys()} if data else ids
    common = sorted(speakers & set(train.utt2spk.values()))
    if common:
        text = f"{path}: {len(common)} speakers of the trials are in {train.path}: {some(common)}"
        problems.append(Problem("error", text, "remove these speakers from the training data"))
    return problems
