"""Heads other than sums and means: formulas, symmetries, derivatives, and models that have them."""

import math

import pytest
import torch
from ase.data import atomic_masses
from helpers import (
    TOL,
    dense,
    methanol,
    random_molecule,
    randomize,
    rotation,
    small_schnet,
    ssp,
    water,
)
from torch.nn import functional as F
from torch.testing import assert_close
from torch_geometric.data import Batch, Data
from torch_geometric.nn.aggr import Set2Set

from pyg_schnet import Potential, SchNet, load, save
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.models import read_header
from pyg_schnet.models.sweep_rules import applies
from pyg_schnet.nn import (
    Atomwise,
    Dipole,
    Polarizability,
    Set2SetPooling,
    SoftmaxPooling,
    SpatialExtent,
)
from pyg_schnet.nn.softmax import softmax_weights
from pyg_schnet.units import BOHR, DEBYE

F64 = TOL[torch.float64]
Z = torch.tensor([8, 1, 1, 6, 0])
BATCH = torch.tensor([0, 0, 0, 2, 2])
EDGES = torch.tensor([[0, 1, 0, 2, 1, 2, 3, 4], [1, 0, 2, 0, 2, 1, 4, 3]])[:, 1:]
ATOMREF = torch.linspace(-5.0, 4.0, 100, dtype=torch.float64)

# Options of a SchNet, and the shape of its result for one molecule.
MODELS = {
    "sums": ({"out_channels": 2, "readout": ["add", "mean"]}, (2,)),
    "dipole": ({"dipole": True}, (1,)),
    "dipole vector": ({"head": "dipole", "head_options": {"magnitude": False}}, (3,)),
    "neutral": (
        {"head": "dipole", "head_options": {"magnitude": False, "neutral": True, "unit": "D"}},
        (3,),
    ),
    "extent": ({"head": "spatial_extent"}, (1,)),
    "isotropic": ({"head": "polarizability", "mean": 8.0}, (1,)),
    "tensor": ({"head": "polarizability", "head_options": {"tensor": True}}, (3, 3)),
    "softmax": ({"head": "softmax", "out_channels": 2, "std": 2.0}, (2,)),
    "set2set": ({"head": "set2set", "head_options": {"steps": 2}, "mean": 1.0}, (1,)),
}


def build(name, dtype=torch.float64, **options):
    model = small_schnet(dtype, **{**MODELS[name][0], **options})
    stir(model.readout)
    return model


def stir(head):
    """Scores that are not all equal."""
    if isinstance(head, SoftmaxPooling):
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            noise = torch.randn(head.score2.weight.shape, generator=generator, dtype=torch.float64)
            head.score2.weight.copy_(noise)


def features(dtype=torch.float64):
    generator = torch.Generator().manual_seed(6)
    return torch.randn(5, 6, generator=generator, dtype=torch.float64).to(dtype)


