"""The grid of encoders and corpora, against values computed by hand."""

import matplotlib.image
import pytest

from wesp_lap.analysis.transfer import make_transfer_grid, read_transfer_grid
from wesp_lap.errors import DataError

EER = {
    ("public", "vox1"): 2.43,
    ("public", "cn1"): 14.64,
    ("vox1", "vox1"): 2.14,
    ("vox1", "cn1"): 15.0,
}


@pytest.fixture
def cells(tmp_path):
    for (row, column), eer in EER.items():
        folder = tmp_path / "cells" / row / column
        folder.mkdir(parents=True)
        lines = ["trials\tmethod\teer\tmindcf01\tmindcf05"]
        lines.append(f"O\tcosine\t{eer:.3f}\t0.1\t0.1")
        lines.append(f"O\tasnorm\t{eer / 2:.3f}\t0.1\t0.1")
        lines.append(f"E\tcosine\t{2 * eer:.3f}\t0.1\t0.1")
        (folder / "results.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path / "cells"


def test_gains_are_relative_to_the_baseline(cells):
    grid = read_transfer_grid(cells, "public")
    assert (grid.rows, grid.columns) == (["public", "vox1"], ["cn1", "vox1"])
    assert grid.eer == EER
    # (2.43 - 2.14) / 2.43, which the self-pre-training paper states as 11.9 %.
    assert grid.gain("vox1", "vox1") == pytest.approx(11.934156)
    assert grid.gain("vox1", "cn1") == pytest.approx(-2.459016)
    assert grid.gain("public", "cn1") is None
    assert read_transfer_grid(cells).gain("vox1", "cn1") is None


def test_list_and_method_are_chosen_by_name(cells):
    assert read_transfer_grid(cells, trials="E").eer["vox1", "cn1"] == 30
    assert read_transfer_grid(cells, method="asnorm").eer["vox1", "cn1"] == 7.5


def write_methods(cells, names):
    """Give cells (by row and column) a result by cosine under every name, 1 to n per cent."""
    for (row, column), methods in names.items():
        path = cells / row / column / "results.tsv"
        lines = [f"O\t{method}\t{eer}" for eer, method in enumerate(methods, 1)]
        path.write_text("\n".join(["trials\tmethod\teer", *lines]) + "\n")


def test_a_method_without_phase_is_that_of_the_last_phase(cells):
    write_methods(cells, {cell: ["frozen cosine", "joint cosine", "joint asnorm"] for cell in EER})
    assert read_transfer_grid(cells).eer["vox1", "cn1"] == 2
    assert read_transfer_grid(cells, method="frozen cosine").eer["vox1", "cn1"] == 1
    write_methods(cells, {cell: ["untrained cosine", "cosine", "joint cosine"] for cell in EER})
    assert read_transfer_grid(cells).eer["vox1", "cn1"] == 2


def test_cells_that_end_in_different_phases_are_not_compared(cells):
    write_methods(cells, {cell: ["frozen cosine", "joint cosine"] for cell in EER})
    write_methods(cells, {("vox1", "cn1"): ["frozen cosine"]})
    with pytest.raises(DataError, match=r"joint cosine .*frozen cosine .*vox1/cn1.*name one"):
        read_transfer_grid(cells)
    assert read_transfer_grid(cells, method="frozen cosine").eer["vox1", "cn1"] == 1


def test_the_command_prints_and_plots(cells, tmp_path):
    table = make_transfer_grid(cells, tmp_path, "public", None, "cosine").splitlines()
    assert [cell.strip() for cell in table[3].split("|")[1:-1]] == [
        "vox1",
        "15.00 (-2.5 %)",
        "2.14 (+11.9 %)",
    ]
    lines = (tmp_path / "grid.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["pretrained", "tuned", "eer", "gain"]
    assert lines[1] == "public\tcn1\t14.640\t"
    assert lines[4] == "vox1\tvox1\t2.140\t11.93"
    assert matplotlib.image.imread(tmp_path / "grid.png").std() > 0


def test_all_holes_are_named(cells, tmp_path):
    (cells / "public/cn1/results.tsv").unlink()
    (cells / "vox1/cn1/results.tsv").write_text("trials\tmethod\teer\nO\tqmf\t1\n")
    with pytest.raises(DataError) as error:
        read_transfer_grid(cells)
    assert "public/cn1/results.tsv: missing" in str(error.value)
    assert "no line 'any list cosine'; there are: O qmf" in str(error.value)
    with pytest.raises(DataError, match=r"no ROW/COLUMN/results\.tsv"):
        read_transfer_grid(tmp_path / "nowhere")


def test_an_unknown_baseline_is_named(cells):
    with pytest.raises(DataError, match="no such row; rows: public, vox1"):
        read_transfer_grid(cells, "librispeech")
