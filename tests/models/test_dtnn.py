"""DTNN against a dense evaluation without torch, what every energy model must pass, and fading."""

import numpy as np
import pytest
import torch
from helpers import (
    TOL,
    finite_difference,
    methanol,
    random_molecule,
    randomize,
    rotation,
    skewed_crystal,
    small_schnet,
    water,
)
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

from pyg_schnet import DTNN, Ensemble, Potential, load, save
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.models import read_header
from pyg_schnet.nn import FractionalAtoms

F64 = TOL[torch.float64]
ATOMREF = torch.linspace(-3.0, 3.0, 100, dtype=torch.float64)
CASES = {
    "tied": {},
    "untied": {"tied": False},
    "linear": {"activation": "linear"},
    "constants": {"mean": -2.5, "std": 3.0, "atomref": ATOMREF},
    "cosine": {"cutoff": 3.0, "cutoff_fn": "cosine"},
    "wide": {"gamma": 0.5, "output_channels": 3},
}
every_model = pytest.mark.parametrize("case", CASES)


def small(case="tied", dtype=torch.float64, **overrides):
    sizes = {"hidden_channels": 6, "num_factors": 9, "num_gaussians": 12, "cutoff": 5.0, "seed": 1}
    model = DTNN(**{**sizes, **CASES[case], **overrides}).to(dtype)
    randomize(model)
    return model.eval()


def dense_energy(model, z, pos):
    """The paper's equations over all pairs at once, in NumPy."""
    weights = {name: w.detach().numpy() for name, w in model.state_dict().items()}
    number = len(z)
    distance = np.sqrt(((pos[:, None] - pos[None]) ** 2).sum(-1))
    centres = np.linspace(-1.0, model.cutoff, model.num_gaussians)
    gamma = model.gamma or 0.5 / (centres[1] - centres[0]) ** 2
    gaussians = np.exp(-gamma * (distance[..., None] - centres) ** 2)  # [N, N, G]
    pairs = 1.0 - np.eye(number)
    if model.cutoff_fn == "cosine":
        inside = np.minimum(distance, model.cutoff)
        pairs = pairs * 0.5 * (np.cos(np.pi * inside / model.cutoff) + 1.0)
    c = weights["embedding.weight"][z]
    for t in range(model.num_interactions):
        name = f"interactions.{0 if model.tied else t}."
        of_atoms = c @ weights[name + "lin_atom.weight"].T + weights[name + "lin_atom.bias"]
        of_distances = gaussians @ weights[name + "lin_distance.weight"].T
        of_distances = of_distances + weights[name + "lin_distance.bias"]
        v = (of_atoms[None] * of_distances) @ weights[name + "lin_out.weight"].T  # [i, j, H]
        if model.activation == "tanh":
            v = np.tanh(v)
        c = c + (pairs[..., None] * v).sum(1)
    hidden = np.tanh(c @ weights["readout.lin1.weight"].T + weights["readout.lin1.bias"])
    e = hidden @ weights["readout.lin2.weight"].T + weights["readout.lin2.bias"]
    e = e * weights["readout.std"] + weights["readout.mean"] + weights["readout.atomref"][z]
    return float(e.mean() if model.readout.readout == "mean" else e.sum())


