"""Write a Kaldi data directory from corpora that keep SPEAKER/VIDEO/FILE below some folder."""

from __future__ import annotations

from pathlib import Path

from wesp_lap.cli import run_command
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.kaldi.tables import invert, write_table

_SUFFIXES = (".wav", ".flac", ".m4a")


def make_data_dir(out: str, *sources: str) -> None:
    """Write OUT/wav.scp, utt2spk and spk2utt for all audio files of the sources.

    A key is SPEAKER/VIDEO/FILE.wav whatever the file's own suffix, as the trial lists write it;
    a speaker is a folder whose name starts with "id".

    Args:
        out: Data directory to write.
        sources: Folders of the corpora, such as vox1/dev/wav and vox1/test/wav.
    """
    wav: dict[str, str] = {}
    repeated = []
    for source in sources:
        files = [path for path in sorted(Path(source).rglob("*")) if _is_speech(path)]
        if not files:
            raise DataError(
                f"{source}: no audio files idXXXXX/VIDEO/FILE.wav (.flac, .m4a) below this folder"
            )
        for path in files:
            key = "/".join((*path.parts[-3:-1], f"{path.stem}.wav"))
            if key in wav:
                repeated.append(f"{key}: {wav[key]} and {path}")
            wav[key] = str(path.resolve())
    raise_problems("files with the same key", repeated, "Give every corpus once.")
    utt2spk = {key: key.split("/", 1)[0] for key in wav}
    spk2utt = {speaker: " ".join(keys) for speaker, keys in invert(utt2spk).items()}
    for name, table in (("utt2spk", utt2spk), ("spk2utt", spk2utt), ("wav.scp", wav)):
        write_table(Path(out) / name, table)
    print(f"{out}: {len(wav)} utterances, {len(spk2utt)} speakers")


def _is_speech(path: Path) -> bool:
    deep_enough = len(path.parts) >= 3 and path.parts[-3].startswith("id")
    return deep_enough and path.suffix.lower() in _SUFFIXES


if __name__ == "__main__":
    run_command(make_data_dir)
