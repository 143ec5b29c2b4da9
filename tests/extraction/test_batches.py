"""Windows, batches and chunks: what goes through the model together."""

import threading
import time

import numpy as np
import pytest

from wesp_lap.extraction.batches import WINDOW_BATCHES, chunks, in_background, windows
from wesp_lap.extraction.loading import Loaded


def load_from(lengths, bad=()):
    def load(row):
        if row in bad:
            return Loaded(row, None, "bad")
        return Loaded(row, np.full(lengths[row], row + 1, np.float32))

    return load


@pytest.mark.parametrize("threads", [0, 3])
def test_every_utterance_is_in_one_batch_beside_others_of_its_length(threads):
    lengths = np.random.default_rng(0).integers(20, 200, 1000)
    parts = [range(570), range(570, 1000)]
    found = list(windows(load_from(lengths, bad={7, 999}), parts, 1000, 0, threads))
    rows = [item.row for window in found for item in window.items]
    assert rows == list(range(1000))  # in table order
    assert any(window.items[-1].row == 569 for window in found)  # none reaches over a part's end
    assert len(found) > len(parts)
    padded = valid = 0
    for window in found:
        held = sum(lengths[item.row] for item in window.items)
        assert held <= WINDOW_BATCHES * 1000 + 200
        seen = []
        for batch in window.batches:
            assert batch.waves.size <= 1000 or len(batch.owners) == 1
            for owner, wave, length in zip(batch.owners, batch.waves, batch.lengths, strict=True):
                row = window.items[owner].row
                assert length == lengths[row]
                assert (wave[:length] == row + 1).all() and (wave[length:] == 0).all()
                seen.append(row)
            padded, valid = padded + batch.waves.size, valid + sum(batch.lengths)
        assert sorted(seen) == [item.row for item in window.items if not item.problem]
    assert padded < 1.06 * valid


def test_the_batches_of_a_part_do_not_depend_on_the_parts_before_it():
    lengths = np.random.default_rng(1).integers(20, 200, 300)
    both = list(windows(load_from(lengths), [range(150), range(150, 300)], 700, 0, 0))
    second = list(windows(load_from(lengths), [range(150, 300)], 700, 0, 0))
    for one, other in zip(both[-len(second) :], second, strict=True):
        assert [item.row for item in one.items] == [item.row for item in other.items]
        assert [batch.owners for batch in one.batches] == [batch.owners for batch in other.batches]


def test_one_by_one():
    found = list(windows(load_from([5, 3, 4]), [range(3)], 0, 0, 0))
    assert [[batch.waves.shape for batch in window.batches] for window in found] == [
        [(1, 5)],
        [(1, 3)],
        [(1, 4)],
    ]


@pytest.mark.parametrize("samples", [100, 101, 150, 189, 190, 191, 1000, 12345])
def test_chunks_cover_everything_evenly_and_overlap(samples):
    wave = np.arange(samples)
    pieces = chunks(wave, 100)
    assert all(len(piece) == 100 for piece in pieces)
    starts = [piece[0] for piece in pieces]
    assert starts[0] == 0 and pieces[-1][-1] == samples - 1
    steps = np.diff(starts)
    assert len(steps) == 0 or (steps.max() <= 90 and np.ptp(steps) <= 1)
    assert 1 + (len(pieces) - 2) * 90 + 9 < samples or len(pieces) == 1  # fewer would not do


def test_short_utterances_and_those_that_may_not_be_cut_stay_whole():
    assert [len(piece) for piece in chunks(np.arange(99), 100)] == [99]
    assert [len(piece) for piece in chunks(np.arange(999), 0)] == [999]


def test_a_thread_works_one_item_ahead_and_ends_with_its_reader():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    reader = in_background(items)
    assert next(reader) == 0
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 3 <= len(made) <= 4  # one waits in the queue, one in the hand
    reader.close()
    assert threading.active_count() == 1 or len(made) <= 4
    assert list(in_background(lambda: iter(range(5)))) == [0, 1, 2, 3, 4]


def test_a_fault_in_the_thread_reaches_the_reader():
    def items():
        yield 1
        raise ValueError("in the thread")

    reader = in_background(items)
    assert next(reader) == 1
    with pytest.raises(ValueError, match="in the thread"):
        next(reader)
