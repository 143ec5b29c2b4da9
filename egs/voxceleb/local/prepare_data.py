"""Write the data directories and trial lists of VoxCeleb."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.corpora.voxceleb import prepare_voxceleb


def prepare_data(
    out: str,
    vox1: list[str] | None = None,
    vox2: list[str] | None = None,
    trials: list[str] | None = None,
    unpack_dir: str | None = None,
    vox2_test_speakers: str | None = None,
) -> None:
    """Write OUT/vox1, vox1_dev, vox1_test, vox2_dev, vox2_test and OUT/trials/NAME.kaldi.

    Args:
        out: Folder of the data directories.
        vox1: Folders or archives of VoxCeleb1, dev and test: PATH[,PATH...].
        vox2: Folders or archives of VoxCeleb2: PATH[,PATH...].
        trials: Published trial lists of VoxCeleb1, or one's own: FILE[,FILE...].
        unpack_dir: Where archives are unpacked; OUT/unpacked by default.
        vox2_test_speakers: vox2_meta.csv, or a list of speakers, to tell the test set of VoxCeleb2;
            by default a folder or archive with "test" in its name holds it.
    """
    written = prepare_voxceleb(
        out, vox1 or (), vox2 or (), trials or (), unpack_dir, vox2_test_speakers
    )
    for name, path in written.items():
        print(f"{name}: {path}")


if __name__ == "__main__":
    run_command(prepare_data)
