"""The physics of periodic models: what must hold whatever the weights, on every way through them.

Energies of reference come from exact filters in float64; stress and forces from their finite
differences.
"""

import numpy as np
import pytest
import torch
from helpers import finite_difference, rotation, skewed_crystal, small_schnet, water
from torch import Tensor
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

from pyg_schnet import Potential, SchNet
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.models.frozen import FrozenPotential
from pyg_schnet.models.sweep_rules import applies, by_autograd

pytest.importorskip("numba")

# (periodic directions, lattice vectors, atomic numbers, fractional coordinates)
STRUCTURES: dict[str, tuple] = {
    "one atom": ((1, 1, 1), [[0, 1.9, 1.7], [1.8, 0, 1.8], [1.8, 1.9, 0.1]], [29], [[0.2, 0.1, 0]]),
    "two atoms": (
        (1, 1, 1),
        [[0, 2.6, 2.8], [2.7, 0.1, 2.7], [2.7, 2.8, 0]],
        [11, 17],
        [[0.02, 0.01, 0], [0.51, 0.48, 0.53]],
    ),
    "acute": (
        (1, 1, 1),
        [[3.8, 0, 0], [3.4, 2.1, 0], [3.3, 0.7, 2.0]],
        [22, 8],
        [[0, 0, 0], [0.4, 0.5, 0.6]],
    ),
    "slab": (
        (1, 1, 0),
        [[3.1, 0.2, 0.1], [0.9, 3.4, -0.3], [0.5, 1.0, 11.0]],
        [12, 8, 1],
        [[0, 0, 0.02], [0.5, 0.6, 0.2], [0.3, 0.4, 0.31]],
    ),
    "wire": (
        (0, 1, 0),
        [[9.0, 1.0, 0], [0.3, 2.7, 0.4], [0, -1.0, 8.0]],
        [6, 7],
        [[0, 0, 0], [0.14, 0.5, 0.1]],
    ),
}
OPTIONS = {
    "cosine": {},
    "hard": {"cutoff_fn": "hard"},
    "neighbors": {"normalize": "neighbors"},
    "hard, neighbors": {"cutoff_fn": "hard", "normalize": "neighbors"},
    "mean": {"readout": "mean", "mean": -3.0, "std": 2.0},
}
WAYS = ["autograd", "autograd with a table", "sweeps", "engine", "frozen"]


def structure(name: str, dtype: torch.dtype = torch.float64) -> Data:
    if name in ("skewed", "left-handed"):
        data = skewed_crystal(dtype)
        if name == "left-handed":
            data.cell = data.cell[:, [1, 0, 2]].contiguous()
            assert torch.linalg.det(data.cell[0]) < 0
        return data
    pbc, cell, z, fractional = STRUCTURES[name]
    lattice = torch.tensor(cell, dtype=torch.float64)
    pos = torch.tensor(fractional, dtype=torch.float64) @ lattice
    return Data(
        z=torch.tensor(z),
        pos=pos.to(dtype),
        cell=lattice[None].to(dtype),
        pbc=torch.tensor([pbc], dtype=torch.bool),
    )


NAMES = ["skewed", "left-handed", *STRUCTURES]


