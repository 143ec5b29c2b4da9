"""Trial lists of one's own: drawn evenly from speakers, and from pairs of speakers by attribute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from wesp_lap.corpora.pairing import Partners, People, spread
from wesp_lap.errors import ConfigError, raise_problems
from wesp_lap.kaldi.problems import some
from wesp_lap.kaldi.trials import Trials
from wesp_lap.log import get_logger
from wesp_lap.seeding import generator

_MEND = "Ask for fewer trials, or give more utterances."
_TARGETS, _NONTARGETS = 0, 1  # the second part of a seed


def sample_trials(
    utt2spk: Mapping[str, str],
    targets: int,
    nontargets: int,
    match: Mapping[str, Mapping[str, str]] | None = None,
    utt2session: Mapping[str, str] | None = None,
    same_session_share: float | None = None,
    seed: int = 42,
    whole_rounds: bool = False,
    skip_empty_cells: bool = False,
) -> Trials:
    """Draw a trial list among the utterances of some speakers.

    Target trials are spread over the speakers, and the non-target trials of a cell over its pairs
    of speakers: as long as there are enough utterances, no speaker and no pair has more than one
    trial more than another. No utterance meets itself and no pair comes twice, in either
    direction. The list depends on the seed and on what the tables hold, not on their order.

    Args:
        utt2spk: speaker of every utterance that may be drawn.
        targets: number of target trials.
        nontargets: number of non-target trials.
        match: attributes of speakers by name, such as gender and accent. Each of them halves the
            non-target trials into pairs of speakers that share it and pairs that do not: with two
            there are four cells, of as many trials each.
        utt2session: session or video of every utterance.
        same_session_share: share of the target trials whose utterances are of one session; the
            others are of two. By default sessions play no role.
        seed: seed of the draw.
        whole_rounds: raise the numbers until every speaker, and every pair of a cell, has the same
            number of trials.
        skip_empty_cells: divide the non-target trials over the cells that have pairs of speakers,
            with a warning, where a cell has none; by default that is an error.

    Returns:
        The target trials, then the non-target trials cell by cell.

    Raises:
        DataError: speakers without an attribute, utterances without session, or too few pairs for
            what is asked; every such kind of pair is named with what it has.
    """
    if same_session_share is not None and utt2session is None:
        raise ConfigError("same_session_share needs the session of every utterance (utt2session)")
    people = People(utt2spk, utt2session)
    wanted = _TargetPlan(people, targets, same_session_share, whole_rounds)
    others = _NontargetPlan(people, nontargets, match or {}, whole_rounds, skip_empty_cells)
    raise_problems("the trials cannot be drawn", wanted.problems + others.problems, _MEND)
    positive, negative = wanted.draw(seed), others.draw(seed)
    return people.trials(positive, negative)


class _TargetPlan:
    """How many target trials there will be, and what is in the way."""

    def __init__(
        self, people: People, count: int, same_session_share: float | None, whole_rounds: bool
    ) -> None:
        _check_count("targets", count)
        if same_session_share is not None and not 0 <= same_session_share <= 1:
            raise ConfigError(f"same_session_share must be 0 to 1, got {same_session_share:g}")
        self._people = people
        every = Partners("target trials", people.rows + 1, people.end)
        able = int((every.capacity(people) > 0).sum())
        self.count = _rounded(count, able) if whole_rounds else count
        self._parts = [(every, self.count)]
        if same_session_share is not None:
            same = round(self.count * same_session_share)
            inside = Partners("target trials of one session", people.rows + 1, people.session_end)
            across = Partners("target trials of two sessions", people.session_end, people.end)
            self._parts = [(inside, same), (across, self.count - same)]
        self.problems = [
            f"{kind.name}: {wanted} wanted, but {_speakers_have(people, kind.capacity(people))}"
            for kind, wanted in self._parts
            if kind.capacity(people).sum() < wanted
        ]

    def draw(self, seed: int) -> np.ndarray:
        """Draw the pairs of rows (n, 2)."""
        people, random = self._people, generator(seed, _TARGETS)
        total = np.zeros_like(people.count)
        pairs: list[tuple[int, int]] = []
        for kind, wanted in self._parts:
            shares = spread(wanted, kind.capacity(people), random, total)
            total = total + shares
            for speaker in np.flatnonzero(shares).tolist():
                pairs += kind.draw(people, speaker, int(shares[speaker]), random)
        _say_uneven("target trials", "speakers", total)
        return _turned(pairs, random)


@dataclass(frozen=True)
class _Cell:
    """The pairs of speakers that share some attributes and do not share others."""

    name: str
    one: np.ndarray
    other: np.ndarray
    count: int


class _NontargetPlan:
    """How many non-target trials each cell will have, and what is in the way."""

    def __init__(
        self,
        people: People,
        count: int,
        match: Mapping[str, Mapping[str, str]],
        whole_rounds: bool,
        skip_empty_cells: bool,
    ) -> None:
        _check_count("nontargets", count)
        self._people = people
        _check_attributes(people, match)
        cells = _cells(people, match)
        empty = [name for name, one, _ in cells if not len(one)]
        if skip_empty_cells and len(empty) < len(cells):
            cells = [cell for cell in cells if cell[0] not in empty]
            for name in empty:
                get_logger().warning("%s: there are none, as no pair of speakers is such", name)
        self._cells = []
        for number, (name, one, other) in enumerate(cells):
            # The cells of a number that cannot be divided differ by one.
            wanted = (count + len(cells) - 1 - number) // len(cells)
            wanted = _rounded(wanted, len(one)) if whole_rounds else wanted
            self._cells.append(_Cell(name, one, other, wanted))
        self.problems = [
            f"{cell.name}: {cell.count} wanted, but {len(cell.one)} pairs of speakers have "
            f"{self._capacity(cell).sum()} pairs of utterances"
            for cell in self._cells
            if self._capacity(cell).sum() < cell.count
        ]

    def _capacity(self, cell: _Cell) -> np.ndarray:
        return self._people.count[cell.one] * self._people.count[cell.other]

    def draw(self, seed: int) -> np.ndarray:
        """Draw the pairs of rows (n, 2)."""
        people, random = self._people, generator(seed, _NONTARGETS)
        pairs: list[tuple[int, int]] = []
        for cell in self._cells:
            shares = spread(cell.count, self._capacity(cell), random)
            _say_uneven(cell.name, "pairs of speakers", shares)
            for place in np.flatnonzero(shares).tolist():
                one, other = int(cell.one[place]), int(cell.other[place])
                width = int(people.count[other])
                total = int(people.count[one]) * width
                chosen = random.choice(total, int(shares[place]), replace=False)
                left, right = people.first[one] + chosen // width, people.first[other]
                pairs += zip(left.tolist(), (right + chosen % width).tolist(), strict=True)
        return _turned(pairs, random)


def _check_count(name: str, count: int) -> None:
    if count < 0:
        raise ConfigError(f"{name} must not be negative, got {count}")


def _rounded(count: int, groups: int) -> int:
    """Return the least multiple of ``groups`` that is not below ``count``."""
    return -(-count // groups) * groups if groups else count


def _check_attributes(people: People, match: Mapping[str, Mapping[str, str]]) -> None:
    lost = [
        f"{speaker}: no {name}"
        for name, table in match.items()
        for speaker in people.names
        if speaker not in table
    ]
    raise_problems("attributes of speakers are missing", lost, "Add them to their tables.")


def _cells(
    people: People, match: Mapping[str, Mapping[str, str]]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return the name of each cell, and both sides of its pairs of speakers."""
    # Of thousands of speakers there are millions of pairs.
    sides = np.triu_indices(len(people.names), 1)
    one, other = (side.astype(np.int32) for side in sides)
    shared = []
    for table in match.values():
        values = np.unique([table[name] for name in people.names], return_inverse=True)[1]
        shared.append(values[one] == values[other])
    cells = []
    for wish in product((True, False), repeat=len(match)):
        inside = np.ones(len(one), bool)
        for column, same in zip(shared, wish, strict=True):
            inside &= column == same
        words = [f"{'same' if w else 'other'} {name}" for name, w in zip(match, wish, strict=True)]
        name = f"non-target trials of {', '.join(words)}" if match else "non-target trials"
        cells.append((name, one[inside], other[inside]))
    return cells


def _speakers_have(people: People, capacity: np.ndarray) -> str:
    order = np.argsort(capacity, kind="stable").tolist()
    each = [f"{people.names[number]} has {capacity[number]}" for number in order]
    return f"{len(people.names)} speakers have {capacity.sum()} pairs of utterances; {some(each)}"


def _say_uneven(name: str, groups: str, shares: np.ndarray) -> None:
    if len(shares) and shares.max() - shares.min() > 1:
        get_logger().warning(
            "%s: %d to %d of the %d %s: some have too few utterances for an even share",
            name,
            shares.min(),
            shares.max(),
            len(shares),
            groups,
        )


def _turned(pairs: list[tuple[int, int]], random: np.random.Generator) -> np.ndarray:
    """Return pairs (n, 2) with about half of them turned: sides shall not differ in kind."""
    rows = np.array(pairs, np.int64).reshape(-1, 2)
    turned = random.random(len(rows)) < 0.5
    rows[turned] = rows[turned, ::-1]
    return rows
