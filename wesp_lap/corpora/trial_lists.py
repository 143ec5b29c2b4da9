"""The trial lists of VoxCeleb1: known by what they hold, and written in Kaldi's form."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wesp_lap.errors import DataError
from wesp_lap.files import PathLike
from wesp_lap.kaldi.problems import Problem, some
from wesp_lap.kaldi.trials import Trials, read_trials, write_trials


@dataclass(frozen=True)
class Published:
    """A published list: its file name, and how many trials and target trials it holds."""

    file: str
    trials: int
    targets: int


PUBLISHED: Mapping[str, Published] = {
    "vox1_O_cleaned": Published("veri_test2.txt", 37_611, 18_802),
    "vox1_E_cleaned": Published("list_test_all2.txt", 579_818, 289_921),
    "vox1_H_cleaned": Published("list_test_hard2.txt", 550_894, 275_488),
    "vox1_O": Published("veri_test.txt", 37_720, 18_860),
    "vox1_E": Published("list_test_all.txt", 581_480, 290_743),
    "vox1_H": Published("list_test_hard.txt", 552_536, 276_270),
}
# vox1_O_cleaned.kaldi, vox1-O(cleaned).txt, Vox1-E.txt
_NAME = re.compile(r"vox(?:celeb)?1?[-_ ]?([OEH])(?![a-z])(.*clean)?", re.IGNORECASE)


@dataclass(frozen=True)
class TrialList:
    """A list that was read.

    Attributes:
        path: the file.
        name: what the list is: a published name, or the file's own.
        trials: what it holds; None when it cannot be read.
        problems: what is wrong with it.
    """

    path: Path
    name: str
    trials: Trials | None
    problems: list[Problem] = field(default_factory=list)

    @property
    def utterances(self) -> list[str]:
        """All utterances of the list, sorted."""
        return sorted({*self.trials.enroll, *self.trials.test}) if self.trials else []


def read_list(
    path: PathLike, published: Mapping[str, Published] = PUBLISHED, part: bool = False
) -> TrialList:
    """Read a list and tell which of the published ones it is.

    The number of trials tells; the name of the file must not say otherwise. A list of one's own is
    accepted with a warning.

    Args:
        path: the list.
        published: the lists that are known.
        part: for a part of the corpus, whose lists may be parts of those that they are named after.
    """
    file = Path(path)
    try:
        trials = read_trials(file)
    except DataError as error:
        mend = "give a list as VoxCeleb publishes it, or lines such as 'enroll test target'"
        return TrialList(file, file.stem, None, [Problem("error", str(error), mend)])
    claimed = claimed_name(file.name, published)
    name = next((n for n, one in published.items() if one.trials == len(trials)), None)
    if part and name is None and claimed is not None:
        text = f"{file}: {len(trials):,} of the {published[claimed].trials:,} trials of {claimed}"
        problem = Problem("warning", text, "fetch the whole list to compare with published results")
        return TrialList(file, claimed, trials, [problem])
    problems = _identity(file, trials, claimed, name, published)
    return TrialList(file, name or file.stem, trials, problems)


def claimed_name(file: str, published: Mapping[str, Published] = PUBLISHED) -> str | None:
    """Return the published list that a file name says it is, None for other names."""
    known = {one.file: name for name, one in published.items()}
    if file in known:
        return known[file]
    match = _NAME.match(file)
    if match is None:
        return None
    name = f"vox1_{match[1].upper()}{'_cleaned' if match[2] else ''}"
    return name if name in published else None


def _identity(
    path: Path,
    trials: Trials,
    claimed: str | None,
    name: str | None,
    published: Mapping[str, Published],
) -> list[Problem]:
    if name is None and claimed is None:
        known = ", ".join(f"{n} {one.trials:,}" for n, one in published.items())
        text = f"{path}: {len(trials):,} trials, which is none of the published lists ({known})"
        return [Problem("warning", text, "nothing to do when this is a list of your own")]
    if name is None:
        assert claimed is not None
        wanted = published[claimed]
        text = (
            f"{path}: named as {claimed}, but it has {len(trials):,} trials and {wanted.file} "
            f"{wanted.trials:,}"
        )
        return [Problem("error", text, f"fetch {wanted.file} again, or rename a list of your own")]
    if claimed is not None and claimed != name:
        text = (
            f"{path}: named as {claimed}, but its {len(trials):,} trials are those of {name} "
            f"({published[name].file})"
        )
        mend = f"give {published[claimed].file} for {claimed}, or name the file {name}.txt"
        return [Problem("error", text, mend)]
    problems = []
    wanted = published[name]
    targets = int(trials.labels.sum()) if trials.labels is not None else None
    if targets != wanted.targets:
        found = "no labels" if targets is None else f"{targets:,} target trials"
        text = f"{path}: {name} with {found} instead of {wanted.targets:,}: its labels are damaged"
        problems.append(Problem("error", text, f"fetch {wanted.file} again"))
    if f"{name}_cleaned" in published:
        text = f"{path}: {name} is the list before it was cleaned of wrong labels"
        clean = published[f"{name}_cleaned"].file
        mend = f"give {clean} too, as results are usually reported on it"
        problems.append(Problem("warning", text, mend))
    return problems


def missing_utterances(
    one: TrialList, there: Collection[str], complete: Collection[str]
) -> list[Problem]:
    """Say which utterances of a list have no audio.

    Args:
        one: the list.
        there: the utterances of the corpus.
        complete: words for what the corpus is, such as ("dev", "test"), to say what is absent.
    """
    lost = [key for key in one.utterances if key not in there]
    if not lost:
        return []
    text = (
        f"{one.path}: {len(lost):,} of {len(one.utterances):,} utterances of {one.name} are not "
        f"in the corpus: {some(lost)}"
    )
    needs_dev = one.name[:6] in ("vox1_E", "vox1_H")
    mend = "give all of VoxCeleb1"
    if needs_dev and "dev" not in complete:
        mend = f"{one.name} needs the dev set of VoxCeleb1 as well: give both with --vox1"
    elif "test" not in complete:
        mend = f"{one.name} needs the test set of VoxCeleb1: give it with --vox1"
    return [Problem("error", text, mend)]


def write_lists(out: PathLike, lists: Sequence[TrialList]) -> list[Path]:
    """Write lists as ``OUT/NAME.kaldi`` and return the paths, in the order given.

    Raises:
        DataError: two lists are the same one.
    """
    names = [one.name for one in lists]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        paths = ", ".join(str(one.path) for one in lists if one.name in twice)
        raise DataError(f"trial lists that are the same one: {paths}; give each once")
    written = []
    for one in lists:
        assert one.trials is not None
        written.append(Path(out) / f"{one.name}.kaldi")
        write_trials(written[-1], one.trials)
    return written
