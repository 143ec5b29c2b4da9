"""Who says what in which session, and which trials are made of it: all from one seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from sentences import draw_sentence
from voices import Voice, draw_voice

from wesp_lap.kaldi.trials import Trials
from wesp_lap.seeding import generator

# First number of the key of each kind of draw.
VOICE, SESSION, CHANNEL, LINE, TRIALS, NOISE, TUNE, ROOM = range(8)


@dataclass(frozen=True)
class Line:
    """What a voice says and how; ``spare`` is added when ``text`` turns out too short."""

    voice: str
    text: str
    spare: str
    rate: int
    pitch: int
    pitch_range: int
    seed: int


@dataclass(frozen=True)
class Utterance:
    """One utterance of a set; equal ``channel`` keys mean one session, one channel."""

    key: str
    speaker: str
    session: str
    gender: str
    line: Line
    channel: tuple[int, ...]


def draw_voices(seed: int, group: int, prefix: str, count: int) -> list[Voice]:
    """Draw ``count`` speakers, men and women in turn; ``group`` keeps sets apart."""
    return [
        draw_voice(
            f"{prefix}{number + 1:03d}", "mf"[number % 2], generator(seed, VOICE, group, number)
        )
        for number in range(count)
    ]


def draw_utterances(
    seed: int, group: int, voices: list[Voice], sessions: int, utterances: int
) -> Iterator[Utterance]:
    """Draw what each voice says in each session; no two utterances share their text."""
    said: set[str] = set()
    for speaker, voice in enumerate(voices):
        for session in range(sessions):
            mood = generator(seed, SESSION, group, speaker, session)
            rate = voice.rate * mood.uniform(0.92, 1.08)
            pitch, pitch_range = mood.normal(50, 5), mood.normal(50, 8)
            for number in range(utterances):
                random = generator(seed, LINE, group, speaker, session, number)
                while (
                    text := draw_sentence(random, round(rate / 60 * random.uniform(1.5, 3.5)))
                ) in said:
                    pass
                said.add(text)
                name = f"{voice.name}-s{session + 1}"
                yield Utterance(
                    key=f"{name}-u{number + 1:02d}",
                    speaker=voice.name,
                    session=name,
                    gender=voice.gender,
                    line=Line(
                        voice=voice.espeak_name,
                        text=text,
                        spare=draw_sentence(random, 6),
                        rate=round(rate * random.uniform(0.95, 1.05)),
                        pitch=round(pitch + random.normal(0, 3)),
                        pitch_range=round(pitch_range),
                        seed=int(random.integers(1, 2**31)),
                    ),
                    channel=(seed, CHANNEL, group, speaker, session),
                )


def draw_trials(
    utterances: list[Utterance], random: np.random.Generator, same_gender_only: bool
) -> Trials:
    """Pair utterances: all targets across sessions, and three times as many nontargets.

    The nontargets are spread evenly over the pairs of speakers; half of them, or all, have
    speakers of the same gender.
    """
    targets = [
        (one.key, other.key)
        for one, other in itertools.combinations(utterances, 2)
        if one.speaker == other.speaker and one.session != other.session
    ]
    of_speaker: dict[str, list[str]] = {}
    gender = {}
    for one in utterances:
        of_speaker.setdefault(one.speaker, []).append(one.key)
        gender[one.speaker] = one.gender
    pairs = list(itertools.combinations(of_speaker, 2))
    same = [(a, b) for a, b in pairs if gender[a] == gender[b]]
    cross = [(a, b) for a, b in pairs if gender[a] != gender[b]]
    wanted = 3 * len(targets)
    if same_gender_only:
        nontargets = _spread(same, wanted, of_speaker, random)
    else:
        nontargets = _spread(same, wanted // 2, of_speaker, random)
        nontargets += _spread(cross, wanted - wanted // 2, of_speaker, random)
    labelled = sorted([(*pair, 1) for pair in targets] + [(*pair, 0) for pair in nontargets])
    enroll, test, labels = zip(*labelled, strict=True)
    return Trials(list(enroll), list(test), np.array(labels, np.int8))


def _spread(
    speakers: Iterable[tuple[str, str]],
    wanted: int,
    of_speaker: dict[str, list[str]],
    random: np.random.Generator,
) -> list[tuple[str, str]]:
    """Draw ``wanted`` different utterance pairs, or all there are, evenly over speaker pairs."""
    stacks = []
    for one, other in speakers:
        pairs = list(itertools.product(of_speaker[one], of_speaker[other]))
        stacks.append([pairs[index] for index in random.permutation(len(pairs))])
    shuffled = [stacks[index] for index in random.permutation(len(stacks))]
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*shuffled))
    return list(itertools.islice((pair for pair in rounds if pair is not None), wanted))
