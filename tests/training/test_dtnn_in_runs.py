"""DTNN wherever a SchNet may stand: runs, evaluation, prediction, calculators, dynamics."""

import json

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.io import write
from small_frames import spring_table, write_md17
from small_qm9 import write_small_qm9

from pyg_schnet import DTNN, Ensemble, Potential, load
from pyg_schnet.cli import main
from pyg_schnet.datasets import QM9
from pyg_schnet.simulation import (
    Calculator,
    atoms_to_data,
    hessian,
    hessian_by_differences,
    relax,
    run_md,
)
from pyg_schnet.training import run as runs
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.config import TrainingConfig
from pyg_schnet.training.ensembles import train_ensemble
from pyg_schnet.training.evaluation import evaluate_forces
from pyg_schnet.training.force_config import MD17Config
from pyg_schnet.training.module import PropertyTraining
from pyg_schnet.training.run import Properties, Property, build_model, train
from pyg_schnet.training.schedules import Schedule
from pyg_schnet.training.splits import random_split
from pyg_schnet.training.targets import EnergyAndForces
from pyg_schnet.training.tasks import Task, read_config

SMALL = {
    "model": "dtnn",
    "hidden_channels": 8,
    "num_factors": 12,
    "num_interactions": 2,
    "num_gaussians": 30,
    "cutoff": 8.0,
    "cutoff_fn": "none",
    "batch_size": 8,
    "max_steps": 20,
    "val_every": 10,
    "log_every": 5,
    "tensorboard": False,
    "accelerator": "cpu",
}
WORDS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
ENERGY = Property("U0", "eV", "kcal/mol", 23.06)


@pytest.fixture(scope="module")
def raw_qm9(tmp_path_factory):
    return write_small_qm9(tmp_path_factory.mktemp("qm9") / "xyz")


@pytest.fixture(scope="module")
def table(raw_qm9):
    with pytest.warns(UserWarning, match="holds 59 of the 130831"):
        dataset = QM9(str(raw_qm9.parent), target="U0", raw=str(raw_qm9))
    return MoleculeTable.from_dataset(dataset)


@pytest.fixture
def split(table):
    return random_split(len(table), 40, 8)


@pytest.fixture(scope="module")
def force_field(tmp_path_factory):
    """A run on springs between the atoms of ethanol, through the command line."""
    folder = tmp_path_factory.mktemp("md17")
    raw = write_md17(folder / "md17_ethanol.npz", 200)
    call = ["train", "md17", f"--raw={raw}", f"--root={folder}/root", f"--output={folder}/run"]
    call += [*WORDS, "--train-size=120", "--val-size=40", "--max-steps=300", "--val-every=100"]
    assert main([*call, "--lr=5e-3", "--schedule=constant"]) == 0
    return folder / "run"


def test_options_make_the_model_that_they_name(table, split):
    model = build_model(TrainingConfig(**SMALL), ENERGY, table, split.train)
    assert type(model) is DTNN
    for name in ("hidden_channels", "num_factors", "num_interactions", "num_gaussians", "cutoff"):
        assert getattr(model, name) == SMALL[name]
    assert model.cutoff_fn == "none" and model.readout.readout == "add" and model.tied
    assert model.readout.atomref[6] < -1000.0  # eV, of carbon, from the training set
    double = TrainingConfig(**SMALL, precision="64-true")
    assert build_model(double, ENERGY, table, split.train).embedding.weight.dtype == torch.float64


def test_the_preset_is_the_thesis(table, split):
    config = TrainingConfig(preset="dtnn", num_interactions=6, cutoff=5.0)
    assert config.model == "dtnn"
    model = build_model(config, ENERGY, table, split.train)
    sizes = model.hidden_channels, model.num_factors, model.num_interactions
    assert sizes == (30, 60, 3) and model.cutoff_fn == "none"
    centres = model.distance_expansion.offset
    np.testing.assert_allclose(centres.numpy(), np.arange(-1.0, 20.01, 0.2), atol=1e-9)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"head": "softmax"}, "head='softmax' needs a SchNet"),
        ({"normalize": "neighbors"}, "normalize='neighbors' is an option of a SchNet"),
        ({"filters": "tabulated"}, "filters='tabulated' is an option of a SchNet"),
        ({"shared_filters": True}, "shared_filters=True is an option of a SchNet"),
        ({"filter_activation": "ssp"}, "filter_activation='ssp' is an option of a SchNet"),
        ({"preset": "jcp-2018"}, "preset='jcp-2018' is a SchNet, but model='dtnn'"),
        ({"model": "gdml"}, "model must be one of schnet, dtnn"),
        ({"optimizer": "lbfgs"}, "optimizer must be one of adam, sgd"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
    ],
)
def test_what_a_dtnn_has_not_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        TrainingConfig(**{"model": "dtnn", **options})


def test_targets_with_a_head_of_their_own_get_the_atomwise_one():
    extent = Property("r2", "Bohr^2", "Bohr^2", head="spatial_extent")
    assert extent.architecture(TrainingConfig(**SMALL))["head"] == "atomwise"
    assert extent.architecture(TrainingConfig())["head"] == "spatial_extent"


