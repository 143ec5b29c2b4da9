import os
import random
import subprocess

import pytest

from wesp_lap.errors import DataError
from wesp_lap.kaldi.tables import invert, read_table, write_table


def test_any_ascii_white_space_separates_and_values_keep_their_spaces(tmp_path):
    path = tmp_path / "wav.scp"
    path.write_bytes("a\t/x y.wav \r\nb   sox  z -t wav - |\nü 1\u00a0\n".encode())
    assert read_table(path) == {"a": "/x y.wav", "b": "sox  z -t wav - |", "ü": "1\u00a0"}


def test_all_bad_lines_are_named_at_once(tmp_path):
    path = tmp_path / "utt2spk"
    path.write_text("a s\n\nb\na t\nc s\n")
    with pytest.raises(DataError) as caught:
        read_table(path)
    text = str(caught.value)
    assert all(f"{path}:{line}: " in text for line in (2, 3, 4))
    assert "'a'" in text and "3 problems" in text


def test_missing_and_undecodable_files_are_named(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/none: no such file"):
        read_table(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"a b\nc \xe9\n")
    with pytest.raises(DataError, match=r"latin:2: not UTF-8.*iconv"):
        read_table(tmp_path / "latin")


def test_byte_order_mark_is_not_part_of_the_first_key(tmp_path):
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbfa b\n")
    assert read_table(tmp_path / "t") == {"a": "b"}


def test_written_order_is_that_of_sort_in_the_c_locale(tmp_path):
    draw = random.Random(1)
    letters = "aAbBzZ09-_./äßżあ𝔸\uffff"
    keys = {"".join(draw.choices(letters, k=draw.randint(1, 6))) for _ in range(500)}
    write_table(tmp_path / "t", dict.fromkeys(keys, "x"))
    content = (tmp_path / "t").read_bytes()
    by_key = subprocess.run(
        ["sort", "-s", "-k1,1"],
        input=content,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert by_key.stdout == content
    assert read_table(tmp_path / "t").keys() == keys


@pytest.mark.parametrize("table", [{"a b": "x"}, {"": "x"}, {"a": " "}, {"a": "x\ny z"}])
def test_what_cannot_be_read_back_is_not_written(tmp_path, table):
    with pytest.raises(DataError, match="cannot be written"):
        write_table(tmp_path / "t", {"good": "1", **table})
    assert not list(tmp_path.iterdir())


def test_invert_sorts_speakers_and_utterances():
    assert list(invert({"u3": "t", "u1": "s", "u2": "t"}).items()) == [
        ("s", ["u1"]),
        ("t", ["u2", "u3"]),
    ]
