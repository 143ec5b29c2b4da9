"""Check everything that would stop a run hours later, in one table."""

from __future__ import annotations

from pathlib import Path

from wesp_lap.cli import run_command
from wesp_lap.corpora.checks import format_checks, has_errors
from wesp_lap.corpora.machine import check_folder
from wesp_lap.corpora.preflight import Inputs, check_inputs
from wesp_lap.pretraining import ready as pretraining
from wesp_lap.training.ready import check_gpus, check_settings


def main(
    exp_dir: str,
    data: str | None = None,
    config: str | None = None,
    phases: list[str] | None = None,
    pretrain_config: str | None = None,
    vox1: list[str] | None = None,
    vox2: list[str] | None = None,
    vox2_test_speakers: str | None = None,
    cnceleb1: str | None = None,
    cnceleb2: str | None = None,
    train: str | None = None,
    eval: str | None = None,
    trials: list[str] | None = None,
    musan: str | None = None,
    rirs: str | None = None,
    nproc: int = 1,
    **overrides: str,
) -> int:
    """Check corpora, lists, settings, weights, disk and machine; exit 1 when there are errors.

    Any setting: --section.key value, as for training; without --config, as for pre-training.

    Args:
        exp_dir: Experiment directory of the run.
        data: Folder of the data directories and shards; EXP_DIR/data by default.
        config: YAML file with the settings.
        phases: Phases of the file that will be trained: NAME[,NAME...]; all by default.
        pretrain_config: YAML file with the settings of self-pre-training.
        vox1: Folders or archives of VoxCeleb1: PATH[,PATH...].
        vox2: Folders or archives of VoxCeleb2: PATH[,PATH...].
        vox2_test_speakers: vox2_meta.csv or a list of the test speakers of VoxCeleb2.
        cnceleb1: Folder of CN-Celeb1.
        cnceleb2: Folder of CN-Celeb2.
        train: Kaldi data directory to train on, in place of a corpus.
        eval: Kaldi data directory to test on, in place of a corpus.
        trials: Trial lists: FILE[,FILE...].
        musan: Folder or archive of MUSAN.
        rirs: Folder or archive of RIRS_NOISES.
        nproc: Training processes on this machine.
    """
    folder = data or str(Path(exp_dir) / "data")
    inputs = Inputs(
        vox1 or (),
        vox2 or (),
        vox2_test_speakers,
        cnceleb1,
        cnceleb2,
        train,
        eval,
        trials or (),
        musan,
        rirs,
    )
    checks = check_folder("exp_dir", exp_dir) + check_folder("data", folder)
    checks += check_inputs(inputs, folder)
    if config is not None:
        checks += check_settings(config, phases or (), overrides, nproc)
    if pretrain_config is not None:
        given = overrides if config is None else {}
        checks += pretraining.check_settings(pretrain_config, (), given)
    checks += check_gpus(nproc)
    print(format_checks(checks))
    return int(has_errors(checks))


if __name__ == "__main__":
    run_command(main)
