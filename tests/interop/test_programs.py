"""Exported programs: numbers of this package's own evaluation, and runs without the package."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import methanol, skewed_crystal, water
from torch import nn
from torch.testing import assert_close
from torch_geometric.data import Batch

from pyg_schnet import DTNN, Ensemble, Potential, SchNet, save
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.interop import to_aoti, to_onnx, to_torch_export
from pyg_schnet.interop.plain import exportable

SIZES = {"hidden_channels": 12, "num_filters": 10, "num_interactions": 2, "num_gaussians": 9}
ATOMREF = -1.5 * torch.arange(100.0, dtype=torch.float64)


def random_weights(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


MODELS = {
    "schnet": lambda: SchNet(
        **SIZES, cutoff=4.5, mean=-2.0, std=1.7, atomref=ATOMREF, filters="exact"
    ),
    "papers": lambda: SchNet(
        **SIZES, cutoff=4.5, filter_activation="ssp", cutoff_fn="hard", normalize="neighbors"
    ),
    "mean": lambda: SchNet(**SIZES, cutoff=4.5, readout="mean", shared_filters=True, gamma=3.0),
    "dtnn": lambda: DTNN(num_interactions=2, cutoff=4.5, cutoff_fn="cosine"),
    "untied": lambda: DTNN(
        num_interactions=2, cutoff=4.5, cutoff_fn="cosine", tied=False, activation="linear"
    ),
}


def inputs_of(structures, cutoff):
    """What a program is given of several structures."""
    data = Batch.from_data_list(structures)
    cell, pbc = data.get("cell"), data.get("pbc")
    edge_index, shift = neighbor_edges(data.pos, cutoff, batch=data.batch, cell=cell, pbc=pbc)
    if cell is None:
        cell = torch.zeros(len(structures), 3, 3, dtype=torch.float64)
    if shift is None:
        shift = torch.zeros(edge_index.size(1), 3)
    return data.z, data.pos, data.batch, cell, edge_index, shift.long()


def wanted(model, structures):
    """Energies, forces and virials by this package."""
    periodic = structures[0].get("cell") is not None
    result = Potential(model, stress=periodic).eval()(Batch.from_data_list(structures))
    virial = None
    if periodic:
        volumes = torch.stack([torch.linalg.det(s.cell[0]) for s in structures])
        virial = result["stress"] * volumes.view(-1, 1, 1)
    return result["energy"], result["forces"], virial


def assert_same(got, want, rtol=1e-10, atol=1e-10):
    for each, other in zip(got, want, strict=True):
        if other is not None:
            each = torch.as_tensor(each)
            scale = max(1.0, float(other.abs().max()))
            assert_close(each, other, rtol=rtol, atol=atol * scale, check_dtype=False)


CASES = {
    "molecules": lambda: [water(), methanol(), water()],
    "crystals": lambda: [skewed_crystal(), skewed_crystal()],
    "one crystal": lambda: [skewed_crystal()],
}


@pytest.mark.parametrize("name", list(MODELS))
def test_programs_of_all_models_have_their_energies_forces_and_virials(name):
    model = random_weights(MODELS[name]())
    program = to_torch_export(model).module()
    for case in CASES.values():
        structures = case()
        got = program(*inputs_of(structures, 4.5))
        want = wanted(model, structures)
        assert want[1].abs().max() > 1e-3
        assert_same(got, want)


@pytest.mark.parametrize("name", ["schnet", "dtnn"])
def test_edges_beyond_the_cutoff_as_of_a_list_with_a_skin_add_nothing(name):
    model = random_weights(MODELS[name]())
    program, structures = to_torch_export(model).module(), [skewed_crystal()]
    near, far = inputs_of(structures, 4.5), inputs_of(structures, 7.0)
    assert far[4].size(1) > near[4].size(1)
    assert_same(program(*far), wanted(model, structures))


def test_a_program_of_a_float32_model_sums_in_float64():
    model = random_weights(MODELS["schnet"]()).float()
    structures = [methanol()]
    energy, forces, _ = to_torch_export(model).module()(*inputs_of(structures, 4.5))
    structures[0].pos = structures[0].pos.float()
    want = Potential(model).eval()(Batch.from_data_list(structures))
    assert energy.dtype == forces.dtype == torch.float64
    assert_same((energy, forces), (want["energy"], want["forces"]), rtol=1e-5, atol=1e-5)


def test_programs_take_atoms_without_edges():
    model = random_weights(MODELS["schnet"]())
    program = to_torch_export(model).module()
    alone = water()
    alone.z, alone.pos = alone.z[:1], alone.pos[:1]
    inputs = inputs_of([alone], 4.5)
    assert inputs[4].shape == (2, 0)
    energy, forces, virial = program(*inputs)
    assert_same((energy,), (wanted(model, [alone])[0],))
    assert not forces.any() and not virial.any()


WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["pyg_schnet"] = sys.modules["torch_geometric"] = None  # cannot be imported
import numpy as np, torch
from ase import Atoms
from ase.neighborlist import neighbor_list
with np.load(sys.argv[2]) as file:
    crystal = Atoms(file["numbers"], file["positions"], cell=file["cell"], pbc=True)
extra = {"pyg_schnet.json": ""}
if sys.argv[3] == "aoti":
    program = torch._inductor.aoti_load_package(sys.argv[1])
    facts = json.loads(program.get_metadata()["pyg_schnet.json"])
else:
    program = torch.export.load(sys.argv[1], extra_files=extra).module()
    facts = json.loads(extra["pyg_schnet.json"])
i, j, shift = neighbor_list("ijS", crystal, facts["cutoff"])
energy, forces, virial = program(
    torch.tensor(crystal.numbers).long(),
    torch.tensor(crystal.positions),
    torch.zeros(len(crystal), dtype=torch.long),
    torch.tensor(crystal.cell.array)[None],
    torch.tensor(np.stack([j, i])),
    torch.tensor(shift),
)
stress = virial[0] / crystal.get_volume()
print(json.dumps([energy.tolist(), forces.tolist(), stress.tolist(), facts["elements"]]))
"""