@every_model
@pytest.mark.parametrize("readout", ["add", "mean"])
def test_equals_a_dense_evaluation_without_torch(case, readout):
    model = small(case, readout=readout)
    molecules = [water(), methanol(), random_molecule(9, 3), random_molecule(1, 4)]
    want = [dense_energy(model, m.z.numpy(), m.pos.numpy()) for m in molecules]
    assert np.ptp(want) > 0.1
    together = Batch.from_data_list(molecules)
    got = model(together.z, together.pos, together.batch)
    assert_close(got.view(-1), torch.tensor(want, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    single = model(molecules[1].z, molecules[1].pos)
    want_of_one = torch.tensor([[want[1]]], dtype=torch.float64)
    assert_close(single, want_of_one, rtol=1e-10, atol=1e-10)


def test_defaults_are_those_of_the_paper():
    model = DTNN(seed=0)
    layer = model.interactions[0]
    assert (model.hidden_channels, layer.num_factors, model.num_interactions) == (30, 60, 3)
    assert len(model.interactions) == 1 and model.readout.lin1.out_features == 15
    centres = model.distance_expansion.offset
    assert (float(centres[0]), float(centres[-1]), centres.numel()) == (-1.0, 20.0, 106)
    assert_close(centres.diff(), torch.full((105,), 0.2).double())
    assert float(model.distance_expansion.gamma) == pytest.approx(1 / (2 * 0.2**2))
    assert DTNN(cutoff=10.0).num_gaussians == 56
    spread = float(model.embedding.weight[1:].detach().std())
    assert spread == pytest.approx(30**-0.25, rel=0.05)
    assert not model.embedding.weight[0].any()


@every_model
def test_forces_are_finite_differences_of_the_energy(case, ch3oh):
    pot = Potential(small(case)).eval()
    slope = finite_difference(
        lambda pos: pot(Data(z=ch3oh.z, pos=pos))["energy"], ch3oh.pos, step=1e-3
    )
    forces = pot(ch3oh)["forces"]
    assert float(forces.abs().max()) > 1e-3
    assert_close(forces, -slope, rtol=1e-6, atol=1e-7)


@every_model
@pytest.mark.parametrize("reflect", [False, True], ids=["rotation", "reflection"])
def test_energy_stays_and_forces_turn_with_the_molecule(case, reflect, ch3oh):
    pot, turn = Potential(small(case)).eval(), rotation(1, reflect)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    moved = Data(z=ch3oh.z[order], pos=ch3oh.pos[order] @ turn.T + 7.5)
    still, turned = pot(ch3oh), pot(moved)
    assert_close(turned["energy"], still["energy"], **F64)
    assert_close(turned["forces"], still["forces"][order] @ turn.T, **F64)


def test_batch_gives_what_single_molecules_give(dtype):
    molecules = [water(dtype), methanol(dtype), random_molecule(9, 3, dtype)]
    pot = Potential(small("constants", dtype)).eval()
    together = pot(Batch.from_data_list(molecules))
    apart = [pot(data) for data in molecules]
    for name in ("energy", "forces"):
        assert_close(together[name], torch.cat([r[name] for r in apart]), **TOL[dtype])


@pytest.mark.parametrize("activation", ["tanh", "linear"])
def test_crystal_has_the_energy_of_its_supercell_and_the_stress_of_its_strain(activation):
    model = small("cosine", activation=activation)
    pot, cell = Potential(model, stress=True).eval(), skewed_crystal()
    shift = cell.cell[0, :1]
    twice = Data(
        z=cell.z.repeat(2),
        pos=torch.cat([cell.pos, cell.pos + shift]),
        cell=cell.cell * torch.tensor([2.0, 1.0, 1.0]).double().view(1, 3, 1),
        pbc=cell.pbc,
    )
    small_result, large_result = pot(cell), pot(twice)
    assert_close(large_result["energy"], 2 * small_result["energy"], **F64)
    assert_close(large_result["stress"], small_result["stress"], **F64)

    def energy(strain):
        stretch = torch.eye(3).double() + 0.5 * (strain + strain.T)
        moved = Data(z=cell.z, pos=cell.pos @ stretch, cell=cell.cell @ stretch, pbc=cell.pbc)
        return Potential(model).eval()(moved)["energy"]

    slope = finite_difference(energy, torch.zeros(3, 3).double())
    volume = float(torch.linalg.det(cell.cell[0]))
    assert_close(small_result["stress"][0], slope / volume, rtol=1e-6, atol=1e-8)


def test_molecule_across_the_border_of_a_cell_is_whole():
    model, z = small("cosine"), torch.tensor([6, 8])
    pos = torch.tensor([[0.4, 5.0, 5.0], [9.3, 5.0, 5.2]]).double()
    across = model(z, pos, cell=10.0 * torch.eye(3).double())
    pos[1, 0] -= 10.0
    assert_close(across, model(z, pos), **F64)


def test_molecule_is_torn_apart_smoothly_by_a_cosine_cutoff():
    model = small("cosine")
    pos = torch.tensor([[0.0, 0, 0], [0, 0, 3.0 - 1e-7]]).double()
    z = torch.tensor([6, 8])
    near = model(z, pos)
    pos[1, 2] = 3.0 + 1e-7
    assert_close(near, model(z, pos), **F64)


def test_gradients_of_parameters_flow_through_forces(ch3oh):
    model = small()
    pot = Potential(model).train()
    result = pot(ch3oh)
    loss = result["energy"].sum() + result["forces"].square().sum()
    loss.backward()
    name, parameter = "interactions.0.lin_distance.weight", model.interactions[0].lin_distance
    found = dict(model.named_parameters())[name].grad[2, 3]
    kept = parameter.weight.detach()[2, 3].clone()
    values = []
    for step in (-1e-4, 1e-4):
        with torch.no_grad():
            parameter.weight[2, 3] = kept + step
        again = Potential(model).eval()(ch3oh)
        values.append(float(again["energy"].sum() + again["forces"].square().sum()))
    assert float(found) == pytest.approx((values[1] - values[0]) / 2e-4, rel=1e-5)
    assert all(p.grad is not None for p in model.parameters())


@every_model
def test_loaded_model_predicts_the_same_to_the_last_bit(case, ch3oh, tmp_path, dtype):
    model = small(case, dtype)
    save(Potential(model), tmp_path / "model.safetensors", info={"unit": "eV"})
    again = load(tmp_path / "model.safetensors")
    assert isinstance(again.model, DTNN) and again.model.config == model.config
    assert read_header(tmp_path / "model.safetensors")["model"] == "DTNN"
    pos = ch3oh.pos.to(dtype)
    assert torch.equal(again.model(ch3oh.z, pos), model(ch3oh.z, pos))


def test_ensemble_of_different_kinds_is_saved_and_averages(ch3oh, tmp_path):
    members = [small(seed=1), small(seed=2), small_schnet()]
    save(Ensemble(members), tmp_path / "ensemble.safetensors")
    again = load(tmp_path / "ensemble.safetensors")
    energies = torch.stack([m(ch3oh.z, ch3oh.pos, dtype=torch.float64) for m in members]).view(-1)
    result = again(ch3oh)
    assert_close(result["energy"], energies.mean().detach().view(1), **F64)
    assert_close(result["energy_std"], energies.std().detach().view(1), **F64)


def test_calculator_of_ase_takes_it(ch3oh):
    ase = pytest.importorskip("ase")
    from pyg_schnet.simulation import Calculator

    model = small()
    atoms = ase.Atoms(ch3oh.z.numpy(), ch3oh.pos.numpy())
    atoms.calc = Calculator(model)
    want = Potential(model).eval()(ch3oh)
    assert atoms.get_potential_energy() == pytest.approx(float(want["energy"]), abs=1e-9)
    assert_close(torch.from_numpy(atoms.get_forces()), want["forces"], **F64)


@pytest.mark.parametrize("case", ["tied", "linear", "cosine"])
def test_one_graph_is_traced_for_the_compiler(case):
    torch.compiler.reset()
    model = small(case)
    batch = Batch.from_data_list([water(), methanol()])
    edge_index, _ = neighbor_edges(batch.pos, 6.0, batch=batch.batch)
    given = {"z": batch.z, "batch": batch.batch, "edge_index": edge_index, "num_graphs": 2}
    results = []
    for call in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        pos = batch.pos.clone().requires_grad_()
        energy = call(pos=pos, **given)
        wanted = [pos, *model.parameters()]
        results.append([energy, *torch.autograd.grad(energy.square().sum(), wanted)])
    for one, other in zip(*results, strict=True):
        assert_close(one, other, **F64)
    torch.compiler.reset()


def test_edges_must_be_given_to_the_compiler():
    traced = torch.compile(small(), fullgraph=True, backend="aot_eager")
    with pytest.raises((ValueError, torch._dynamo.exc.Unsupported), match="edge_index must be"):
        traced(water().z, water().pos)
    torch.compiler.reset()


@pytest.mark.gpu
def test_cuda_gives_the_numbers_of_the_cpu(device, ch3oh):
    model = small("constants")
    want = Potential(model).eval()(ch3oh)
    got = Potential(model.to(device)).eval()(ch3oh.to(device))
    for name, value in want.items():
        assert_close(got[name].cpu(), value, **F64)


def test_several_properties_are_predicted_together(ch3oh):
    model = small(out_channels=3, readout=["add", "mean", "add"], mean=torch.tensor([1.0, 2, 3]))
    assert model(ch3oh.z, ch3oh.pos).shape == (1, 3)
    parts = model.atomwise(ch3oh.z, ch3oh.pos)
    want = torch.stack([parts[:, 0].sum(), parts[:, 1].mean(), parts[:, 2].sum()])
    assert_close(model(ch3oh.z, ch3oh.pos)[0], want, **F64)
    with pytest.raises(ValueError, match="out_channels must be at least 1, got 0"):
        DTNN(out_channels=0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"hidden_channels": 1}, "hidden_channels must be at least 2, got 1"),
        ({"num_factors": 0}, "num_factors must be at least 1"),
        ({"cutoff": -1.0}, "cutoff must be a positive, finite distance"),
        ({"activation": "ssp"}, "activation must be 'tanh' or 'linear', got 'ssp'"),
        ({"cutoff_fn": "soft"}, "cutoff_fn must be 'cosine', 'hard' or 'none', got 'soft'"),
    ],
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        DTNN(**options)


