"""Subset, copy and split against plain sets and awk; no table is forgotten."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from wesp_lap.bin import subset_data_dir as command
from wesp_lap.cli import run_command
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.balance import cut
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.edit import copy_data_dir, split_data_dir, subset_data_dir


def build(folder, speakers=9, order=None):
    """Write a directory with segments and all kinds of tables; speaker n has n + 1 utterances."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(5)
    keys = [f"s{one}-u{number}" for one in range(speakers) for number in range(one + 1)]
    tables = {
        "wav.scp": [f"r-{key} wav/{key}.wav" for key in keys],
        "segments": [f"{key} r-{key} 0.50 {1 + draw.random():.2f}" for key in keys],
        "utt2spk": [f"{key} {key[:2]}" for key in keys],
        "utt2lang": [f"{key} de  at" for key in keys[::2]],
        "utt2dur": [f"{key} {draw.random() + 0.1:.5f}" for key in keys],
        "spk2gender": [f"s{one} f" for one in range(0, speakers, 2)],
        "reco2dur": [f"r-{key} 2.25" for key in keys],
        "vad": [f"{key} 0.0 0.25" for key in keys[::3]],
    }
    for name, lines in tables.items():
        if order is not None:
            random.Random(order).shuffle(lines)
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return keys


def table(path):
    return dict(line.split(" ", 1) for line in path.read_text().splitlines())


def check_rows(source, part, utterances):
    """Assert that every table of ``part`` holds the rows of these utterances, and no others."""
    speakers = {key[:2] for key in utterances}
    for name in sorted(path.name for path in source.iterdir() if path.is_file()):
        keep = {"spk2gender": speakers, "wav.scp": None, "reco2dur": None}.get(name, utterances)
        if keep is None:
            keep = {f"r-{key}" for key in utterances}
        expected = {key: value for key, value in table(source / name).items() if key in keep}
        if name == "wav.scp":
            expected = {key: f"{source.resolve()}/{value}" for key, value in expected.items()}
        found = table(part / name) if (part / name).exists() else {}
        assert found == expected and list(found) == sorted(found), name
    spk2utt = {key: sorted(value.split()) for key, value in table(part / "spk2utt").items()}
    assert spk2utt == {one: sorted(k for k in utterances if k[:2] == one) for one in speakers}
    DataDir.load(part)


def chosen(folder):
    return set(table(folder / "utt2spk"))


