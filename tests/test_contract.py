"""What every energy model must pass, whatever its options."""

import pytest
import torch
from helpers import (
    TOL,
    finite_difference,
    methanol,
    random_molecule,
    rotation,
    skewed_crystal,
    small_schnet,
    water,
)
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

from pyg_schnet import Potential
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.models import PRESETS

ATOMREF = torch.linspace(-3.0, 3.0, 100, dtype=torch.float64)
CUTOFF = 4.0
SMALL = {"hidden_channels": 12, "num_filters": 10, "num_interactions": 2}
CASES = {
    **{name: {**preset.arguments, **SMALL} for name, preset in PRESETS.items()},
    "cosine": {"cutoff": CUTOFF},
    "hard": {"cutoff": CUTOFF, "cutoff_fn": "hard"},
    "none": {"cutoff": CUTOFF, "cutoff_fn": "none", "filter_activation": "ssp", "gamma": 10.0},
    "shared": {"cutoff": CUTOFF, "shared_filters": True},
    "normalized": {"cutoff": CUTOFF, "normalize": "neighbors"},
    "constants": {"cutoff": CUTOFF, "mean": -2.5, "std": 3.0, "atomref": ATOMREF},
}
SMOOTH = ["cosine", "shared", "constants", "chapter-2020"]
LOCAL = [*SMOOTH, "hard", "normalized"]
every_model = pytest.mark.parametrize("case", CASES)
every_local_model = pytest.mark.parametrize("case", LOCAL)
every_smooth_model = pytest.mark.parametrize("case", SMOOTH)
F64 = TOL[torch.float64]


def potential(case, dtype=torch.float64, stress=False, **overrides):
    model = small_schnet(dtype, **{**CASES[case], **overrides})
    return Potential(model, stress=stress).eval()


def energy(pot, data):
    return pot.model(
        data.z, data.pos, data.get("batch"), cell=data.get("cell"), dtype=torch.float64
    ).detach()


@every_model
@pytest.mark.parametrize("reflect", [False, True], ids=["rotation", "reflection"])
def test_energy_stays_and_forces_turn_with_the_molecule(case, reflect, ch3oh):
    pot, turn = potential(case), rotation(1, reflect)
    still, turned = pot(ch3oh), pot(Data(z=ch3oh.z, pos=ch3oh.pos @ turn.T))
    assert still["forces"].abs().max() > 1e-3
    assert_close(turned["energy"], still["energy"], **F64)
    assert_close(turned["forces"], still["forces"] @ turn.T, **F64)


@every_model
def test_translation_changes_nothing(case, ch3oh):
    pot = potential(case)
    moved = Data(z=ch3oh.z, pos=ch3oh.pos + torch.tensor([3.0, -40.0, 7.5]).double())
    for name, value in pot(ch3oh).items():
        assert_close(pot(moved)[name], value, **F64)


@every_model
def test_permuting_atoms_permutes_forces(case, ch3oh):
    pot, order = potential(case), torch.tensor([3, 1, 5, 0, 2, 4])
    still, permuted = pot(ch3oh), pot(Data(z=ch3oh.z[order], pos=ch3oh.pos[order]))
    assert_close(permuted["energy"], still["energy"], **F64)
    assert_close(permuted["forces"], still["forces"][order], **F64)


@every_model
def test_elements_are_told_apart(case, ch3oh):
    pot = potential(case)
    other = Data(z=ch3oh.z + 1, pos=ch3oh.pos)
    assert (pot(other)["energy"] - pot(ch3oh)["energy"]).abs() > 1e-3


@every_model
def test_forces_are_finite_differences_of_the_energy(case, ch3oh):
    pot = potential(case)
    slope = finite_difference(lambda pos: energy(pot, Data(z=ch3oh.z, pos=pos)), ch3oh.pos)
    forces = pot(ch3oh)["forces"]
    assert_close(forces, -slope, rtol=1e-6, atol=1e-6 * float(forces.abs().max()))


@every_model
def test_no_net_force_and_no_torque(case, ch3oh, dtype):
    data = methanol(dtype)
    forces = potential(case, dtype)(data)["forces"]
    none = torch.zeros(3, dtype=dtype)
    assert_close(forces.sum(0), none, **TOL[dtype])
    assert_close(torch.linalg.cross(data.pos, forces).sum(0), none, **TOL[dtype])


@every_model
@pytest.mark.parametrize("readout", ["add", "mean"])
def test_batch_gives_what_single_molecules_give(case, readout, dtype):
    molecules = [water(dtype), methanol(dtype), random_molecule(9, 3, dtype)]
    pot = potential(case, dtype, readout=readout)
    together = pot(Batch.from_data_list(molecules))
    apart = [pot(data) for data in molecules]
    for name in ("energy", "forces"):
        assert_close(together[name], torch.cat([r[name] for r in apart]), **TOL[dtype])