def positions(dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(5, 3, generator=generator, dtype=torch.float64).to(dtype)


def between(pos):
    return pos[EDGES[0]] - pos[EDGES[1]]


def atoms_of(molecule):
    return [i for i in range(5) if BATCH[i] == molecule]


def slow_network(head, x):
    return [dense(head.lin2, [ssp(v) for v in dense(head.lin1, row)]) for row in x.tolist()]


def slow_offsets(pos):
    """Positions from the centre of mass, in loops."""
    from_centre = [[0.0] * 3 for _ in range(5)]
    for molecule in range(3):
        atoms = atoms_of(molecule)
        mass = sum(atomic_masses[Z[i]] for i in atoms)
        for axis in range(3):
            centre = sum(atomic_masses[Z[i]] * float(pos[i, axis]) / mass for i in atoms)
            for i in atoms:
                from_centre[i][axis] = float(pos[i, axis]) - centre
    return from_centre


@pytest.mark.parametrize("magnitude", [True, False])
@pytest.mark.parametrize(("unit", "factor"), [(None, 1.0), ("e·Å", 1.0), ("D", 1.0 / DEBYE)])
@pytest.mark.parametrize("neutral", [False, True])
def test_dipole_matches_the_formula_in_its_docstring(magnitude, unit, factor, neutral, dtype):
    head = Dipole(6, magnitude=magnitude, neutral=neutral, unit=unit).to(dtype)
    randomize(head)
    head.scale.fill_(0.25)
    x, pos = features(dtype), positions(dtype)
    charge = [row[0] for row in slow_network(head, x)]
    total = [1.0, 0.0, -2.0] if neutral else None
    want = torch.zeros(3, 3, dtype=torch.float64)
    from_centre = slow_offsets(pos)
    for molecule in range(3):
        atoms = atoms_of(molecule)
        for axis in range(3):
            for i in atoms:
                q = charge[i]
                if neutral:
                    q -= (sum(charge[j] for j in atoms) - total[molecule]) / len(atoms)
                want[molecule, axis] += 0.25 * factor * q * from_centre[i][axis]
    if magnitude:
        want = want.square().sum(dim=1, keepdim=True).sqrt()
    total = None if total is None else torch.tensor(total)
    assert_close(head(x, Z, BATCH, 3, pos, total_charge=total), want.to(dtype), **TOL[dtype])


def test_charges_of_the_tip3p_water_give_its_dipole_moment():
    """2.35 D: Jorgensen et al., J. Chem. Phys. 79, 926 (1983), table I."""
    angle, bond = math.radians(104.52), 0.9572
    pos = torch.tensor(
        [[0.0, 0.0, 0.0], [bond, 0.0, 0.0], [bond * math.cos(angle), bond * math.sin(angle), 0.0]]
    )
    charge, z = torch.tensor([[-0.834], [0.417], [0.417]]), torch.tensor([8, 1, 1])
    batch = torch.zeros(3, dtype=torch.long)
    moment = float(Dipole(6, unit="D").combine(charge, z, batch, 1, pos))
    assert moment == pytest.approx(2.35, abs=0.005)


def test_charges_that_are_made_neutral_need_no_centre():
    head, x, pos = Dipole(6, magnitude=False, neutral=True).double(), features(), positions()
    randomize(head)
    charge = head.shifted(head.learned(x), BATCH, 3)
    sums = torch.zeros(3, 1, dtype=torch.float64).index_add(0, BATCH, charge)
    assert_close(sums, torch.zeros_like(sums), **F64)
    about_zero = torch.zeros(3, 3, dtype=torch.float64).index_add(0, BATCH, charge * pos)
    assert_close(head(x, Z, BATCH, 3, pos), about_zero, **F64)


def test_a_total_charge_needs_charges_that_are_shifted():
    with pytest.raises(ValueError, match="total_charge is given, but these charges are free"):
        Dipole(6)(features(torch.float32), Z, BATCH, 3, positions(torch.float32), None, Z[:3])


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("unit", "factor"), [("Bohr^2", BOHR**-2), ("Å^2", 1.0)])
def test_spatial_extent_matches_the_formula_in_its_docstring(own, unit, factor, dtype):
    head = SpatialExtent(6, own=own, unit=unit).to(dtype)
    randomize(head)
    head.scale.fill_(0.5)
    std, mean = [0.3, 1.5], [0.1, -2.0]
    width = 2 if own else 1
    exact = {"dtype": torch.float64}
    head.set_statistics(torch.tensor(mean[:width], **exact), torch.tensor(std[:width], **exact))
    x, pos = features(dtype), positions(dtype)
    network, from_centre = slow_network(head, x), slow_offsets(pos)
    want = torch.zeros(3, 1, dtype=torch.float64)
    for i in range(5):
        electrons = std[0] * network[i][0] + mean[0] + float(Z[i])
        squared = sum(v * v for v in from_centre[i])
        want[BATCH[i]] += 0.5 * factor * electrons * squared
        if own:
            want[BATCH[i]] += 0.5 * (std[1] * network[i][1] + mean[1])
    assert_close(head(x, Z, BATCH, 3, pos), want.to(dtype), **TOL[dtype])


