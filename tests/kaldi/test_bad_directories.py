"""A corpus of bad data directories: each fault is found alone, and all of them at once."""

import pytest

from wesp_lap.bin.validate_data_dir import validate_data_dir
from wesp_lap.cli import run_command
from wesp_lap.kaldi.fix import fix_data_dir
from wesp_lap.kaldi.validate import validate


def add(path, text):
    with open(path, "a") as stream:
        stream.write(text)


def more(corpus, wav, key, **settings):
    """Add an utterance of speaker z with its own audio."""
    wav(corpus / f"wav/{key}.wav", **settings)
    add(corpus / "wav.scp", f"{key} wav/{key}.wav\n")
    add(corpus / "utt2spk", f"{key} z\n")
    spoken = [line.split() for line in (corpus / "spk2utt").read_text().splitlines()]
    rest = [words[1:] for words in spoken if words[0] == "z"]
    lines = [" ".join(words) for words in spoken if words[0] != "z"]
    lines.append(" ".join(["z", *(rest[0] if rest else []), key]))
    (corpus / "spk2utt").write_text("\n".join(lines) + "\n")


def blank_line(corpus, wav):
    add(corpus / "utt2spk", "\n")


def repeated_key(corpus, wav):
    add(corpus / "wav.scp", "b-2 wav/b-2.wav\n")


def three_columns(corpus, wav):
    add(corpus / "utt2spk", "c-1 c c\n")


def latin1(corpus, wav):
    (corpus / "utt2lang").write_bytes(b"a-1 fran\xe7ais\n")


def no_audio_entry(corpus, wav):
    add(corpus / "utt2spk", "y-1 y\n")


def missing_audio(corpus, wav):
    more(corpus, wav, "z-1")
    (corpus / "wav/z-1.wav").unlink()


def unreadable_audio(corpus, wav):
    more(corpus, wav, "z-2")
    (corpus / "wav/z-2.wav").write_bytes(b"RIFF")


def other_rate(corpus, wav):
    more(corpus, wav, "z-3", rate=8000)


def stereo(corpus, wav):
    more(corpus, wav, "z-4", channels=2)


def too_short(corpus, wav):
    more(corpus, wav, "z-5", seconds=0.04)


def rather_short(corpus, wav):
    more(corpus, wav, "z-6", seconds=0.7)


def single_utterance(corpus, wav):
    more(corpus, wav, "z-7")


def no_speaker(corpus, wav):
    wav(corpus / "wav/x-1.wav")
    add(corpus / "wav.scp", "x-1 wav/x-1.wav\n")


def unsorted(corpus, wav):
    (corpus / "utt2dur").write_text("b-2 1.2\nb-1 1.2\na-2 1.2\na-1 1.2\n")


def other_spk2utt(corpus, wav):
    (corpus / "spk2utt").write_text("a a-1 b-1\nb a-2 b-2\n")


def wrong_duration(corpus, wav):
    (corpus / "utt2dur").write_text("a-1 1.2\na-2 1.2\nb-1 7.0\nb-2 1.2\n")


def negative_duration(corpus, wav):
    (corpus / "utt2dur").write_text("a-1 1.2\na-2 -3\nb-1 1.2\nb-2 1.2\n")


def unknown_in_utt2dur(corpus, wav):
    add(corpus / "utt2dur", "nobody 1.0\n")


def unknown_in_utt2gender(corpus, wav):
    (corpus / "utt2gender").write_text("a-1 m\nnobody f\n")


def unknown_in_spk2gender(corpus, wav):
    (corpus / "spk2gender").write_text("a m\na-1 f\n")


def unknown_in_reco2dur(corpus, wav):
    (corpus / "reco2dur").write_text("a-1 1.2\nq-1 1.2\n")


def bad_vad(corpus, wav):
    (corpus / "vad").write_text("a-1 0 1\na-2 1 0\nb-1 0 1\nb-2 0 1\n")


