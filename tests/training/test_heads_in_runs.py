"""Runs on heads other than sums, and on several properties at once."""

import json

import pytest
import torch
from helpers import random_molecule

from pyg_schnet import load
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.config import TrainingConfig
from pyg_schnet.training.run import Properties, Property, build_model, train
from pyg_schnet.training.splits import random_split
from pyg_schnet.training.targets import Evaluation
from pyg_schnet.units import BOHR

SMALL = {
    "hidden_channels": 16,
    "num_filters": 16,
    "num_interactions": 1,
    "num_gaussians": 10,
    "max_steps": 20,
    "val_every": 20,
    "tensorboard": False,
    "accelerator": "cpu",
}


@pytest.fixture(scope="module")
def molecules():
    return [random_molecule(4 + k % 6, k, torch.float32) for k in range(120)]


def table_of(molecules, y):
    ptr = torch.tensor([0, *(len(m.z) for m in molecules)]).cumsum(0)
    z, pos = (torch.cat([m[key] for m in molecules]) for key in ("z", "pos"))
    return MoleculeTable(z, pos, ptr, torch.stack(y).double())


def split():
    return random_split(120, 80, 20, 20, 0)


def test_the_head_is_that_of_the_property_unless_configured():
    extent = Property("r2", "Bohr^2", "Bohr^2", head="spatial_extent")
    for options, want in (
        ({}, ("spatial_extent", "add")),
        ({"readout": "mean"}, ("atomwise", "mean")),
        ({"head": "atomwise"}, ("atomwise", "add")),
        ({"head": "softmax"}, ("softmax", "mean")),
    ):
        made = extent.architecture(TrainingConfig(**options))
        assert (made["head"], made["readout"]) == want


def test_dressed_atoms_of_the_extent_are_fitted_before_training(molecules, tmp_path):
    def extent(m):
        r = (m.pos - m.pos.mean(0)).square().sum(1) / BOHR**2
        return (m.z * r + 3.0).sum()[None]

    table = table_of(molecules, [extent(m) for m in molecules])
    wanted = Property("r2", "Bohr^2", "Bohr^2", head="spatial_extent")
    config = TrainingConfig(**SMALL)
    model = build_model(config, wanted, table, split().train)
    assert not torch.equal(model.readout.atomref[:, 1], torch.zeros(100, dtype=torch.float64))
    metrics = train(config, wanted, table, split(), tmp_path)
    assert metrics["test_mae"] < 0.5 * metrics["baseline_dressed_atom_mae_Bohr_2"]


def test_tensors_are_trained_and_judged_by_component(molecules, tmp_path):
    y = [(m.pos.T @ m.pos + len(m.z) * torch.eye(3)).flatten() for m in molecules]
    wanted = Property(
        "polarizability",
        "Bohr^3",
        "Bohr^3",
        head="polarizability",
        head_options={"tensor": True},
    )
    metrics = train(TrainingConfig(**SMALL), wanted, table_of(molecules, y), split(), tmp_path)
    assert metrics["test_mae"] < metrics["baseline_mean_mae_Bohr_3"]


def test_several_properties_each_with_its_constants_and_in_its_unit(molecules, tmp_path):
    y = [torch.stack([-40.0 * m.z.sum() - 3.0, 0.1 * m.z.float().mean()]) for m in molecules]
    parts = (
        Property("U0", "eV", "meV", 1000.0),
        Property("gap", "eV", "eV", extensive=False),
    )
    table = table_of(molecules, y)
    noise = torch.randn(120, 2, generator=torch.Generator().manual_seed(0)).double()
    table.y = table.y + noise * torch.tensor([5.0, 0.01])
    wanted, config = Properties(parts), TrainingConfig(**SMALL)
    model = build_model(config, wanted, table, split().train)
    assert model.readout.readout == ("add", "mean") and model.out_channels == 2
    scales = wanted.scales(config, table, split().train)
    assert float(scales[0]) == pytest.approx(5.0, rel=0.4)
    assert float(scales[1]) == pytest.approx(0.01, rel=0.4)
    metrics = train(config, wanted, table, split(), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["target"] == "U0,gap"
    assert 0.5 < metrics["test_mae"] < 2.0
    trained = load(tmp_path / "best.safetensors")
    rows = split().test
    batch = table.batch(rows, 5.0)
    out = trained(batch.z, batch.pos, batch.batch, dtype=torch.float64).detach()
    for t, (name, f) in enumerate((("test_mae_U0_meV", 1000.0), ("test_mae_gap_eV", 1.0))):
        want = Evaluation(table.y[rows, t], out[:, t]).mae() * f
        assert metrics[name] == pytest.approx(want, rel=1e-3)


def test_a_head_of_one_output_is_no_head_for_several(molecules):
    table = table_of(molecules, [torch.zeros(2)] * 120)
    parts = Properties((Property("U0", "eV", "eV"), Property("mu", "D", "D", head="dipole")))
    with pytest.raises(ValueError, match="head='dipole' predicts one property"):
        build_model(TrainingConfig(**SMALL, head="dipole"), parts, table, split().train)
