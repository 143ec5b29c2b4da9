"""The trial lists of the Universal Pooling paper: the numbers and rules of its published code.

Kim, Park, Shin and Han, "Universal Pooling Method of Multi-layer Features from Pretrained Models
for Speaker Verification", arXiv 2409.07770. Its lists hold pairs that another generator has drawn
(``read_published`` reads them). Those made here have the same size and structure, with two
differences: no pair comes twice, and exactly half of the target trials of VoxCeleb2-test, instead
of half on average, are of one video.
"""

from __future__ import annotations

from collections.abc import Mapping

from wesp_lap.corpora.trial_sampling import sample_trials
from wesp_lap.errors import DataError
from wesp_lap.files import PathLike
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.problems import some
from wesp_lap.kaldi.trials import Trials, write_trials
from wesp_lap.log import get_logger

SEED = 42
VCTK_TRIALS = 8000
LIBRISPEECH_TRIALS = 16000
VOX2_TRIALS = 32000
VOX2_TEST_SPEAKERS = 118
_THOUSAND = 1000


def vctk_trials(
    utt2spk: Mapping[str, str],
    gender: Mapping[str, str],
    accent: Mapping[str, str],
    per_label: int = VCTK_TRIALS,
    seed: int = SEED,
) -> Trials:
    """Draw the trials of one half of VCTK's held-out speakers.

    ``per_label`` target trials and as many non-target trials, both raised to whole rounds: of 18
    speakers 8,010 target trials, and about 2,000 non-target trials of each cell of gender (same or
    not) and accent (same or not).
    """
    match = {"gender": gender, "accent": accent}
    return _in_rounds(utt2spk, per_label, per_label, match, seed)


def librispeech_trials(
    utt2spk: Mapping[str, str],
    gender: Mapping[str, str],
    per_label: int = LIBRISPEECH_TRIALS,
    seed: int = SEED,
) -> Trials:
    """Draw the trials of LibriSpeech's dev or test speakers.

    ``per_label`` non-target trials, half of them of one gender, in whole rounds of the pairs of
    speakers; then about as many target trials: thousands rounded down, again in whole rounds. Of
    73 speakers these are 18,396 and 18,031.
    """
    match = {"gender": gender}
    others = len(_in_rounds(utt2spk, 0, per_label, match, seed))
    targets = others // _THOUSAND * _THOUSAND or others
    return _in_rounds(utt2spk, targets, per_label, match, seed)


def vox2_test_validation_trials(
    utt2spk: Mapping[str, str],
    utt2video: Mapping[str, str],
    per_label: int = VOX2_TRIALS,
    seed: int = SEED,
) -> Trials:
    """Draw the trials on VoxCeleb2-test that training on VoxCeleb chooses its epoch by.

    Of 118 speakers 32,096 target trials, half of them of one video, and 5 non-target trials of
    each of the 6,903 pairs of speakers.
    """
    return sample_trials(
        utt2spk,
        per_label,
        per_label,
        utt2session=utt2video,
        same_session_share=0.5,
        seed=seed,
        whole_rounds=True,
    )


def write_vox2_validation(
    data: PathLike, out: PathLike, per_label: int = VOX2_TRIALS, seed: int = SEED
) -> Trials:
    """Write ``vox2_test_validation_trials`` of a data directory as prepare_voxceleb makes it.

    Raises:
        DataError: keys that do not name their video, or too few utterances.
    """
    utt2spk = DataDir.load(data).utt2spk
    odd = [key for key in utt2spk if key.count("/") != 2]
    if odd:
        raise DataError(
            f"{data}: {len(odd)} keys are not SPEAKER/VIDEO/FILE, which tell the video: {some(odd)}"
        )
    utt2video = {key: key.rsplit("/", 1)[0] for key in utt2spk}
    trials = vox2_test_validation_trials(utt2spk, utt2video, per_label, seed)
    speakers = len(set(utt2spk.values()))
    if speakers != VOX2_TEST_SPEAKERS:
        get_logger().warning(
            "%s: %d speakers, the test set of VoxCeleb2 has %d", data, speakers, VOX2_TEST_SPEAKERS
        )
    write_trials(out, trials)
    return trials


def _in_rounds(
    utt2spk: Mapping[str, str],
    targets: int,
    nontargets: int,
    match: Mapping[str, Mapping[str, str]],
    seed: int,
) -> Trials:
    return sample_trials(
        utt2spk,
        targets,
        nontargets,
        match,
        seed=seed,
        whole_rounds=True,
        skip_empty_cells=True,  # as few speakers may have; the corpora themselves have none
    )