def several(dtype: torch.dtype = torch.float64) -> list[Data]:
    """All of them, an isolated atom, and a molecule in a box that is not periodic."""
    alone = Data(
        z=torch.tensor([18]),
        pos=torch.ones(1, 3, dtype=dtype),
        cell=20 * torch.eye(3, dtype=dtype)[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )
    molecule = water(dtype)
    molecule.cell = 5 * torch.eye(3, dtype=dtype)[None]
    molecule.pbc = torch.zeros(1, 3, dtype=torch.bool)
    return [alone, *(structure(name, dtype) for name in NAMES[:4]), molecule, alone] + [
        structure(name, dtype) for name in NAMES[4:]
    ]


def potential(way: str, dtype: torch.dtype = torch.float64, stress: bool = True, **options: object):
    """A function from data to energy, forces and stress, which goes the way that is named."""
    filters = "exact" if way == "autograd" else "tabulated"
    model = small_schnet(dtype, filters=filters, **options)
    if way == "frozen":
        return FrozenPotential(model, stress=stress)
    found = Potential(model, stress=stress).train(way != "engine")

    def evaluate(data: Data) -> dict[str, Tensor]:
        swept = applies(model, data.pos, data.cell, data.get("num_graphs") or 1)
        assert swept == (way in ("sweeps", "engine"))
        result = found(data)
        assert (found._engine is not None) == (way == "engine")
        return {key: value.detach() for key, value in result.items()}

    def evaluate_by_autograd(data: Data) -> dict[str, Tensor]:
        with by_autograd():
            return {key: value.detach() for key, value in found(data).items()}

    return evaluate_by_autograd if way.startswith("autograd") else evaluate


def exact_energy(model: SchNet, data: Data, pos: Tensor, cell: Tensor) -> float:
    with torch.no_grad():
        return float(model(data.z, pos, cell=cell, pbc=data.pbc))


def strained_energy(model: SchNet, data: Data):
    """Energy as a function of the six components of a strain, in Voigt's order."""

    def energy(strain: Tensor) -> float:
        xx, yy, zz, yz, xz, xy = strain
        rows = [torch.stack(r) for r in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))]
        deform = torch.eye(3).double() + torch.stack(rows)
        return exact_energy(model, data, data.pos @ deform, data.cell @ deform)

    return energy


