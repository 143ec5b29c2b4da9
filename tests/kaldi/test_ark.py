import json
import logging
import os
import pickle

import kaldiio
import numpy as np
import pytest

from wesp_lap.errors import DataError
from wesp_lap.kaldi import vector_table
from wesp_lap.kaldi.ark import VectorWriter, read_vectors, verify
from wesp_lap.kaldi.vector_table import VectorTable

KEYS = ["id1/a/1.wav", "ü-2", "c"]
VECTORS = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)


@pytest.fixture
def prefix(tmp_path):
    path = tmp_path / "xvector.01"
    with VectorWriter(path) as writer:
        for key, vector in zip(KEYS, VECTORS, strict=True):
            writer.write(key, vector)
    return path


def ark(prefix):
    return prefix.with_name(prefix.name + ".ark")


def scp(prefix):
    return prefix.with_name(prefix.name + ".scp")


def record(prefix):
    return prefix.with_name(prefix.name + ".json")


def test_what_is_written_is_read_in_the_order_of_the_scp(prefix):
    keys, matrix = read_vectors(scp(prefix))
    assert keys == KEYS and matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, VECTORS)
    lines = scp(prefix).read_text().splitlines()
    scp(prefix).write_text("\n".join(reversed(lines)) + "\n")
    keys, matrix = read_vectors(scp(prefix))
    assert keys == KEYS[::-1]
    np.testing.assert_array_equal(matrix, VECTORS[::-1])


def test_kaldiio_reads_what_we_write(prefix):
    table = kaldiio.load_scp(str(scp(prefix)))
    for key, vector in zip(KEYS, VECTORS, strict=True):
        np.testing.assert_array_equal(table[key], vector)
    assert [key for key, _ in kaldiio.load_ark(str(ark(prefix)))] == KEYS


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("text", [False, True])
def test_we_read_what_kaldiio_writes(tmp_path, dtype, text):
    kind = "ark,t,scp" if text else "ark,scp"
    with kaldiio.WriteHelper(f"{kind}:{tmp_path}/k.ark,{tmp_path}/k.scp") as writer:
        for key, vector in zip(KEYS, VECTORS, strict=True):
            writer(key, vector.astype(dtype))
    keys, matrix = read_vectors(tmp_path / "k.scp")
    assert keys == KEYS
    np.testing.assert_allclose(matrix, VECTORS, rtol=1e-6)


def test_scp_paths_work_from_here_from_beside_the_scp_and_after_moving(
    prefix, tmp_path, monkeypatch
):
    monkeypatch.chdir("/")
    text = scp(prefix).read_text()
    scp(prefix).write_text(text.replace(f"{tmp_path}/", ""))
    np.testing.assert_array_equal(read_vectors(scp(prefix))[1], VECTORS)
    scp(prefix).write_text(text.replace(f"{tmp_path}/", os.path.relpath(tmp_path) + "/"))
    np.testing.assert_array_equal(read_vectors(scp(prefix))[1], VECTORS)
    scp(prefix).write_text(text)
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    np.testing.assert_array_equal(read_vectors(moved / scp(prefix).name)[1], VECTORS)


@pytest.mark.parametrize("text", [False, True])
def test_an_ark_cut_anywhere_is_an_error_naming_key_and_file(tmp_path, text):
    kind = "ark,t,scp" if text else "ark,scp"
    path = tmp_path / "k.ark"
    with kaldiio.WriteHelper(f"{kind}:{path},{tmp_path}/k.scp") as writer:
        for key, vector in zip(KEYS, VECTORS, strict=True):
            writer(key, vector)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError) as caught:
            read_vectors(tmp_path / "k.scp")
        assert f"{KEYS[-1]}: {path}: the file ends at byte {size}" in str(caught.value)
    path.write_bytes(whole)
    np.testing.assert_allclose(read_vectors(tmp_path / "k.scp")[1], VECTORS, rtol=1e-6)


def test_verify_notices_every_flipped_byte_of_the_archive(prefix):
    verify(prefix)
    whole = ark(prefix).read_bytes()
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        ark(prefix).write_bytes(broken)
        with pytest.raises(DataError, match=r"xvector.01.ark: its content is not what"):
            verify(prefix)
    ark(prefix).write_bytes(whole)
    verify(prefix)


def test_verify_notices_a_wrong_index_or_record(prefix):
    text = scp(prefix).read_text()
    first, second, third = text.splitlines()
    swapped = [KEYS[1] + first[len(KEYS[0]) :], KEYS[0] + second[len(KEYS[1]) :], third]
    scp(prefix).write_text("\n".join(swapped) + "\n")
    with pytest.raises(DataError, match=f"{KEYS[1]}: .*no record of this key"):
        verify(prefix)
    scp(prefix).write_text(text)
    values = json.loads(record(prefix).read_text())
    for name, value in (("count", 4), ("dim", 6), ("sha256", "0" * 64), ("count", "3")):
        record(prefix).write_text(json.dumps({**values, name: value}))
        with pytest.raises(DataError, match=r"xvector\.01"):
            verify(prefix)
    record(prefix).unlink()
    with pytest.raises(DataError, match="cannot be verified"):
        verify(prefix)


