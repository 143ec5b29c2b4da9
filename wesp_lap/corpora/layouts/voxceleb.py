"""VoxCeleb1 and VoxCeleb2 as the Visual Geometry Group publishes them."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterator, Sequence

from wesp_lap.corpora.layouts.source import LayoutOptions, Speaker, split_speakers
from wesp_lap.corpora.layouts.writer import Writer
from wesp_lap.errors import DataError
from wesp_lap.kaldi.trials import read_trials
from wesp_lap.seeding import generator

_TEST = range(10270, 10310)
_DEV = [number for number in range(10001, 11252) if number not in _TEST]
_FIRST_OF_2 = 12
_MOST_OF_2 = 6112

# Of two utterances of the corpus: the label and both names.
Pair = tuple[int, str, str]


def voxceleb1(writer: Writer, options: LayoutOptions) -> None:
    """Write vox1_dev_wav/wav, vox1_test_wav/wav, the four trial lists and vox1_meta.csv.

    The lists are those of Vox1-O (veri_test.txt, veri_test2.txt), Vox1-E (list_test_all2.txt) and
    Vox1-H (list_test_hard2.txt, pairs of one gender where the source says it).
    """
    parts = split_speakers("voxceleb1", options, (len(_DEV), len(_TEST)), (2, 2))
    names: dict[str, str] = {}
    meta = ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    for part, speakers, numbers in (("dev", parts.dev, _DEV), ("test", parts.test, _TEST)):
        for speaker, number in zip(speakers, numbers, strict=False):
            new = f"id{number}"
            names |= _write_speaker(writer, f"vox1_{part}_wav/wav", new, speaker, "wav")
            meta.append(f"{new}\tName_{number}\t{speaker.gender}\tUnknown\t{part}")
    writer.text("vox1_meta.csv", meta)
    _write_lists(writer, options, (*parts.dev, *parts.test), parts.test, names)
    if options.archives:
        writer.pack("vox1_dev_wav/wav", "wav", "vox1_dev_wav", parts=4)
        writer.pack("vox1_test_wav/wav", "wav", "vox1_test_wav")


def voxceleb2(writer: Writer, options: LayoutOptions) -> None:
    """Write dev/aac, test/aac and vox2_meta.csv; with archives, the parts of the published zips."""
    parts = split_speakers("voxceleb2", options, (_MOST_OF_2, 118), (2, 1))
    meta = ["VoxCeleb2 ID ,VGGFace2 ID ,Gender,Set "]
    numbers = itertools.count(_FIRST_OF_2)
    for part, speakers in (("dev", parts.dev), ("test", parts.test)):
        for speaker in speakers:
            number = next(numbers)
            _write_speaker(writer, f"{part}/aac", f"id{number:05d}", speaker, options.audio)
            meta.append(f"id{number:05d} ,n{number:06d} ,{speaker.gender} ,{part} ")
    writer.text("vox2_meta.csv", meta)
    if options.archives:
        writer.pack("dev/aac", "dev/aac", "vox2_dev_aac", parts=8)
        writer.pack("test/aac", "aac", "vox2_test_aac")


def _write_speaker(
    writer: Writer, folder: str, new: str, speaker: Speaker, suffix: str
) -> dict[str, str]:
    """Write FOLDER/ID/VIDEO/00001.wav and so on; return the names below FOLDER by utterance."""
    names = {}
    for session in speaker.sessions():
        for number, utterance in enumerate(session, 1):
            video = _video(f"{speaker.name}/{utterance.session}")
            name = f"{new}/{video}/{number:05d}.{suffix}"
            writer.audio(f"{folder}/{name}", utterance.read(), 16000, new, [utterance])
            names[utterance.key] = name
    return names


def _video(session: str) -> str:
    """Return 11 characters as YouTube uses them."""
    return base64.urlsafe_b64encode(hashlib.sha256(session.encode()).digest())[:11].decode()


def _write_lists(
    writer: Writer,
    options: LayoutOptions,
    everyone: Sequence[Speaker],
    test: Sequence[Speaker],
    names: dict[str, str],
) -> None:
    genders = {u.key: speaker.gender for speaker in everyone for u in speaker.utterances}
    tested = {u.key for speaker in test for u in speaker.utterances}
    if options.trials:
        every = _given(options.trials, names)
        original = [pair for pair in every if tested.issuperset(pair[1:])]
        hard = [pair for pair in every if genders[pair[1]] == genders[pair[2]]]
    else:
        draw = (options.num_trials, options.seed)
        original = _drawn(test, False, *draw)
        every = _drawn(everyone, False, *draw)
        hard = _drawn(everyone, True, *draw)
    lists = {"veri_test": original, "veri_test2": original}
    lists |= {"list_test_all2": every, "list_test_hard2": hard}
    for name, pairs in lists.items():
        lines = (f"{label} {names[one]} {names[other]}" for label, one, other in pairs)
        writer.text(f"{name}.txt", lines)


def _given(path: str, names: dict[str, str]) -> list[Pair]:
    """Return the pairs of a list whose utterances were both taken."""
    trials = read_trials(path)
    if trials.labels is None:
        raise DataError(f"{path}: the list has no labels; give one with target and nontarget")
    rows = zip(trials.labels.tolist(), trials.enroll, trials.test, strict=True)
    pairs = [(label, one, other) for label, one, other in rows if one in names and other in names]
    if len({label for label, _, _ in pairs}) < 2:
        raise DataError(
            f"{path}: {len(pairs)} of {len(trials)} trials have both sides among the utterances "
            "that were taken, not of both kinds; give the list of this data directory, or take "
            "more speakers and utterances"
        )
    return pairs


def _drawn(speakers: Sequence[Speaker], same_gender: bool, count: int, seed: int) -> list[Pair]:
    """Draw as many target as nontarget pairs, targets from two sessions where there are two."""
    rng = generator(seed, len(speakers), same_gender)
    targets = list(itertools.chain.from_iterable(map(_targets, speakers)))
    chosen = rng.permutation(len(targets))[: (count + 1) // 2]
    pairs = [(1, *targets[row]) for row in chosen]
    groups = [speakers]
    if same_gender:
        genders = sorted({speaker.gender for speaker in speakers})
        groups = [[one for one in speakers if one.gender == name] for name in genders]
        groups = [group for group in groups if len(group) > 1]
    found: dict[Pair, None] = {}
    for _ in range(20 * len(pairs)):  # few utterances make few pairs
        if len(found) == len(pairs) or not groups:
            break
        group = groups[rng.integers(len(groups))]
        one, other = (group[row] for row in rng.permutation(len(group))[:2])
        keys = (side.utterances[rng.integers(len(side.utterances))].key for side in (one, other))
        found[(0, *keys)] = None
    return [*pairs, *found]


def _targets(speaker: Speaker) -> Iterator[tuple[str, str]]:
    pairs = list(itertools.combinations(speaker.utterances, 2))
    apart = [pair for pair in pairs if pair[0].session != pair[1].session]
    for one, other in apart or pairs:
        yield one.key, other.key
