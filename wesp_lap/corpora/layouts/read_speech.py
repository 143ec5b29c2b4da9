"""Corpora of read speech: LibriSpeech and VCTK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wesp_lap.corpora.layouts.source import LayoutOptions, Speaker, Utterance, split_speakers
from wesp_lap.corpora.layouts.writer import Writer
from wesp_lap.kaldi.tables import read_table

_FIRST_READER = 1001
_FIRST_CHAPTER = 120001
_VCTK_RATE = 48000
_SECOND_MICROPHONE = 0.8


def librispeech(writer: Writer, options: LayoutOptions) -> None:
    """Write LibriSpeech/{train-clean-100,dev-clean,test-clean}, SPEAKERS.TXT and CHAPTERS.TXT.

    A session of the source is a chapter. Transcripts come from its ``text``, or are made up, and
    where the source does not know a speaker's gender, men and women alternate.
    """
    parts = split_speakers("librispeech", options, (1000, 200), (2, 1))
    held_out = max(1, min(len(parts.test), len(parts.dev) // 2))
    subsets = {
        "train-clean-100": parts.dev[:-held_out],
        "dev-clean": parts.dev[-held_out:],
        "test-clean": parts.test,
    }
    texts = _texts(parts.dev + parts.test)
    speakers = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    chapters = [
        ";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE"
    ]
    reader, chapter = _FIRST_READER, _FIRST_CHAPTER
    for subset, members in subsets.items():
        for speaker in members:
            minutes = 0.0
            for session in speaker.sessions():
                length = _write_chapter(writer, subset, reader, chapter, session, texts)
                chapters.append(
                    f"{chapter:<7}| {reader:<5}| {length:<6.2f}| {subset:<17}| 0    | 0     "
                    f"| Chapter {chapter} | Miniature"
                )
                minutes += length
                chapter += 1
            sex = speaker.gender.upper() or "MF"[reader % 2]
            name = f"Reader {reader}"
            speakers.append(f"{reader:<5}| {sex} | {subset:<17}| {minutes:<5.2f} | {name}")
            reader += 1
    writer.text("LibriSpeech/SPEAKERS.TXT", speakers)
    writer.text("LibriSpeech/CHAPTERS.TXT", chapters)


def vctk(writer: Writer, options: LayoutOptions) -> None:
    """Write wav48_silence_trimmed (48 kHz, two microphones), txt and speaker-info.txt.

    The second microphone is the first one, softer.
    """
    parts = split_speakers("vctk", options, (110, 0), (2, 0))
    texts = _texts(parts.dev)
    info = ["ID  AGE  GENDER  ACCENTS  REGION COMMENTS"]
    for number, speaker in enumerate(parts.dev, 225):
        new = f"p{number}"
        sex = speaker.gender.upper() or "FM"[number % 2]
        info.append(f"{new}  {20 + number % 10}  {sex}    English    Region{number}")
        for index, utterance in enumerate(_in_order(speaker), 1):
            name = f"{new}_{index:03d}"
            wave = utterance.read(_VCTK_RATE)
            for microphone, gain in ((1, 1.0), (2, _SECOND_MICROPHONE)):
                path = f"wav48_silence_trimmed/{new}/{name}_mic{microphone}.flac"
                writer.audio(path, wave * gain, _VCTK_RATE, new, [utterance])
            writer.text(f"txt/{new}/{name}.txt", [texts[utterance.key].capitalize() + "."])
    writer.text("speaker-info.txt", info)


def _write_chapter(
    writer: Writer,
    subset: str,
    reader: int,
    chapter: int,
    session: list[Utterance],
    texts: dict[str, str],
) -> float:
    """Write one chapter and return its minutes."""
    folder = f"LibriSpeech/{subset}/{reader}/{chapter}"
    samples, lines = 0, []
    for index, utterance in enumerate(session):
        name = f"{reader}-{chapter}-{index:04d}"
        wave = utterance.read()
        samples += len(wave)
        writer.audio(f"{folder}/{name}.flac", wave, 16000, str(reader), [utterance])
        lines.append(f"{name} {texts[utterance.key].upper()}")
    writer.text(f"{folder}/{reader}-{chapter}.trans.txt", lines)
    return samples / 16000 / 60


def _texts(speakers: list[Speaker]) -> dict[str, str]:
    """Return what is said, from ``text`` of the source; words of the key where it has none."""
    tables: dict[Path, dict[str, str]] = {}
    texts = {}
    for speaker in speakers:
        for utterance in speaker.utterances:
            path = utterance.data.path / "text"
            if path not in tables:
                tables[path] = read_table(path) if path.is_file() else {}
            words = "".join(c if c.isalpha() else " " for c in utterance.key)
            made_up = f"utterance {' '.join(words.split())}".strip()
            texts[utterance.key] = tables[path].get(utterance.key, made_up)
    return texts


def _in_order(speaker: Speaker) -> Iterator[Utterance]:
    for session in speaker.sessions():
        yield from session
