import pytest

from wesp_lap.bin.lint_trials import lint_trials as command
from wesp_lap.cli import run_command
from wesp_lap.kaldi.lint import lint_trials

GOOD = "a-1 a-2 target\na-1 b-1 nontarget\n"


def lint_text(tmp_path, text, **directories):
    (tmp_path / "t").write_text(text)
    return lint_trials(tmp_path / "t", **directories)


@pytest.mark.parametrize("text", [GOOD, "1 a-1 a-2\n0 a-1 b-1\n", "a-1 a-2\na-1 b-1\n"])
def test_good_lists(tmp_path, corpus, text):
    assert lint_text(tmp_path, text, data=corpus) == []


@pytest.mark.parametrize(
    ("text", "level", "parts"),
    [
        ("", "error", ["t: empty file"]),
        ("a-1 a-2 target\na-1 b-1\n", "error", ["t:2: 'a-1 b-1'"]),
        ("a-1 a-2 yes\na-1 b-1 no\n", "error", ["no line has the form", "t:1", "t:2"]),
        ("1 a-1 a-2\n2 a-1 b-1\n", "error", ["t:2: '2 a-1 b-1'"]),
        ("a-1 a-2 target\n\na-1 b-1 nontarget\n", "error", ["t:2"]),
        (GOOD + "1 a-1 b-2\n", "error", ["t:3: '1 a-1 b-2'"]),
        (GOOD + "a-1 a-2 target\n", "warning", ["1 trials are repeated", "t:3: a-1 a-2"]),
        (GOOD + "a-1 b-1 target\n", "error", ["the other label", "t:3: a-1 b-1"]),
        (GOOD + "b-1 b-1 target\n", "error", ["with itself", "t:3: b-1"]),
        ("a-1 a-2 target\nb-1 b-2 target\n", "error", ["all 2 trials are target"]),
        ("a-1 b-2 nontarget\n", "error", ["all 1 trials are nontarget"]),
    ],
)
def test_bad_lists(tmp_path, text, level, parts):
    (problem,) = lint_text(tmp_path, text)
    assert problem.level == level and problem.mend
    assert all(part in problem.text for part in parts)


def test_missing_ids_are_counted_per_side(tmp_path, corpus):
    text = GOOD + "".join(f"e{number} t{number % 2} target\n" for number in range(7))
    enroll, test = lint_text(tmp_path, text, data=corpus)
    assert enroll.text.endswith(
        f"7 enrolment ids are not in {corpus}: e0, e1, e2, e3, e4 and 2 more"
    )
    assert test.text.endswith(f"2 test ids are not in {corpus}: t0, t1")


def test_enrolments_may_be_speakers_or_models(tmp_path, corpus):
    (corpus / "enroll.map").write_text("model-b b-1 b-2\n")
    assert lint_text(tmp_path, "a a-1 target\nmodel-b a-1 nontarget\n", data=corpus) == []
    (problem,) = lint_text(tmp_path, "a-1 a target\nmodel-b a-1 nontarget\n", data=corpus)
    assert "1 test ids" in problem.text


def test_labels_that_contradict_the_speakers(tmp_path, corpus):
    text = "a-1 a-2 nontarget\na-1 b-1 target\nb-1 b-2 target\n"
    (problem,) = lint_text(tmp_path, text, data=corpus)
    assert "2 labels contradict" in problem.text
    assert "t:1: a-1 a-2" in problem.text and "t:2: a-1 b-1" in problem.text


def test_placeholder_speakers_contradict_nothing(tmp_path, corpus):
    keys = ("a-1", "a-2", "b-1", "b-2")
    (corpus / "utt2spk").write_text("".join(f"{key} {key}\n" for key in keys))
    assert lint_text(tmp_path, GOOD, data=corpus) == []


def test_speakers_and_utterances_shared_with_training(tmp_path, corpus):
    train = tmp_path / "train"
    train.mkdir()
    (train / "wav.scp").write_text("a-2 x.wav\nb-9 y.wav\n")
    (train / "utt2spk").write_text("a-2 other\nb-9 b\n")
    utterances, speakers = lint_text(tmp_path, GOOD, data=corpus, train=train)
    assert f"1 ids are training utterances of {train}: a-2" in utterances.text
    assert f"1 speakers of the trials are in {train}: b" in speakers.text


def test_the_command(tmp_path, capsys):
    path = tmp_path / "t"
    path.write_text(GOOD)
    with pytest.raises(SystemExit) as caught:
        run_command(command, [str(path)])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{path}: 2 trials, 1 target, 1 nontarget: ok\n"
    path.write_text(GOOD + "a-1 a-1 target\n")
    with pytest.raises(SystemExit) as caught:
        run_command(command, [str(path)])
    assert caught.value.code == 1
    assert capsys.readouterr().out.endswith(f"{path}: 3 trials, 2 target, 1 nontarget: 1 error\n")


