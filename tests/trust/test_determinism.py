"""The same seed twice gives the same bits, with torch's deterministic algorithms demanded."""

import json
import warnings

import numpy as np
import pytest
import torch
from ase.build import molecule
from helpers import randomize, small_schnet
from small_frames import write_md17
from small_qm9 import write_small_qm9
from torch_geometric.data import Batch

from pyg_schnet import DTNN, Potential, SchNet
from pyg_schnet.datasets import MD17, QM9
from pyg_schnet.simulation import Calculator, run_md
from pyg_schnet.simulation.predict import atoms_to_data
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.config import TrainingConfig
from pyg_schnet.training.force_config import MD17Config
from pyg_schnet.training.force_tasks import md17_task
from pyg_schnet.training.run import Property, train
from pyg_schnet.training.splits import random_split
from pyg_schnet.training.tasks import train_task

SMALL = {
    "hidden_channels": 8,
    "num_filters": 8,
    "num_interactions": 2,
    "num_gaussians": 10,
    "batch_size": 8,
    "max_steps": 12,
    "val_every": 6,
    "log_every": 6,
    "tensorboard": False,
    "accelerator": "cpu",
}
MODELS = {
    "schnet": lambda dtype: small_schnet(dtype),
    "exact": lambda dtype: small_schnet(dtype, filters="exact"),
    "dtnn": lambda dtype: DTNN(8, 8, 2, 10, 4.0, seed=0).to(dtype),
}


@pytest.fixture(autouse=True, params=[1, 2], ids=["one thread", "two threads"])
def deterministic(request):
    """Whatever has no deterministic way in torch raises."""
    torch.set_num_threads(request.param)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(1)


def batch(dtype):
    names = ["CH3CH2OH", "H2O", "C6H6", "CH4", "C2H6", "NH3", "CH3COOH", "C4H4NH"] * 6
    return Batch.from_data_list([atoms_to_data(molecule(name), dtype) for name in names])


@pytest.mark.parametrize("kind", MODELS)
def test_inference_gives_the_same_bits(kind, dtype):
    model = MODELS[kind](dtype)
    randomize(model)
    potential = Potential(model.eval()).eval()
    first, second = (potential(batch(dtype)) for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name])
    z, pos, of = batch(dtype).z, batch(dtype).pos, batch(dtype).batch
    with torch.no_grad():
        assert torch.equal(model(z, pos, of), model(z, pos, of))


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_of_a_force_loss_are_the_same_bits(kind, dtype):
    found = []
    for _ in range(2):
        model = MODELS[kind](dtype)
        randomize(model)
        result = Potential(model).train()(batch(dtype))
        (result["energy"].square().sum() + result["forces"].square().sum()).backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) > 5
    assert all(torch.equal(a, b) for a, b in zip(*found))


def same_run(one, other):
    for name in ("best.safetensors", "predictions.npz"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    a, b = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (one, other))
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    told = [json.loads((folder / "metrics.json").read_text()) for folder in (one, other)]
    assert {k: v for k, v in told[0].items() if "second" not in k} == {
        k: v for k, v in told[1].items() if "second" not in k
    }


def test_a_run_on_energies_is_repeated_bit_for_bit(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        data = QM9(str(tmp_path), target="U0", raw=str(write_small_qm9(tmp_path / "xyz")))
    table = MoleculeTable.from_dataset(data)
    for name in ("one", "other"):
        wanted = Property("U0", "eV", "kcal/mol", 23.06)
        split = random_split(len(table), 40, 8)
        train(TrainingConfig(**SMALL), wanted, table, split, tmp_path / name)
    same_run(tmp_path / "one", tmp_path / "other")


def test_a_run_on_forces_is_repeated_bit_for_bit(tmp_path):
    raw = write_md17(tmp_path / "md17_ethanol.npz", 40)
    for name in ("one", "other"):
        config = MD17Config(
            root=str(tmp_path / "data"), train_size=20, val_size=8, test_size=8, **SMALL
        )
        data = MD17(config.root, "ethanol", raw=raw)
        train_task(md17_task(config, data), config, tmp_path / name)
    same_run(tmp_path / "one", tmp_path / "other")


def test_dynamics_with_noise_is_repeated_bit_for_bit(tmp_path):
    for name in ("one", "other"):
        run_md(
            small_schnet(torch.float32),
            molecule("CH3CH2OH"),
            tmp_path / f"{name}.extxyz",
            time=0.05,
            every=10,
            thermostat="langevin",
            replicas=1,
            progress=False,
            report=False,
        )
    one, other = ((tmp_path / f"{name}.extxyz").read_bytes() for name in ("one", "other"))
    assert one == other


def test_a_seed_makes_the_same_weights_and_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    one, other = SchNet(8, 8, 1, 10, 5.0, seed=4), SchNet(8, 8, 1, 10, 5.0, seed=4)
    for a, b in zip(one.parameters(), other.parameters()):
        assert torch.equal(a, b)
    assert torch.equal(torch.rand(2), wanted)


def test_a_calculator_gives_the_same_bits_alone_and_after_other_structures():
    atoms, model = molecule("CH3CH2OH"), small_schnet(torch.float32)
    calculator = Calculator(model)
    wanted = Calculator(model).get_forces(atoms)
    for name in ("H2O", "C6H6"):
        calculator.get_forces(molecule(name))
    np.testing.assert_array_equal(calculator.get_forces(atoms), wanted)