@pytest.mark.parametrize("own", [True, False])
def test_dressed_atoms_of_the_extent_are_found_again(own):
    head = SpatialExtent(6, own=own).double()
    molecules = Batch.from_data_list([random_molecule(3 + k % 5, k) for k in range(60)])
    z, pos, batch = molecules.z, molecules.pos, molecules.batch
    columns = 2 if own else 1
    known = head.atomref.clone()
    known[1:10] = torch.rand(9, columns, dtype=torch.float64) * 5
    head.atomref.copy_(known)
    zeros = torch.zeros(len(z), columns, dtype=torch.float64)
    target = head.combine(zeros, z, batch, 60, pos)
    head.atomref[1:10] = -1.0
    head.set_statistics(mean=3.0)
    assert head.fit(z, pos, batch, target) == pytest.approx(0.0, abs=1e-8)
    assert_close(head.atomref, known, rtol=1e-7, atol=1e-8)
    assert not head.mean.any()
    noise = torch.linspace(-2.0, 2.0, 60, dtype=torch.float64).view(-1, 1)
    left = head.fit(z, pos, batch, target + noise)
    found = head.combine(zeros, z, batch, 60, pos)
    assert left == pytest.approx(float((found - target - noise).square().mean().sqrt()))
    assert 0.5 < left <= float(noise.square().mean().sqrt())
    assert bool((head.std > 0).all())


def test_polarizability_matches_the_formula_in_its_docstring(dtype):
    head = Polarizability(6, tensor=True, cutoff=4.0, num_pairs=3, mean=2.0, std=0.4).to(dtype)
    head.set_statistics(atomref=ATOMREF)
    head.scale.fill_(0.5)
    randomize(head)
    x, pos = features(dtype), positions(dtype)
    alone, pair = slow_network(head, x), [dense(head.pair, row) for row in x.tolist()]
    want = torch.zeros(3, 3, 3, dtype=torch.float64)
    for i in range(5):
        a = 0.4 * alone[i][0] + 2.0 + float(ATOMREF[Z[i]])
        for axis in range(3):
            want[BATCH[i], axis, axis] += 0.5 * a
    for j, i in EDGES.T.tolist():
        vector = [float(pos[j, k]) - float(pos[i, k]) for k in range(3)]
        d = math.sqrt(sum(v * v for v in vector))
        basis = head.distance_expansion(torch.tensor([d], dtype=dtype))[0].tolist()
        radial = dense(head.radial, basis)
        fade = 0.5 * (math.cos(math.pi * d / 4.0) + 1.0) if d < 4.0 else 0.0
        w = fade * sum(p * q * r for p, q, r in zip(pair[i], pair[j], radial, strict=True))
        for one in range(3):
            for two in range(3):
                outer = vector[one] * vector[two] / d**2 - (1.0 / 3.0 if one == two else 0.0)
                want[BATCH[i], one, two] += 0.5 * 0.4 * w * outer
    got = head(x, Z, BATCH, 3, EDGES, between(pos))
    assert_close(got, want.to(dtype), **TOL[dtype])


def test_a_third_of_the_trace_is_the_isotropic_polarizability():
    tensor = Polarizability(6, tensor=True, mean=5.0, std=2.0).double()
    randomize(tensor)
    isotropic = Polarizability(6, mean=5.0, std=2.0).double()
    isotropic.load_state_dict(tensor.state_dict(), strict=False)
    whole = tensor(features(), Z, BATCH, 3, EDGES, between(positions()))
    third = whole.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)
    assert_close(third, isotropic(features(), Z, BATCH, 3), **F64)
    assert (whole - third.view(-1, 1, 1) * torch.eye(3)).abs().max() > 0.01


def test_a_tensor_needs_edges():
    with pytest.raises(ValueError, match="needs edge_index and vectors, got None"):
        Polarizability(6, tensor=True)(features(torch.float32), Z, BATCH, 3)


