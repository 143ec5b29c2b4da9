"""The synthetic corpus of egs/mini: reproducible, consistent, and honest when it cannot be made."""

import importlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wesp_lap.files import sha256
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import read_trials

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "egs" / "mini" / "local"
SIZES = {
    "num-train-speakers": 2,
    "num-train-sessions": 1,
    "num-train-utterances": 1,
    "num-eval-speakers": 4,
    "num-eval-sessions": 2,
    "num-eval-utterances": 2,
    "num-noises": 3,
    "num-tunes": 1,
    "num-talkers": 1,
    "num-rooms": 1,
}
TINY = [f"--{name}={value}" for name, value in SIZES.items()]


def make(out, *options, env=None):
    return subprocess.run(
        [sys.executable, LOCAL / "make_corpus.py", "--out", out, *TINY, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def digests(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): sha256(path) for path in files if path.name != "corpus.json"
    }


@pytest.fixture(scope="module")
def local():
    """Make the recipe's own modules importable."""
    sys.path.insert(0, str(LOCAL))
    yield importlib.import_module
    sys.path.remove(str(LOCAL))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    pytest.importorskip("espeakng_loader", reason="the extra 'mini' is not installed")
    out = tmp_path_factory.mktemp("corpus") / "one"
    done = make(out, "--nj", "1")
    assert done.returncode == 0, done.stderr
    return out


def test_equal_options_give_equal_bytes_for_any_number_of_processes(corpus, tmp_path):
    assert make(tmp_path / "two", "--nj", "2").returncode == 0
    assert digests(tmp_path / "two") == digests(corpus)


def test_another_seed_gives_other_speech(corpus, tmp_path):
    assert make(tmp_path / "other", "--seed", "8", "--nj", "1").returncode == 0
    one, other = digests(corpus), digests(tmp_path / "other")
    speech = [name for name in one if name.endswith((".flac", ".wav"))]
    assert speech and not {one[name] for name in speech} & set(other.values())


def test_second_run_leaves_everything_and_says_so(corpus):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    done = make(corpus)
    assert done.returncode == 0 and "nothing to do" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_missing_file_is_made_again(corpus, tmp_path):
    expected = digests(corpus)
    victim = next((corpus / "eval").rglob("*.flac"))
    victim.unlink()
    assert make(corpus, "--nj", "1").returncode == 0
    assert digests(corpus) == expected


def test_an_utterance_does_not_depend_on_what_was_said_before(local, tmp_path):
    pytest.importorskip("espeakng_loader", reason="the extra 'mini' is not installed")
    espeak, plan = local("espeak"), local("plan")
    voices = plan.draw_voices(3, 0, "x", 3)
    folder = espeak.make_data_folder(tmp_path, {one.name: one.variant for one in voices})
    lines = [one.line for one in plan.draw_utterances(3, 0, voices, 1, 2)]

    def speak(line):
        return espeak.Synthesiser(folder).speak(
            line.text, line.voice, line.seed, line.rate, line.pitch, line.pitch_range
        )

    forwards = [speak(line) for line in lines]
    backwards = [speak(line) for line in reversed(lines)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert all(len(wave) > espeak.SAMPLE_RATE for wave in forwards)


def test_data_directories_are_consistent(corpus):
    for name, speakers, utterances in (("train", 2, 2), ("eval", 4, 16)):
        folder = corpus / name
        tables = {
            table: read_table(folder / table)
            for table in ("wav.scp", "utt2spk", "utt2dur", "utt2ses", "spk2gender", "spk2utt")
        }
        keys = list(tables["utt2spk"])
        assert len(keys) == utterances and keys == sorted(keys)
        for table in ("wav.scp", "utt2dur", "utt2ses"):
            assert list(tables[table]) == keys
        assert len(tables["spk2gender"]) == len(tables["spk2utt"]) == speakers
        assert " ".join(tables["spk2utt"].values()).split() == keys
        for key in keys:
            assert key.startswith(tables["utt2spk"][key])
            wave, rate = soundfile.read(folder / tables["wav.scp"][key], dtype="float32")
            assert rate == 16000 and wave.ndim == 1
            assert 2.5 <= len(wave) / rate <= 6.0
            assert len(wave) / rate == pytest.approx(float(tables["utt2dur"][key]), abs=1e-3)
            assert 0.02 < np.abs(wave).max() < 1.0 and np.isfinite(wave).all()


def test_speakers_of_the_two_sets_are_different(corpus):
    train, held_out = (set(read_table(corpus / name / "spk2utt")) for name in ("train", "eval"))
    assert not train & held_out


@pytest.mark.parametrize("name", ["trials", "trials_hard"])
def test_trials_pair_sessions_and_genders_as_promised(corpus, name):
    folder = corpus / "eval"
    trials = read_trials(folder / name)
    speaker, session = read_table(folder / "utt2spk"), read_table(folder / "utt2ses")
    gender = read_table(folder / "spk2gender")
    pairs = list(zip(trials.enroll, trials.test, trials.labels, strict=True))
    assert len({frozenset(pair[:2]) for pair in pairs}) == len(pairs)
    for one, other, label in pairs:
        assert (speaker[one] == speaker[other]) == bool(label)
        assert session[one] != session[other]
    targets = {(a, b) for a, b, label in pairs if label}
    assert targets == {
        (a, b)
        for a, b in itertools.combinations(sorted(speaker), 2)
        if speaker[a] == speaker[b] and session[a] != session[b]
    }
    same = [
        gender[speaker[one]] == gender[speaker[other]] for one, other, label in pairs if not label
    ]
    assert all(same) if name == "trials_hard" else np.mean(same) == pytest.approx(0.5, abs=0.02)


def test_nontargets_are_spread_evenly_over_speaker_pairs(local):
    plan = local("plan")
    voices = plan.draw_voices(1, 0, "x", 6)
    utterances = list(plan.draw_utterances(1, 0, voices, 2, 2))
    trials = plan.draw_trials(utterances, np.random.default_rng(0), same_gender_only=False)
    speaker = {one.key: one.speaker for one in utterances}
    gender = {one.speaker: one.gender for one in utterances}
    counts = {}
    for one, other, label in zip(trials.enroll, trials.test, trials.labels, strict=True):
        if not label:
            pair = speaker[one], speaker[other]
            counts[pair] = counts.get(pair, 0) + 1
    for alike in (True, False):
        numbers = [n for (a, b), n in counts.items() if (gender[a] == gender[b]) == alike]
        assert max(numbers) - min(numbers) <= 1


def test_no_two_utterances_say_the_same(local):
    plan = local("plan")
    voices = plan.draw_voices(7, 0, "x", 20)
    texts = [one.line.text for one in plan.draw_utterances(7, 0, voices, 3, 4)]
    assert len(set(texts)) == len(texts) == 240


def test_noises_and_rooms_lie_as_augmentation_expects(corpus):
    found = {
        kind: list((corpus / "musan" / kind).rglob("*.flac"))
        for kind in ("noise", "music", "speech")
    }
    assert {kind: len(files) for kind, files in found.items()} == {
        "noise": 3,
        "music": 1,
        "speech": 1,
    }
    for path in itertools.chain(*found.values()):
        wave, rate = soundfile.read(path)
        assert rate == 16000 and 5 <= len(wave) / rate <= 10 and 0.01 < np.std(wave) < 0.5
    lines = (corpus / "rirs" / "rir_list").read_text().splitlines()
    assert len(lines) == 9
    for line in lines:
        response, rate = soundfile.read(corpus / "rirs" / line.split()[-1])
        assert rate == 16000 and np.argmax(np.abs(response)) == 0


def test_sessions_sound_different_and_speakers_more_so(local):
    acoustics = local("acoustics")
    rng = np.random.default_rng
    noise = acoustics.coloured_noise(1 << 16, 0.0, rng(0)).astype(np.float32)

    def spectrum(channel):
        wave = acoustics.draw_channel(rng(channel)).apply(noise, rng(5))
        return 10 * np.log10(
            np.square(np.abs(np.fft.rfft(wave))).reshape(-1)[1:].reshape(32, -1).mean(1)
        )

    assert np.allclose(spectrum(1), spectrum(1))
    assert np.abs(spectrum(1) - spectrum(2)).max() > 2


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_coloured_noise_falls_with_its_slope(local, slope):
    noise = local("acoustics").coloured_noise(1 << 17, slope, np.random.default_rng(1))
    power = np.square(np.abs(np.fft.rfft(noise)))
    hertz = np.fft.rfftfreq(len(noise), 1 / 16000)
    low, high = (power[(hertz > f * 0.9) & (hertz < f * 1.1)].mean() for f in (400, 3200))
    assert np.square(noise).mean() == pytest.approx(1)
    assert 10 * np.log10(low / high) == pytest.approx(slope * 10 * np.log10(8), abs=0.6)


def test_trim_silence_keeps_the_speech_and_a_margin(local):
    acoustics = local("acoustics")
    tone = np.sin(np.arange(16000) / 5).astype(np.float32)
    wave = np.concatenate([np.zeros(8000), tone, np.zeros(12000)]).astype(np.float32)
    trimmed = acoustics.trim_silence(wave, keep=0.05)
    assert len(trimmed) == pytest.approx(16000 + 2 * 800, abs=320)
    assert acoustics.trim_silence(np.zeros(100, np.float32)).shape == (100,)


def test_room_decays_as_asked(local):
    response = local("acoustics").room_response(np.random.default_rng(2), 0.5, 0.0, num_early=0)
    tail = np.cumsum(np.square(response[1:])[::-1])[::-1]
    level = 10 * np.log10(tail / tail[0])
    at = [np.argmax(level < limit) / 16000 for limit in (-5, -25)]
    assert (at[1] - at[0]) * 3 == pytest.approx(0.5, rel=0.1)


def test_missing_synthesiser_is_one_sentence(tmp_path):
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "espeakng_loader.py").write_text("raise ImportError('not here')\n")
    done = make(tmp_path / "out", env={"PYTHONPATH": f"{fake}:{ROOT}"})
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "pip install espeakng-loader" in done.stderr
    assert not (tmp_path / "out").exists()


def test_library_that_does_not_load_is_one_sentence(tmp_path):
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "libespeak.so").write_text("not a library")
    (fake / "espeakng_loader.py").write_text(
        f"def get_library_path(): return {str(fake / 'libespeak.so')!r}\n"
        f"def get_data_path(): return {str(fake)!r}\n"
    )
    done = make(tmp_path / "out", env={"PYTHONPATH": f"{fake}:{ROOT}"})
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no library that loads here" in done.stderr and "--train, --eval" in done.stderr


def test_foreign_folder_is_left_alone(tmp_path):
    pytest.importorskip("espeakng_loader", reason="the extra 'mini' is not installed")
    precious = tmp_path / "train" / "mine.txt"
    precious.parent.mkdir()
    precious.write_text("keep")
    done = make(tmp_path)
    assert done.returncode == 1 and str(tmp_path / "train") in done.stderr
    assert precious.read_text() == "keep"


@pytest.mark.parametrize(
    ("option", "value"), [("--num-eval-speakers", "3"), ("--num-eval-sessions", "1")]
)
def test_sizes_that_allow_no_trials_are_refused(tmp_path, option, value):
    done = make(tmp_path, option, value)
    assert done.returncode == 1 and option.replace("-", "_").lstrip("_") in done.stderr