def test_a_run_on_a_property_learns_and_its_file_gives_its_errors(raw_qm9, table, tmp_path, capsys):
    where = [f"--root={raw_qm9.parent}", f"--raw={raw_qm9}", f"--output={tmp_path}/run"]
    sizes = ["--train-size=40", "--val-size=8", "--max-steps=300", "--val-every=100", "--lr=1e-2"]
    assert main(["train", "qm9", *where, *WORDS, *sizes]) == 0
    assert "this DTNN" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["test_mae_kcal_mol"] < 0.7 * metrics["baseline_dressed_atom_mae_kcal_mol"]
    assert read_config(tmp_path / "run")[1].model == "dtnn"
    assert main(["evaluate", f"{tmp_path}/run"]) == 0
    assert f"MAE {metrics['test_mae']:.4f}" in capsys.readouterr().out

    write(tmp_path / "water.xyz", molecule("H2O"))
    call = ["predict", f"{tmp_path}/water.xyz", f"--model={tmp_path}/run"]
    assert main([*call, f"--output={tmp_path}/out.csv"]) == 0
    model = load(tmp_path / "run/best.safetensors")
    atoms = molecule("H2O")
    with torch.no_grad():
        want = model(torch.tensor(atoms.numbers), torch.tensor(atoms.positions).float())
    shown = float((tmp_path / "out.csv").read_text().splitlines()[1].split(",")[2])
    assert shown == pytest.approx(float(want), abs=2e-3)


def test_several_properties_by_one_network(table, split, tmp_path):
    table = MoleculeTable(table.z, table.pos, table.ptr, torch.cat([table.y, table.y / 7], 1))
    parts = Property("U0", "eV", "meV", 1000.0), Property("gap", "eV", "eV", extensive=False)
    metrics = train(TrainingConfig(**SMALL), Properties(parts), table, split, tmp_path)
    model = load(tmp_path / "best.safetensors")
    assert model.out_channels == 2 and model.readout.readout == ("add", "mean")
    assert metrics["test_mae_U0_meV"] > 0 and metrics["test_mae_gap_eV"] > 0


