"""Everything that would stop a run is in one table, before it starts."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from helpers import ROOT

from wesp_lap.audio.ffmpeg import find_ffmpeg
from wesp_lap.corpora import machine, preflight
from wesp_lap.corpora.checks import Check, format_checks, has_errors
from wesp_lap.corpora.machine import (
    check_cores,
    check_disk,
    check_ffmpeg,
    check_folder,
    check_shared_memory,
)
from wesp_lap.corpora.preflight import Inputs, check_inputs
from wesp_lap.corpora.trial_lists import Published
from wesp_lap.corpora.voxceleb import prepare_voxceleb
from wesp_lap.training import ready
from wesp_lap.training.ready import check_gpus, check_settings, check_weights

LISTS = {"vox1_O_cleaned": Published("veri_test2.txt", 2, 1)}
KEYS = [f"id102{n}/v/0000{m}" for n in (70, 71) for m in (1, 2)]


def write_wav(path, rate=16000, channels=1, seconds=0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (int(rate * seconds), channels))
    soundfile.write(path, wave, rate)
    return path


def make_vox1(folder):
    for key in KEYS:
        write_wav(folder / f"{key}.wav")
    lines = [f"1 {KEYS[0]}.wav {KEYS[1]}.wav", f"0 {KEYS[0]}.wav {KEYS[2]}.wav"]
    (folder / "veri_test2.txt").write_text("\n".join(lines) + "\n")
    return folder


def by_name(checks, name):
    return [check for check in checks if check.name == name]


def errors(checks):
    return [check for check in checks if check.level == "error"]


def run_command(*words):
    command = [sys.executable, "-m", "wesp_lap.bin.preflight", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


def test_the_table_counts_what_was_found():
    checks = [
        Check("disk", "ok", "much room"),
        Check("trials", "warning", "odd\nsecond line", "look"),
        Check("config", "error", "no such file", "name one"),
    ]
    assert format_checks(checks).splitlines() == [
        "ok       disk    much room",
        "warning  trials  odd",
        "                 second line",
        "                 mend: look",
        "error    config  no such file",
        "                 mend: name one",
        "1 error, 1 warning",
    ]
    assert has_errors(checks) and not has_errors(checks[:2])
    assert format_checks(checks[:1]).endswith("all is ready")


def test_a_corpus_that_is_there_has_no_errors(tmp_path):
    vox1 = make_vox1(tmp_path / "vox1")
    inputs = Inputs(vox1=[vox1], trials=[vox1 / "veri_test2.txt"])
    checks = check_inputs(inputs, tmp_path / "data", LISTS)
    assert errors(checks) == []
    assert by_name(checks, "vox1_test")[0].text == "4 utterances, 2 speakers"
    assert "2 of 40 speakers" in by_name(checks, "voxceleb")[0].text
    assert "vox1_O_cleaned, 2 trials" in by_name(checks, "trials")[0].text


def test_faults_of_corpus_lists_and_audio_are_all_named(tmp_path):
    vox1 = make_vox1(tmp_path / "vox1")
    write_wav(vox1 / f"{KEYS[1]}.wav", rate=8000)
    (vox1 / f"{KEYS[2]}.wav").write_bytes(b"no audio")
    (vox1 / "veri_test2.txt").write_text("1 a/b/1.wav a/b/2.wav\n0 a/b/1.wav x/y/1.wav\n")
    inputs = Inputs(
        vox1=[vox1], trials=[vox1 / "veri_test2.txt", tmp_path / "gone"], musan=tmp_path / "none"
    )
    checks = check_inputs(inputs, tmp_path / "data", LISTS)
    texts = "\n".join(check.text for check in errors(checks))
    assert "1 of 4 files looked into" in texts and f"{KEYS[2]}.wav" in texts
    assert "1 of 3 files looked into are not 16 kHz" not in texts
    assert "are not 16 kHz mono" in texts and "8000 Hz, 1 channels" in texts
    assert "3 of 3 utterances of vox1_O_cleaned are not in the corpus" in texts
    assert "gone: no such file" in texts and "none: no such file or folder" in texts
    assert [check.level for check in by_name(checks, "noises")] == ["warning"]
    assert all(check.mend for check in errors(checks))


def test_no_corpus_where_one_is_named_is_an_error_of_the_table(tmp_path):
    (tmp_path / "empty").mkdir()
    checks = check_inputs(Inputs(vox2=[tmp_path / "empty"]), tmp_path)
    assert "no idXXXXX/VIDEO/FILE.wav" in errors(checks)[0].text
    (checks,) = [errors(check_inputs(Inputs(vox1=[tmp_path / "x"]), tmp_path))]
    assert "no such file or folder" in checks[0].text


def test_archives_need_room_until_they_are_unpacked(tmp_path, monkeypatch):
    archive = tmp_path / "vox2_dev_aac.zip"
    with zipfile.ZipFile(archive, "w") as package:
        package.writestr("dev/aac/id00012/v/1.m4a", bytes(3_300_000))  # a tenth of an hour
    inputs = Inputs(vox2=[archive])
    usage = SimpleNamespace(free=11_000_000)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    (disk,) = by_name(check_inputs(inputs, tmp_path / "data"), "disk")
    # 62 MB an hour of shards, and a quarter more than the archive for its files: 10.3 MB.
    assert disk.level == "warning"
    assert "shards of 0.1 h of speech and unpacked archives: about 0.0 GB" in disk.text
    usage.free = 10_000_000
    (disk,) = by_name(check_inputs(inputs, tmp_path / "data"), "disk")
    assert disk.level == "error" and "make room" in disk.mend
    archive.write_bytes(archive.read_bytes()[:-60])
    assert "the end of the zip archive is missing" in errors(check_inputs(inputs, tmp_path))[0].text


def test_archives_that_were_unpacked_before_are_counted_by_their_files(tmp_path):
    for key in KEYS:
        write_wav(tmp_path / "x" / f"{key}.wav")
    with zipfile.ZipFile(tmp_path / "vox1_test_wav.zip", "w") as package:
        for key in KEYS:
            package.write(tmp_path / "x" / f"{key}.wav", f"wav/{key}.wav")
    archive = tmp_path / "vox1_test_wav.zip"
    inputs = Inputs(vox1=[archive])
    before = by_name(check_inputs(inputs, tmp_path / "data"), "vox1_test")
    assert "GB to unpack" in before[0].text
    prepare_voxceleb(tmp_path / "data", [archive])
    after = by_name(check_inputs(inputs, tmp_path / "data"), "vox1_test")
    assert after[0].text == "4 utterances, 2 speakers"


def test_shards_that_are_there_need_no_more_room(tmp_path, monkeypatch):
    for number in range(3):
        path = tmp_path / f"vox2/id00012/v/{number}.m4a"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as stream:
            stream.truncate(33_000_000)  # an hour
    monkeypatch.setattr(preflight, "check_ffmpeg", lambda _: [])
    inputs = Inputs(vox2=[tmp_path / "vox2"])
    assert (
        "shards of 3.0 h of speech: about 0.2 GB"
        in by_name(check_inputs(inputs, tmp_path / "data"), "disk")[0].text
    )
    shard = tmp_path / "data" / "vox2_dev" / "shards" / "s_000000000.tar"
    shard.parent.mkdir(parents=True)
    with open(shard, "wb") as stream:
        stream.truncate(200_000_000)
    assert "about 0.0 GB" in by_name(check_inputs(inputs, tmp_path / "data"), "disk")[0].text


def test_data_directories_are_validated_in_place_of_a_corpus(tiny_corpus, tmp_path):
    data = tmp_path / "mine"
    shutil.copytree(tiny_corpus.data, data)
    good = Inputs(train=data, trials=[tiny_corpus.trials])
    assert errors(check_inputs(good, tmp_path)) == []
    lines = (data / "wav.scp").read_text().splitlines()
    (data / "wav.scp").write_text("\n".join([f"{lines[0]}.gone", *lines[1:]]) + "\n")
    both = Inputs(train=data, eval=tiny_corpus.data, trials=[tiny_corpus.trials])
    checks = check_inputs(both, tmp_path)
    assert "1 of 32 files looked into" in by_name(errors(checks), "train")[0].text
    assert "speakers are also in" in by_name(errors(checks), "eval")[0].text
    checks = check_inputs(Inputs(train=tmp_path / "nothing"), tmp_path)
    assert "no such data directory" in errors(checks)[0].text


def test_cnceleb_without_its_parts_is_an_error(tmp_path):
    (tmp_path / "CN-Celeb_flac" / "data").mkdir(parents=True)
    checks = check_inputs(Inputs(cnceleb1=tmp_path), tmp_path)
    assert "eval" in by_name(errors(checks), "cnceleb1")[0].text


def test_ffmpeg_must_be_there_and_decode(tmp_path, monkeypatch):
    (tmp_path / "1.m4a").write_bytes(b"not audio")
    with monkeypatch.context() as patch:
        patch.setattr(machine, "find_ffmpeg", lambda: None)
        (check,) = check_ffmpeg(tmp_path / "1.m4a")
    assert check.level == "error" and "there is no ffmpeg" in check.text
    assert "imageio-ffmpeg" in check.mend
    if find_ffmpeg() is not None:
        (check,) = check_ffmpeg(tmp_path / "1.m4a")
        assert check.level == "error" and "1.m4a" in check.text
    monkeypatch.setattr(machine, "find_ffmpeg", lambda: "ffmpeg")
    monkeypatch.setattr(machine, "decode_to_wav", lambda path: b"RIFF")
    assert check_ffmpeg(tmp_path / "1.m4a")[0].level == "ok"


def test_folders_are_tried_and_left_clean(tmp_path, monkeypatch):
    (check,) = check_folder("exp_dir", tmp_path / "new" / "exp")
    assert check.level == "ok" and list((tmp_path / "new" / "exp").iterdir()) == []
    (tmp_path / "file").write_text("x")
    (check,) = check_folder("exp_dir", tmp_path / "file")
    assert check.level == "error" and "cannot be used" in check.text
    monkeypatch.setattr(machine, "_can_lock", lambda path: False)
    assert [one.level for one in check_folder("data", tmp_path)] == ["ok", "warning"]
    monkeypatch.setattr(
        machine.os, "statvfs", lambda _: SimpleNamespace(f_files=100, f_favail=7, f_bavail=1)
    )
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    assert "room for 7 more files only" in check_folder("data", tmp_path)[-1].text


@pytest.mark.parametrize(("needed", "level"), [(10, "ok"), (95, "warning"), (101, "error")])
def test_disk_and_shared_memory_are_compared_with_what_is_free(
    tmp_path, monkeypatch, needed, level
):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    assert check_disk(tmp_path, needed, "shards")[0].level == level
    (check,) = check_shared_memory(needed, tmp_path)
    assert check.level == ("error" if needed > 100 else "ok")
    assert check_shared_memory(needed, tmp_path / "nothing") == []


def test_too_few_cores_are_a_warning(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert check_cores(1, 3)[0].level == "ok"
    (check,) = check_cores(2, 4)
    assert check.level == "warning" and "2 training processes with 4 loaders each, 4" in check.text


def test_settings_are_loaded_for_every_phase_with_the_overrides(tmp_path):
    mini = sorted((ROOT / "egs" / "mini" / "conf").glob("*.yaml"))[0]
    checks = check_settings(mini, overrides={"data.batch_size": "8"})
    assert by_name(checks, "config")[0].level == "ok"
    checks = check_settings(mini, overrides={"data.batch_siz": "8"})
    (check,) = errors(checks)
    assert "batch_siz" in check.text and "did you mean 'batch_size'" in check.text
    (check,) = errors(check_settings(tmp_path / "none.yaml"))
    assert "no such file" in check.text


def test_weights_in_a_directory_must_be_whole(tmp_path):
    folder = tmp_path / "wavlm"
    folder.mkdir()
    (check,) = check_weights(str(folder))
    assert check.level == "error" and "no config.json and no weights" in check.text
    (folder / "config.json").write_text(json.dumps({}))
    (folder / "model.safetensors").write_bytes(b"x")
    assert check_weights(str(folder))[0].level == "ok"
    (check,) = check_weights(str(tmp_path / "gone"))
    assert check.level == "error" and "no such directory" in check.text


@pytest.mark.parametrize(
    ("code", "level", "text"),
    [
        (200, "ok", "will be fetched"),
        (404, "error", "the hub answers 404"),
        (None, "error", "cannot be reached"),
    ],
)
def test_weights_on_the_hub_must_be_cached_or_reachable(monkeypatch, code, level, text):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    (check,) = check_weights("nobody/no-model", lambda name: code)
    assert check.level == level and text in check.text
    if code is None:
        assert "hf download nobody/no-model --local-dir DIR" in check.mend


def test_offline_weights_that_are_not_cached_are_an_error(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (check,) = check_weights("nobody/no-model", lambda name: pytest.fail("asked"))
    assert check.level == "error" and "HF_HUB_OFFLINE" in check.text
    monkeypatch.setattr(ready, "_is_cached", lambda name: True)
    assert check_weights("nobody/no-model")[0].level == "ok"


def test_the_hubs_cache_is_looked_into(tmp_path):
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("abc")
    code = "from wesp_lap.training.ready import check_weights as c; print(c('some/model')[0].text)"
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}

    def said():
        words = [sys.executable, "-c", code]
        return subprocess.run(words, capture_output=True, text=True, env=env, check=True).stdout

    (snapshot / "config.json").write_text("{}")
    assert "not in the hub's cache" in said()
    (snapshot / "model.safetensors").write_bytes(b"x")
    assert said() == "some/model: in the hub's cache\n"


def test_gpus_are_compared_with_processes(monkeypatch):
    import torch

    with monkeypatch.context() as patch:
        patch.setattr(ready.shutil, "which", lambda name: None)
        assert check_gpus(2)[0].level == "warning"
    monkeypatch.setattr(ready.shutil, "which", lambda name: "/bin/nvidia-smi")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H200")
    for count, level in ((0, "error"), (1, "error"), (2, "ok"), (4, "warning")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        (check,) = check_gpus(2)
        assert check.level == level
    assert "give --nproc 4" in check.mend


def test_the_command_shows_all_faults_and_fails(tmp_path):
    vox1 = make_vox1(tmp_path / "vox1")
    words = ("--exp_dir", tmp_path / "exp", "--vox1", vox1)
    done = run_command(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "vox1_test" in done.stdout and "exp_dir" in done.stdout
    (vox1 / f"{KEYS[0]}.wav").write_bytes(b"")
    done = run_command(*words, "--musan", tmp_path / "gone")
    assert done.returncode == 1 and "2 errors" in done.stdout
    assert f"{KEYS[0]}.wav: empty file" in done.stdout
