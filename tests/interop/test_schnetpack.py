"""Models of SchNetPack: numbers that SchNetPack 2.1.1 and 1.0.1 computed, and files that lie.

The numbers were written by benchmarks/interop/schnetpack_reference.py.
"""

import json
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close
from torch_geometric.data import Data

from pyg_schnet import Potential, load, save
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.interop import from_qm9_pretrained, from_schnetpack, to_pyg
from pyg_schnet.interop.pickled_modules import Stub, read_module
from pyg_schnet.interop.plain import exportable
from pyg_schnet.simulation import Calculator
from pyg_schnet.units import DEBYE, KCAL_PER_MOL

DATA = Path(__file__).parent / "data"
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
# Of free charges the origin counts, and masses here are PyG's, in float32.
OF_FREE_CHARGES = {"rtol": 1e-6, "atol": 0}


def recorded(number):
    with np.load(DATA / f"schnetpack_{number}.npz") as file:
        arrays = {name: file[name] for name in file.files}
    facts = json.loads(str(arrays.pop("facts")))
    return facts["cases"], arrays


CASES_2, ARRAYS_2 = recorded(2)
CASES_1, ARRAYS_1 = recorded(1)


def state_of(arrays, case):
    prefix = f"{case}/state/"
    return {
        name[len(prefix) :]: torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


def structure(name):
    z, pos, pbc, cell = (
        torch.from_numpy(ARRAYS_2[f"structures/{name}/{part}"])
        for part in ("numbers", "positions", "pbc", "cell")
    )
    data = Data(z=z, pos=pos)
    if pbc.any():
        data.cell, data.pbc = cell[None], pbc[None]
    return data


def ase_atoms(data):
    atoms = Atoms(data.z.numpy(), data.pos.numpy())
    if "cell" in data:
        atoms.cell, atoms.pbc = data.cell[0].numpy(), True
    return atoms


def results(arrays, case):
    """Structure, name and value of each result of a case."""
    for name, value in arrays.items():
        parts = name.split("/")
        if parts[0] == case and parts[1] != "state":
            yield parts[1], parts[2], torch.from_numpy(value)


def predicted(model, data):
    return model(data.z, data.pos, cell=data.get("cell"), pbc=data.get("pbc"))


@pytest.mark.parametrize("case", ["gap", "shared", "dipole", "magnitude"])
def test_outputs_are_those_of_schnetpack_2(case):
    model = from_schnetpack(state_of(ARRAYS_2, case), CASES_2[case]).double()
    count = 0
    for name, _, want in results(ARRAYS_2, case):
        got = predicted(model, structure(name))
        tolerance = OF_FREE_CHARGES if case == "magnitude" else TIGHT
        assert_close(got.view(-1), want.view(-1), **tolerance)
        count += 1
    assert count >= 1


def test_energies_forces_and_stress_are_those_of_schnetpack_2():
    model = from_schnetpack(state_of(ARRAYS_2, "energy"), CASES_2["energy"]).double()
    assert model.readout.atomref[6, 0] == -7.5 and model.readout.mean == -3.5
    for name in ("water", "methanol", "crystal"):
        data = structure(name)
        got = Potential(model, stress=name == "crystal").eval()(data)
        for key in got:
            want = torch.from_numpy(ARRAYS_2[f"energy/{name}/{key}"])
            assert want.abs().max() > 1e-3
            assert_close(got[key].reshape(-1), want.reshape(-1), **TIGHT)


def test_a_float32_model_stays_one():
    state = state_of(ARRAYS_2, "energy")
    model = from_schnetpack(state, CASES_2["energy"])
    assert model.embedding.weight.dtype == torch.float32 and not model.training
    data = structure("methanol")
    data.pos = data.pos.float()
    want = torch.from_numpy(ARRAYS_2["energy/methanol/energy"])
    assert_close(Potential(model).eval()(data)["energy"], want, rtol=1e-5, atol=1e-5)
    # The cutoff and the grid are SchNetPack's float32 numbers.
    assert model.cutoff == float(state["representation.cutoff_fn.cutoff"]) != 4.2


@pytest.mark.parametrize("kind", ["pickled", "safetensors", "lightning"])
def test_states_are_read_from_files(tmp_path, kind):
    state, given = state_of(ARRAYS_2, "energy"), CASES_2["energy"]
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        prefix = "model." if kind == "lightning" else ""
        torch.save({prefix + name: value for name, value in state.items()}, path)
    model = from_schnetpack(path, given).double()
    want = torch.from_numpy(ARRAYS_2["energy/water/energy"])
    assert_close(predicted(model, structure("water")).view(-1), want, **TIGHT)


class Settings(dict):
    """Says that it is of Lightning."""

    __module__ = "pytorch_lightning.utilities.parsing"


def test_checkpoints_of_lightning_are_read(tmp_path, monkeypatch):
    parsing = types.ModuleType(Settings.__module__)
    parsing.Settings = Settings
    for name in ("pytorch_lightning", "pytorch_lightning.utilities", parsing.__name__):
        monkeypatch.setitem(sys.modules, name, parsing)
    state = {f"model.{name}": value for name, value in state_of(ARRAYS_2, "energy").items()}
    settings = Settings(lr=np.float64(1e-3), shape=np.arange(3))
    torch.save({"epoch": 3, "hyper_parameters": settings, "state_dict": state}, tmp_path / "a.ckpt")
    monkeypatch.undo()
    model = from_schnetpack(tmp_path / "a.ckpt", CASES_2["energy"]).double()
    want = torch.from_numpy(ARRAYS_2["energy/water/energy"])
    assert_close(predicted(model, structure("water")).view(-1), want, **TIGHT)


def test_a_pickled_module_of_schnetpack_2_is_read_without_it():
    assert "schnetpack" not in sys.modules
    model = from_schnetpack(DATA / "schnetpack_2_model.pt").double()
    for name in ("water", "methanol"):
        want = torch.from_numpy(ARRAYS_2[f"gap/{name}/gap"])
        assert_close(predicted(model, structure(name)).view(-1), want.view(-1), **TIGHT)
    assert "schnetpack" not in sys.modules


def test_units_become_ev_and_calculators_take_the_model():
    state, given = state_of(ARRAYS_2, "energy"), CASES_2["energy"]
    model = from_schnetpack(state, given, energy_unit="kcal/mol").double()
    data = structure("crystal")
    atoms = ase_atoms(data)
    atoms.calc = Calculator(model)
    for key, value in (("energy", atoms.get_potential_energy()), ("forces", atoms.get_forces())):
        want = KCAL_PER_MOL * ARRAYS_2[f"energy/crystal/{key}"].squeeze()
        np.testing.assert_allclose(value, want, rtol=1e-6, atol=1e-7)


def test_the_row_of_padding_becomes_zero():
    state = state_of(ARRAYS_2, "energy")
    name = next(key for key in state if key.endswith("embedding.weight"))
    state[name] = state[name].clone()
    state[name][0] = 1.0
    model = from_schnetpack(state, CASES_2["energy"])
    assert not model.embedding.weight[0].any() and model.embedding.weight[1:].any()


def test_calculators_and_files_heed_the_activation_of_the_head(tmp_path):
    model = from_schnetpack(state_of(ARRAYS_2, "gap"), CASES_2["gap"])
    data = structure("methanol")
    want = float(ARRAYS_2["gap/methanol/gap"][0])
    atoms = ase_atoms(data)
    atoms.calc = Calculator(model)
    assert abs(atoms.get_potential_energy() - want) < 1e-4 * abs(want)
    save(model, tmp_path / "gap.safetensors")
    again = load(tmp_path / "gap.safetensors")
    assert type(again.readout.act) is torch.nn.SiLU
    pos = data.pos.to(model.embedding.weight.dtype)
    assert torch.equal(again(data.z, pos), model(data.z, pos))


def test_models_of_schnetpack_go_on_to_pyg():
    model = from_schnetpack(state_of(ARRAYS_2, "energy"), CASES_2["energy"]).double()
    data = structure("methanol")
    want = torch.from_numpy(ARRAYS_2["energy/methanol/energy"])
    # PyG has single-atom values in the dtype of the model, and a grid of the same numbers.
    assert_close(to_pyg(model)(data.z, data.pos).view(-1), want, rtol=1e-6, atol=0)


def test_pygs_schnet_cannot_take_another_activation():
    model = from_schnetpack(state_of(ARRAYS_2, "gap"), CASES_2["gap"])
    with pytest.raises(ValueError, match="ssp in its head, but this model has SiLU"):
        to_pyg(model)
    with pytest.raises(ValueError, match="needs the shifted softplus in the head"):
        Potential(model).freeze()


def test_models_of_schnetpack_can_be_exported():
    model = from_schnetpack(state_of(ARRAYS_2, "gap"), CASES_2["gap"]).double()
    plain = exportable(model)
    data = structure("methanol")
    edges, _ = neighbor_edges(data.pos, plain.cutoff)
    distance = (data.pos[edges[0]] - data.pos[edges[1]]).norm(dim=1)
    got = plain.network(data.z, edges[0], edges[1], distance).mean()
    assert plain.mean
    assert_close(got, torch.from_numpy(ARRAYS_2["gap/methanol/gap"])[0], **TIGHT)


def edited(**changes):
    state = state_of(ARRAYS_2, "energy")
    for name, value in changes.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


GRID = "representation.radial_basis."


@pytest.mark.parametrize(
    "state, hyperparameters, sentence",
    [
        (edited(), None, "does not tell 'activation', 'aggregation_mode' of its Atomwise"),
        (edited(), {"activation": "tanh", "aggregation_mode": "sum"}, "got 'tanh'"),
        (edited(), {"activation": "ssp", "aggregation_mode": "max"}, "'sum' or 'avg', got 'max'"),
        (edited(), {**CASES_2["energy"], "depth": 3}, "unknown entry 'depth'"),
        (edited(), {"head": "Polarizability"}, "must be one of"),
        (edited(**{"representation.cutoff_fn.eps": torch.ones(1)}), CASES_2["energy"], "mollifier"),
        (edited(**{GRID + "widths": None}), CASES_2["energy"], "no 'representation.radial_basis.w"),
        (edited(**{GRID + "widths": torch.rand(7)}), CASES_2["energy"], "of one width"),
        (edited(**{GRID + "offsets": torch.rand(7)}), CASES_2["energy"], "uniform grid"),
        (
            edited(**{"output_modules.0.outnet.2.weight": torch.rand(1)}),
            CASES_2["energy"],
            "2 layers",
        ),
        (
            edited(**{"representation.interactions.1.in2f.weight": None}),
            CASES_2["energy"],
            "no layer 'representation.interactions.1.in2f.weight'",
        ),
        (
            edited(**{"representation.interactions.1.f2out.1.bias": torch.rand(3)}),
            CASES_2["energy"],
            "not those of one SchNet",
        ),
        (edited(**{"representation.x": 3}), CASES_2["energy"], "'representation.x' is a int"),
        (
            edited(**{"output_modules.1.outnet.0.weight": torch.rand(1)}),
            CASES_2["energy"],
            "2 heads with weights",
        ),
    ],
)
def test_states_that_do_not_fit_are_named(state, hyperparameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_schnetpack(state, hyperparameters)


def test_other_things_are_refused(tmp_path):
    with pytest.raises(ValueError, match="energy_unit must be one of"):
        from_schnetpack({}, energy_unit="meV")
    with pytest.raises(ValueError, match="got list"):
        from_schnetpack([])
    with pytest.raises(ValueError, match="Linear has no representation"):
        from_schnetpack(nn.Linear(2, 2))
    with pytest.raises(FileNotFoundError, match="no model at"):
        from_schnetpack(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="belong to a state_dict"):
        from_schnetpack(DATA / "schnetpack_2_model.pt", {"activation": "ssp"})
    with pytest.raises(ValueError, match="output must be one of gap, got 'energy'"):
        from_schnetpack(DATA / "schnetpack_2_model.pt", output="energy")


def changed_module(change):
    model = read_module(DATA / "schnetpack_2_model.pt")
    change(model)
    return model


def renamed(module, name):
    module.__class__ = type(name, (Stub,), {})


def set_activation(model):
    model.representation.interactions.__dict__["_modules"]["0"].filter_network.__dict__["_modules"][
        "0"
    ].activation = "silu"


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda m: renamed(m.representation, "PaiNN"), "must be a SchNet, got PaiNN"),
        (lambda m: renamed(m.representation.cutoff_fn, "MollifierCutoff"), "got MollifierCutoff"),
        (lambda m: renamed(m.representation.radial_basis, "BesselRBF"), "got BesselRBF"),
        (lambda m: renamed(m.representation.embedding, "NuclearEmbedding"), "NuclearEmbedding"),
        (set_activation, "activation of the representation must be shifted_softplus"),
        (lambda m: renamed(m.output_modules._modules["0"], "Polarizability"), "no head Polar"),
        (lambda m: renamed(m.postprocessors._modules["1"], "Zoom"), "postprocessor Zoom"),
        (
            lambda m: setattr(m.postprocessors._modules["2"], "is_extensive", True),
            "offsets of 'gap' are extensive",
        ),
        (lambda m: setattr(m.postprocessors._modules["1"], "output_key", "x"), "keeps the name"),
    ],
)
def test_modules_with_other_parts_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_schnetpack(changed_module(change))


