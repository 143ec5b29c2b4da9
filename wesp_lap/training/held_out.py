"""What validation measures on: speakers kept out of training, or a set of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wesp_lap.data.access import AccessSettings
from wesp_lap.data.crops import check_rate
from wesp_lap.data.index import Utterances, load_utterances
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import read_json
from wesp_lap.kaldi.trials import Trials, read_trials
from wesp_lap.log import get_logger
from wesp_lap.scoring.pairs import make_pairs
from wesp_lap.seeding import generator

VALIDATION_FILE = "validation.json"
# The settings that speakers and trials are drawn with.
_DRAWN_WITH = ("speakers", "utterances", "trials", "seed")


@dataclass(frozen=True)
class ValidationSettings:
    """What is measured while a phase is trained, on speakers that it never trains on.

    Args:
        speakers: Training speakers that are held out; 0 for none. A phase that starts from another
            one keeps the speakers that were held out there.
        utterances: How many of each held-out speaker are used; speakers with fewer are not drawn.
        trials: Pairs of them, half of them targets; fewer where there are not so many.
        seed: Seed of speakers, utterances and trials, apart from that of training.
        shards: List of shards, or raw list, of other speakers, instead of held-out ones.
        trials_list: Trial list of ``shards``.
        seconds: Length of the crops from the middle of each utterance; 0 for whole utterances.
        every: Epochs from one validation to the next. The last epoch always has one.
        at_start: Validate before the first step, too.
        mean: Subtract the mean of the validation embeddings before they are compared.
    """

    speakers: int = 0
    utterances: int = 10
    trials: int = 5000
    seed: int = 0
    shards: str | None = None
    trials_list: str | None = None
    seconds: float = 4.0
    every: int = 1
    at_start: bool = True
    mean: bool = True

    def __post_init__(self) -> None:
        if self.speakers < 0 or self.speakers == 1:
            raise ValueError(f"speakers must be 0 or at least 2, got {self.speakers}")
        if self.utterances < 2 or self.trials < 2 or self.every < 1 or self.seconds < 0:
            raise ValueError("utterances, trials >= 2, every >= 1 and seconds >= 0 are needed")
        if (self.shards is None) != (self.trials_list is None):
            raise ValueError("shards and trials_list go together")
        if self.shards is not None and self.speakers:
            raise ValueError("give speakers to hold out, or shards and trials_list, not both")


@dataclass(frozen=True)
class ValidationSet:
    """Utterances that are embedded, and the trials among them.

    Attributes:
        corpus: Where the utterances are.
        rows: Their rows in ``corpus`` (n,), rising.
        trials: Labelled pairs of their keys.
        speakers: Number of their speakers.
    """

    corpus: Utterances
    rows: np.ndarray
    trials: Trials
    speakers: int


@dataclass(frozen=True)
class Split:
    """The utterances of a phase, divided.

    Attributes:
        training: What is trained on.
        validation: What is validated on, if anything.
        record: What ``validation.json`` says: the speakers that no later phase may train on, and
            the digest of the trials. None when there is nothing to say.
    """

    training: Utterances
    validation: ValidationSet | None
    record: dict[str, Any] | None

    def digest(self) -> str | None:
        """Return a digest of the record."""
        if self.record is None:
            return None
        return hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()


def split_utterances(
    settings: ValidationSettings,
    utterances: Utterances,
    access: AccessSettings,
    before: Path | None = None,
) -> Split:
    """Divide the utterances of a phase into those that it trains on and those that it does not.

    Args:
        settings: What to validate on.
        utterances: All utterances of ``data.shards``.
        access: How the shards of a set of its own are read.
        before: Experiment directory of the phase that this one starts from.

    Raises:
        ConfigError: the phase before was trained on the speakers that this one would hold out, or
            held out others.
        DataError: there are not so many speakers or trials.
    """
    speakers = _held_out_before(settings, before)
    if settings.speakers and not speakers:
        speakers = _draw_speakers(settings, utterances)
    training = _without(utterances, speakers)
    validation = None
    if settings.speakers:
        validation = _held_out_set(settings, utterances, speakers)
    elif settings.shards is not None:
        validation = _own_set(settings, access, training)
    if validation is None and not speakers:
        return Split(training, None, None)
    record = {
        "speakers": speakers,
        "drawn_with": {name: getattr(settings, name) for name in _DRAWN_WITH},
        "trials": None if validation is None else len(validation.trials),
        "digest": None if validation is None else _digest(validation),
    }
    if settings.speakers and before is not None:
        _compare_trials(record, before)
    return Split(training, validation, record)


def _without(utterances: Utterances, speakers: Sequence[str]) -> Utterances:
    names = set(speakers)
    held = np.array([name in names for name in utterances.speakers])[utterances.speaker]
    return utterances.take(np.flatnonzero(~held)) if held.any() else utterances


def _held_out_before(settings: ValidationSettings, before: Path | None) -> list[str]:
    """Return the speakers that the phases before have held out."""
    if before is None:
        return []
    path = before / VALIDATION_FILE
    record = read_json(path) if path.is_file() else {"speakers": []}
    speakers = list(record["speakers"])
    if not settings.speakers:
        if speakers:
            get_logger().info("%d speakers stay held out, as in %s", len(speakers), before)
        return speakers
    if not speakers:
        raise ConfigError(
            f"validation.speakers: {before} was trained on all speakers, so none can be held out "
            "now; hold them out from the first phase on, or give validation.shards and "
            "validation.trials_list"
        )
    drawn = record["drawn_with"]
    other = [
        f"{name}: {drawn[name]} there, {getattr(settings, name)} here"
        for name in _DRAWN_WITH
        # A phase that only hands the speakers on has not drawn any.
        if drawn["speakers"] and drawn[name] != getattr(settings, name)
    ]
    if not drawn["speakers"] and settings.speakers != len(speakers):
        other.append(f"speakers: {len(speakers)} there, {settings.speakers} here")
    if other:
        raise ConfigError(
            f"validation differs from that of {before} ({'; '.join(other)}); give the same values "
            "in all phases"
        )
    return speakers


def _compare_trials(record: dict[str, Any], before: Path) -> None:
    digest = read_json(before / VALIDATION_FILE)["digest"]
    if digest is not None and digest != record["digest"]:
        get_logger().warning(
            "the validation trials are not those of %s, since the data differ: error rates of the "
            "two phases cannot be compared",
            before,
        )


def _draw_speakers(settings: ValidationSettings, utterances: Utterances) -> list[str]:
    counts = np.bincount(utterances.speaker, minlength=len(utterances.speakers))
    able = np.flatnonzero(counts >= settings.utterances)
    if len(able) < settings.speakers or len(utterances.speakers) < settings.speakers + 2:
        raise DataError(
            f"validation.speakers ({settings.speakers}) of {len(utterances.speakers)} cannot be "
            f"held out: {len(able)} have {settings.utterances} utterances or more "
            "(validation.utterances), and at least 2 must be left to train on; lower one of them, "
            "or switch validation off with validation.speakers 0"
        )
    chosen = generator(settings.seed).choice(able, settings.speakers, replace=False)
    return [utterances.speakers[number] for number in np.sort(chosen).tolist()]


def _held_out_set(
    settings: ValidationSettings, utterances: Utterances, speakers: Sequence[str]
) -> ValidationSet:
    """Draw utterances and trials of held-out speakers; others of the corpus change neither."""
    random = generator(settings.seed, 1)
    numbers = {name: number for number, name in enumerate(utterances.speakers)}
    chosen: dict[str, str] = {}
    rows: list[int] = []
    counts = np.zeros(len(speakers), np.int64)
    for place, speaker in enumerate(speakers):
        own = np.flatnonzero(utterances.speaker == numbers.get(speaker, -1))
        own = own[np.argsort(utterances.keys[own], kind="stable")]
        counts[place] = min(settings.utterances, len(own))
        taken = random.permutation(own)[: counts[place]].tolist()
        rows += taken
        chosen |= {utterances.key(row): speaker for row in taken}
    targets = int((counts * (counts - 1) // 2).sum())
    pairs = min(targets, len(rows) * (len(rows) - 1) // 2 - targets, settings.trials // 2)
    if pairs < 1:
        raise DataError(
            f"the {len(speakers)} held-out speakers have {len(rows)} utterances in data.shards, "
            "too few for target and non-target trials; give shards that hold them, or set "
            "validation.speakers 0"
        )
    trials = make_pairs(list(chosen), chosen, 2 * pairs, settings.seed)
    return _used(utterances, np.sort(rows), trials)


def _own_set(
    settings: ValidationSettings, access: AccessSettings, training: Utterances
) -> ValidationSet:
    assert settings.shards is not None and settings.trials_list is not None
    corpus, trials = load_utterances(settings.shards, access), read_trials(settings.trials_list)
    if trials.labels is None or len(np.unique(trials.labels)) < 2:
        raise DataError(
            f"{settings.trials_list}: validation needs target and non-target trials, with labels"
        )
    known = set(training.speakers).intersection(corpus.speakers)
    if known:
        get_logger().warning(
            "%d of the %d speakers of validation.shards are trained on (%s, ...): their error "
            "rates are too good",
            len(known),
            len(corpus.speakers),
            min(known),
        )
    return _used(corpus, np.arange(len(corpus)), trials, f"{settings.shards}: ")


def _used(corpus: Utterances, rows: np.ndarray, trials: Trials, source: str = "") -> ValidationSet:
    """Keep the rows that trials name."""
    names = {*trials.enroll, *trials.test}
    kept = np.array([row for row in rows.tolist() if corpus.key(row) in names], np.int64)
    missing = sorted(names - {corpus.key(row) for row in kept.tolist()})
    if missing:
        raise DataError(
            f"{source}no utterance for {len(missing)} of {len(names)} names in the validation "
            f"trials: {', '.join(missing[:5])}"
        )
    check_rate(corpus, kept)
    return ValidationSet(corpus, kept, trials, len(np.unique(corpus.speaker[kept])))


def _digest(validation: ValidationSet) -> str:
    """Return a digest of the trials and of the content of the utterances in them."""
    trials, corpus = validation.trials, validation.corpus
    assert trials.labels is not None
    state = hashlib.sha256()
    for row in zip(trials.enroll, trials.test, trials.labels.tolist(), strict=True):
        state.update(f"{row[0]} {row[1]} {row[2]}\n".encode())
    sums = {corpus.key(row): corpus.crc32.item(row) for row in validation.rows.tolist()}
    state.update(repr(sorted(sums.items())).encode())
    return state.hexdigest()
