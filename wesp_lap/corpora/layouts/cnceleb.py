"""CN-Celeb1 (CN-Celeb_flac) and CN-Celeb2 (CN-Celeb2_flac) as OpenSLR publishes their second form.

The lists name files with .wav, though they are FLAC: so they are published.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from wesp_lap.corpora.layouts.source import LayoutOptions, Speaker, split_speakers
from wesp_lap.corpora.layouts.writer import Writer

GENRES = (
    "advertisement",
    "drama",
    "entertainment",
    "interview",
    "live_broadcast",
    "movie",
    "play",
    "recitation",
    "singing",
    "speech",
    "vlog",
)
_GENRES_OF_A_SPEAKER = 3
_FIRST_OF_EVAL = 800
_FIRST_OF_2 = 10000


def cnceleb1(writer: Writer, options: LayoutOptions) -> None:
    """Write data/, dev/dev.lst and eval/{enroll,test,lists}.

    The first utterances of an evaluation speaker make its enrolment recording, the others are
    test utterances; every model meets every test utterance.
    """
    most = (_FIRST_OF_EVAL, 200)
    least = options.enroll_utterances + 1
    parts = split_speakers("cnceleb1", options, most, (1, 2), per=least)
    for number, speaker in enumerate(parts.dev):
        _write_speaker(writer, number, number, speaker)
    writer.text("dev/dev.lst", (f"id{number:05d}" for number in range(len(parts.dev))))
    enrolled: dict[str, list[str]] = {}
    tested: list[tuple[str, str]] = []
    for number, speaker in enumerate(parts.test, _FIRST_OF_EVAL):
        new = f"id{number:05d}"
        names = _write_speaker(writer, number, number, speaker)
        taken = list(itertools.chain.from_iterable(speaker.sessions()))
        for_model = taken[: options.enroll_utterances]
        wave = np.concatenate([utterance.read() for utterance in for_model])
        writer.audio(f"eval/enroll/{new}-enroll.flac", wave, 16000, new, for_model)
        enrolled[new] = [f"{new}/{names[utterance.key]}.wav" for utterance in for_model]
        for utterance in taken[len(for_model) :]:
            name = f"test/{new}-{names[utterance.key]}"
            writer.audio(f"eval/{name}.flac", utterance.read(), 16000, new, [utterance])
            tested.append((new, f"{name}.wav"))
    _write_lists(writer, enrolled, tested)


def cnceleb2(writer: Writer, options: LayoutOptions) -> None:
    """Write data/, spk.lst and utt.lst."""
    parts = split_speakers("cnceleb2", options, (2000, 0), (2, 0))
    names: list[str] = []
    speakers = [f"id{number:05d}" for number in range(_FIRST_OF_2, _FIRST_OF_2 + len(parts.dev))]
    for number, (new, speaker) in enumerate(zip(speakers, parts.dev, strict=True)):
        found = _write_speaker(writer, _FIRST_OF_2 + number, number, speaker)
        names += [f"{new}/{name}.wav" for name in found.values()]
    writer.text("spk.lst", speakers)
    writer.text("utt.lst", names)


def _write_speaker(writer: Writer, number: int, turn: int, speaker: Speaker) -> dict[str, str]:
    """Write data/ID/GENRE-SESSION-UTTERANCE.flac; return these names by utterance."""
    new = f"id{number:05d}"
    names = {}
    for place, session in enumerate(speaker.sessions()):
        rounds, genre = divmod(place, _GENRES_OF_A_SPEAKER)
        stem = f"{GENRES[(turn + genre) % len(GENRES)]}-{rounds + 1:02d}"
        for index, utterance in enumerate(session, 1):
            names[utterance.key] = f"{stem}-{index:03d}"
            path = f"data/{new}/{stem}-{index:03d}.flac"
            writer.audio(path, utterance.read(), 16000, new, [utterance])
    return names


def _write_lists(
    writer: Writer, enrolled: dict[str, list[str]], tested: Sequence[tuple[str, str]]
) -> None:
    lists = "eval/lists"
    models = {new: f"{new}-enroll" for new in enrolled}
    writer.text(f"{lists}/enroll.lst", (f"{model} enroll/{model}.wav" for model in models.values()))
    rows = (f"{models[new]} {' '.join(keys)}" for new, keys in enrolled.items())
    writer.text(f"{lists}/enroll.map", rows)
    writer.text(f"{lists}/test.lst", (name for _, name in tested))
    pairs = itertools.product(models, tested)
    writer.text(
        f"{lists}/trials.lst",
        (f"{models[new]} {name} {int(new == speaker)}" for new, (speaker, name) in pairs),
    )
