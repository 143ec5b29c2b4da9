"""Groups of trials by what is known of both sides: gender, duration, genre, nationality."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import PathLike
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import Trials

# A map with more values than this is asked for bins or a coarser map.
_MOST_VALUES = 50


def read_values(path: PathLike, bins: Sequence[float] = ()) -> tuple[dict[str, str], list[str]]:
    """Read an ``id value`` map; numbers are replaced by the bin that they fall in.

    Args:
        path: table with a line per utterance, speaker or enrolment model.
        bins: rising edges: 5,10 makes the bins <5, 5-10 (5 is in, 10 is not) and >=10.

    Returns:
        The values by id, and all values in their order: bins by size, words sorted.

    Raises:
        DataError: so many values that a table of pairs cannot be read.
    """
    values = read_table(path)
    numbers = _numbers(values.values())
    if numbers is not None and bins:
        names = _bin_names(bins)
        places = np.searchsorted(np.asarray(bins), numbers, side="right")
        return dict(zip(values, (names[place] for place in places), strict=True)), names
    order = sorted(set(values.values()))
    if len(order) > _MOST_VALUES:
        mend = "Give --bins with the edges" if numbers is not None else "Give a map of fewer words"
        raise DataError(f"{path}: {len(order)} different values, at most {_MOST_VALUES}\n{mend}.")
    return values, order


def group_trials(
    trials: Trials,
    values: Mapping[str, str],
    order: Sequence[str],
    utt2spk: Mapping[str, str] | None = None,
    source: str = "the map",
) -> dict[str, np.ndarray]:
    """Sort trials by the pair of values of their two sides; which side has which does not matter.

    Args:
        trials: T pairs of ids.
        values: value by utterance, enrolment model or speaker.
        order: all values in the order wanted.
        utt2spk: speaker of every id that ``values`` does not have itself.
        source: what error messages call the map.

    Returns:
        Rows of the trials by name: ``same`` and ``different`` (values on both sides), then
        ``VALUE/VALUE`` for every pair that occurs.

    Raises:
        DataError: ids without a value; the message counts them and names five.
    """
    places = {value: place for place, value in enumerate(order)}
    speakers = utt2spk or {}
    found = {
        key: values[key] if key in values else values.get(speakers.get(key, key))
        for key in dict.fromkeys((*trials.enroll, *trials.test))
    }
    missing = [key for key, value in found.items() if value is None]
    if missing:
        raise DataError(
            f"{source}: no value for {len(missing)} of {len(found)} ids of the trials: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}\n"
            "Give a map that has them, or --utt2spk for a map by speaker."
        )
    codes = {key: places[value] for key, value in found.items() if value is not None}
    sides = np.array([[codes[key] for key in column] for column in (trials.enroll, trials.test)])
    low, high = sides.min(axis=0), sides.max(axis=0)
    groups = {"same": np.flatnonzero(low == high), "different": np.flatnonzero(low != high)}
    pairs = low * len(order) + high
    for pair in np.unique(pairs):
        one, other = divmod(int(pair), len(order))
        groups[f"{order[one]}/{order[other]}"] = np.flatnonzero(pairs == pair)
    return {name: rows for name, rows in groups.items() if len(rows)}


def _numbers(words: Iterable[str]) -> np.ndarray | None:
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        return None


def _bin_names(bins: Sequence[float]) -> list[str]:
    if not all(map(math.isfinite, bins)) or any(low >= high for low, high in pairwise(bins)):
        raise ConfigError(f"bins must rise, got {', '.join(map(str, bins))}")
    inner = [f"{low:g}-{high:g}" for low, high in pairwise(bins)]
    return [f"<{bins[0]:g}", *inner, f">={bins[-1]:g}"]
