"""Write Kaldi data directories, the enrolment map and the trial list of CN-Celeb."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from wesp_lap.cli import run_command
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import atomic_write
from wesp_lap.kaldi.tables import invert, write_table

_SUFFIXES = (".flac", ".wav")


def make_data_dirs(out: str, cnceleb1: str, cnceleb2: str | None = None) -> None:
    """Write OUT/train, OUT/eval, OUT/eval/enroll.map and OUT/eval/trials.

    Training speakers are those of data/ that do not stand in eval/lists; keys are
    SPEAKER/FILE.wav there, and enroll/FILE.wav or test/FILE.wav in the evaluation set, as the
    lists write them, whatever the files' own suffix.

    Args:
        out: Folder of the data directories.
        cnceleb1: CN-Celeb1, with data/ and eval/{enroll,test,lists}.
        cnceleb2: CN-Celeb2, with data/; its speakers join the training set.
    """
    target, first = Path(out), Path(cnceleb1)
    lists = first / "eval" / "lists"
    enroll = _pairs(lists / "enroll.lst")
    trials = _pairs(lists / "trials.lst")
    tested = {test for _, test, *_ in trials}
    eval_wav = {key: _audio(first / "eval", key) for key in {path for _, path in enroll} | tested}
    missing = sorted(key for key, path in eval_wav.items() if path is None)
    raise_problems(f"{first}: files of the lists that are not there", missing, "Unpack it again.")
    utt2spk = {key: Path(key).name.split("-", 1)[0] for key in eval_wav}
    _write(target / "eval", {key: str(path) for key, path in eval_wav.items()}, utt2spk)
    _write_lines(target / "eval" / "enroll.map", (" ".join(pair) for pair in enroll))
    labels = {"1": "target", "0": "nontarget"}
    _write_lines(
        target / "eval" / "trials",
        (f"{model} {test} {labels.get(label, label)}" for model, test, label in trials),
    )
    held_out = set(utt2spk.values())
    train: dict[str, str] = {}
    for source in filter(None, (cnceleb1, cnceleb2)):
        train |= _training_files(Path(source) / "data", held_out)
    _write(target / "train", train, {key: key.split("/", 1)[0] for key in train})


def _pairs(path: Path) -> list[list[str]]:
    if not path.is_file():
        raise DataError(f"{path}: no such list; expected CN-Celeb's eval/lists as it is published")
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    width = {"enroll.lst": 2, "trials.lst": 3}[path.name]
    bad = [f"{path}:{n}: {' '.join(row)}" for n, row in enumerate(rows, 1) if len(row) != width]
    raise_problems(f"lines without {width} columns", bad)
    return rows


def _audio(folder: Path, key: str) -> Path | None:
    stem = folder / key
    found = (stem.with_suffix(suffix) for suffix in _SUFFIXES)
    return next((path.resolve() for path in found if path.is_file()), None)


def _training_files(folder: Path, held_out: set[str]) -> dict[str, str]:
    files = [path for path in sorted(folder.glob("id*/*")) if path.suffix.lower() in _SUFFIXES]
    if not files:
        raise DataError(f"{folder}: no audio files idXXXXX/FILE.flac (.wav) below this folder")
    return {
        f"{path.parent.name}/{path.stem}.wav": str(path.resolve())
        for path in files
        if path.parent.name not in held_out
    }


def _write(folder: Path, wav: dict[str, str], utt2spk: dict[str, str]) -> None:
    spk2utt = {speaker: " ".join(keys) for speaker, keys in invert(utt2spk).items()}
    for name, table in (("utt2spk", utt2spk), ("spk2utt", spk2utt), ("wav.scp", wav)):
        write_table(folder / name, table)
    print(f"{folder}: {len(wav)} utterances, {len(spk2utt)} speakers")


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_write(path) as stream:
        stream.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    run_command(make_data_dirs)
