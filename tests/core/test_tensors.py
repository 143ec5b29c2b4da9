import os

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from wesp_lap.errors import DataError
from wesp_lap.tensors import fit_module, load_module, load_tensors, save_tensors


def make_module(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def copy(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_saved_module_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "new" / "m.safetensors"
    source, target = make_module(0), make_module(1)
    source(torch.randn(8, 3))  # moves the statistics of the batch norm
    save_tensors(path, source.state_dict())
    load_module(target, path)
    assert equal(copy(source), copy(target)) and os.listdir(path.parent) == [path.name]
    assert equal(load_file(path), copy(source))


def test_a_view_is_saved_as_it_looks(tmp_path):
    tensor = torch.arange(6.0).view(2, 3).T
    save_tensors(tmp_path / "x", {"t": tensor})
    assert torch.equal(load_tensors(tmp_path / "x")["t"], tensor)


def test_a_failing_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    save_tensors(path, {"t": torch.ones(2)})
    with pytest.raises(AttributeError):
        save_tensors(path, {"t": None})
    assert torch.equal(load_tensors(path)["t"], torch.ones(2)) and os.listdir(tmp_path) == ["x"]


def test_all_that_does_not_fit_is_named_and_nothing_is_loaded():
    module = make_module(0)
    before = copy(module)
    tensors = {name: tensor + 1 for name, tensor in before.items()}
    del tensors["0.bias"], tensors["1.running_mean"]
    tensors["head.weight"] = torch.ones(1)
    tensors["2.weight"] = torch.ones(2, 5)
    with pytest.raises(DataError) as caught:
        fit_module(module, tensors, "exp/model.safetensors")
    assert str(caught.value) == (
        "exp/model.safetensors: does not fit the model; missing: 0.bias, 1.running_mean; "
        "unexpected: head.weight; shape: 2.weight (2, 5) for (2, 4)"
    )
    assert equal(copy(module), before)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_one_wrong_tensor_is_enough_to_load_none(change):
    module = make_module(0)
    before = copy(module)
    tensors = {name: tensor + 1 for name, tensor in before.items()}
    if change == "missing":
        del tensors["2.bias"]
    else:
        tensors["2.bias" if change == "shape" else "3.bias"] = torch.ones(3)
    with pytest.raises(DataError, match=rf"{change}: [23]\.bias"):
        fit_module(module, tensors, "x")
    assert equal(copy(module), before)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"m\.safetensors: no such file"):
        load_tensors(tmp_path / "m.safetensors")


def test_a_file_cut_anywhere_is_damaged_and_loads_nothing(tmp_path):
    path = tmp_path / "m.safetensors"
    module = make_module(0)
    before = copy(module)
    save_tensors(path, {name: tensor + 1 for name, tensor in before.items()})
    content = path.read_bytes()
    for length in (0, 4, 8, 40, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"m\.safetensors: damaged weights .*another copy"):
            load_module(module, path)
    path.write_bytes(content + b"\0")
    with pytest.raises(DataError, match="damaged"):
        load_module(module, path)
    assert equal(copy(module), before)


def test_a_pickle_is_no_weights_file(tmp_path):
    torch.save({"t": torch.ones(1)}, tmp_path / "m.pt")
    with pytest.raises(DataError, match=r"m\.pt: damaged weights"):
        load_tensors(tmp_path / "m.pt")
