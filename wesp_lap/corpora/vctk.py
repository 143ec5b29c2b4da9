"""VCTK for speaker verification: 18 speakers to validate, 18 to test, the others to train on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from wesp_lap.corpora.convert import convert_to_16k
from wesp_lap.corpora.paper_trials import SEED, VCTK_TRIALS, vctk_trials
from wesp_lap.corpora.roots import find_root
from wesp_lap.corpora.scan import scan_audio
from wesp_lap.corpora.speaker_sets import get_trials, write_sets
from wesp_lap.errors import ConfigError, DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.problems import some
from wesp_lap.kaldi.tables import read_lines
from wesp_lap.seeding import generator

# The paper gives numbers of speakers only; these are the lists of its published code.
# fmt: off
VAL_SPEAKERS = (
    "p229", "p237", "p239", "p249", "p252", "p263", "p267", "p282", "p286",
    "p287", "p288", "p293", "p297", "p301", "p317", "p318", "p326", "p341",
)
TEST_SPEAKERS = (
    "p230", "p231", "p254", "p256", "p258", "p260", "p264", "p270", "p272",
    "p276", "p304", "p305", "p313", "p316", "p329", "p330", "p336", "p360",
)
# fmt: on
DROPPED_SPEAKERS = ("p280", "p315")
HELD_OUT = 18
FIRST_PROMPT = 25
_SUFFIXES = (".flac", ".wav")
_ROOTS = _ARCHIVES = ("VCTK-Corpus-0.92", "VCTK-Corpus")
_AUDIO = ("wav48_silence_trimmed", "wav48")
_FILE = re.compile(r"(?P<key>(?P<speaker>[ps]\d+)_(?P<prompt>\d{3}))(_(?P<microphone>mic\d))?")
_SETS = ("train", "val", "test")


class SpeakerInfo(NamedTuple):
    """A line of speaker-info.txt: "f" or "m", and the accent."""

    gender: str
    accent: str


class _File(NamedTuple):
    key: str
    speaker: str
    path: str


def prepare_vctk(
    out: PathLike,
    source: PathLike,
    split: Literal["published", "drawn"] = "published",
    held_out: int = HELD_OUT,
    microphone: str = "mic1",
    first_prompt: int = FIRST_PROMPT,
    drop: Sequence[str] = DROPPED_SPEAKERS,
    per_label: int = VCTK_TRIALS,
    seed: int = SEED,
    jobs: int = 0,
    val_trials: PathLike | None = None,
    test_trials: PathLike | None = None,
) -> dict[str, DataDir]:
    """Write OUT/{train,val,test}, OUT/trials/vctk_{val,test}.kaldi and OUT/flac16k.

    Takes release 0.92 (wav48_silence_trimmed, FLAC, two microphones) or 0.80 (wav48, WAV). Audio
    is copied at 16 kHz. Keys are pNNN_NNN; every directory has spk2gender and spk2accent. The
    trials are those of ``paper_trials.vctk_trials``. p280 and p315, recorded with faults, are left
    out as in the paper, which leaves 72 speakers of release 0.92 for training, 71 of 0.80; and so
    are the prompts before 025, which all speakers read.

    Args:
        out: folder for the data directories.
        source: folder with speaker-info.txt, or the one above it, or the archive or its folder,
            which is then unpacked to OUT/unpacked.
        split: "published" holds out the speakers of the paper's code; "drawn" draws them by seed,
            half of them women where there are enough.
        held_out: speakers in each of val and test when they are drawn.
        microphone: "mic1" or "mic2", where there are two.
        first_prompt: prompts with a smaller number are left out.
        drop: speakers that are left out.
        per_label: target trials per list, and non-target trials, before they are rounded up.
        seed: of the trials, and of speakers that are drawn.
        jobs: processes that convert audio; 0 for one per core.
        val_trials: published list to take for val, see ``read_published``; by default one is drawn.
        test_trials: the same for test.

    Returns:
        The data directories by name.

    Raises:
        DataError: files or speakers that are not as published, or too few utterances for the
            trials; this is known before audio is converted.
    """
    root = find_root(source, "speaker-info.txt", _ROOTS, _ARCHIVES, Path(out) / "unpacked")
    info = read_speaker_info(root / "speaker-info.txt")
    files = _collect(root, info, microphone, first_prompt, drop)
    names = sorted({file.speaker for file in files})
    genders = {name: info[name].gender for name in names}
    accents = {name: info[name].accent for name in names}
    sets = _published(names) if split == "published" else draw_split(genders, held_out, seed)
    utt2spk = {
        name: {file.key: file.speaker for file in files if file.speaker in sets[name]}
        for name in _SETS
    }
    lists = get_trials(
        utt2spk,
        {"val": val_trials, "test": test_trials},
        lambda speakers: vctk_trials(speakers, genders, accents, per_label, seed),
    )
    # By microphone: the other one's files have the same keys.
    folder = Path(out) / "flac16k" / microphone
    made = convert_to_16k({f"{one.speaker}/{one.key}": one.path for one in files}, folder, jobs)
    wav = {
        name: {key: made[f"{speaker}/{key}"] for key, speaker in table.items()}
        for name, table in utt2spk.items()
    }
    attributes = {"spk2gender": genders, "spk2accent": accents}
    return write_sets(out, "vctk", wav, utt2spk, attributes, lists)


def read_speaker_info(path: PathLike) -> dict[str, SpeakerInfo]:
    """Read the lines ``ID AGE GENDER ACCENT ...`` of speaker-info.txt; 0.80 has ids without p."""
    table, faults = {}, []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.decode().split()
        if not fields or fields[0] == "ID":
            continue
        if len(fields) < 4 or fields[2] not in ("F", "M"):
            faults.append(f"{path}:{number}: {' '.join(fields)!r}")
            continue
        speaker = f"p{fields[0]}" if fields[0].isdigit() else fields[0]
        table[speaker] = SpeakerInfo(fields[2].lower(), fields[3])
    raise_problems(f"{path}: not lines 'ID AGE F-or-M ACCENT ...'", faults)
    return table


def draw_split(genders: Mapping[str, str], held_out: int, seed: int = SEED) -> dict[str, list[str]]:
    """Divide speakers into train, val and test; the same for the same speakers and seed.

    Args:
        genders: "f" or "m" of every speaker.
        held_out: speakers in each of val and test; half of them are women where there are enough.
        seed: of the draw.

    Raises:
        DataError: fewer than two speakers would be left for training.
    """
    if held_out < 2:
        raise ConfigError(f"held_out must be at least 2, got {held_out}")
    if len(genders) < 2 * held_out + 2:
        raise DataError(
            f"2 x {held_out} of {len(genders)} speakers cannot be held out, as 2 at least must be "
            "left for training; give a smaller --held_out"
        )
    random = generator(seed)
    left = {
        gender: random.permutation(sorted(n for n in genders if genders[n] == gender)).tolist()
        for gender in ("f", "m")
    }
    sets = {}
    for name in ("val", "test"):
        women = min(held_out // 2, len(left["f"]))
        women = max(women, held_out - len(left["m"]))
        chosen = [left["f"].pop() for _ in range(women)]
        sets[name] = sorted(chosen + [left["m"].pop() for _ in range(held_out - women)])
    return {"train": sorted(left["f"] + left["m"]), **sets}


def _published(names: Sequence[str]) -> dict[str, list[str]]:
    held = {*VAL_SPEAKERS, *TEST_SPEAKERS}
    missing = sorted(held - set(names))
    if missing:
        raise DataError(
            f"{len(missing)} of the 36 speakers that are held out have no files: {some(missing)}\n"
            "Unpack VCTK again, or let other speakers be held out: --split drawn"
        )
    train = [name for name in names if name not in held]
    return {"train": train, "val": list(VAL_SPEAKERS), "test": list(TEST_SPEAKERS)}


def _collect(
    root: Path,
    info: Mapping[str, SpeakerInfo],
    microphone: str,
    first_prompt: int,
    drop: Sequence[str],
) -> list[_File]:
    """Return the utterances that count, sorted."""
    folder = next((root / name for name in _AUDIO if (root / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{root}: neither {_AUDIO[0]} nor {_AUDIO[1]} is there; unpack VCTK again")
    found: dict[str, _File] = {}
    faults = []
    for path in map(Path, (file.path for file in scan_audio(folder, 2, _SUFFIXES))):
        match = _FILE.fullmatch(path.stem)
        if match is None or match["speaker"] != path.parent.name:
            faults.append(f"{path}: expected pNNN/pNNN_NNN_mic1.flac or pNNN/pNNN_NNN.wav")
            continue
        key, speaker = match["key"], match["speaker"]
        if speaker in drop or int(match["prompt"]) < first_prompt:
            continue
        if match["microphone"] not in (None, microphone):
            continue
        if speaker not in info:
            faults.append(f"{path}: speaker-info.txt has no speaker {speaker}")
        elif key in found:
            faults.append(f"{path}: the same utterance as {found[key].path}")
        else:
            found[key] = _File(key, speaker, str(path))
    raise_problems(f"{folder}: files that VCTK does not have", faults)
    if not found:
        raise DataError(
            f"{folder}: no files of microphone {microphone} with prompts from {first_prompt:03d} on"
        )
    return sorted(found.values())