# Every list is broken in one way; the sentence says where and what.
BAD_LISTS = {
    "empty": ("", "t: empty file, expected one trial per line"),
    "blank line in the middle": ("a-1 a-2 target\n\na-1 b-1 nontarget\n", "t:2: ''"),
    "one column": ("a-1\na-2\n", "t:1: 'a-1'"),
    "four columns": ("a-1 a-2 target 0.5\na-1 b-1 nontarget 0.1\n", "t:1: 'a-1 a-2 target 0.5'"),
    "label missing in one line": (GOOD + "b-1 b-2\n", "t:3: 'b-1 b-2'"),
    "label only in one line": ("a-1 a-2\na-1 b-1\nb-1 b-2 target\n", "t:3: 'b-1 b-2 target'"),
    "two forms": (GOOD + "0 a-1 b-2\n", "t:3: '0 a-1 b-2'"),
    "unknown label": (GOOD + "b-1 b-2 Target\n", "t:3: 'b-1 b-2 Target'"),
    "labels of another toolkit": ("a-1 a-2 tgt\na-1 b-1 imp\n", "no line has the form of a trial"),
    "a third digit": ("1 a-1 a-2\n0 a-1 b-1\n-1 b-1 b-2\n", "t:3: '-1 b-1 b-2'"),
    "commas": ("a-1,a-2,target\na-1,b-1,nontarget\n", "t:1: 'a-1,a-2,target'"),
    "only targets": ("a-1 a-2 target\nb-1 b-2 target\n", "all 2 trials are target"),
    "only non-targets": ("0 a-1 b-1\n0 a-1 b-2\n", "all 2 trials are nontarget"),
    "repeated": (GOOD + "a-1 b-1 nontarget\n", "1 trials are repeated and count twice: {t}:3:"),
    "repeated with the other label": (GOOD + "a-1 b-1 target\n", "other label: {t}:3: a-1 b-1"),
    "with itself": (GOOD + "b-2 b-2 target\n", "compare an utterance with itself: {t}:3: b-2"),
    "enrolment unknown": (GOOD + "z a-1 nontarget\n", "1 enrolment ids are not in {data}: z"),
    "test unknown": (GOOD + "a-1 z nontarget\n", "1 test ids are not in {data}: z"),
    "wrong label": (GOOD + "b-1 b-2 nontarget\n", "1 labels contradict {data}/utt2spk: {t}:3:"),
    "a speaker as a test id": (GOOD + "b-1 b target\n", "1 test ids are not in {data}: b"),
    "not text": (b"a-1 a-2 target\na-1 b\xff nontarget\n", "t:2: not UTF-8; convert the file"),
}


@pytest.mark.parametrize("name", list(BAD_LISTS))
def test_a_bad_list_is_told_by_its_sentence(tmp_path, corpus, name):
    text, sentence = BAD_LISTS[name]
    path = tmp_path / "t"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    problems = lint_trials(path, corpus)
    sentence = sentence.format(t=path, data=corpus)
    assert any(sentence in problem.text for problem in problems), problems
    assert all(problem.mend for problem in problems)
    with pytest.raises(SystemExit) as caught:
        run_command(command, [str(path), f"--data={corpus}"])
    assert caught.value.code == int(any(problem.level == "error" for problem in problems))


MODELS = "one a-1 a-2\ntwo b-1\nunused z-1 z-2\n"
MODEL_TRIALS = "two b-2 target\ntwo a-1 nontarget\n"


@pytest.mark.parametrize(
    ("models", "trials", "sentence"),
    [
        (MODELS, "one a-2 target\n", "with itself: {t}:3: one a-2"),
        (MODELS, "three a-2 target\n", "1 enrolment ids are not in {data}: three"),
        (MODELS, "one b-1 target\n", "1 labels contradict {data}/utt2spk: {t}:3: one b-1"),
        (MODELS, "a b-2 target\n", "1 labels contradict {data}/utt2spk: {t}:3: a b-2"),
        (MODELS, "b b-2 nontarget\n", "1 labels contradict {data}/utt2spk: {t}:3: b b-2"),
        (
            MODELS.replace("one a-1", "one b-1"),
            "one b-2 nontarget\n",
            "{map}: 1 models have utterances of several speakers: one",
        ),
        (
            MODELS.replace("one a-1", "one z-9"),
            "one b-2 nontarget\n",
            "{map}: 1 utterances of models are not in {data}: z-9",
        ),
        (MODELS + "two b-2\n", "one b-2 nontarget\n", "map:4: key 'two' stands in the file twice"),
        ("one\n", "one b-2 nontarget\n", "map:1: expected 'key value', found 'one'"),
    ],
)
def test_bad_models_and_their_trials(tmp_path, corpus, models, trials, sentence):
    path, enroll_map = tmp_path / "t", tmp_path / "map"
    path.write_text(MODEL_TRIALS + trials)
    enroll_map.write_text(models)
    (problem,) = lint_trials(path, corpus, enroll_map=enroll_map)
    assert sentence.format(t=path, data=corpus, map=enroll_map) in problem.text
    assert problem.level == "error" and problem.mend


def test_good_models_and_their_training_utterances(tmp_path, corpus):
    path, enroll_map, train = tmp_path / "t", tmp_path / "map", tmp_path / "train"
    path.write_text(MODEL_TRIALS + "one b-2 nontarget\n")
    enroll_map.write_text(MODELS)
    assert lint_trials(path, corpus, enroll_map=enroll_map) == []
    train.mkdir()
    (train / "wav.scp").write_text("a-2 x.wav\nq-9 y.wav\n")
    (train / "utt2spk").write_text("a-2 a\nq-9 q\n")
    utterances, speakers = lint_trials(path, corpus, train, enroll_map)
    # a-2 is in no trial, only in the model.
    assert f"1 ids are training utterances of {train}: a-2" in utterances.text
    assert f"1 speakers of the trials are in {train}: a" in speakers.text
    with pytest.raises(SystemExit) as caught:
        run_command(command, [str(path), f"--data={corpus}", f"--enroll_map={tmp_path / 'gone'}"])
    assert caught.value.code == 1
