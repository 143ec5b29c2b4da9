"""The commands of this room print what they have made."""

import os

import numpy as np
import pytest
import soundfile
from foreign import encoded, members_of, write_list, write_tar

from wesp_lap.bin import check_shards, index_shards, make_noise_bank, make_shards
from wesp_lap.cli import run_command
from wesp_lap.data.index import load_utterances


def test_make_shards_counts_what_it_packed(tmp_path, data, waves, capsys):
    target = tmp_path / "x.list"
    make_shards.main(str(data), str(tmp_path / "x"), str(target), 4, prefix="part", nj=1)
    hours = sum(map(len, waves.values())) / 16000 / 3600
    size = sum(os.path.getsize(tar) for tar in target.read_text().split()) / 1e9
    expected = f"{target}: 3 shards, 11 utterances, 4 speakers, {hours:.2f} h, {size:.2f} GB\n"
    assert capsys.readouterr().out == expected
    assert target.read_text().split()[0] == str(tmp_path / "x" / "part_000000000.tar")
    assert len(load_utterances(target)) == 11


def test_make_noise_bank_counts_its_pieces(tmp_path, capsys):
    (tmp_path / "rirs").mkdir()
    for number in range(2):
        soundfile.write(tmp_path / "rirs" / f"{number}.wav", np.ones(10) / 2, 16000)
    make_noise_bank.main(str(tmp_path / "bank"), rirs=str(tmp_path / "rirs"))
    assert capsys.readouterr().out == f"{tmp_path / 'bank'}: 2 rir\n"


def run(command, *words):
    with pytest.raises(SystemExit) as ended:
        run_command(command.main, list(map(str, words)))
    return ended.value.code


def test_shards_of_others_are_indexed_and_checked(tmp_path, capsys):
    members = members_of({"a/1.wav": ("a", "wav", encoded(16000)), "b": ("b", "wav", encoded(99))})
    listed = write_list(tmp_path / "x.list", [write_tar(tmp_path / "x.tar", members)])
    assert run(check_shards, "--list", listed, "--nj", "1") == 1
    assert "no index beside it (x.index)" in capsys.readouterr().err
    assert run(index_shards, "--list", listed, "--nj", "1") == 0
    said = f"{listed}: 1 shards, 2 utterances, 2 speakers, 0.00 h, 0.00 GB"
    assert capsys.readouterr().out == f"{said}\n"
    assert run(check_shards, "--list", listed, "--nj", "1") == 0
    assert capsys.readouterr().out == f"{said}: all is well\n"
    with open(tmp_path / "x.tar", "r+b") as stream:
        stream.seek(5000)
        stream.write(b"xxxx")
    assert run(check_shards, "--list", listed, "--nj", "1") == 1
    assert "utterance 'a/1.wav': its audio has changed" in capsys.readouterr().err


def test_make_shards_takes_words_for_what_it_cuts_and_runs(tmp_path, data, capsys):
    words = ["--data", data, "--out", tmp_path / "x", "--list", tmp_path / "x.list", "--nj", "1"]
    assert run(make_shards, *words, "--vad") == 1
    assert f"{data / 'vad'}: no such file" in capsys.readouterr().err
    (tmp_path / "other").write_text("s0-u00 0 0.1\n")
    assert run(make_shards, *words, "--vad", tmp_path / "other", "--allow_pipe") == 0
    assert run(make_shards, *words, "--check", "none") == 2
    utterances = load_utterances(tmp_path / "x.list")
    row = utterances.keys.tolist().index(b"s0-u00")
    assert utterances.samples[row] == 1600