HOWS = ["first", "last", "random", "per_speaker", "speakers", "shortest"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("number", [1, 3, 20, 45])
def test_every_table_of_a_subset(tmp_path, how, number):
    keys = build(tmp_path / "all")
    kept, before = subset_data_dir(tmp_path / "all", tmp_path / "part", how, number)
    found = chosen(tmp_path / "part")
    assert (kept, before) == (len(found), len(keys)) == (len(found), 45)
    check_rows(tmp_path / "all", tmp_path / "part", found)
    if how in ("first", "last", "random", "shortest"):
        assert len(found) == number


@pytest.mark.parametrize("how", HOWS)
def test_the_order_of_lines_does_not_matter(tmp_path, how):
    results = []
    for order in (None, 1, 2):
        build(tmp_path / f"all{order}", order=order)
        subset_data_dir(tmp_path / f"all{order}", tmp_path / f"part{order}", how, 7, seed=3)
        results.append(chosen(tmp_path / f"part{order}"))
    assert results[0] == results[1] == results[2]


def test_what_each_way_chooses(tmp_path):
    source = tmp_path / "all"
    keys = sorted(build(source))

    def subset(how, number, seed=0):
        subset_data_dir(source, tmp_path / "part", how, number, seed)
        return chosen(tmp_path / "part")

    assert subset("first", 4) == set(keys[:4]) and subset("last", 4) == set(keys[-4:])
    assert subset("random", 20, 1) == subset("random", 20, 1) != subset("random", 20, 2)
    assert subset("random", 20, 1) > subset("random", 19, 1)
    times = {key: value.split()[1:] for key, value in table(source / "segments").items()}
    seconds = {key: float(end) - float(start) for key, (start, end) in times.items()}
    by_length = sorted(keys, key=lambda key: (seconds[key], key))
    assert subset("shortest", 6) == set(by_length[:6])
    counts = {one: len([k for k in keys if k[:2] == one]) for one in {k[:2] for k in keys}}
    found = subset("per_speaker", 3)
    assert {one: len([k for k in found if k[:2] == one]) for one in counts} == {
        one: min(count, 3) for one, count in counts.items()
    }
    assert {key for key in found if key[:2] == "s8"} == {"s8-u0", "s8-u3", "s8-u6"}
    found = subset("speakers", 10, 4)
    sizes = [counts[one] for one in {key[:2] for key in found}]
    assert sum(sizes) == len(found) >= 10 > len(found) - max(sizes)
    assert {key for key in keys if key[:2] in {one[:2] for one in found}} == found


def test_a_speaker_with_fewer_utterances_than_asked_for_keeps_all(tmp_path, corpus):
    kept, before = subset_data_dir(corpus, tmp_path / "all", "per_speaker", 10**6)
    assert kept == before > 0


def test_no_more_speakers_than_needed(tmp_path, corpus):
    for number, speakers in ((1, 1), (2, 1), (3, 2), (4, 2)):  # two utterances each
        subset_data_dir(corpus, tmp_path / "part", "speakers", number)
        assert len(set(table(tmp_path / "part/utt2spk").values())) == speakers


def test_random_choices_are_even(tmp_path):
    keys = build(tmp_path / "all")
    hits = dict.fromkeys(keys, 0)
    for seed in range(40):
        subset_data_dir(tmp_path / "all", tmp_path / "part", "random", 22, seed)
        for key in chosen(tmp_path / "part"):
            hits[key] += 1
    # Binomial with mean 20 and deviation 3.2: five deviations.
    assert min(hits.values()) >= 4 and max(hits.values()) <= 36


def test_lists_of_speakers_and_utterances(tmp_path, caplog):
    source = tmp_path / "all"
    keys = build(source)
    (tmp_path / "list").write_text("s3 and more\n\ns1\nnobody\n")
    subset_data_dir(source, tmp_path / "part", "spk_list", tmp_path / "list")
    check_rows(source, tmp_path / "part", {key for key in keys if key[:2] in ("s1", "s3")})
    assert "1 names are not in" in caplog.text and "nobody" in caplog.text
    (tmp_path / "list").write_text("s3-u1\ns5-u0 x\n")
    subset_data_dir(source, tmp_path / "part", "utt_list", tmp_path / "list")
    check_rows(source, tmp_path / "part", {"s3-u1", "s5-u0"})
    (tmp_path / "list").write_text("nobody\n")
    with pytest.raises(DataError, match="none of its 1 utterances"):
        subset_data_dir(source, tmp_path / "part", "utt_list", tmp_path / "list")


def test_impossible_subsets_are_refused(tmp_path, corpus):
    build(tmp_path / "all")
    with pytest.raises(DataError, match="holds 45 utterances, 46 are asked for"):
        subset_data_dir(tmp_path / "all", tmp_path / "part", "first", 46)
    with pytest.raises(ConfigError, match="give 1 or more"):
        subset_data_dir(tmp_path / "all", tmp_path / "part", "random", 0)
    assert not (tmp_path / "part").exists()
    (corpus / "utt2dur").write_text("a-1 1.2\n")
    with pytest.raises(DataError, match="3 utterances of unknown length: a-2") as caught:
        subset_data_dir(corpus, tmp_path / "part", "shortest", 1)
    assert f"python -m wesp_lap.bin.get_utt2dur {corpus}" in str(caught.value)


def test_the_source_is_never_overwritten(tmp_path):
    build(tmp_path / "all")
    (tmp_path / "link").symlink_to("all")
    before = {path: path.read_bytes() for path in (tmp_path / "all").iterdir()}
    for target in (tmp_path / "all", tmp_path / "link", tmp_path / "x" / ".." / "all"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match="give another directory"):
            subset_data_dir(tmp_path / "all", target, "first", 1)
        with pytest.raises(ConfigError, match="give another directory"):
            copy_data_dir(tmp_path / "all", target)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is no directory"):
        copy_data_dir(tmp_path / "all", tmp_path / "file")
    assert {path: path.read_bytes() for path in (tmp_path / "all").iterdir()} == before


def test_tables_of_an_earlier_run_do_not_survive(tmp_path, corpus):
    build(tmp_path / "all")
    copy_data_dir(tmp_path / "all", tmp_path / "out")
    (tmp_path / "out/prepare.json").write_text("{}")
    (tmp_path / "out/notes").write_text("mine")
    copy_data_dir(corpus, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["notes", "wav.scp", "utt2spk", "spk2utt", "utt2dur"]
    )


def test_relative_audio_is_found_from_the_new_directory(tmp_path, corpus, monkeypatch):
    monkeypatch.chdir(corpus)
    (corpus / "wav.scp").write_text(
        f"a-1 wav/a-1.wav\na-2 {corpus}/wav/a-2.wav\nb-1 cat wav/b-1.wav |\nb-2 wav/b-2.wav\n"
    )
    copy_data_dir(".", tmp_path / "copy")
    monkeypatch.chdir("/")
    data = DataDir.load(tmp_path / "copy")
    assert data.resolve("a-1").samefile(corpus / "wav/a-1.wav")
    assert data.wav["a-2"] == f"{corpus}/wav/a-2.wav" and data.wav["b-1"] == "cat wav/b-1.wav |"


def test_a_copy_without_other_names_has_equal_tables(tmp_path):
    keys = build(tmp_path / "all", order=4)
    assert copy_data_dir(tmp_path / "all", tmp_path / "copy") == len(keys)
    check_rows(tmp_path / "all", tmp_path / "copy", set(keys))
    assert not (tmp_path / "copy/utt2uniq").exists()


def test_renamed_copies_against_awk(tmp_path):
    source, target = tmp_path / "all", tmp_path / "copy"
    build(source)
    names = {"utt_prefix": "p-", "utt_suffix": "-q", "spk_prefix": "x", "spk_suffix": "y"}
    copy_data_dir(source, target, **names)
    programs = {
        "utt2spk": '{print "p-" $1 "-q", "x" $2 "y"}',
        "segments": '{$1 = "p-" $1 "-q"; print}',
        "utt2dur": '{$1 = "p-" $1 "-q"; print}',
        "vad": '{$1 = "p-" $1 "-q"; print}',
        "spk2gender": '{$1 = "x" $1 "y"; print}',
        "reco2dur": "{print}",
    }
    for name, program in programs.items():
        done = subprocess.run(["awk", program, source / name], stdout=subprocess.PIPE, check=True)
        assert sorted((target / name).read_bytes().splitlines()) == sorted(done.stdout.splitlines())
    assert table(target / "utt2lang")["p-s0-u0-q"] == "de  at"
    assert table(target / "utt2uniq")["p-s0-u0-q"] == "s0-u0"
    assert table(target / "wav.scp").keys() == table(source / "wav.scp").keys()


def test_without_segments_recordings_are_renamed_too(tmp_path, corpus):
    copy_data_dir(corpus, tmp_path / "copy", utt_prefix="n/")
    assert table(tmp_path / "copy/wav.scp")["n/a-1"] == f"{corpus}/wav/a-1.wav"
    copy_data_dir(tmp_path / "copy", tmp_path / "again", utt_suffix="x")
    assert table(tmp_path / "again/utt2uniq")["n/a-1x"] == "a-1"  # the first name of all
    with pytest.raises(ConfigError, match="holds white space"):
        copy_data_dir(corpus, tmp_path / "bad", spk_prefix="a b")


@pytest.mark.parametrize("per_utt", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 4, 9])
def test_splits_hold_every_utterance_once(tmp_path, parts, per_utt):
    keys = build(tmp_path / "all", order=2)
    folders = split_data_dir(tmp_path / "all", parts, per_utt)
    base = tmp_path / "all" / (f"split{parts}utt" if per_utt else f"split{parts}")
    assert folders == [base / str(number) for number in range(1, parts + 1)]
    pieces = [chosen(folder) for folder in folders]
    assert sorted(key for piece in pieces for key in piece) == sorted(keys)
    for folder, piece in zip(folders, pieces, strict=True):
        check_rows(tmp_path / "all", folder, piece)
    sizes = [len(piece) for piece in pieces]
    if per_utt:
        assert max(sizes) - min(sizes) <= 1
    else:
        speakers = [{key[:2] for key in piece} for piece in pieces]
        assert sum(map(len, speakers)) == 9 and max(sizes) <= len(keys) / parts + 9


