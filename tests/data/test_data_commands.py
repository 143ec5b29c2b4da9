"""The commands of this room print what they have made."""

import numpy as np
import soundfile

from wesp_lap.bin import make_noise_bank, make_shards
from wesp_lap.data.index import load_utterances


def test_make_shards_counts_what_it_packed(tmp_path, data, waves, capsys):
    target = tmp_path / "x.list"
    make_shards.main(str(data), str(tmp_path / "x"), str(target), 4, prefix="part", nj=1)
    hours = sum(map(len, waves.values())) / 16000 / 3600
    expected = f"{target}: 3 shards, 11 utterances, 4 speakers, {hours:.2f} h\n"
    assert capsys.readouterr().out == expected
    assert target.read_text().split()[0] == str(tmp_path / "x" / "part_000000000.tar")
    assert len(load_utterances(target)) == 11


def test_make_noise_bank_counts_its_pieces(tmp_path, capsys):
    (tmp_path / "rirs").mkdir()
    for number in range(2):
        soundfile.write(tmp_path / "rirs" / f"{number}.wav", np.ones(10) / 2, 16000)
    make_noise_bank.main(str(tmp_path / "bank"), rirs=str(tmp_path / "rirs"))
    assert capsys.readouterr().out == f"{tmp_path / 'bank'}: 2 rir\n"
