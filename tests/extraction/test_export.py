import hashlib
import json

import numpy as np
import pytest
import soundfile
import torch
from helpers import tiny_frontend

from wesp_lap.coerce import Section
from wesp_lap.errors import DataError
from wesp_lap.export import export_package
from wesp_lap.extraction import extract
from wesp_lap.kaldi.ark import read_vectors
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.model import ModelSettings, SpeakerModel

RESULTS = "trials\tmethod\teer\tmindcf01\tmindcf05\neasy\tcosine\t1.250\t0.1000\t0.0500\n"


@pytest.fixture
def system(model_dir, tiny_corpus, tmp_path):
    """Return what export_package needs of a finished system, as keyword arguments."""
    extract(model_dir, tiny_corpus.data, tmp_path / "emb", "cpu", jobs=1)
    (tmp_path / "calibration.json").write_text('{"weights": [1.0], "bias": 0.5}\n')
    (tmp_path / "results.tsv").write_text(RESULTS)
    scp = tmp_path / "emb" / "xvector.scp"
    return {
        "model_dir": model_dir,
        "mean_scp": scp,
        "calibration": tmp_path / "calibration.json",
        "results": tmp_path / "results.tsv",
        "check_scp": scp,
        "check_data": tiny_corpus.data,
    }


def test_a_package_works_by_itself(system, tmp_path):
    cosine = export_package(out=tmp_path / "package", **system)
    assert cosine == pytest.approx(1, abs=1e-6)
    folder = (tmp_path / "package").rename(tmp_path / "moved")
    model = SpeakerModel.from_pretrained(folder)
    keys, matrix = read_vectors(system["mean_scp"])
    file = DataDir.load(system["check_data"]).wav[keys[7]]
    wave, _ = soundfile.read(file, dtype="float32")
    np.testing.assert_allclose(model.embed(torch.from_numpy(wave)), matrix[7], atol=1e-6)
    mean = np.load(folder / "mean_vec.npy", allow_pickle=False)
    np.testing.assert_allclose(mean, matrix.astype(np.float64).mean(0), atol=1e-6)
    assert json.loads((folder / "calibration.json").read_text())["bias"] == 0.5


def test_the_card_shows_the_results_and_the_manifest_every_file(system, tmp_path):
    export_package(out=tmp_path / "package", **system)
    card = (tmp_path / "package" / "README.md").read_text()
    assert "| trials | method | eer | mindcf01 | mindcf05 |\n|---|---|---|---|---|\n" in card
    assert "| easy | cosine | 1.250 | 0.1000 | 0.0500 |" in card
    manifest = json.loads((tmp_path / "package" / "manifest.json").read_text())
    files = {path.name: path for path in (tmp_path / "package").iterdir()}
    del files["manifest.json"]
    expected = {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in files.items()}
    assert manifest == expected
    assert {"config.json", "model.safetensors", "README.md", "mean_vec.npy"} < set(manifest)


def test_a_model_that_gives_other_embeddings_is_refused(system, make_model, tmp_path):
    export_package(out=tmp_path / "package", **system)
    system["model_dir"] = make_model(1)
    with pytest.raises(DataError) as caught:
        export_package(out=tmp_path / "package", **system)
    message = str(caught.value)
    assert "another embedding for 'spk0" in message and "extract and score again" in message
    assert not (tmp_path / "package" / "manifest.json").exists()


def test_missing_files_are_named_before_anything_is_written(system, tmp_path):
    (tmp_path / "calibration.json").unlink()
    (tmp_path / "results.tsv").unlink()
    with pytest.raises(DataError) as caught:
        export_package(out=tmp_path / "package", **system)
    for name in ("calibration.json", "results.tsv"):
        assert f"{tmp_path / name}: no such file" in str(caught.value)
    assert not (tmp_path / "package").exists()


def test_adapters_are_merged_in_the_package(system, tmp_path):
    """What was scored had adapters; the package gives the same without them."""
    system["model_dir"] = tmp_path / "adapted"
    frontend = Section(
        "transformer", {"config": tiny_frontend(), "lora": {"rank": 2, "alpha": 64.0}}
    )
    backend = Section("lap_astp", {"heads": 4, "pooled_dim": 32, "embed_dim": 16})
    model = SpeakerModel(ModelSettings(frontend, backend))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(system["model_dir"])
    extract(system["model_dir"], system["check_data"], tmp_path / "emb2", "cpu", jobs=1)
    system |= dict.fromkeys(("mean_scp", "check_scp"), tmp_path / "emb2" / "xvector.scp")
    assert export_package(out=tmp_path / "package", **system) == pytest.approx(1, abs=1e-5)
    package = SpeakerModel.from_pretrained(tmp_path / "package")
    assert package.frontend.lora is None
    assert not any("lora" in name for name in package.state_dict())