def test_softmax_pooling_matches_the_formula_in_its_docstring(dtype):
    head = SoftmaxPooling(6, 2, mean=3.0, std=torch.tensor([0.5, 2.0])).to(dtype)
    head.set_statistics(atomref=torch.stack([ATOMREF, -ATOMREF], dim=1))
    randomize(head)
    stir(head)
    x = features(dtype)
    values = slow_network(head, x)
    scores = [dense(head.score2, [ssp(v) for v in dense(head.score1, row)]) for row in x.tolist()]
    want = torch.zeros(3, 2, dtype=torch.float64)
    for molecule in (0, 2):
        atoms = atoms_of(molecule)
        for c, (std, sign) in enumerate([(0.5, 1.0), (2.0, -1.0)]):
            total = sum(math.exp(scores[i][c]) for i in atoms)
            for i in atoms:
                e = std * values[i][c] + 3.0 + sign * float(ATOMREF[Z[i]])
                want[molecule, c] += math.exp(scores[i][c]) / total * e
    assert_close(head(x, Z, BATCH, 3), want.to(dtype), **TOL[dtype])
    weights = head.weights(x, BATCH, 3)
    sums = torch.zeros(3, 2, dtype=dtype).index_add(0, BATCH, weights)
    assert_close(sums, torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]], dtype=dtype))


def test_softmax_pooling_starts_as_the_mean():
    softmax, mean = SoftmaxPooling(6, mean=1.0), Atomwise(6, mean=1.0, readout="mean")
    mean.load_state_dict(softmax.state_dict(), strict=False)
    x = features(torch.float32)
    assert_close(softmax(x, Z, BATCH, 3), mean(x, Z, BATCH, 3))


def test_softmax_of_large_scores_is_finite():
    weights = softmax_weights(torch.tensor([[1e4], [-1e4], [9999.0]]), torch.tensor([0, 1, 0]), 3)
    want = torch.tensor([[1.0], [1.0 + math.exp(-1.0)], [math.exp(-1.0)]])
    assert_close(weights, want / (1.0 + math.exp(-1.0)))


def test_set2set_matches_the_formula_in_its_docstring(dtype):
    head = Set2SetPooling(6, 2, steps=2, mean=3.0, std=0.5).to(dtype)
    head.set_statistics(atomref=torch.stack([ATOMREF, -ATOMREF], dim=1))
    randomize(head)
    x = features(dtype)
    want = torch.zeros(3, 2, dtype=torch.float64)
    for molecule in (0, 2):
        atoms = atoms_of(molecule)
        h, c, r = (torch.zeros(1, 6, dtype=dtype) for _ in range(3))
        for _ in range(2):
            h, c = head.cell(torch.cat([h, r], dim=1), (h, c))
            powers = [math.exp(float((x[i] * h[0].detach()).sum())) for i in atoms]
            r = sum(p / sum(powers) * x[i : i + 1] for p, i in zip(powers, atoms, strict=True))
        found = slow_network(head, torch.cat([h, r], dim=1))[0]
        for k, sign in enumerate((1.0, -1.0)):
            constant = sign * sum(float(ATOMREF[Z[i]]) for i in atoms) / len(atoms)
            want[molecule, k] = 0.5 * found[k] + 3.0 + constant
    assert_close(head(x, Z, BATCH, 3), want.to(dtype), **TOL[dtype])


def test_the_rounds_of_set2set_are_those_of_pyg(dtype):
    head, theirs = Set2SetPooling(6, steps=4).to(dtype), Set2Set(6, 4).to(dtype)
    randomize(head)
    theirs.lstm.load_state_dict({f"{k}_l0": v for k, v in head.cell.state_dict().items()})
    x = features(dtype)
    assert_close(head.rounds(x, BATCH, 3), theirs(x, BATCH, dim_size=3), **TOL[dtype])


