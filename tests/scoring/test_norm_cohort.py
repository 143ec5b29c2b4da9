"""Statistics of the largest cohort cosines against a full sort, wherever the blocks are cut."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from wesp_lap.errors import ConfigError
from wesp_lap.scoring import cohort as cohort_module
from wesp_lap.scoring import cohort_numpy, cohort_torch, norm
from wesp_lap.scoring.cohort import Cohort
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.norm import cohort_statistics

SIZE, COUNT, DIM = 29, 13, 6


def unit_rows(count, seed):
    rows = np.random.default_rng(seed).normal(size=(count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def full_sort(unit, entries, top_n, ddof, excluded=None):
    means, stds = [], []
    for number, row in enumerate(unit.astype(np.float64)):
        cosines = entries.astype(np.float64) @ row
        if excluded is not None:
            cosines = np.delete(cosines, excluded[number])
        top = np.sort(cosines)[::-1][:top_n]
        means.append(top.mean())
        stds.append(top.std(ddof=ddof))
    return np.array(means), np.array(stds)


@pytest.fixture
def blocks(monkeypatch):
    """Set the number of cohort entries, and of bytes, that are handled at a time."""

    def set_sizes(entries, buffer_bytes=1 << 20, largest_bytes=1 << 20):
        for module in (cohort_module, cohort_numpy):
            monkeypatch.setattr(module, "BLOCK_ROWS", entries)
        for module in (cohort_numpy, cohort_torch):
            monkeypatch.setattr(module, "_BUFFER_BYTES", buffer_bytes)
        monkeypatch.setattr(norm, "_LARGEST_BYTES", largest_bytes)

    return set_sizes


def on_torch(monkeypatch):
    """Send what would go to numpy to torch on the CPU: the code that a GPU runs."""
    for name in ("largest", "moments"):
        monkeypatch.setattr(cohort_numpy, name, getattr(cohort_torch, name))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("entries", range(1, SIZE + 2))
def test_equals_a_full_sort_wherever_the_cohort_is_cut(blocks, monkeypatch, kind, entries):
    blocks(entries)
    if kind == "torch":
        on_torch(monkeypatch)
    unit, cohort = unit_rows(COUNT, 0), unit_rows(SIZE, 1)
    for top_n in (2, 7, SIZE - 1, SIZE):
        for ddof in (0, 1):
            got = cohort_statistics(unit, cohort, top_n, ddof)
            np.testing.assert_allclose(got, full_sort(unit, cohort, top_n, ddof), atol=1e-6)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("rows", [1, 2, 5, COUNT])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rows_and_threads_change_nothing(blocks, monkeypatch, kind, rows, threads):
    entries, top_n = 10, 4
    if kind == "torch":
        on_torch(monkeypatch)
    blocks(entries, 4 * rows * (entries + top_n), 4 * top_n * min(COUNT, 2 * rows + 1))
    unit, cohort = unit_rows(COUNT, 0), unit_rows(SIZE, 1)
    with threadpool_limits(threads, "blas"):
        assert cohort_numpy._blas_threads() == threads
        for wanted in (top_n, SIZE):
            got = cohort_statistics(unit, cohort, wanted)
            np.testing.assert_allclose(got, full_sort(unit, cohort, wanted, 1), atol=1e-6)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("entries", [1, 4, SIZE])
def test_excluded_entries_do_not_count(blocks, monkeypatch, kind, entries):
    blocks(entries, buffer_bytes=200)
    if kind == "torch":
        on_torch(monkeypatch)
    unit, cohort = unit_rows(COUNT, 0), unit_rows(SIZE, 1)
    excluded = np.random.default_rng(2).integers(SIZE, size=(COUNT, 2))
    got = cohort_statistics(unit, cohort, 5, excluded=excluded)
    np.testing.assert_allclose(got, full_sort(unit, cohort, 5, 1, excluded), atol=1e-6)
    worked = np.array([[0.9, 0.1, 0, 0], [0.5, 0.8, 0, 0], [0.3, 0.2, 0, 0], [0.1, 0.4, 0, 0]])
    means, stds = cohort_statistics(
        np.eye(2, 4, dtype=np.float32),
        worked.astype(np.float32),
        2,
        excluded=np.array([[0, 0], [1, 3]]),
    )
    np.testing.assert_allclose(means, [0.4, 0.15], atol=1e-6)
    np.testing.assert_allclose(stds, [np.sqrt(0.02), np.sqrt(0.005)], atol=1e-6)


def test_equal_cosines_at_the_edge_count_as_often_as_they_are_wanted(blocks):
    cohort = np.zeros((9, DIM), np.float32)
    cohort[:, 0] = [0.1, 0.5, 0.5, 0.9, 0.5, 0.5, 0.1, 0.1, 0.5]
    for entries in range(1, 10):
        blocks(entries)
        means, stds = cohort_statistics(np.eye(1, DIM, dtype=np.float32), cohort, 4, 0)
        np.testing.assert_allclose(means, (0.9 + 3 * 0.5) / 4, atol=1e-6)
        np.testing.assert_allclose(stds, np.std([0.9, 0.5, 0.5, 0.5]), atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_blocks_of_a_source_are_even_and_complete(blocks, size):
    class Source(Embeddings):
        def blocks(self):
            for start in range(0, SIZE, size):
                rows = np.arange(start, min(start + size, SIZE))
                yield rows, self.matrix[rows]

    source = Source([f"c{i}" for i in range(SIZE)], 3 * unit_rows(SIZE, 1) + 1)
    blocks(4)
    for _ in range(2):
        found = list(Cohort.of_source(source, source.mean()).blocks())
        assert [len(block) for block in found] == [4] * 7 + [1]
        np.testing.assert_array_equal(np.concatenate(found), source.unit(source.mean())[0])


@pytest.mark.parametrize("top_n, times", [(SIZE, 1), (10, 2)])
def test_a_cohort_is_read_again_only_for_want_of_memory(blocks, top_n, times):
    blocks(4, largest_bytes=4 * 10 * (COUNT - 1))  # for the ten largest of all rows but one
    read = []

    def entries():
        read.append(1)
        return iter([unit_rows(SIZE, 1)[start : start + 4] for start in range(0, SIZE, 4)])

    got = cohort_statistics(unit_rows(COUNT, 0), Cohort(SIZE, entries), top_n)
    expected = full_sort(unit_rows(COUNT, 0), unit_rows(SIZE, 1), top_n, 1)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert len(read) == times


def test_a_device_that_torch_lacks_is_named():
    unit = unit_rows(COUNT, 0)
    with pytest.raises(ConfigError, match=r"--device nonsense: .*Give cpu, or cuda"):
        cohort_statistics(unit, unit, 4, device="nonsense")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same():
    unit, cohort = unit_rows(3000, 0), unit_rows(20_000, 1)
    for top_n in (300, len(cohort)):
        np.testing.assert_allclose(
            cohort_statistics(unit, cohort, top_n, device="cuda"),
            cohort_statistics(unit, cohort, top_n),
            atol=1e-5,
        )


def test_products_on_a_device_keep_full_precision():
    before = torch.get_float32_matmul_precision()
    seen = []

    def entries():
        seen.append(torch.get_float32_matmul_precision())
        yield unit_rows(SIZE, 1)

    torch.set_float32_matmul_precision("medium")
    try:
        cohort_torch.largest(unit_rows(COUNT, 0), Cohort(SIZE, entries), 4, None, "cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest"]
