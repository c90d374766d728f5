"""``pyg-schnet export``."""

import json

import pytest
import torch
from helpers import methanol

from pyg_schnet import Potential, SchNet, save
from pyg_schnet.cli import main
from pyg_schnet.graph import neighbor_edges


def run(capsys, *words):
    code = main(["export", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = SchNet(12, 10, 2, 9, 4.5, seed=1).double().eval()
    save(model, "small.safetensors", info={"unit": "eV", "elements": ["H", "C", "O"]})
    return model


def test_a_program_is_written_and_runs(saved, capsys):
    code, told = run(capsys, "--model", "small.safetensors", "--format", "torch-export")
    assert code == 0 and told == "Wrote small.pt2.\n"
    extra = {"pyg_schnet.json": ""}
    program = torch.export.load("small.pt2", extra_files=extra).module()
    facts = json.loads(extra["pyg_schnet.json"])
    assert facts["elements"] == [1, 6, 8] and facts["cutoff"] == 4.5
    data = methanol()
    edge_index, _ = neighbor_edges(data.pos, facts["cutoff"])
    shift = torch.zeros(edge_index.size(1), 3, dtype=torch.long)
    batch, cell = torch.zeros(6, dtype=torch.long), torch.zeros(1, 3, 3).double()
    energy, forces, _ = program(data.z, data.pos, batch, cell, edge_index, shift)
    want = Potential(saved).eval()(data)
    torch.testing.assert_close(energy, want["energy"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(forces, want["forces"], rtol=1e-10, atol=1e-10)


def test_metatomic_is_written(saved, tmp_path, capsys):
    from pyg_schnet.interop.plain import torch_without_pyg

    with torch_without_pyg():
        package = pytest.importorskip("metatomic.torch", reason="metatomic-torch is not installed")
    words = ("--model=small.safetensors", "--format=metatomic", "--elements=[C,H]")
    code, told = run(capsys, *words, "--output", "out/other.pt", "--dtype=float32")
    assert code == 0 and told == "Wrote out/other.pt.\n"
    known = package.load_atomistic_model(tmp_path / "out" / "other.pt").capabilities()
    assert known.atomic_types == [1, 6] and known.dtype == "float32"


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("--format", "onnx", "--dtype", "float64"), "computes in float32"),
        (("--format", "torch-export", "--elements", "[Xy]"), "symbols of elements, got 'Xy'"),
        (("--format", "torch-export", "--output", "a.txt"), "must end in .pt2"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(saved, capsys, words, sentence):
    code, told = run(capsys, "--model", "small.safetensors", *words)
    assert code == 2 and sentence in told


def test_a_model_of_something_else_is_refused(saved, capsys):
    code, told = run(capsys, "--model", "qm9-mu", "--format", "torch-export")
    assert code == 2 and "Debye" in told or "in D" in told