@pytest.mark.parametrize("name", MODELS)
def test_shape_and_molecules_without_atoms(name):
    model = build(name)
    shape = MODELS[name][1]
    pair = Batch.from_data_list([water(), methanol()])
    batch = 2 * pair.batch + 1
    out = model(pair.z, pair.pos, batch, num_graphs=5)
    assert out.shape == (5, *shape)
    assert not out[[0, 2, 4]].any() and out[[1, 3]].flatten(1).any(dim=1).all()
    assert model(pair.z, pair.pos, batch, dtype=torch.float32).dtype == torch.float32
    assert model(pair.z[:0], pair.pos[:0], batch[:0], num_graphs=2).shape == (2, *shape)


@pytest.mark.parametrize("name", MODELS)
def test_a_single_atom_is_a_molecule_too(name):
    out = build(name)(torch.tensor([6]), torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    assert torch.isfinite(out).all()
    if "dipole" in name or name == "neutral":
        assert_close(out, torch.zeros_like(out), **F64)


@pytest.mark.parametrize("name", MODELS)
def test_molecules_of_a_batch_do_not_see_each_other(name):
    model, parts = build(name), [random_molecule(n, n) for n in (4, 7, 2)]
    both = Batch.from_data_list(parts)
    alone = torch.cat([model(part.z, part.pos) for part in parts])
    assert_close(model(both.z, both.pos, both.batch), alone, **F64)


@pytest.mark.parametrize("name", MODELS)
def test_the_order_of_atoms_does_not_matter(name, ch3oh):
    model, order = build(name), torch.tensor([3, 0, 5, 1, 4, 2])
    turned = model(ch3oh.z[order], ch3oh.pos[order])
    assert_close(turned, model(ch3oh.z, ch3oh.pos), **F64)


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_moved_and_turned_molecules(name, reflect, ch3oh):
    model, turn = build(name), rotation(3, reflect)
    shift = torch.tensor([5.0, -7.0, 1.0], dtype=torch.float64)
    want = model(ch3oh.z, ch3oh.pos)
    if want.shape[1:] == (3,):
        want = want @ turn.T
    elif want.dim() == 3:
        assert_close(want, want.transpose(1, 2), **F64)
        want = turn @ want @ turn.T
    assert_close(model(ch3oh.z, ch3oh.pos @ turn.T + shift), want, **F64)


@pytest.mark.parametrize("name", ["isotropic", "tensor"])
def test_polarizabilities_of_distant_molecules_add_up(name):
    model, far = build(name), torch.tensor([40.0, 0.0, 0.0], dtype=torch.float64)
    one, two = water(), methanol()
    both = model(torch.cat([one.z, two.z]), torch.cat([one.pos, two.pos + far]))
    assert_close(both, model(one.z, one.pos) + model(two.z, two.pos), **F64)


def test_dipoles_of_distant_neutral_molecules_add_up():
    """Not so where each pair is neutral only together: here the two are alike."""
    model, far = build("neutral"), torch.tensor([40.0, 0.0, 0.0], dtype=torch.float64)
    one, turn = water(), rotation(1)
    pos = torch.cat([one.pos, one.pos @ turn.T + far])
    alone = model(one.z, one.pos)
    assert_close(model(one.z.repeat(2), pos), alone + alone @ turn.T, **F64)


@pytest.mark.parametrize("name", ["softmax", "set2set"])
def test_two_equal_molecules_far_apart_are_like_one(name):
    model, far = build(name), torch.tensor([40.0, 0.0, 0.0], dtype=torch.float64)
    one = methanol()
    twice = model(one.z.repeat(2), torch.cat([one.pos, one.pos + far]))
    assert_close(twice, model(one.z, one.pos), **F64)


def test_a_tensor_of_a_crystal_does_not_depend_on_the_cell(crystal):
    model = build("tensor")
    once = model(crystal.z, crystal.pos, cell=crystal.cell)
    double = crystal.cell[0] * torch.tensor([[2.0], [1.0], [1.0]])
    pos = torch.cat([crystal.pos, crystal.pos + crystal.cell[0, 0]])
    assert_close(model(crystal.z.repeat(2), pos, cell=double), 2.0 * once, **F64)


def test_a_tensor_from_given_edges_or_an_interaction_graph(ch3oh):
    model = build("tensor")
    want = model(ch3oh.z, ch3oh.pos)
    edge_index, _ = neighbor_edges(ch3oh.pos, 4.0)
    order = torch.randperm(edge_index.size(1))
    assert_close(model(ch3oh.z, ch3oh.pos, edge_index=edge_index[:, order]), want, **F64)
    distance = (ch3oh.pos[edge_index[0]] - ch3oh.pos[edge_index[1]]).norm(dim=1)
    model.interaction_graph = lambda pos, batch: (edge_index, distance)
    assert_close(model(ch3oh.z, ch3oh.pos), want, **F64)


def heads():
    return {
        "dipole": Dipole(6, magnitude=False),
        "neutral": Dipole(6, magnitude=False, neutral=True, unit="D"),
        "extent": SpatialExtent(6),
        "tensor": Polarizability(6, tensor=True, num_pairs=2, num_gaussians=4),
        "softmax": SoftmaxPooling(6, 2),
        "set2set": Set2SetPooling(6, steps=2),
    }


@pytest.mark.parametrize("name", heads())
def test_derivatives_of_the_heads(name):
    head = heads()[name].double()
    randomize(head)
    stir(head)

    def evaluate(x, pos):
        if head.uses_edges:
            return head(x, Z, BATCH, 3, EDGES, between(pos))
        return head(x, Z, BATCH, 3, *([pos] if head.uses_positions else []))

    x, pos = features().requires_grad_(), positions()
    pos.requires_grad_(head.uses_edges or head.uses_positions)
    assert torch.autograd.gradcheck(evaluate, (x, pos))
    assert torch.autograd.gradgradcheck(evaluate, (x, pos), atol=1e-4)


def test_a_dipole_of_zero_has_derivatives_of_zero():
    """Of a single atom, and of a molecule without atoms."""
    head, x = Dipole(6).double(), features().requires_grad_()
    pos, batch = positions().requires_grad_(), torch.tensor([0, 0, 0, 2, 3])
    out = head(x, Z, batch, 5, pos)
    assert out[0] > 0 and not out[1:].any()
    slopes = torch.autograd.grad(out.sum(), (x, pos), create_graph=True)
    second = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), (x, pos))
    for of in (*slopes, *second):
        assert torch.isfinite(of).all() and not of[3:].any()