def test_lost_scp_lines_are_noticed(prefix, tmp_path, caplog):
    lines = scp(prefix).read_text().splitlines(keepends=True)
    scp(prefix).write_text("".join(lines[:2]))
    with pytest.raises(DataError, match=r"names 2 vectors of .*xvector.01.ark.* written with 3"):
        read_vectors(scp(prefix))
    (tmp_path / "elsewhere").mkdir()
    for subset in (tmp_path / "subset.scp", tmp_path / "elsewhere" / scp(prefix).name):
        subset.write_text("".join(lines[:2]))
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="wesp_lap"):
            logging.getLogger("wesp_lap").propagate = True
            assert read_vectors(subset)[0] == KEYS[:2]
        assert "names 2 of the 3 vectors" in caplog.text


def test_vectors_of_unequal_dimension_are_named(tmp_path):
    kaldiio.save_ark(
        str(tmp_path / "k.ark"),
        {"a": VECTORS[0], "b": VECTORS[1][:4], "c": VECTORS[2]},
        scp=str(tmp_path / "k.scp"),
    )
    with pytest.raises(DataError, match=r"k.scp: cannot.*\n  b: .*k.ark: dimension 4, others 5"):
        read_vectors(tmp_path / "k.scp")


def test_archives_of_unequal_dimension_are_named(tmp_path):
    for name, dim in (("one", 5), ("two", 4)):
        with VectorWriter(tmp_path / name) as writer:
            writer.write(name, np.ones(dim))
    lines = [(tmp_path / f"{name}.scp").read_text() for name in ("one", "two")]
    (tmp_path / "both.scp").write_text("".join(lines))
    with pytest.raises(DataError, match=r"both.scp: (.|\n)*two: .*two.ark: dimension 4, others 5"):
        read_vectors(tmp_path / "both.scp")


@pytest.mark.parametrize("block", [1, 2, 1000])
def test_any_order_form_and_block_size_gives_the_same(tmp_path, monkeypatch, block):
    monkeypatch.setattr(vector_table, "_BLOCK_ROWS", block)
    vectors = np.random.default_rng(1).standard_normal((12, 4)).astype(np.float32)
    lines = []
    for part, (kind, dtype) in enumerate(
        [("ark,scp", np.float32), ("ark,scp", np.float64), ("ark,t,scp", np.float32)]
    ):
        path = f"{tmp_path}/{part}"
        with kaldiio.WriteHelper(f"{kind}:{path}.ark,{path}.scp") as writer:
            for row in range(4 * part, 4 * part + 4):
                writer(f"k{row}", vectors[row].astype(dtype))
        lines += (tmp_path / f"{part}.scp").read_text().splitlines()
    order = np.random.default_rng(2).permutation(12)
    again = f"again {lines[5].split()[1]}"  # another name for the same record
    (tmp_path / "all.scp").write_text("\n".join([*(lines[i] for i in order), again]) + "\n")
    keys, matrix = read_vectors(tmp_path / "all.scp")
    assert keys == [*(f"k{i}" for i in order), "again"]
    np.testing.assert_allclose(matrix, vectors[[*order, 5]], rtol=1e-6)
    table = VectorTable(tmp_path / "all.scp")
    blocks = list(table.blocks())
    assert max(len(rows) for rows, _ in blocks) <= block
    assert sorted(np.concatenate([rows for rows, _ in blocks])) == list(range(13))