def voigt(stress: Tensor) -> Tensor:
    return stress[..., [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def assert_near(got: Tensor, want: Tensor, tolerance: float) -> None:
    """To ``tolerance`` of the largest; what is zero by symmetry, to that of a small number."""
    least = 1e-2 if got.dtype == torch.float32 else 1e-4
    largest = max(float(want.abs().max()), least)
    assert_close(got.double(), want.double(), rtol=0, atol=tolerance * largest)


@pytest.fixture(scope="module")
def differences() -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """Forces and stress (Voigt) of each structure by finite differences, for two models."""
    found = {}
    for option in ("cosine", "hard, neighbors"):
        model = small_schnet(filters="exact", **OPTIONS[option])
        for name in NAMES:
            data = structure(name)
            zero = torch.zeros(6, dtype=torch.float64)
            slope = finite_difference(strained_energy(model, data), zero)
            # A shear enters twice.
            slope = slope / torch.tensor([1, 1, 1, 2, 2, 2]) / torch.linalg.det(data.cell[0]).abs()

            def energy(pos: Tensor, model: SchNet = model, data: Data = data) -> float:
                return exact_energy(model, data, pos, data.cell)

            found[option, name] = -finite_difference(energy, data.pos), slope
    return found


@pytest.mark.parametrize("option", ["cosine", "hard, neighbors"])
@pytest.mark.parametrize("way", WAYS)
def test_forces_and_stress_are_finite_differences(way, option, dtype, differences):
    evaluate = potential(way, dtype, **OPTIONS[option])
    tolerance = 1e-6 if dtype == torch.float64 else 2e-4
    for name in NAMES:
        result = evaluate(structure(name, dtype))
        forces, stress = differences[option, name]
        assert float(stress.abs().max()) > 1e-5
        assert result["stress"].shape == (1, 3, 3)
        assert_near(voigt(result["stress"][0]), stress, tolerance)
        assert_near(result["stress"], result["stress"].transpose(1, 2), 1e-6)
        if len(forces) > 1:
            assert_near(result["forces"], forces, tolerance)


@pytest.mark.parametrize("option", ["cosine", "hard, neighbors", "mean"])
@pytest.mark.parametrize("way", WAYS)
def test_a_batch_is_its_structures_one_by_one(way, option, dtype):
    """Crystals of all kinds, isolated atoms and a molecule without periods."""
    parts = several(dtype)
    evaluate = potential(way, dtype, **OPTIONS[option])
    together = evaluate(Batch.from_data_list(parts))
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    first = 0
    for number, data in enumerate(parts):
        alone = evaluate(data)
        last = first + len(data.pos)
        assert_near(together["energy"][number : number + 1], alone["energy"], tolerance)
        assert_near(together["forces"][first:last], alone["forces"], tolerance)
        assert_near(together["stress"][number : number + 1], alone["stress"], tolerance)
        first = last
    assert not together["forces"][0].any() and not together["stress"][0].any()


@pytest.mark.parametrize("way", WAYS)
def test_one_cell_may_be_that_of_all(way):
    evaluate, data = potential(way), skewed_crystal()
    alone = evaluate(data)
    both = Batch.from_data_list([data, data])
    both.cell, both.pbc = data.cell[0], data.pbc[0]
    result = evaluate(both)
    for number in range(2):
        assert_near(result["stress"][number : number + 1], alone["stress"], 1e-11)
    data.cell, data.pbc = data.cell[0], data.pbc[0]
    assert_near(evaluate(data)["stress"], alone["stress"], 1e-11)


@pytest.mark.parametrize("way", WAYS)
def test_the_stress_is_by_the_volume_of_the_cell_as_given(way):
    evaluate, data = potential(way), structure("slab")
    before = evaluate(data)
    data.cell = data.cell.clone()
    data.cell[0, 2] *= 2  # twice the vacuum
    after = evaluate(data)
    assert_near(after["forces"], before["forces"], 1e-11)
    assert_near(2 * after["stress"], before["stress"], 1e-11)


@pytest.mark.parametrize("edges", [False, True], ids=["searched", "given"])
@pytest.mark.parametrize("way", WAYS)
def test_a_cell_without_a_volume_has_no_stress(way, edges):
    evaluate, energies = potential(way), potential(way, stress=False)
    data = structure("slab")
    molecule = water()
    molecule.cell, molecule.pbc = torch.zeros(1, 3, 3).double(), torch.zeros(1, 3).bool()
    want = energies(data)
    data.cell = data.cell.clone()
    for vector in ([0.0, 0.0, 0.0], data.cell[0, :2].sum(0).tolist()):  # none; in the plane
        data.cell[0, 2] = torch.tensor(vector)
        if edges:
            found = neighbor_edges(data.pos, 4.0, cell=data.cell, pbc=data.pbc)
            data.edge_index, data.cell_shift = found
        assert_near(energies(data)["forces"], want["forces"], 1e-11)
        with pytest.raises(ValueError, match="needs a volume, but the cell of structure 0 is"):
            evaluate(data)
    if not edges:
        mixed = Batch.from_data_list([skewed_crystal(), molecule])
        assert energies(mixed)["energy"].shape == (2,)
        with pytest.raises(ValueError, match=r"cell of structure 1 is \[\[0\.0.*three lattice vec"):
            evaluate(mixed)


def repeated(data: Data, times: tuple[int, int, int]) -> Data:
    shifts = torch.cartesian_prod(*(torch.arange(n).to(data.pos) for n in times))
    pos = data.pos[None] + (shifts @ data.cell[0])[:, None]
    cell = data.cell * torch.tensor(times).to(data.cell).view(3, 1)
    return Data(z=data.z.repeat(len(shifts)), pos=pos.view(-1, 3), cell=cell, pbc=data.pbc)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_n_cells_have_n_times_the_energy(way, option):
    evaluate = potential(way, **OPTIONS[option])
    for name, times in {
        "skewed": (2, 1, 2),
        "one atom": (1, 3, 2),
        "two atoms": (2, 2, 2),
        "slab": (2, 3, 1),
        "wire": (1, 3, 1),
    }.items():
        data = structure(name)
        count = int(np.prod(times))
        one, many = evaluate(data), evaluate(repeated(data, times))
        extensive = 1 if option == "mean" else count
        assert_near(many["energy"], extensive * one["energy"], 1e-10)
        if len(data.pos) > 1:
            want = one["forces"].repeat(count, 1) * (extensive / count)
            assert_near(many["forces"], want, 1e-8)
        assert_near(many["stress"], one["stress"] * (extensive / count), 1e-9)


def equivalents(data: Data) -> dict[str, tuple[Data, Tensor, Tensor]]:
    """The same crystal otherwise said; with the rotation, and the order of atoms, that it took."""
    generator = torch.Generator().manual_seed(5)
    same, as_is = torch.eye(3).double(), torch.arange(len(data.pos))
    found = {}

    def add(name: str, pos=data.pos, cell=data.cell, turn=same, order=as_is) -> None:
        made = Data(z=data.z[order], pos=pos[order], cell=cell, pbc=data.pbc)
        found[name] = (made, turn, order)

    add("moved", pos=data.pos + torch.tensor([17.3, -4.1, 0.77]).double())
    hops = torch.randint(-3, 4, (len(data.pos), 3), generator=generator) * data.pbc
    add("images", pos=data.pos + hops.double() @ data.cell[0])
    fractional = data.pos @ torch.linalg.inv(data.cell[0])
    add("wrapped", pos=(fractional - data.pbc * fractional.floor()) @ data.cell[0])
    add("permuted", order=torch.randperm(len(data.pos), generator=generator))
    for name, reflect in {"turned": False, "reflected": True}.items():
        turn = rotation(3, reflect)
        add(name, pos=data.pos @ turn, cell=data.cell @ turn, turn=turn)
    if data.pbc.all():
        for name, rows in {
            "other vectors": [[1, 1, 0], [0, 1, 0], [0, -2, 1]],
            "left-handed": [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
            "very skewed": [[1, 0, 0], [4, 1, 0], [-3, 5, 1]],
        }.items():
            change = torch.tensor(rows).double()
            assert abs(float(torch.linalg.det(change))) == 1.0
            add(name, cell=change @ data.cell)
    return found


@pytest.mark.parametrize("option", ["cosine", "hard, neighbors"])
@pytest.mark.parametrize("way", WAYS)
def test_a_crystal_otherwise_said_is_the_same(way, option):
    evaluate = potential(way, **OPTIONS[option])
    for name in NAMES:
        data = structure(name)
        want = evaluate(data)
        for made, turn, order in equivalents(data).values():
            got = evaluate(made)
            assert_near(got["energy"], want["energy"], 1e-10)
            if len(order) > 1:
                assert_near(got["forces"], want["forces"][order] @ turn, 1e-8)
            assert_near(got["stress"], turn.T @ want["stress"] @ turn, 1e-9)


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # of spglib
@pytest.mark.parametrize("option", ["cosine", "hard, neighbors"])
@pytest.mark.parametrize("way", WAYS)
def test_primitive_conventional_and_niggli_cells_agree(way, option):
    structures = pytest.importorskip("pymatgen.core")
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    evaluate = potential(way, **OPTIONS[option])

    def of(crystal) -> tuple[Tensor, Tensor]:
        cell = torch.from_numpy(crystal.lattice.matrix.copy())[None]
        z = torch.tensor(crystal.atomic_numbers)
        pos = torch.from_numpy(crystal.cart_coords.copy())
        result = evaluate(Data(z=z, pos=pos, cell=cell, pbc=torch.ones(1, 3).bool()))
        # A standard cell may be turned: of the stress the principal values stay.
        return result["energy"] / len(z), torch.linalg.eigvalsh(result["stress"][0])

    salt = structures.Structure.from_spacegroup(
        "Fm-3m", structures.Lattice.cubic(5.31), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    rutile = structures.Structure.from_spacegroup(
        "P4_2/mnm",
        structures.Lattice.tetragonal(4.61, 2.97),
        ["Ti", "O"],
        [[0, 0, 0], [0.305, 0.305, 0]],
    )
    triclinic = structures.Structure(
        skewed_crystal().cell[0].numpy(), [11, 17, 8, 6], skewed_crystal().pos.numpy(),
        coords_are_cartesian=True,
    )  # fmt: skip
    for crystal in (salt, rutile, triclinic):
        analyzer = SpacegroupAnalyzer(crystal)
        others = [
            crystal.get_primitive_structure(),
            crystal.get_reduced_structure("niggli"),
            crystal.get_reduced_structure("LLL"),
            analyzer.get_primitive_standard_structure(),
            analyzer.get_conventional_standard_structure(),
            crystal.make_supercell([[1, 1, 0], [-1, 1, 0], [0, 1, 1]], in_place=False),
        ]
        assert len({len(other) for other in others}) > 1
        energy, stress = of(crystal)
        for other in others:
            got = of(other)
            assert_near(got[0], energy, 1e-8)
            assert_near(got[1], stress, 1e-6)


def crossing() -> tuple[Data, Tensor, float]:
    """A crystal, the way of its first atom, and where on it a neighbour leaves the cutoff."""
    data, way = skewed_crystal(), torch.zeros(4, 3).double()
    way[0] = torch.tensor([0.6, -0.3, 0.5])

    def count(s: float) -> int:
        return neighbor_edges(data.pos + s * way, 4.0, cell=data.cell)[0].size(1)

    low, high = 0.0, 0.01
    while count(high) == count(0.0):
        high += 0.01
    low = high - 0.01
    assert abs(count(high) - count(low)) == 2  # one pair, both ways
    start = count(low)
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if count(middle) == start else (low, middle)
    return data, way, high


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("option", OPTIONS)
def test_where_an_atom_crosses_the_cutoff_only_the_cosine_without_a_count_is_smooth(option, way):
    """A count of neighbours jumps, although a neighbour at the cutoff weighs nothing by then."""
    data, direction, place = crossing()
    evaluate = potential(way, **OPTIONS[option])
    jumps, kinks = [], []
    for step in (1e-4, 1e-6):
        before, after = (
            evaluate(Data(z=data.z, pos=data.pos + s * direction, cell=data.cell))
            for s in (place - step, place + step)
        )
        # What forces and stress of both sides leave unexplained.
        mean = 0.5 * (before["forces"] + after["forces"])
        jumps.append(
            float(after["energy"] - before["energy"] + 2 * step * (mean * direction).sum())
        )
        kinks.append(
            max(float((after[key] - before[key]).abs().max()) for key in ("forces", "stress"))
        )
    jumps = np.abs(jumps)
    if option in ("cosine", "mean"):
        assert jumps[0] < 1e-9 and jumps[1] < 1e-12 * 100
        assert kinks[0] < 1e-3 and kinks[1] < 1.2e-2 * kinks[0]
    else:
        # The nearer the two sides, the clearer.
        assert jumps[1] > 1e-5 and jumps[0] == pytest.approx(jumps[1], rel=1e-2)
        assert kinks[1] > 1e-5 and kinks[0] == pytest.approx(kinks[1], rel=0.1)


@pytest.mark.parametrize("way", WAYS)
def test_crossing_the_boundary_of_the_cell_is_not_noticed(way):
    evaluate, data = potential(way), skewed_crystal()
    inverse = torch.linalg.inv(data.cell[0])
    way_out = torch.zeros(4, 3).double()
    way_out[0] = torch.tensor([-1.0, -1.0, -1.0]).double() @ data.cell[0]
    first = float((data.pos[0] @ inverse)[1])  # the second coordinate is the first to be zero
    results = []
    for s in (first - 1e-5, first - 1e-7, first, first + 1e-7, first + 1e-5):
        pos = data.pos + s * way_out
        fractional = pos @ inverse
        wrapped = (fractional - fractional.floor()) @ data.cell[0]
        kept = evaluate(Data(z=data.z, pos=pos, cell=data.cell))
        moved = evaluate(Data(z=data.z, pos=wrapped, cell=data.cell))
        for key, value in kept.items():
            assert_near(moved[key], value, 1e-9)
        results.append(moved)
    step = float(way_out.norm()) * 2e-7
    assert float((results[3]["forces"] - results[1]["forces"]).abs().max()) < 10 * step
    slope = (results[4]["energy"] - results[0]["energy"]) / 2e-5
    assert_near(slope, -(results[2]["forces"] * way_out).sum().view(1), 1e-6)


def loss_of(result: dict[str, Tensor]) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    loss = torch.zeros((), dtype=torch.float64)
    for key, weight in {"energy": 1.0, "forces": 10.0, "stress": 1000.0}.items():
        value = result[key].double()
        label = 0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        loss = loss + weight * (value - label).square().mean()
    return loss


@pytest.mark.parametrize("option", ["cosine", "hard, neighbors", "mean"])
def test_a_loss_with_stress_has_the_same_gradients_by_sweeps_and_by_autograd(option, dtype):
    batch = Batch.from_data_list(several(dtype))
    gradients = {}
    for way in ("exact", "table", "sweeps"):
        model = small_schnet(
            dtype, filters="exact" if way == "exact" else "tabulated", **OPTIONS[option]
        )
        trained = Potential(model, stress=True).train()
        if way == "sweeps":
            assert applies(model, batch.pos, batch.cell, batch.num_graphs)
            loss = loss_of(trained(batch))
        else:
            with by_autograd():
                loss = loss_of(trained(batch))
        found = torch.autograd.grad(loss, list(model.parameters()))
        gradients[way] = dict(zip(dict(model.named_parameters()), found, strict=True))
    tolerance = 1e-7 if dtype == torch.float64 else 1e-3
    for name, want in gradients["exact"].items():
        assert_near(gradients["sweeps"][name], want, tolerance)
        assert_near(gradients["sweeps"][name], gradients["table"][name], tolerance / 10)


def test_the_gradient_of_a_loss_on_stress_is_its_slope():
    model = small_schnet(filters="tabulated")
    trained, batch = Potential(model, stress=True).train(), Batch.from_data_list(several())

    def loss() -> Tensor:
        return trained(batch)["stress"].square().sum()

    for name in (
        "interactions.0.conv.nn.0.weight",
        "interactions.1.lin.weight",
        "embedding.weight",
    ):
        parameter = model.get_parameter(name)
        (gradient,) = torch.autograd.grad(loss(), parameter)
        place = np.unravel_index(int(gradient.abs().argmax()), gradient.shape)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter[place] += step
                values.append(float(loss()))
                parameter[place] -= step
        slope = (values[0] - values[1]) / 2e-5
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-6)


def test_the_stress_can_be_differentiated_by_the_cell():
    """Elastic constants by autograd: the volume changes too."""
    evaluate = Potential(small_schnet(filters="exact"), stress=True).train()
    data = skewed_crystal()
    edge_index, shift = neighbor_edges(data.pos, 4.0, cell=data.cell)

    def pressure(cell: Tensor) -> Tensor:
        fractional = data.pos @ torch.linalg.inv(data.cell[0])
        moved = Data(z=data.z, pos=fractional @ cell, edge_index=edge_index, cell_shift=shift)
        moved.cell = cell.view(1, 3, 3)
        return evaluate(moved)["stress"].diagonal(dim1=1, dim2=2).sum()

    cell = data.cell[0].clone().requires_grad_()
    (got,) = torch.autograd.grad(pressure(cell), cell)
    want = finite_difference(lambda c: pressure(c).detach(), data.cell[0])
    assert_near(got, want, 1e-7)


def test_a_changing_cell_renews_the_list():
    """As in a relaxation of the cell: what the list is of must not be forgotten."""
    model = small_schnet(filters="tabulated")
    frozen, data = FrozenPotential(model, stress=True, skin=1.0), skewed_crystal()
    strain = torch.tensor([[0.01, 0.02, 0.0], [0.0, -0.03, 0.01], [0.0, 0.0, 0.02]]).double()
    for step in range(8):
        got = frozen(data)
        want = FrozenPotential(model, stress=True, skin=0.0)(data)
        for key, value in want.items():
            assert torch.equal(got[key], value)
        assert frozen.searches == step + 1
        change = torch.eye(3).double() + strain
        # Atoms alone, the cell alone, and cell and atoms.
        data = Data(z=data.z, pos=data.pos, cell=data.cell @ change)
        if step % 2:
            data.pos = data.pos @ change
    data.pos = data.pos + 0.01
    frozen(data)
    searched = frozen.searches
    data.pos = data.pos + 0.01
    frozen(data)
    assert frozen.searches == searched


def test_a_batch_of_crystals_compiles_to_one_graph():
    torch.compiler.reset()
    batch = Batch.from_data_list([structure(name) for name in NAMES])
    edge_index, shift = neighbor_edges(batch.pos, 4.0, batch.batch, batch.cell, batch.pbc)
    given = {"batch": batch.batch, "edge_index": edge_index, "cell_shift": shift}
    given["num_graphs"] = batch.num_graphs
    model = small_schnet(filters="tabulated", num_interactions=1)
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = []
    for call in (model, traced):
        pos, cell = batch.pos.clone().requires_grad_(), batch.cell.clone().requires_grad_()
        energy = call(batch.z, pos, cell=cell, **given)
        wanted = [pos, cell, *model.parameters()]
        found.append([energy.detach(), *torch.autograd.grad(energy.square().sum(), wanted)])
    for want, got in zip(*found, strict=True):
        assert_near(got, want, 1e-10)
    torch.compiler.reset()