@pytest.mark.parametrize("name", MODELS)
def test_all_parameters_are_trained(name, ch3oh):
    model = build(name)
    model(ch3oh.z, ch3oh.pos).square().sum().backward()
    untrained = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # A shift of all charges, or of all scores, changes nothing.
    free = {"neutral": {"readout.lin2.bias"}, "softmax": {"readout.score2.bias"}}
    assert untrained <= free.get(name, set())


@pytest.mark.parametrize("name", MODELS)
def test_models_compile_to_one_graph(name):
    torch.compiler.reset()
    # The interactions are compiled elsewhere.
    model, both = build(name, num_interactions=0), Batch.from_data_list([water(), methanol()])
    edge_index, _ = neighbor_edges(both.pos, 4.0, batch=both.batch)
    given = {"batch": both.batch, "edge_index": edge_index, "num_graphs": 2}
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    want = model(both.z, both.pos, **given)
    assert_close(traced(both.z, both.pos, **given), want, **F64)
    torch.compiler.reset()


@pytest.mark.parametrize("name", MODELS)
def test_models_come_back_from_a_file(name, ch3oh, tmp_path, dtype):
    model = build(name, dtype)
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    pos = ch3oh.pos.to(dtype)
    assert torch.equal(again(ch3oh.z, pos), model(ch3oh.z, pos))
    assert again.config == model.config
    assert read_header(tmp_path / "m.safetensors")["config"]["head"] == model.head