class Calls:
    """Calls something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    "function, arguments",
    [
        (os.system, ("echo pwned > pwned",)),
        (eval, ("1+1",)),
        (torch.load, ("x",)),
        (getattr, (1, "real")),
    ],
)
def test_files_that_would_run_something_are_refused(tmp_path, legacy, function, arguments):
    path = tmp_path / "model.pt"
    torch.save(Calls(function, *arguments), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="is refused"):
        from_schnetpack(path)
    assert not Path("pwned").exists()


def test_names_of_torch_are_never_called(tmp_path):
    path, weight = tmp_path / "model.pt", torch.zeros(3)
    # Let in by its name, but only as a stand-in.
    torch.save(Calls(nn.init.ones_, weight), path)
    assert isinstance(read_module(path), Stub)
    assert not weight.any()


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    for content in (b"", b"PK no archive", b"\x80\x02.", pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            from_schnetpack(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    with pytest.raises(ValueError, match="TorchScript archive"):
        from_schnetpack(path)
    whole = (DATA / "schnetpack_2_model.pt").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        from_schnetpack(path)


def old_module(case):
    """A whole module in the layout of SchNetPack 1; its classes exist while it is saved."""
    state = state_of(ARRAYS_1, case)
    made = {}

    def package(name):
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
            if "." in name:
                package(name.rsplit(".", 1)[0])
        return sys.modules[name]

    def node(path):
        folder, name = f"schnetpack.{path}".rsplit(".", 1)
        if path not in made:
            made[path] = type(name, (nn.Module,), {"__module__": folder})
            setattr(package(folder), name, made[path])
        return made[path]()

    def filled(module, prefix, names=("weight", "bias")):
        for name in names:
            if f"{prefix}.{name}" in state:
                module.register_parameter(name, nn.Parameter(state[f"{prefix}.{name}"]))
        return module

    def dense(prefix, activation=None):
        layer = filled(node("nn.base.Dense"), prefix)
        layer.activation = activation
        return layer

    def buffers(path, prefix, *names):
        module = node(path)
        for name in names:
            module.register_buffer(name, state[f"{prefix}.{name}"])
        return module

    def aggregate(mean):
        module = node("nn.base.Aggregate")
        module.average = mean
        return module

    ssp = types.FunctionType((lambda x: x).__code__, {}, "shifted_softplus")
    ssp.__module__, ssp.__qualname__ = "schnetpack.nn.activations", "shifted_softplus"
    package(ssp.__module__).shifted_softplus = ssp

    net = node("representation.schnet.SchNet")
    net.embedding = filled(nn.Embedding(100, 8, padding_idx=0), "representation.embedding")
    net.charged_systems = False
    basis = "representation.distance_expansion"
    net.distance_expansion = buffers("nn.acsf.GaussianSmearing", basis, "width", "offsets")
    net.interactions = nn.ModuleList()
    for i in range(2):
        prefix = f"representation.interactions.{i}"
        block, conv = node("representation.schnet.SchNetInteraction"), node("nn.cfconv.CFConv")
        block.filter_network = nn.Sequential(
            dense(f"{prefix}.filter_network.0", ssp), dense(f"{prefix}.filter_network.1")
        )
        cutoff = f"{prefix}.cutoff_network"
        block.cutoff_network = buffers("nn.cutoff.CosineCutoff", cutoff, "cutoff")
        conv.in2f = dense(f"{prefix}.cfconv.in2f")
        conv.f2out = dense(f"{prefix}.cfconv.f2out", ssp)
        conv.filter_network, conv.agg = block.filter_network, aggregate(False)
        block.cfconv, block.dense = conv, dense(f"{prefix}.dense")
        net.interactions.append(block)

    dipole = case == "dipole_moment"
    head = node("atomistic.output_modules." + ("DipoleMoment" if dipole else "Atomwise"))
    head.property, out = case, "output_modules.0.out_net.1.out_net"
    if dipole:
        head.charge_correction, head.predict_magnitude = None, True
    mlp = node("nn.blocks.MLP")
    mlp.out_net = nn.Sequential(dense(f"{out}.0", ssp), dense(f"{out}.1"))
    head.out_net = nn.Sequential(node("nn.base.GetItem"), mlp)
    head.standardize = buffers(
        "nn.base.ScaleShift", "output_modules.0.standardize", "mean", "stddev"
    )
    head.atom_pool = aggregate(CASES_1[case]["aggregation_mode"] == "avg")
    head.atomref = None
    if CASES_1[case]["atomref"]:
        head.atomref = filled(nn.Embedding(100, 1), "output_modules.0.atomref")
    whole = node("atomistic.model.AtomisticModel")
    whole.representation, whole.output_modules = net, nn.ModuleList([head])
    return whole


def written(path, case, legacy=True):
    """The file of such a module; its classes are gone afterwards."""
    before = set(sys.modules)
    try:
        torch.save(old_module(case), path, _use_new_zipfile_serialization=not legacy)
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]
    return path


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("case", list(CASES_1))
def test_pickled_modules_of_schnetpack_1_give_its_numbers(tmp_path, case, legacy):
    model = from_schnetpack(written(tmp_path / "best_model", case, legacy)).double()
    alive = from_schnetpack(old_module(case))
    for key, value in alive.state_dict().items():
        assert torch.equal(value.double(), model.state_dict()[key].double()), key
    for name, _, want in results(ARRAYS_1, case):
        tolerance = OF_FREE_CHARGES if case == "dipole_moment" else TIGHT
        assert_close(predicted(model, structure(name)).view(-1), want.view(-1), **tolerance)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("target, case", [(0, "dipole_moment"), (2, "homo")])
def test_models_of_the_archive_of_2018_are_read_from_it(tmp_path, packed, target, case):
    folder = tmp_path / "trained_schnet_models" / f"qm9_{case}"
    folder.mkdir(parents=True)
    written(folder / "best_model", case)
    parts = {"train_idx": np.arange(5), "val_idx": np.array([7]), "test_idx": np.array([9, 8])}
    np.savez(folder / "split.npz", **parts)
    root = tmp_path
    if packed:
        root = tmp_path / "trained_schnet_models.zip"
        with zipfile.ZipFile(root, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"trained_schnet_models/qm9_{case}/{file.name}")
    model, split = from_qm9_pretrained(root, target)
    for key, value in parts.items():
        np.testing.assert_array_equal(split[key], value)
    name, _, want = next(results(ARRAYS_1, case))
    unit = DEBYE if target == 0 else 1.0
    got = predicted(model.double(), structure(name)) * unit
    assert_close(got.view(-1), want.view(-1), **(OF_FREE_CHARGES if target == 0 else TIGHT))
    with pytest.raises(FileNotFoundError, match="no qm9_lumo/best_model"):
        from_qm9_pretrained(root, 3)
    with pytest.raises(ValueError, match="target must be one of 0 to 11"):
        from_qm9_pretrained(root, 12)


def test_archives_that_are_none_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no archive or folder"):
        from_qm9_pretrained(tmp_path / "none.zip", 0)
    (tmp_path / "bad.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read as a zip archive"):
        from_qm9_pretrained(tmp_path / "bad.zip", 0)


def test_an_ordered_dictionary_of_tensors_comes_back_as_it_is(tmp_path):
    state = OrderedDict(a=torch.arange(3), b=torch.rand(2, 2, dtype=torch.float64))
    torch.save(state, tmp_path / "state.pt")
    again = read_module(tmp_path / "state.pt")
    assert list(again) == ["a", "b"]
    for name, value in state.items():
        assert torch.equal(again[name], value)