def test_gradient_descent_with_momentum_is_that_of_the_book(table, split, tmp_path):
    """v <- 0.9 v + g, w <- w - lr v, by hand."""
    options = {**SMALL, "optimizer": "sgd", "lr": 1e-3, "schedule": "constant", "ema": 0.0}
    config = TrainingConfig(**{**options, "max_steps": 4, "val_every": 4})
    train(config, ENERGY, table, split, tmp_path)
    model = build_model(config, ENERGY, table, split.train)
    module = PropertyTraining(model, Schedule("constant", config.lr))
    loader = iter(runs.EpochlessLoader(table, split.train, 8, None, config.seed))
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(4):
        model.zero_grad()
        module.error(next(loader)).square().mean().backward()
        with torch.no_grad():
            for v, p in zip(velocity, model.parameters(), strict=True):
                v.mul_(0.9).add_(p.grad)
                p.sub_(config.lr * v)
    kept = load(tmp_path / "best.safetensors")
    for p, q in zip(model.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_resumed_run_is_the_uninterrupted_one(table, split, tmp_path, optimizer):
    options = {**SMALL, "optimizer": optimizer, "schedule": "constant", "lr": 1e-3}
    train(TrainingConfig(**options), ENERGY, table, split, tmp_path / "whole")
    half = TrainingConfig(**{**options, "max_steps": 10})
    train(half, ENERGY, table, split, tmp_path / "parts")
    train(TrainingConfig(**options), ENERGY, table, split, tmp_path / "parts", resume=True)
    one, other = (load(tmp_path / name / "best.safetensors") for name in ("whole", "parts"))
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_bfloat16_trains(table, split, tmp_path):
    config = TrainingConfig(**SMALL, precision="bf16-mixed")
    metrics = train(config, ENERGY, table, split, tmp_path)
    assert np.isfinite(metrics["test_mae"])
    assert load(tmp_path / "best.safetensors").embedding.weight.dtype == torch.float32


def test_forces_are_learned_by_autograd_and_are_those_of_the_energy(force_field):
    metrics = json.loads((force_field / "metrics.json").read_text())
    none = metrics["baseline_no_forces_mae_kcal_mol"]
    assert metrics["test_forces_mae_kcal_mol"] < 0.5 * none
    table = spring_table(12, seed=1)
    model = load(force_field / "best.safetensors")
    found = evaluate_forces(model, table, torch.arange(12))
    want = Potential(model.double())(
        spring_table(12, 1, torch.float64).batch(torch.arange(12), None)
    )
    torch.testing.assert_close(found.energy.prediction, want["energy"], rtol=0, atol=2e-3)
    torch.testing.assert_close(
        found.forces.prediction.double(), want["forces"].detach(), rtol=1e-3, atol=1e-3
    )


def test_the_calculator_gives_energies_of_atoms_and_forces(force_field):
    atoms = molecule("CH3CH2OH")
    atoms.calc = Calculator(force_field)
    energy = atoms.get_potential_energy()
    assert atoms.get_potential_energies().sum() == pytest.approx(energy, abs=2e-2)
    atoms.rattle(0.02, seed=0)
    step = 1e-2
    moved = atoms.copy(), atoms.copy()
    for one, sign in zip(moved, (1, -1), strict=True):
        one.positions[3, 1] += sign * step
        one.calc = Calculator(load(force_field / "best.safetensors").double())
    slope = (moved[0].get_potential_energy() - moved[1].get_potential_energy()) / (2 * step)
    assert atoms.get_forces()[3, 1] == pytest.approx(-slope, rel=2e-2, abs=2e-2)


def test_second_derivatives_are_differences_of_forces():
    model, atoms = DTNN(num_interactions=2, seed=0).double(), molecule("H2O")
    found = hessian(Potential(model), atoms_to_data(atoms, torch.float64))
    want = hessian_by_differences(Calculator(model), atoms)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_only_a_schnet_is_frozen():
    with pytest.raises(ValueError, match="Only a SchNet can be frozen, got DTNN"):
        Potential(DTNN(seed=0)).freeze()


def test_structures_are_relaxed_to_where_springs_rest(force_field):
    atoms = molecule("CH3CH2OH")
    rest = atoms.get_all_distances()
    atoms.rattle(0.03, seed=1)
    found = relax(Calculator(force_field), atoms, fmax=0.05, steps=100)
    assert found.converged
    assert np.abs(found.atoms.get_all_distances() - rest).max() < 0.1


@pytest.mark.parametrize("engine", ["own", "ase"])
def test_dynamics_by_either_engine_keep_the_energy(force_field, tmp_path, engine):
    done = run_md(
        force_field,
        molecule("CH3CH2OH"),
        tmp_path / "md.extxyz",
        0.02,
        100.0,
        0.5,
        every=4,
        engine=engine,
        report=False,
    )
    assert done.frames >= 10 and not done.stopped
    table = np.genfromtxt(tmp_path / "md.csv", delimiter=",", names=True)
    conserved = next(name for name in table.dtype.names if "conserved" in name or "total" in name)
    assert np.ptp(table[conserved]) < 0.02


def test_an_ensemble_of_dtnns_is_trained_kept_and_searches_once(tmp_path):
    table = spring_table(40)
    split = random_split(40, 20, 8)
    task = Task("springs", EnergyAndForces("springs", "meV"), table, split, "frames")
    metrics = train_ensemble(task, MD17Config(**SMALL, unit="meV"), tmp_path, 2)
    assert metrics["members"] == 2
    ensemble = load(tmp_path / "best.safetensors")
    assert isinstance(ensemble, Ensemble)
    atoms = molecule("CH3CH2OH")
    atoms.calc = Calculator(tmp_path)
    assert atoms.get_forces().shape == (9, 3) and atoms.calc.results["forces_std"].any()
    given = table.batch(torch.arange(2), None)
    bare = given.clone()
    del bare.edge_index
    assert ensemble._with_edges(bare).edge_index.size(1) == 2 * 9 * 8
    torch.testing.assert_close(ensemble(bare)["energy"], ensemble(given)["energy"])


def test_crystals_within_a_cutoff_and_with_their_stress(tmp_path, capsys):
    rows = ["material_id,cif,formation_energy_per_atom"]
    for k in range(24):
        write(tmp_path / "one.cif", bulk("Cu", a=3.6 * (1 + 0.004 * (k - 12)), cubic=True))
        text = (tmp_path / "one.cif").read_text().replace('"', '""')
        rows.append(f'mp-{k},"{text}",{0.001 * (k - 12) ** 2}')
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    call = ["train", "mp", f"--raw={tmp_path}/table.csv", f"--root={tmp_path}/mp", *WORDS]
    call += ["--train-size=12", "--val-size=4", "--cutoff=4.0"]
    assert main([*call, f"--output={tmp_path}/all"]) == 2
    assert "use cutoff_fn='cosine' or 'hard'" in capsys.readouterr().err
    run = tmp_path / "run"
    assert main([*call, f"--output={run}", "--cutoff-fn=cosine"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test_mae"] < 1.0 and load(run / "best.safetensors").readout.readout == "mean"
    assert main(["predict", f"{tmp_path}/one.cif", f"--model={run}"]) == 0
    model = DTNN(cutoff=4.0, cutoff_fn="cosine", seed=0).double()  # of an energy, not per atom
    one, volumes, energies = bulk("Cu", cubic=True), [], []
    one.calc = Calculator(model)
    stress = one.get_stress()[:3].mean()
    for scale in (0.99995, 1.00005):
        other = one.copy()
        other.set_cell(one.cell * scale, scale_atoms=True)
        other.calc = Calculator(model)
        volumes.append(other.get_volume())
        energies.append(other.get_potential_energy())
    slope = (energies[1] - energies[0]) / (volumes[1] - volumes[0])
    assert stress == pytest.approx(slope, rel=1e-4, abs=1e-9)
