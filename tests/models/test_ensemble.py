import pytest
import torch
from ase.build import bulk, molecule
from torch.testing import assert_close
from torch_geometric.data import Batch

from pyg_schnet import Ensemble, Potential, SchNet, load, save
from pyg_schnet.models import read_header
from pyg_schnet.simulation import atoms_to_data


def member(seed, **more):
    sizes = {"hidden_channels": 32, "num_filters": 32, "num_interactions": 2, "num_gaussians": 20}
    return SchNet(**(sizes | {"cutoff": 4.0, "seed": seed, "mean": -3.0} | more))


def ethanol(dtype=torch.float32):
    return atoms_to_data(molecule("CH3CH2OH"), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frozen", [False, True])
def test_mean_and_spread_are_those_of_the_members(dtype, frozen):
    models = [member(seed).to(dtype) for seed in range(3)]
    data = Batch.from_data_list([ethanol(dtype), atoms_to_data(molecule("H2O"), dtype)])
    ensemble = Ensemble(models).eval()
    result = (ensemble.freeze() if frozen else ensemble)(data)
    apart = [Potential(model).eval()(data) for model in models]
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}
    for name in ("energy", "forces"):
        values = torch.stack([each[name] for each in apart])
        assert_close(result[name], values.mean(0), **close)
        assert_close(result[f"{name}_std"], values.std(0), **close)
    assert "edge_index" not in data


def test_members_with_different_edges_find_their_own():
    models = [member(0), member(1, cutoff=3.0), member(2, cutoff_fn="none")]
    result = Ensemble(models).eval()(ethanol())
    apart = torch.stack([Potential(model).eval()(ethanol())["energy"] for model in models])
    assert_close(result["energy"], apart.mean(0), rtol=1e-6, atol=1e-6)


def test_periodic_structures_have_a_stress_with_its_spread():
    data = atoms_to_data(bulk("NaCl", "rocksalt", 5.6), torch.float64)
    models = [member(seed).double() for seed in range(2)]
    result = Ensemble(models, stress=True).eval()(data)
    apart = [Potential(model, stress=True).eval()(data)["stress"] for model in models]
    assert_close(result["stress"], torch.stack(apart).mean(0))
    assert_close(result["stress_std"], torch.stack(apart).std(0))


def test_mean_forces_are_the_gradient_of_the_mean_energy():
    data = ethanol(torch.float64)
    ensemble = Ensemble([member(seed).double() for seed in range(3)])
    data.pos.requires_grad_()
    result = ensemble(data)
    gradient = torch.autograd.grad(result["energy"].sum(), data.pos)[0]
    assert_close(result["forces"], -gradient)


def test_one_file_holds_all_members(tmp_path):
    ensemble = Ensemble([member(0), member(1, num_interactions=3)], stress=True).eval()
    save(ensemble, tmp_path / "both.safetensors", {"unit": "eV"})
    again = load(tmp_path / "both.safetensors")
    assert isinstance(again, Ensemble) and again.stress and not again.training
    assert again.info == {"unit": "eV"}
    assert read_header(tmp_path / "both.safetensors")["model"] == "Ensemble"
    data = atoms_to_data(bulk("Cu"))
    for name, value in ensemble(data).items():
        assert torch.equal(again(data)[name], value), name


def test_members_come_from_files_of_one_target(tmp_path):
    for seed in range(3):
        info = {"target": "energy" if seed < 2 else "gap", "unit": "eV", "seed": seed}
        save(Potential(member(seed)), tmp_path / f"{seed}.safetensors", info)
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(3)]
    ensemble = Ensemble.from_files(paths[:2])
    assert ensemble.info == {"target": "energy", "unit": "eV"}
    assert len(ensemble.members) == 2
    with pytest.raises(ValueError, match="same target: .*2.safetensors: gap"):
        Ensemble.from_files(paths)
    with pytest.raises(ValueError, match="members has 1 model; a spread needs at least two"):
        Ensemble.from_files(paths[:1])