def run_without_the_package(tmp_path, path, kind):
    crystal = skewed_crystal()
    parts = {"numbers": crystal.z, "positions": crystal.pos, "cell": crystal.cell[0]}
    np.savez(tmp_path / "crystal.npz", **{name: part.numpy() for name, part in parts.items()})
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_THE_PACKAGE, path]
    command += [tmp_path / "crystal.npz", kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    energy, forces, stress, elements = json.loads(done.stdout)
    return (torch.tensor(energy), torch.tensor(forces), torch.tensor(stress)), elements


def assert_same_without_the_package(tmp_path, model, path, kind):
    got, elements = run_without_the_package(tmp_path, path, kind)
    want = Potential(model, stress=True).eval()(skewed_crystal())
    # The numbers came through as float32 tensors.
    assert_same(got, (want["energy"], want["forces"], want["stress"][0]), rtol=1e-6, atol=1e-6)
    assert elements == [6, 8, 11, 17]


def test_a_program_runs_without_the_package(tmp_path):
    model = random_weights(MODELS["schnet"]())
    save(model, tmp_path / "model.safetensors", info={"elements": ["Na", "Cl", "O", "C"]})
    to_torch_export(tmp_path / "model.safetensors", tmp_path / "model.pt2")
    assert_same_without_the_package(tmp_path, model, tmp_path / "model.pt2", "export")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_a_compiled_package_runs_without_the_package(tmp_path):
    model = random_weights(MODELS["schnet"]())
    path = to_aoti(model, tmp_path / "model.pt2", elements=[6, 8, 11, 17])
    assert_same_without_the_package(tmp_path, model, path, "aoti")


def test_a_compiler_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="needs a C\\+\\+ compiler"):
        to_aoti(random_weights(MODELS["schnet"]()), tmp_path / "model.pt2")


def test_onnx_runtime_gives_the_same_numbers(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model = random_weights(MODELS["schnet"]())
    path = to_onnx(model, tmp_path / "model.onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["pyg_schnet.json"])
    assert facts["cutoff"] == 4.5
    names = [each.name for each in session.get_inputs()]
    assert names == facts["inputs"]
    for case in CASES.values():
        structures = case()
        given = inputs_of(structures, 4.5)
        got = session.run(
            facts["outputs"], {name: value.numpy() for name, value in zip(names, given)}
        )
        assert_same(got, wanted(model, structures), rtol=1e-5, atol=1e-5)


def test_onnx_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("pyg_schnet.interop.programs.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="onnx is not installed"):
        to_onnx(random_weights(MODELS["schnet"]()), tmp_path / "model.onnx")


def with_head(activation):
    model = SchNet(**SIZES)
    model.readout.register_module("act", activation)
    return model


def with_unit():
    model = SchNet(**SIZES)
    model.info = {"unit": "D", "target": "mu"}
    return model


@pytest.mark.parametrize(
    "model, sentence",
    [
        (lambda: nn.Linear(2, 2), "Only a SchNet or DTNN can be exported, got Linear"),
        (lambda: Ensemble([SchNet(**SIZES), SchNet(**SIZES)]), "members one by one"),
        (with_unit, "predicts mu in D"),
        (lambda: SchNet(**SIZES, dipole=True), "not a Dipole"),
        (lambda: SchNet(**SIZES, head="set2set"), "not a Set2SetPooling"),
        (lambda: SchNet(**SIZES, out_channels=2), "this one has 2"),
        (lambda: SchNet(**SIZES, max_num_neighbors=8), "max_num_neighbors=8 drops"),
        (lambda: SchNet(**SIZES, interaction_graph=lambda pos, batch: None), "of its own"),
        (lambda: with_head(nn.ReLU()), "activation ReLU"),
    ],
)
def test_models_that_cannot_be_exported_are_named(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        exportable(model())


def test_blocks_of_ones_own_are_not_exported():
    model = SchNet(**SIZES)
    model.interactions[1].conv.nn = nn.Linear(9, 10)
    with pytest.raises(ValueError, match="InteractionBlock of other parts"):
        exportable(model)


def test_files_are_named_as_their_format(tmp_path):
    model = random_weights(MODELS["schnet"]())
    for write, name in ((to_torch_export, "a.pt"), (to_aoti, "a.so"), (to_onnx, "a.pt2")):
        with pytest.raises(ValueError, match=r"The file must end in \."):
            write(model, tmp_path / name)
    assert not list(Path(tmp_path).iterdir())