def test_too_many_parts_are_refused(tmp_path):
    build(tmp_path / "all")
    with pytest.raises(DataError, match=r"9 speakers cannot be split into 10; .*--per_utt"):
        split_data_dir(tmp_path / "all", 10)
    with pytest.raises(DataError, match="45 utterances cannot be split into 46"):
        split_data_dir(tmp_path / "all", 46, per_utt=True)
    with pytest.raises(DataError, match="cannot be split into 0"):
        split_data_dir(tmp_path / "all", 0)


def test_a_second_split_replaces_the_first(tmp_path):
    build(tmp_path / "all")
    split_data_dir(tmp_path / "all", 3)
    for name in ("utt2lang", "vad"):
        (tmp_path / "all" / name).unlink()
    for folder in split_data_dir(tmp_path / "all", 3):
        assert not (folder / "utt2lang").exists() and not (folder / "vad").exists()


def test_cuts_are_consecutive_not_empty_and_balanced():
    draw = random.Random(0)
    for _ in range(500):
        weights = [draw.randint(1, draw.choice([1, 5, 100])) for _ in range(draw.randint(1, 30))]
        parts = draw.randint(1, len(weights))
        ranges = cut(weights, parts)
        assert [index for one in ranges for index in one] == list(range(len(weights)))
        assert len(ranges) == parts and all(ranges)
        largest = max(sum(weights[index] for index in one) for one in ranges)
        assert largest <= sum(weights) / parts + max(weights)
    assert cut([3, 3, 1], 2) == [range(1), range(1, 3)]  # 3 is nearer to 3.5 than 6
    assert cut([1, 5, 1], 2) == [range(1), range(1, 3)]  # of two equally near ones, the first
    with pytest.raises(ValueError, match="cannot be cut"):
        cut([1, 2], 3)