@every_model
def test_batch_of_crystals_with_different_cells_gives_what_single_ones_give(case):
    small, large = skewed_crystal(), skewed_crystal()
    large.cell, large.pos = 1.07 * large.cell, 1.07 * large.pos
    pot = potential(case, cutoff=CUTOFF, stress=True)
    together, apart = pot(Batch.from_data_list([small, large])), [pot(small), pot(large)]
    for name in ("energy", "forces", "stress"):
        assert_close(together[name], torch.cat([r[name] for r in apart]), **F64)


@every_model
def test_no_gradient_crosses_from_one_molecule_to_another(case):
    batch = Batch.from_data_list([water(), methanol(), water()])
    batch.pos.requires_grad_(True)
    first, second, third = potential(case).model(batch.z, batch.pos, batch.batch).view(-1)
    for molecule, value in enumerate((first, second, third)):
        (gradient,) = torch.autograd.grad(value, batch.pos, retain_graph=True)
        own = batch.batch == molecule
        assert gradient[own].any()
        assert not gradient[~own].any()


@every_local_model
def test_energies_of_far_molecules_add_and_do_not_push(case):
    pot, near, far = potential(case), water(), methanol()
    both = Data(z=torch.cat([near.z, far.z]), pos=torch.cat([near.pos, far.pos + 30.0]))
    together, first, second = pot(both), pot(near), pot(far)
    assert_close(together["energy"], first["energy"] + second["energy"], **F64)
    assert_close(together["forces"], torch.cat([first["forces"], second["forces"]]), **F64)


@every_local_model
def test_mean_readout_is_intensive(case):
    pot, data = potential(case, readout="mean"), methanol()
    twice = Data(z=data.z.repeat(2), pos=torch.cat([data.pos, data.pos + 30.0]))
    assert_close(pot(twice)["energy"], pot(data)["energy"], **F64)


@every_model
def test_supercell_has_n_times_the_energy_of_the_cell(case, crystal):
    pot = potential(case, cutoff=CUTOFF, stress=True)
    counts, images = torch.tensor([2, 1, 3]), []
    for a in range(2):
        for c in range(3):
            images.append(crystal.pos + torch.tensor([a, 0, c]).double() @ crystal.cell[0])
    large = Data(
        z=crystal.z.repeat(6),
        pos=torch.cat(images),
        cell=crystal.cell * counts.view(1, 3, 1),
        pbc=crystal.pbc,
    )
    cell, supercell = pot(crystal), pot(large)
    assert_close(supercell["energy"], 6 * cell["energy"], **F64)
    assert_close(supercell["forces"], cell["forces"].repeat(6, 1), **F64)
    assert_close(supercell["stress"], cell["stress"], **F64)


@every_model
def test_crystal_is_the_same_wherever_its_atoms_are_wrapped(case, crystal):
    pot = potential(case, cutoff=CUTOFF)
    shift = torch.tensor([[0, 0, 0], [1, -2, 0], [0, 0, 3], [-1, 1, 1]]).double()
    moved = crystal.clone()
    moved.pos = crystal.pos + shift @ crystal.cell[0] + 0.37
    for name, value in pot(crystal).items():
        assert_close(pot(moved)[name], value, **F64)


@every_model
def test_stress_is_the_finite_strain_derivative_in_a_skewed_cell(case, crystal):
    # Edges are fixed, so that a hard cutoff cannot let one in while the cell is strained.
    pot = potential(case, cutoff=CUTOFF, stress=True)
    edges, shift = neighbor_edges(crystal.pos, CUTOFF, cell=crystal.cell)
    given = crystal.clone()
    given.edge_index, given.cell_shift = edges, shift

    def strained(strain):
        deformation = torch.eye(3).double() + 0.5 * (strain + strain.T)
        return pot.model(
            given.z,
            given.pos @ deformation,
            edge_index=edges,
            cell=given.cell @ deformation,
            cell_shift=shift,
        ).detach()

    slope = finite_difference(strained, torch.zeros(3, 3).double())
    volume = torch.linalg.det(crystal.cell[0]).abs()
    stress = pot(given)["stress"][0]
    assert stress.abs().max() > 1e-5
    assert_close(stress, slope / volume, rtol=1e-6, atol=1e-6 * float(stress.abs().max()))
    assert_close(stress, stress.T, **F64)
    assert_close(pot(crystal)["stress"][0], stress, **F64)


@every_model
def test_forces_in_a_crystal_are_finite_differences(case, crystal):
    pot = potential(case, cutoff=CUTOFF)
    edges = neighbor_edges(crystal.pos, CUTOFF, cell=crystal.cell)

    def value(pos):
        edge_index, shift = edges
        given = {"edge_index": edge_index, "cell": crystal.cell, "cell_shift": shift}
        return pot.model(crystal.z, pos, **given).detach()

    forces, slope = pot(crystal)["forces"], finite_difference(value, crystal.pos)
    assert_close(forces, -slope, rtol=1e-6, atol=1e-6 * float(forces.abs().max()))


