import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from helpers import randomize
from small_frames import STIFFNESS, TOTAL, spring_table, write_md17
from torch.testing import assert_close
from torch_geometric.data import Data, InMemoryDataset

from pyg_schnet import Potential, SchNet, load
from pyg_schnet.analysis import plot_run, read_log
from pyg_schnet.datasets import MD17
from pyg_schnet.models.sweep_rules import applies, by_autograd
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.evaluation import evaluate, evaluate_forces, fit_constant
from pyg_schnet.training.force_config import MD17Config
from pyg_schnet.training.force_module import ForceTraining
from pyg_schnet.training.force_tasks import md17_task
from pyg_schnet.training.run import EnergyAndForces, build_model, train
from pyg_schnet.training.schedules import Schedule
from pyg_schnet.training.splits import random_split
from pyg_schnet.training.statistics import force_scale

CONSTANT = Schedule("constant", 1e-3)
WANTED = EnergyAndForces("springs")


@pytest.fixture(scope="module")
def table():
    return spring_table(80)


@pytest.fixture
def split(table):
    return random_split(len(table), 40, 16)


def options(**changes):
    small = {
        "hidden_channels": 8,
        "num_filters": 8,
        "num_interactions": 2,
        "num_gaussians": 10,
        "batch_size": 8,
        "max_steps": 20,
        "val_every": 5,
        "log_every": 5,
        "schedule": "constant",
        "tensorboard": False,
        "accelerator": "cpu",
    }
    return MD17Config(**(small | changes))


