"""How large VoxCeleb is, and what a copy of it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wesp_lap.kaldi.problems import Problem, some


@dataclass(frozen=True)
class Size:
    """Speakers and utterances that were published."""

    speakers: int
    utterances: int


SIZES: Mapping[str, Size] = {
    "vox1_dev": Size(1211, 148_642),
    "vox1_test": Size(40, 4_874),
    "vox2_dev": Size(5994, 1_092_009),
    "vox2_test": Size(118, 36_237),
}
VOX1_TEST_SPEAKERS = frozenset(f"id{number}" for number in range(10270, 10310))
VOX1_SPEAKERS = frozenset(f"id{number}" for number in range(10001, 11252))

_PUBLISHED_SPEAKERS = {
    "vox1_dev": VOX1_SPEAKERS - VOX1_TEST_SPEAKERS,
    "vox1_test": VOX1_TEST_SPEAKERS,
}
_TELL = "give vox2_meta.csv as --vox2_test_speakers"


def speakers_of(keys: Iterable[str]) -> set[str]:
    """Return the speakers of keys idXXXXX/VIDEO/FILE.wav."""
    return {key[:7] for key in keys}


def check_sizes(files: Mapping[str, Iterable[str]]) -> list[Problem]:
    """Compare what there is with what was published.

    Args:
        files: keys by subset, as far as there are any.

    Returns:
        A warning for each subset that is smaller; errors where dev and test are mixed.
    """
    problems = []
    for name, size in SIZES.items():
        if name not in files:
            continue
        keys = list(files[name])
        there = speakers_of(keys)
        counts = [("speakers", len(there), size.speakers)]
        counts.append(("utterances", len(keys), size.utterances))
        less = [f"{have:,} of {full:,} {what}" for what, have, full in counts if have < full]
        if less:
            lost = sorted(_PUBLISHED_SPEAKERS.get(name, frozenset()) - there)
            tail = f"; missing: {some(lost)}" if lost else ""
            mend = "nothing to do to train or test on a part; otherwise fetch or unpack the rest"
            problems.append(Problem("warning", f"{name}: {', '.join(less)}{tail}", mend))
        if len(there) > size.speakers:
            text = f"{name}: {len(there):,} speakers, {size.speakers:,} were published"
            problems.append(Problem("error", text, f"dev and test are mixed: {_TELL}"))
    shared = speakers_of(files.get("vox2_dev", ())) & speakers_of(files.get("vox2_test", ()))
    if shared:
        text = f"{len(shared)} speakers are in vox2_dev and in vox2_test: {some(sorted(shared))}"
        problems.append(Problem("error", text, _TELL))
    return problems