def test_seed_makes_the_same_model_and_leaves_the_generator_alone():
    state = torch.random.get_rng_state()
    one, other = DTNN(seed=3), DTNN(seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


FADING = {
    "dtnn": lambda **options: small("constants", **options),
    "dtnn-untied": lambda **options: small("untied", **options),
    "dtnn-linear": lambda **options: small("linear", **options),
    "schnet": lambda **options: small_schnet(mean=-2.5, std=3.0, atomref=ATOMREF, **options),
    "schnet-table": lambda **options: small_schnet(filters="tabulated", **options),
}
every_fading = pytest.mark.parametrize("kind", FADING)


@every_fading
@pytest.mark.parametrize("readout", ["add", "mean"])
def test_faded_atom_is_not_there_and_a_whole_one_is(kind, readout, ch3oh):
    model = FADING[kind](readout=readout)
    presence = torch.ones(6, dtype=torch.float64)
    whole = model(ch3oh.z, ch3oh.pos, fractional=FractionalAtoms(presence=presence))
    assert_close(whole, model(ch3oh.z, ch3oh.pos), **F64)
    presence[2] = 0.0
    rest = torch.tensor([0, 1, 3, 4, 5])
    without = model(ch3oh.z[rest], ch3oh.pos[rest])
    faded = model(ch3oh.z, ch3oh.pos, fractional=FractionalAtoms(presence=presence))
    assert float((without - whole).detach().abs()) > 1e-3
    assert_close(faded, without, **F64)
    parts = model.atomwise(ch3oh.z, ch3oh.pos, fractional=FractionalAtoms(presence=presence))
    assert_close(parts[rest], model.atomwise(ch3oh.z[rest], ch3oh.pos[rest]), **F64)
    assert not parts[2].any()
    nothing = FractionalAtoms(presence=torch.zeros(6, dtype=torch.float64))
    assert not model(ch3oh.z, ch3oh.pos, fractional=nothing).any()


@every_fading
def test_fraction_goes_from_one_element_to_the_other(kind, ch3oh):
    model = FADING[kind]()
    other = torch.tensor([8, 6, 1, 9, 1, 1])

    def energy(fraction):
        change = torch.full((6,), fraction, dtype=torch.float64)
        fractional = FractionalAtoms(other=other, fraction=change)
        return model(ch3oh.z, ch3oh.pos, fractional=fractional)

    assert_close(energy(0.0), model(ch3oh.z, ch3oh.pos), **F64)
    assert_close(energy(1.0), model(other, ch3oh.pos), **F64)
    features = model.features(
        ch3oh.z,
        ch3oh.pos[:1].repeat(6, 1) + 50.0 * torch.arange(6).view(-1, 1),
        fractional=FractionalAtoms(other=other, fraction=torch.full((6,), 0.25).double()),
        edge_index=torch.empty(2, 0, dtype=torch.long),
    )
    if kind.startswith("dtnn"):  # without edges nothing is added
        table = model.embedding.weight
        assert_close(features, 0.75 * table[ch3oh.z] + 0.25 * table[other], **F64)


@every_fading
def test_gradients_of_presence_and_fraction_are_finite_differences(kind, ch3oh):
    """And so the way in between is smooth."""
    model = FADING[kind](readout="mean")
    other = torch.tensor([8, 6, 1, 9, 1, 1])

    def energy(values):
        fractional = FractionalAtoms(presence=values[0], other=other, fraction=values[1])
        return model(ch3oh.z, ch3oh.pos, fractional=fractional)

    values = torch.tensor([[0.9, 1.0, 0.3, 0.5, 1.0, 0.0], [0.5, 0.1, 0.0, 0.7, 1.0, 0.2]])
    values = values.double().requires_grad_()
    (slope,) = torch.autograd.grad(energy(values), values)
    assert slope[0].all() and slope[1, 3]
    want = finite_difference(lambda v: energy(v).detach(), values.detach(), step=1e-3)
    assert_close(slope, want, rtol=1e-7, atol=1e-9)


def test_forces_and_fading_mix_in_second_derivatives(ch3oh):
    for model in (small(), small_schnet()):

        def energy(pos, presence, model=model):
            return model(ch3oh.z, pos, fractional=FractionalAtoms(presence=presence))

        pos = ch3oh.pos.clone().requires_grad_()
        presence = torch.linspace(0.2, 1.0, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradgradcheck(energy, (pos, presence), atol=1e-6)