def test_reading_notices_every_flipped_bit(prefix):
    """Of archive, index and record: a named error, or the very same vectors."""
    harmless = 0
    for path in (ark(prefix), scp(prefix), record(prefix)):
        whole = path.read_bytes()
        # Every bit of the archive; of the other two, one in every byte.
        every = range(8) if path == ark(prefix) else ()
        for position in [8 * at + bit for at in range(len(whole)) for bit in every or [at % 8]]:
            broken = bytearray(whole)
            broken[position // 8] ^= 1 << position % 8
            path.write_bytes(broken)
            try:
                keys, matrix = read_vectors(scp(prefix))
            except DataError as error:
                assert prefix.name in str(error)
                continue
            assert path != ark(prefix), f"bit {position} of the archive went unnoticed"
            assert keys == KEYS
            np.testing.assert_array_equal(matrix, VECTORS)
            harmless += 1
        path.write_bytes(whole)
    assert harmless  # such as those in the archive's path, which is looked for beside the index


def test_a_flipped_bit_names_the_archive_and_what_to_do(prefix):
    broken = bytearray(ark(prefix).read_bytes())
    broken[-3] ^= 4
    ark(prefix).write_bytes(broken)
    with pytest.raises(DataError, match=r"xvector.01.ark: its content is not what .*xvector.01.json"
                       r" records(.|\n)*copy the archive again, or extract"):  # fmt: skip
        read_vectors(scp(prefix))


class Trap:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"PKL" + pickle.dumps(Trap()), "starts with b'PKL"),
        (b"\0BFM \4\1\0\0\0\4\1\0\0\0\0\0\0\0", "found a matrix"),
        (b"\0BDM \4\1\0\0\0\4\1\0\0\0\0\0\0\0", "found a matrix"),
        (b"\0BCM \0\0\0\0\0\0\200\77\1\0\0\0\1\0\0\0", "found a matrix"),
        (b"\0BCM2 \0\0\0\0\0\0\200\77\1\0\0\0\1\0\0\0", "found a matrix"),
        (b"\0B\4\1\0\0\0\4\1\0\0\0", "starts with"),
        (b"\0BFV \4\0\0\0\0", "dimension 0"),
        (b"\0BFV \4\xff\xff\xff\xff", "dimension -1"),
        (b"\0BFV \4\xff\xff\xff\x7f1234", "the file ends at byte"),
        (b"\0BFV \x081234", "starts with|ends at"),
        (b" [ 1 2 x ]\n", "not a number"),
        (b" [ ]\n", "expected a Kaldi vector"),
        (b" [ 1 2\n 3 4 ]\n", "expected a Kaldi vector"),
        (b"RIFF....WAVE\n", "starts with b'RIFF"),
    ],
)
def test_other_records_are_refused(tmp_path, monkeypatch, payload, fault):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.ark"
    path.write_bytes(b"key " + payload)
    (tmp_path / "x.scp").write_text(f"key {path}:4\n")
    with pytest.raises(DataError, match=f"key: {path}: .*({fault})"):
        read_vectors(tmp_path / "x.scp")
    assert not (tmp_path / "pwned").exists()


def test_pipes_and_missing_archives_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.scp").write_text("a mkdir pwned; cat x.ark |\nb none.ark:7\nc none.ark:x\n")
    with pytest.raises(DataError) as caught:
        read_vectors(tmp_path / "x.scp")
    assert "a: " in str(caught.value) and "never run" in str(caught.value)
    assert "b: none.ark: No such file" in str(caught.value)
    assert "c: none.ark:x: No such file" in str(caught.value)
    assert "extract the embeddings again" in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_places_beyond_the_archive_and_repeated_keys_are_named(prefix):
    lines = scp(prefix).read_text().splitlines()
    place = lines[1].rpartition(":")[0]
    for offset in (999, 10**17):
        scp(prefix).write_text("\n".join([lines[0], f"{place}:{offset}", lines[2]]))
        with pytest.raises(
            DataError, match=rf"{KEYS[1]}: .*01.ark: the file ends at byte .*{offset}"
        ):
            read_vectors(scp(prefix))
    scp(prefix).write_text("\n".join([lines[0], f"{place}:{10**30}", lines[2]]))
    with pytest.raises(DataError, match=rf"{KEYS[1]}: .*: No such file"):
        read_vectors(scp(prefix))
    scp(prefix).write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(DataError, match=rf"01.scp:4: key '{KEYS[0]}' stands in the file twice"):
        read_vectors(scp(prefix))


def test_a_file_with_one_vector_needs_no_offset(tmp_path):
    kaldiio.save_mat(str(tmp_path / "mean.vec"), VECTORS[0])
    (tmp_path / "x.scp").write_text(f"mean {tmp_path}/mean.vec\n")
    np.testing.assert_array_equal(read_vectors(tmp_path / "x.scp")[1], VECTORS[:1])


def test_an_empty_scp_is_an_error(tmp_path):
    (tmp_path / "x.scp").write_text("")
    with pytest.raises(DataError, match=r"x.scp: empty file"):
        read_vectors(tmp_path / "x.scp")


def test_a_failing_block_leaves_what_was_there(prefix, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RuntimeError), VectorWriter(prefix) as writer:
        writer.write("new", np.ones(7))
        raise RuntimeError
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(RuntimeError), VectorWriter(tmp_path / "other") as writer:
        writer.write("new", np.ones(7))
        raise RuntimeError
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_second_run_replaces_all_three_files(prefix):
    with VectorWriter(prefix) as writer:
        writer.write("only", np.ones(2))
    verify(prefix)
    assert read_vectors(scp(prefix))[0] == ["only"]
    assert json.loads(record(prefix).read_text())["count"] == 1


@pytest.mark.parametrize(
    ("key", "vector", "fault"),
    [
        ("b", np.ones(4), r"b: shape \(4,\), expected \(3,\)"),
        ("b", np.ones((1, 3)), r"b: shape \(1, 3\)"),
        ("b", np.array([1, np.nan, 1]), "b: the vector holds NaN"),
        ("a", np.ones(3), "'a': written twice"),
        ("b c", np.ones(3), "white space"),
        ("", np.ones(3), "white space"),
    ],
)
def test_vectors_that_would_not_be_read_back_are_refused(tmp_path, key, vector, fault):
    with pytest.raises(DataError, match=fault), VectorWriter(tmp_path / "x") as writer:
        writer.write("a", np.ones(3))
        writer.write(key, vector)
    assert not list(tmp_path.iterdir())
