"""Lists of the Universal Pooling paper's code, in their form, become trials."""

from __future__ import annotations

import pytest

from wesp_lap.corpora.published_trials import read_published
from wesp_lap.errors import DataError

HEAD = "LABEL,SAMPLE1,SAMPLE2,SAMPLE_MATCH,GENDER_MATCH\n"
UTT2SPK = {"p329_050": "p329", "p329_382": "p329", "p272_203": "p272", "id1/v/00001.wav": "id1"}


def test_paths_become_keys(tmp_path):
    path = tmp_path / "trials-test.csv"
    path.write_text(
        HEAD
        + "1,p329/p329_050.wav,p329/p329_382.wav,0,1\n"
        + "0,p329/p329_050.wav,p272/p272_203.wav,0,0\n"
        + "0,vox2_test_wav/id1/v/00001.wav,p272/p272_203.wav,0,0\n"
    )
    trials = read_published(path, UTT2SPK)
    assert trials.enroll == ["p329_050", "p329_050", "id1/v/00001.wav"]
    assert trials.test == ["p329_382", "p272_203", "p272_203"]
    assert trials.labels is not None
    assert trials.labels.tolist() == [1, 0, 0]


def test_rows_that_do_not_fit_are_all_named(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(
        HEAD
        + "1,p329/p329_050.wav,p272/p272_203.wav,0,1\n"
        + "0,p329/p329_999.wav,p000/p000_203.wav,0,0\n"
        + "2,p329/p329_050.wav,p329/p329_382.wav,0,0\n"
        + "1,p329/p329_050.wav\n"
    )
    with pytest.raises(DataError) as caught:
        read_published(path, UTT2SPK)
    message = str(caught.value)
    assert f"{path}:2: the label contradicts the speakers of p329_050, p272_203" in message
    assert f"{path}:3: no utterance p329_999, p000_203" in message
    assert f"{path}:4: not a row of 5 fields with a label 0 or 1" in message
    assert f"{path}:5: not a row of 5 fields" in message


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "trials"
    path.write_text("p329_050 p329_382 target\n")
    with pytest.raises(DataError, match=r"trials:1: expected a header with LABEL, SAMPLE1"):
        read_published(path, UTT2SPK)
