"""The page for people who come from WeSpeaker: its commands, run in a project of that layout."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from helpers import ROOT

from wesp_lap.data.access import CropReader
from wesp_lap.data.index import load_utterances

SPEAKERS = ("id00012", "id00015", "id00016", "id00017")


def wav(number: int, samples: int) -> bytes:
    """Return noise as 16-bit WAV bytes."""
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    wave = rng.integers(-3000, 3000, samples).astype(np.int16)
    soundfile.write(buffer, wave, 16000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


@pytest.fixture
def project(tmp_path, tiny_model_settings) -> Path:
    """A folder as WeSpeaker's stages 1 and 2 leave it: relative paths, keys with extensions."""
    data = tmp_path / "data" / "vox2_dev"
    (data / "shards").mkdir(parents=True)
    utterances = {
        f"{speaker}/21Uxsk56VDQ/{number:05d}.wav": (speaker, wav(number, 20000 + 500 * number))
        for number, speaker in enumerate(SPEAKERS * 3)
    }
    audio = {key: tmp_path / "corpus" / key for key in utterances}
    for key, path in audio.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(utterances[key][1])
    order = sorted(utterances)
    (data / "wav.scp").write_text("".join(f"{key} corpus/{key}\n" for key in order))
    (data / "utt2spk").write_text("".join(f"{k} {utterances[k][0]}\n" for k in order))
    spoken = {s: " ".join(k for k in order if k.startswith(s)) for s in SPEAKERS}
    (data / "spk2utt").write_text("".join(f"{s} {keys}\n" for s, keys in spoken.items()))
    rows = [{"key": k, "spk": utterances[k][0], "wav": f"corpus/{k}"} for k in order]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (data / "raw.list").write_text("".join(lines))
    names = []
    for shard in range(2):
        name = f"data/vox2_dev/shards/shards_{shard:09d}.tar"
        with tarfile.open(tmp_path / name, "w") as tar:
            for key in order[shard::2]:
                for member, content in (
                    (f"{key}.spk", utterances[key][0].encode()),
                    (f"{key}.wav", utterances[key][1]),
                ):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        names.append(f"{name}\n")
    (data / "shard.list").write_text("".join(names))
    write_lmdb(tmp_path / "data/musan/lmdb", ["noise/a", "music/b", "speech/c"])
    write_lmdb(tmp_path / "data/rirs/lmdb", ["simulated_rirs/smallroom/r1"])
    settings = {
        **tiny_model_settings,
        "loss": {"name": "aam"},
        "data": {"shards": "given", "batch_size": 4, "crop_seconds": 1, "num_workers": 1},
        "optimizer": {"name": "adam"},
        "lr_schedule": {"name": "constant", "lr": 1e-3},
        "training": {"epochs": 1, "log_every": 1},
    }
    settings["data"]["augment"] = {"set": "wespeaker", "speed_perturb": True, "noise_prob": 0.6}
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "frozen.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def write_lmdb(folder: Path, keys: list[str]) -> None:
    lmdb = pytest.importorskip("lmdb", reason="the dev extra brings lmdb")
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 24) as database, database.begin(write=True) as put:
        for number, key in enumerate(keys):
            put.put(key.encode(), wav(100 + number, 30000))
        put.put(b"__keys__", pickle.dumps(keys))


def commands() -> list[list[str]]:
    """Return the commands of the section, in order."""
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    section = page.partition("## From WeSpeaker\n")[2].partition("\n## ")[0]
    code = "\n".join(re.findall(r"^    (.*)$", section, re.MULTILINE)).replace("\\\n", " ")
    return [shlex.split(line) for line in code.splitlines() if line.startswith("python ")]


def test_the_commands_of_the_page_train_on_what_wespeaker_left(project):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = commands()
    assert [w[2].rpartition(".")[2] for w in words] == [
        "validate_data_dir",
        "index_shards",
        "check_shards",
        "make_noise_bank",
        "train",
    ]
    for line in words:
        done = subprocess.run(
            [sys.executable, *line[1:]],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    records = (project / "exp/frozen/metrics.jsonl").read_text().splitlines()
    assert [json.loads(record)["step"] for record in records] == [1, 2, 3]
    speakers = (project / "exp/frozen/final/speakers.txt").read_text().split()
    assert speakers[::2] == list(SPEAKERS)


def test_shards_and_raw_list_hold_the_same_audio(project, monkeypatch):
    monkeypatch.chdir(project)
    crops = {}
    for name in ("shard.list", "raw.list"):
        path = f"data/vox2_dev/{name}"
        command = [sys.executable, "-m", "wesp_lap.bin.index_shards", path]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        utterances = load_utterances(path)
        reader = CropReader(utterances)
        for row in range(len(utterances)):
            out = np.empty(5000, dtype=np.float32)
            reader.read(row, 1234, 5000, out)
            crops.setdefault(utterances.key(row), []).append(out)
    assert len(crops) == 12
    for key, (one, other) in crops.items():
        whole, _ = soundfile.read(f"corpus/{key}", dtype="float32")
        np.testing.assert_array_equal(one, whole[1234:6234])
        np.testing.assert_array_equal(other, one)