@every_smooth_model
def test_energy_and_force_are_smooth_where_a_neighbour_enters(case):
    pot = potential(case)
    cutoff, step = pot.model.cutoff, 1e-4
    energies, forces = [], []
    for d in (cutoff - step, cutoff - 0.1 * step, cutoff, cutoff + step):
        pos = torch.tensor([[0.0, 0.0, 0.0], [d, 0.0, 0.0]]).double()
        result = pot(Data(z=torch.tensor([8, 6]), pos=pos))
        energies.append(result["energy"])
        forces.append(result["forces"])
    apart = energies[-1]
    assert_close(torch.stack(energies), apart.expand(4, 1), rtol=0, atol=1e-7)
    assert_close(torch.stack(forces), torch.zeros(4, 2, 3).double(), rtol=0, atol=1e-3)
    assert_close(forces[1], torch.zeros(2, 3).double(), rtol=0, atol=1e-4)
    assert not forces[2].any() and not forces[3].any()
    inside = torch.tensor([[0.0, 0.0, 0.0], [0.8 * cutoff, 0.0, 0.0]]).double()
    assert pot(Data(z=torch.tensor([8, 6]), pos=inside))["forces"].abs().max() > 1e-5


@every_model
def test_isolated_atom_has_an_energy_and_no_force(case, dtype):
    pot = potential(case, dtype)
    result = pot(Data(z=torch.tensor([6]), pos=torch.tensor([[1.0, 2.0, 3.0]], dtype=dtype)))
    assert result["energy"].isfinite().all() and result["energy"].any()
    assert torch.equal(result["forces"], torch.zeros(1, 3, dtype=dtype))


@every_model
def test_empty_molecule_in_a_batch_has_zero_energy(case):
    empty = Data(z=torch.zeros(0, dtype=torch.long), pos=torch.zeros(0, 3).double())
    pot = potential(case)
    result = pot(Batch.from_data_list([water(), empty, methanol(), empty]))
    want = [pot(water())["energy"], pot(methanol())["energy"]]
    assert result["energy"].shape == (4,)
    assert_close(result["energy"][[0, 2]], torch.cat(want), **F64)
    assert not result["energy"][[1, 3]].any()


@every_model
def test_far_padding_atom_gives_nothing_to_the_others(case, h2o):
    # Far: within the cutoff a padding atom collects features from its neighbours, as in PyG.
    model = potential(case).model
    z = torch.cat([h2o.z, torch.zeros(1, dtype=torch.long)])
    pos = torch.cat([h2o.pos, torch.full((1, 3), 50.0).double()])
    edges, _ = neighbor_edges(h2o.pos, None)
    assert not model.embedding(z)[3].any()
    padded = model.features(z, pos, edge_index=edges)
    assert_close(padded[:3], model.features(h2o.z, h2o.pos, edge_index=edges), **F64)


@every_model
def test_second_derivatives_of_the_energy(case, h2o):
    model = potential(case).model
    pos = h2o.pos.clone().requires_grad_(True)
    assert torch.autograd.gradgradcheck(lambda pos: model(h2o.z, pos), pos)


@every_model
def test_force_loss_has_the_parameter_gradients_of_finite_differences(case, ch3oh):
    pot = potential(case).train()
    target = torch.linspace(-1, 1, 18).double().view(6, 3)

    def loss():
        return (pot(ch3oh)["forces"] - target).square().sum()

    loss().backward()
    names = [
        "embedding.weight",
        "interactions.0.conv.nn.0.weight",
        "interactions.1.conv.lin1.weight",
        "readout.lin1.bias",
    ]
    parameters = dict(pot.model.named_parameters())
    for name in names:
        parameter, step = parameters[name], 1e-4
        where = parameter.grad.abs().argmax()
        samples = []
        for sign in (-2, -1, 1, 2):
            with torch.no_grad():
                parameter.view(-1)[where] += sign * step
            samples.append(loss().detach())
            with torch.no_grad():
                parameter.view(-1)[where] -= sign * step
        slope = (samples[0] - 8 * samples[1] + 8 * samples[2] - samples[3]) / (12 * step)
        assert_close(parameter.grad.view(-1)[where], slope, rtol=1e-6, atol=1e-9)


@pytest.mark.gpu
@every_model
def test_gpu_gives_what_the_cpu_gives(case, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    batch = Batch.from_data_list([water(dtype), methanol(dtype)])
    want = potential(case, dtype)(batch)
    got = potential(case, dtype).cuda()(batch.cuda())
    for name, value in want.items():
        assert_close(got[name].cpu(), value, **TOL[dtype])