def test_invalid_sources_are_refused_with_the_mend(tmp_path, corpus):
    with open(corpus / "utt2spk", "a") as stream:
        stream.write("ghost g\n")
    for work in (
        lambda: subset_data_dir(corpus, tmp_path / "out", "first", 1),
        lambda: copy_data_dir(corpus, tmp_path / "out"),
        lambda: split_data_dir(corpus, 2),
    ):
        with pytest.raises(DataError, match=f"python -m wesp_lap.bin.fix_data_dir {corpus}"):
            work()
    assert not (tmp_path / "out").exists() and not (corpus / "split2").exists()


def test_features_are_left_behind_and_that_is_said(tmp_path, corpus, caplog):
    shutil.copy(corpus / "wav.scp", corpus / "feats.scp")
    copy_data_dir(corpus, tmp_path / "out")
    assert not Path(tmp_path / "out/feats.scp").exists() and "feats.scp left behind" in caplog.text


def test_the_subset_command_wants_exactly_one_way(corpus, tmp_path, capsys):
    words = ["--src", str(corpus), "--out", str(tmp_path / "out")]
    for ways in ([], ["--first", "1", "--last", "1"]):
        with pytest.raises(SystemExit) as caught:
            run_command(command.subset_data_dir, words + ways)
        assert caught.value.code == 1
        assert "give exactly one of --first, --last" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        run_command(command.subset_data_dir, [*words, "--first", "1"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{tmp_path}/out: 1 of 4 utterances\n"