FIX = "python -m wesp_lap.bin.fix_data_dir {corpus}"
AUDIO = f"{FIX} --audio headers"
MEASURE = "python -m wesp_lap.bin.get_utt2dur {corpus}"
DIRECTORIES = {
    blank_line: ("error", "{corpus}/utt2spk:5: expected 2 fields, found a blank line", FIX),
    repeated_key: ("error", "{corpus}/wav.scp:5: key 'b-2' stands in the file twice", FIX),
    three_columns: ("error", "{corpus}/utt2spk:5: expected 2 fields, found 'c-1 c c'", FIX),
    latin1: ("error", "{corpus}/utt2lang:1: not UTF-8", "utt2lang"),
    no_audio_entry: ("error", "1 utterances without audio (not in wav.scp): y-1", FIX),
    missing_audio: ("error", "1 audio files are missing: z-1 {corpus}/wav/z-1.wav", AUDIO),
    unreadable_audio: ("error", "1 audio files cannot be read: {corpus}/wav/z-2.wav", AUDIO),
    other_rate: ("error", "not at 16000 Hz (8000 Hz): z-3", "ffmpeg"),
    stereo: ("error", "1 audio files have more than one channel: z-4", "ffmpeg"),
    too_short: ("error", "shorter than 0.1 s: z-5 (0.040 s)", f"{FIX} --min_seconds 0.1"),
    rather_short: ("warning", "shorter than 1.0 s: z-6 (0.700 s)", f"{FIX} --min_seconds 1.0"),
    single_utterance: ("warning", "1 speakers have a single utterance: z", "--min_utterances 2"),
    no_speaker: ("warning", "1 utterances of wav.scp without speaker, left out: x-1", FIX),
    unsorted: ("warning", "{corpus}/utt2dur: not in the order of the C locale", FIX),
    other_spk2utt: ("error", "2 speakers differ from utt2spk: a, b", FIX),
    wrong_duration: ("error", "contradict the audio: b-1 7.000 s, audio 1.200 s", MEASURE),
    negative_duration: ("error", "1 durations are not positive numbers: a-2 -3", MEASURE),
    unknown_in_utt2dur: ("warning", "{corpus}/utt2dur: 1 unknown utterances: nobody", FIX),
    unknown_in_utt2gender: ("warning", "{corpus}/utt2gender: 1 unknown utterances: nobody", FIX),
    unknown_in_spk2gender: ("warning", "{corpus}/spk2gender: 1 unknown speakers: a-1", FIX),
    unknown_in_reco2dur: ("warning", "{corpus}/reco2dur: 1 unknown recordings: q-1", FIX),
    bad_vad: ("error", "{corpus}/vad:2: expected 0 <= start < end, found 'a-2 1 0'", FIX),
}


def fitting(problems, level, text):
    return [one for one in problems if one.level == level and text in one.text]


@pytest.mark.parametrize("fault", DIRECTORIES, ids=lambda fault: fault.__name__)
def test_each_fault_is_found_with_its_mend_and_sets_the_exit_code(corpus, wav, fault, capsys):
    fault(corpus, wav)
    level, text, mend = (part.format(corpus=corpus) for part in DIRECTORIES[fault])
    (problem,) = fitting(validate(corpus), level, text)
    assert mend in problem.mend
    with pytest.raises(SystemExit) as caught:
        run_command(validate_data_dir, [str(corpus)])
    assert caught.value.code == (1 if level == "error" else 0)
    assert text in capsys.readouterr().out


MENDED = [fault for fault, (_, _, mend) in DIRECTORIES.items() if FIX in mend or "--min" in mend]


@pytest.mark.parametrize("fault", MENDED, ids=lambda fault: fault.__name__)
def test_what_fix_data_dir_is_said_to_mend_it_mends(corpus, wav, fault):
    fault(corpus, wav)
    level, text, mend = (part.format(corpus=corpus) for part in DIRECTORIES[fault])
    options = {"audio": "headers"} if "--audio" in mend else {}
    if "--min" in mend:
        name, value = mend.split()[-2:]
        options[name.removeprefix("--")] = float(value) if "seconds" in name else int(value)
    fix_data_dir(corpus, **options)
    assert not fitting(validate(corpus), level, text)


TOGETHER = [
    three_columns,
    repeated_key,
    no_audio_entry,
    missing_audio,
    unreadable_audio,
    other_rate,
    stereo,
    too_short,
    rather_short,
    no_speaker,
    wrong_duration,
    unknown_in_utt2gender,
    unknown_in_spk2gender,
    unknown_in_reco2dur,
    bad_vad,
]


def test_all_faults_are_found_at_once(corpus, wav):
    for fault in TOGETHER:
        fault(corpus, wav)
    problems = validate(corpus)
    for fault in TOGETHER:
        level, text, _ = (part.format(corpus=corpus) for part in DIRECTORIES[fault])
        text = text.replace("/utt2spk:6", "/utt2spk:5")
        assert fitting(problems, level, text), fault.__name__