@pytest.mark.parametrize("dipole", [False, True])
def test_configurations_from_before_there_were_heads_make_the_same_model(dipole, ch3oh):
    model = small_schnet(dipole=dipole)
    old = {
        k: v for k, v in model.config.items() if k not in ("head", "head_options", "out_channels")
    }
    again = SchNet(**old).double()
    again.load_state_dict(model.state_dict())
    assert (again.head, again.dipole) == (("dipole", True) if dipole else ("atomwise", False))
    assert torch.equal(again(ch3oh.z, ch3oh.pos), model(ch3oh.z, ch3oh.pos))
    constants = {"atomic_mass", "scale"} if dipole else {"atomref", "mean", "scale", "std"}
    assert {name for name, _ in model.readout.named_buffers()} == constants


def test_the_same_seed_draws_the_same_weights_whatever_the_head_draws():
    one, other = (SchNet(16, 16, 1, 10, 5.0, seed=3, head="set2set") for _ in range(2))
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_contributions_of_atoms(ch3oh):
    extent = build("extent").atomwise(ch3oh.z, ch3oh.pos)
    assert extent.shape == (6, 2) and extent.dtype == torch.float64
    with pytest.raises(ValueError, match="set2set readout has no contributions"):
        build("set2set").atomwise(ch3oh.z, ch3oh.pos)


def test_one_property_as_a_sum_is_still_trained_by_the_sweeps():
    options = {"hidden_channels": 16, "num_filters": 16, "num_interactions": 1}
    pos = water().pos.float()
    assert applies(SchNet(**options), pos) and applies(SchNet(**options, head="atomwise"), pos)
    assert not applies(SchNet(**options, out_channels=2), pos)
    for head in ("dipole", "spatial_extent", "polarizability", "softmax", "set2set"):
        assert not applies(SchNet(**options, head=head), pos)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"head": "sum"}, "head must be one of 'atomwise', 'dipole'.*got 'sum'"),
        (
            {"head": "softmax", "dipole": True},
            "dipole=True asks for head='dipole', got head='softmax'",
        ),
        ({"head_options": {"steps": 2}}, "head_options of head='atomwise' may hold .*got 'steps'"),
        ({"head_options": {"mean": 2.0}}, "got 'mean'"),
        ({"head": "dipole", "head_options": {"unit": "au"}}, "unit must be 'D'.*got 'au'"),
        ({"head": "spatial_extent", "head_options": {"unit": "nm"}}, "'Bohr.2' or.*got 'nm'"),
        ({"head": "spatial_extent", "mean": 2.0}, "are no constants of head='spatial_extent'"),
        ({"head": "set2set", "head_options": {"steps": 0}}, "steps must be at least 1, got 0"),
        ({"dipole": True, "out_channels": 2}, "head='dipole' predicts one.*out_channels=2"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
    ],
)
def test_heads_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        SchNet(16, 16, 1, 10, 5.0, **options)


@pytest.mark.parametrize("head", ["atomwise", "dipole"])
@pytest.mark.parametrize(("name", "function"), [("silu", F.silu), ("tanh", torch.tanh)])
def test_other_activations_of_the_head_are_kept_in_files_and_never_taken_for_the_ssp(
    head, name, function, tmp_path
):
    model = SchNet(16, 16, 2, 10, 5.0, head=head, head_options={"activation": name}, seed=0)
    z = torch.tensor([6, 1, 1, 8])
    pos = 3 * torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    x = model.features(z, pos)
    learned = model.readout.lin2(function(model.readout.lin1(x)))
    assert_close(model.readout.learned(x), learned)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert torch.equal(again(z, pos), model(z, pos))
    assert not applies(model, pos)
    if head == "atomwise":
        assert_close(model(z, pos), learned.sum(0, keepdim=True))
        with pytest.raises(ValueError, match="needs the shifted softplus in the head"):
            Potential(model).freeze()
        energy = Potential(model).eval()(Data(z=z, pos=pos, batch=torch.zeros_like(z)))["energy"]
        assert_close(energy, learned.sum(0).detach().double(), rtol=1e-6, atol=1e-6)


def test_unknown_activations_of_the_head_are_refused():
    with pytest.raises(ValueError, match="must be one of 'ssp', 'silu', 'tanh', got 'relu'"):
        SchNet(head_options={"activation": "relu"})
