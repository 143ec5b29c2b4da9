"""VoxCeleb1 and VoxCeleb2: from folders or published archives to Kaldi data directories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wesp_lap.corpora.scan import AudioFile, write_data_dir
from wesp_lap.corpora.trial_lists import (
    PUBLISHED,
    Published,
    missing_utterances,
    read_list,
    write_lists,
)
from wesp_lap.corpora.voxceleb_files import find_voxceleb
from wesp_lap.corpora.voxceleb_sizes import SIZES, speakers_of
from wesp_lap.errors import DataError
from wesp_lap.files import PathLike
from wesp_lap.kaldi.problems import format_problems, has_errors
from wesp_lap.log import get_logger


def prepare_voxceleb(
    out: PathLike,
    vox1: Sequence[PathLike] = (),
    vox2: Sequence[PathLike] = (),
    trials: Sequence[PathLike] = (),
    unpack_dir: PathLike | None = None,
    vox2_test_speakers: PathLike | None = None,
    published: Mapping[str, Published] = PUBLISHED,
) -> dict[str, Path]:
    """Write data directories below ``out``, and the trial lists in Kaldi's form.

    The directories are vox1_dev, vox1_test, vox1 (both), vox2_dev and vox2_test, those of which
    there is audio; the lists go to ``trials/NAME.kaldi``. A key is SPEAKER/VIDEO/FILE.wav whatever
    the suffix of the file, as the lists write it.

    Args:
        out: folder of the data directories.
        vox1: folders or archives of VoxCeleb1, dev and test together or apart.
        vox2: folders or archives of VoxCeleb2.
        trials: lists on VoxCeleb1.
        unpack_dir: where archives are unpacked; by default ``out/unpacked``.
        vox2_test_speakers: list of speakers, or vox2_meta.csv; by default a folder or archive with
            "test" in its name holds the test set.
        published: the lists that are known by name.

    Returns:
        The data directories and trial lists that were written, by name.

    Raises:
        DataError: nothing usable, the same utterance twice, utterances of a list that are not in
            the corpus, lists that are not what their names say; all at once.
    """
    folder = Path(out)
    where = Path(unpack_dir) if unpack_dir else folder / "unpacked"
    found = find_voxceleb(vox1, vox2, vox2_test_speakers, where)
    part = len(found.files.get("vox1_test", ())) < SIZES["vox1_test"].utterances
    lists = [read_list(path, published, part) for path in trials]
    problems = found.problems + [problem for one in lists for problem in one.problems]
    for one in lists:
        problems += missing_utterances(one, found.vox1_utterances, found.vox1_parts)
    if problems:
        report = format_problems(problems)
        if has_errors(problems):
            raise DataError(f"VoxCeleb cannot be prepared\n{report}")
        get_logger().warning("VoxCeleb\n%s", report)
    written = {}
    for name, files in _with_vox1(found.files).items():
        wav = {key: file.path for key, file in files.items()}
        write_data_dir(folder / name, wav, {key: key.split("/", 1)[0] for key in wav})
        written[name] = folder / name
        get_logger().info("%s: %s", folder / name, _count(files))
    paths = write_lists(folder / "trials", lists)
    return written | {one.name: path for one, path in zip(lists, paths, strict=True)}


def _with_vox1(files: Mapping[str, dict[str, AudioFile]]) -> dict[str, dict[str, AudioFile]]:
    both = {**files.get("vox1_dev", {}), **files.get("vox1_test", {})}
    return {**files, **({"vox1": both} if both else {})}


def _count(keys: Iterable[str]) -> str:
    keys = list(keys)
    return f"{len(keys):,} utterances, {len(speakers_of(keys)):,} speakers"