def mixed_table(dtype):
    """Molecules of several sizes."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([3, 5, 2, 4])
    count = int(sizes.sum())
    return MoleculeTable(
        torch.randint(1, 9, (count,), generator=generator),
        (3 * torch.rand(count, 3, generator=generator)).to(dtype),
        torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
        torch.rand(4, 1, generator=generator).double(),
        torch.randn(count, 3, generator=generator).to(dtype),
    )


def small_model(dtype=torch.float64, **changes):
    arguments = {"mean": -50.0, "std": 2.0, "filters": "tabulated", "seed": 0}
    model = SchNet(8, 8, 2, 10, 4.0, **(arguments | changes)).to(dtype)
    randomize(model)
    return model


def loss_by_hand(model, batch, rho, per_atom):
    """One molecule after the other, by autograd through autograd."""
    loss = 0.0
    for m in range(batch.num_graphs):
        mine = batch.batch == m
        n = int(mine.sum())
        pos = batch.pos[mine].clone().requires_grad_()
        energy = model(batch.z[mine], pos, dtype=torch.float64).squeeze()
        forces = -torch.autograd.grad(energy, pos, create_graph=True)[0]
        wrong = (energy - batch.y[m, 0]) / (n if per_atom else 1)
        squares = [(forces[i] - batch.forces[mine][i]).square().sum() for i in range(n)]
        loss = loss + rho * wrong**2 + sum(squares) / n
    return loss / batch.num_graphs


@pytest.mark.parametrize("way", ["sweeps", "autograd"])
@pytest.mark.parametrize(("rho", "per_atom"), [(0.01, False), (1.0, True), (0.0, False)])
def test_the_loss_and_its_gradients_are_those_computed_by_hand(way, rho, per_atom):
    model = small_model()
    batch = mixed_table(torch.float64).batch(torch.tensor([2, 0, 3, 1]), 4.0)
    if way == "sweeps" and not applies(model, batch.pos, None, 4):
        pytest.skip("the compiled sweeps are not available here")
    module = ForceTraining(model, CONSTANT, rho, energy_per_atom=per_atom)
    want = loss_by_hand(model, batch, rho, per_atom)
    value = pytest.approx(float(want.detach()), rel=1e-7)
    parameters = list(model.parameters())
    slopes = torch.autograd.grad(want, parameters, allow_unused=True)
    if way == "autograd":
        with by_autograd():
            loss = module.objective(batch)
        loss.backward()
    else:
        assert float(module.objective(batch).detach()) == value
        loss = module.differentiate(batch, watched=True)
    assert float(loss.detach()) == value
    for parameter, slope in zip(parameters, slopes, strict=True):
        if slope is not None:
            got = parameter.grad if parameter.grad is not None else torch.zeros_like(slope)
            assert_close(got, slope, rtol=1e-6, atol=1e-7 * float(want.detach()))


def test_energies_only_are_the_mean_square_of_energies():
    model = small_model()
    batch = mixed_table(torch.float64).batch(torch.arange(4), 4.0)
    loss = ForceTraining(model, CONSTANT, rho=5.0, forces=False).objective(batch)
    out = model(batch.z, batch.pos, batch.batch, dtype=torch.float64)
    want = (out[:, 0] - batch.y[:, 0]).square().mean()
    assert float(loss.detach()) == pytest.approx(float(want.detach()), rel=1e-9)


@pytest.mark.parametrize("forces", [True, False])
def test_total_energies_of_seventeen_thousand_ev_cost_no_digits(forces):
    """In float32 they would be off by 1e-3 eV, which is the size of the errors."""
    near, far = spring_table(16), spring_table(16, shift=-17_600.0 - TOTAL)
    losses, errors = [], []
    for table, total in ((near, TOTAL), (far, -17_600.0)):
        model = small_model(torch.float32, mean=total / 9, std=1e-3)
        module = ForceTraining(model, CONSTANT, rho=1e4, forces=forces)
        losses.append(float(module.objective(table.batch(torch.arange(16), 4.0)).detach()))
        result = evaluate_forces(model, table, torch.arange(16))
        errors.append(result.energy.prediction - result.energy.reference)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert_close(errors[1], errors[0], rtol=0, atol=1e-10)


def test_errors_are_those_of_energies_and_of_force_components(table):
    model = small_model(torch.float32, mean=TOTAL / 9)
    rows = torch.tensor([5, 3, 60])
    result = evaluate_forces(model, table, rows, batch_size=2)
    energies, components = [], []
    for row in rows.tolist():
        atoms = slice(9 * row, 9 * row + 9)
        with by_autograd():
            found = Potential(model).eval()(Data(z=table.z[atoms], pos=table.pos[atoms]))
        energies.append(float(found["energy"]) - float(table.y[row]))
        components += (found["forces"] - table.forces[atoms]).flatten().tolist()
    assert result.energy.mae() == pytest.approx(sum(map(abs, energies)) / 3, rel=1e-5)
    assert result.forces.mae() == pytest.approx(sum(map(abs, components)) / 81, rel=1e-4)
    square = sum(c * c for c in components) / 81
    assert result.forces.rmse() == pytest.approx(math.sqrt(square), rel=1e-4)


def test_the_constant_is_the_mean_error_whatever_was_there_before(table):
    rows = torch.arange(40)
    found = []
    for mean in (0.0, 1e4):
        model = small_model(torch.float32, mean=mean, std=1.0)
        fit_constant(model, table, rows)
        result = evaluate(model, table, rows)
        assert float((result.prediction - result.reference).mean()) == pytest.approx(0.0, abs=1e-9)
        found.append((model.readout.mean.clone(), model.readout.atomref.clone()))
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


def test_without_weight_on_energies_the_constant_is_found_all_the_same(table, split, tmp_path):
    config = options(rho=0.0, max_steps=600, val_every=200, lr=5e-3, schedule="cosine")
    metrics = train(config, WANTED, table, split, tmp_path)
    model = load(tmp_path / "best.safetensors")
    result = evaluate(model, table, split.train)
    assert float((result.prediction - result.reference).mean()) == pytest.approx(0.0, abs=1e-8)
    # Energies have come from forces alone: they follow them better than a mean does.
    assert metrics["test_energy_mae_kcal_mol"] < 0.7 * metrics["baseline_mean_mae_kcal_mol"]


def weights(path):
    state = torch.load(path, weights_only=True)
    return state["state_dict"], state["current_model_state"], state["optimizer_states"][0]["state"]


@pytest.mark.parametrize("changes", [{}, {"rho": 0.0}, {"forces": False}], ids=str)
def test_interrupted_and_resumed_is_bit_for_bit_the_uninterrupted_run(
    table, split, tmp_path, changes
):
    train(options(**changes), WANTED, table, split, tmp_path / "whole")
    train(options(max_steps=12, **changes), WANTED, table, split, tmp_path / "parts")
    train(options(**changes), WANTED, table, split, tmp_path / "parts", resume=True)
    whole, parts = weights(tmp_path / "whole/last.ckpt"), weights(tmp_path / "parts/last.ckpt")
    for a, b in zip(whole[:2], parts[:2], strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    for a, b in zip(whole[2].values(), parts[2].values(), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    best = [load(tmp_path / run / "best.safetensors").state_dict() for run in ("whole", "parts")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_a_few_frames_are_learned_by_heart(table, tmp_path):
    split = random_split(len(table), 4, 4, 4)
    config = options(
        max_steps=1500, val_every=500, lr=1e-2, hidden_channels=16, num_filters=16, min_lr=1e-5
    )
    train(config, WANTED, table, split, tmp_path)
    model = SchNet(**load(tmp_path / "best.safetensors").config)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    result = evaluate_forces(model, table, split.train)
    assert result.forces.rmse() < 0.05 * float(result.forces.reference.square().mean().sqrt())


def test_forces_teach_more_than_energies_do(table, split, tmp_path):
    common = {"max_steps": 600, "val_every": 200, "lr": 5e-3, "schedule": "cosine"}
    both = train(options(**common), WANTED, table, split, tmp_path / "both")
    alone = train(options(forces=False, **common), WANTED, table, split, tmp_path / "alone")
    assert both["test_forces_mae"] < 0.5 * alone["test_forces_mae"]
    assert both["test_forces_mae_kcal_mol"] < 0.5 * both["baseline_no_forces_mae_kcal_mol"]


def test_a_run_writes_down_its_errors_in_ev_and_in_the_shown_unit(table, split, tmp_path):
    metrics = train(options(), WANTED, table, split, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    for of in ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse"):
        ratio = metrics[f"test_{of}_kcal_mol"] / metrics[f"test_{of}"]
        assert ratio == pytest.approx(23.0605, abs=1e-4)
    model = load(tmp_path / "best.safetensors")
    again = evaluate_forces(model, table, split.test)
    assert again.forces.mae() == pytest.approx(metrics["test_forces_mae"])
    validated = evaluate_forces(model, table, split.val)
    squares = validated.forces.prediction - validated.forces.reference
    loss = 0.01 * validated.energy.rmse() ** 2 + 3 * float(squares.double().square().mean())
    assert metrics["val_loss"] == pytest.approx(loss, rel=1e-5)
    log = read_log(tmp_path)
    assert {"val_loss", "val_energy_mae", "val_energy_rmse", "val_forces_mae"} < log.keys()
    assert {path.name for path in plot_run(tmp_path)} >= {
        "learning_curve.png",
        "forces_vs_reference.png",
        "summary.png",
    }


def test_double_precision_and_other_options_run(table, split, tmp_path):
    double = spring_table(80, dtype=torch.float64)
    changes = {"scale": "one", "offsets": "dressed", "energy_per_atom": True, "gradient_clip": 0.1}
    config = options(max_steps=3, precision="64-true", **changes)
    metrics = train(config, WANTED, double, split, tmp_path)
    assert math.isfinite(metrics["test_forces_mae"])


def test_scales_of_the_readout(table, split):
    rms = float(table.forces.view(80, 27)[split.train].double().square().mean().sqrt())
    assert force_scale(table, split.train) == pytest.approx(rms)
    assert rms < 10 * STIFFNESS * 0.05
    energies = table.y[split.train, 0] / 9
    for scale, want in (("forces", rms), ("energy", float(energies.std())), ("one", 1.0)):
        model = build_model(options(scale=scale), WANTED, table, split.train)
        assert float(model.readout.std) == pytest.approx(want)
        assert float(model.readout.mean) == pytest.approx(float(energies.mean()))


class InMemory(InMemoryDataset):
    def __init__(self, data_list):
        super().__init__()
        self.data, self.slices = self.collate(data_list)


def frame(**more):
    energy = torch.tensor([1.0], dtype=torch.float64)
    return Data(z=torch.tensor([1, 1]), pos=torch.eye(3)[:2], energy=energy, **more)


def test_a_table_takes_energies_and_forces_of_a_dataset():
    table = MoleculeTable.from_dataset(InMemory([frame(forces=torch.ones(2, 3))] * 2))
    assert table.y.tolist() == [[1.0], [1.0]] and table.forces.shape == (4, 3)
    both = MoleculeTable.joined([table, table])
    assert len(both) == 4 and both.forces.shape == (8, 3)
    assert both.batch(torch.tensor([3]), 5.0).edge_index.tolist() == [[1, 0], [0, 1]]


def test_what_cannot_be_is_refused_with_one_sentence(table, split, tmp_path):
    forces = torch.full((len(table.z), 3), math.nan)
    with pytest.raises(ValueError, match="forces has a NaN or infinite value in row 0"):
        MoleculeTable(table.z, table.pos, table.ptr, table.y, forces)
    with pytest.raises(ValueError, match="forces must have the shape of pos"):
        MoleculeTable(table.z, table.pos, table.ptr, table.y, forces[:2])
    bare = MoleculeTable(table.z, table.pos, table.ptr, table.y)
    with pytest.raises(ValueError, match="Some of the tables have forces"):
        MoleculeTable.joined([table, bare])
    for scale in ("one", "forces"):
        with pytest.raises(ValueError, match="no"):
            train(options(scale=scale), WANTED, bare, split, tmp_path)
    with pytest.raises(ValueError, match="no forces to compare"):
        evaluate_forces(small_model(), bare, torch.arange(2))
    with pytest.raises(ValueError, match="empty"):
        evaluate_forces(small_model(), table, torch.arange(0))
    periodic = frame(
        cell=torch.eye(3)[None], pbc=torch.ones(1, 3, dtype=torch.bool), forces=torch.ones(2, 3)
    )
    with pytest.raises(ValueError, match="Some of the tables have cells"):
        crystals = MoleculeTable.from_dataset(InMemory([periodic] * 2))
        molecules = MoleculeTable.from_dataset(InMemory([frame(forces=torch.ones(2, 3))] * 2))
        MoleculeTable.joined([crystals, molecules])
    with pytest.raises(ValueError, match="neither y nor energy"):
        MoleculeTable.from_dataset(InMemory([Data(z=torch.tensor([1]), pos=torch.zeros(1, 3))] * 2))
    with pytest.raises(ValueError, match="sum over atoms"):
        ForceTraining(small_model(readout="mean"), CONSTANT)
    with pytest.raises(ValueError, match="rho must not be negative"):
        ForceTraining(small_model(), CONSTANT, rho=-1.0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rho": -0.1}, "rho must not be negative"),
        ({"precision": "bf16-mixed"}, "precision must be one of 32-true, 64-true"),
        ({"scale": "two"}, "scale must be one of"),
        ({"offsets": "atomref"}, "offsets must be one of"),
        ({"unit": "Ry"}, "unit must be one of"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_bad_options_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        options(**changes)


def test_the_ready_options_are_options():
    folder = Path(train.__code__.co_filename).parent / "configs"
    config = MD17Config(**yaml.safe_load((folder / "md17_ethanol_1k.yaml").read_text()))
    assert (config.molecule, config.train_size, config.rho) == ("ethanol", 1000, 0.01)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [({}, True), ({"train_size": 999}, False), ({"forces": False}, False), ({"unit": "eV"}, False)],
)
def test_the_papers_errors_stand_beside_runs_as_in_the_paper(tmp_path, changes, shown):
    raw = write_md17(tmp_path / "md17_ethanol.npz", 1020)
    config = MD17Config(**({"train_size": 1000, "val_size": 10} | changes))
    task = md17_task(config, MD17(tmp_path, "ethanol", raw=raw))
    assert list(task.published.values()) == ([(0.08, 0.39)] if shown else [])
