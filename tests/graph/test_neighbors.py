"""Edges against slow loops, against ASE, against each other, and what is refused."""

import importlib.util
import itertools
import warnings

import numpy as np
import pytest
import torch
from ase.neighborlist import primitive_neighbor_list
from torch.testing import assert_close

import pyg_schnet.graph.all_pairs as all_pairs_module
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.proposals import sorted_order

BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name != "all_pairs" and importlib.util.find_spec(name) is None,
            reason=f"{name} is not installed",
        ),
    )
    for name in ("all_pairs", "torch_cluster", "vesin")
]
DTYPES = [torch.float32, torch.float64]


def molecules(counts=(5, 1, 9, 2, 18), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pos = torch.rand(sum(counts), 3, generator=generator, dtype=dtype) * 4
    return pos, torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def slow_edges(pos, cutoff, batch):
    pos, edges = pos.detach(), []
    for i in range(len(pos)):
        for j in range(len(pos)):
            if i != j and batch[i] == batch[j]:
                d = float((pos[j] - pos[i]).double().norm())
                assert cutoff is None or abs(d - cutoff) > 1e-6
                if cutoff is None or d < cutoff:
                    edges.append((j, i))
    return torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T


def rows(edge_index, cell_shift):
    return [
        (i, j, *s) for (j, i), s in zip(edge_index.T.tolist(), cell_shift.tolist(), strict=True)
    ]


def ase_rows(pos, cutoff, cell, pbc, first=0):
    # ASE completes vectors that are zero, but divides by the volume of others.
    cell = np.where(np.array(pbc)[:, None], cell, 0)
    i, j, shift = primitive_neighbor_list("ijS", pbc, cell, pos, cutoff, self_interaction=False)
    return sorted(
        (a + first, b + first, *s)
        for a, b, s in zip(i.tolist(), j.tolist(), shift.tolist(), strict=True)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cutoff", [0.3, 1.7, 50.0])
def test_radius_edges_are_those_of_a_slow_loop(backend, dtype, cutoff):
    pos, batch = molecules(dtype=dtype)
    edge_index, cell_shift = neighbor_edges(pos, cutoff, batch, backend=backend)
    assert torch.equal(edge_index, slow_edges(pos, cutoff, batch))
    assert edge_index.dtype == cell_shift.dtype == torch.int64
    assert cell_shift.shape == (edge_index.size(1), 3) and not cell_shift.any()


def test_shifts_of_molecules_take_no_memory():
    pos, batch = molecules()
    assert neighbor_edges(pos, 2.0, batch)[1].untyped_storage().nbytes() == 24


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
@pytest.mark.parametrize("cutoff", [None, 1.7])
def test_all_pairs_in_chunks_are_those_of_a_slow_loop(cutoff, chunk, monkeypatch):
    monkeypatch.setitem(all_pairs_module.CHUNK, "cpu", chunk)
    pos, batch = molecules()
    edge_index, _ = neighbor_edges(pos, cutoff, batch, backend="all_pairs")
    assert torch.equal(edge_index, slow_edges(pos, cutoff, batch))


@pytest.mark.parametrize("validate", [True, False])
def test_no_cutoff_keeps_every_pair_of_a_molecule(validate):
    pos, batch = molecules()
    edge_index, _ = neighbor_edges(pos * 100, None, batch, validate=validate)
    assert torch.equal(edge_index, slow_edges(pos, None, batch))


def test_a_pair_exactly_at_the_cutoff_is_no_edge():
    pos = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    for backend in ("all_pairs", "vesin"):
        assert neighbor_edges(pos, 2.0, backend=backend)[0].size(1) == 0
        assert neighbor_edges(pos, 2.0001, backend=backend)[0].size(1) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_agree_on_a_large_system(backend):
    pos, batch = molecules((300, 2, 400), seed=3)
    pos = pos * 4
    auto, _ = neighbor_edges(pos, 4.0, batch)
    edge_index, _ = neighbor_edges(pos, 4.0, batch, backend=backend)
    assert auto.size(1) > 10_000 and torch.equal(edge_index, auto)


@pytest.mark.parametrize("backend", BACKENDS)
def test_unsorted_batches_give_the_edges_of_a_slow_loop(backend):
    pos, batch = molecules()
    shuffled = torch.randperm(len(pos), generator=torch.Generator().manual_seed(1))
    pos, batch = pos[shuffled], batch[shuffled]
    edge_index, _ = neighbor_edges(pos, 1.7, batch, backend=backend)
    assert torch.equal(edge_index, slow_edges(pos, 1.7, batch))


@pytest.mark.parametrize("backend", BACKENDS)
def test_molecules_without_atoms_in_a_batch_are_stepped_over(backend):
    pos, batch = molecules()
    gaps = torch.tensor([2, 3, 10**9, 10**9 + 1, 10**12])[batch]
    edge_index, _ = neighbor_edges(pos, 1.7, gaps, backend=backend)
    assert torch.equal(edge_index, slow_edges(pos, 1.7, batch))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_atoms", [0, 1, 3])
def test_nothing_within_reach_gives_no_edges(backend, num_atoms):
    pos = torch.arange(num_atoms)[:, None] * torch.tensor([[100.0, 0.0, 0.0]])
    batch = torch.zeros(num_atoms, dtype=torch.int64)
    for given in (None, batch):
        edge_index, cell_shift = neighbor_edges(pos, 5.0, given, backend=backend)
        assert edge_index.shape == (2, 0) and edge_index.dtype == torch.int64
        assert cell_shift.shape == (0, 3) and cell_shift.dtype == torch.int64


def test_crystals_without_neighbours_give_no_edges():
    cell = torch.eye(3) * 50
    for num_atoms in (0, 1):
        edge_index, cell_shift = neighbor_edges(torch.zeros(num_atoms, 3), 5.0, cell=cell)
        assert edge_index.shape == (2, 0) and cell_shift.shape == (0, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_edges_carry_no_gradient(backend):
    pos, batch = molecules()
    pos.requires_grad_()
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with context:
            edge_index, cell_shift = neighbor_edges(pos, 1.7, batch, backend=backend)
        assert not edge_index.requires_grad and not cell_shift.requires_grad
        assert torch.equal(edge_index, slow_edges(pos, 1.7, batch))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_positions_are_searched_in_float32(dtype):
    pos, batch = molecules(dtype=torch.float32)
    pos = pos.to(dtype)
    want, _ = neighbor_edges(pos.float(), 1.7, batch)
    assert torch.equal(neighbor_edges(pos, 1.7, batch)[0], want)


CELLS = {
    "cubic": (12, np.eye(3) * 6, (True, True, True), 4.0),
    "triclinic": (12, np.array([[5, 0, 0], [1.5, 4, 0], [-1, 0.7, 6]]), (True, True, True), 5.0),
    "very skewed": (6, np.array([[5, 0, 0], [14.9, 1.5, 0], [3, 7, 2]]), (True, True, True), 4.0),
    "left-handed": (6, np.array([[0, 5, 0], [5, 0, 0], [0, 0, 5.0]]), (True, True, True), 4.0),
    "slab": (12, np.diag([5, 5, 20.0]), (True, True, False), 4.0),
    "slab without a third vector": (12, np.diag([5, 5, 0.0]), (True, True, False), 4.0),
    "slab with a flat third vector": (
        8,
        np.array([[5, 0, 0], [0, 5, 0], [5, 5, 0.0]]),
        (True, True, False),
        4.0,
    ),
    "chain": (8, np.array([[0, 0, 0], [1, 4, 1], [0, 0, 0.0]]), (False, True, False), 6.0),
    "one atom, many images": (1, np.array([[2, 0, 0], [0.3, 2, 0], [0, 1, 2]]), (True,) * 3, 7.0),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
def test_periodic_edges_are_those_of_ase(name, dtype):
    num_atoms, cell, pbc, cutoff = CELLS[name]
    # Up to several cells away: atoms need not lie inside.
    pos = torch.from_numpy(np.random.default_rng(0).uniform(-9, 12, (num_atoms, 3))).to(dtype)
    cell = torch.from_numpy(cell).to(dtype)
    edge_index, cell_shift = neighbor_edges(pos, cutoff, cell=cell, pbc=pbc)
    got = rows(edge_index, cell_shift)
    assert got == ase_rows(pos.double().numpy(), cutoff, cell.double().numpy(), pbc)
    if name != "chain":
        assert any(i == j for i, j, *_ in got) or cutoff < 5


def image_rows(pos, cutoff, cell, pbc):
    """Edges and their lengths by a loop over all images that can be within the cutoff."""
    lattice = np.where(np.array(pbc)[:, None], cell, 0)
    inverse = np.linalg.pinv(lattice)
    reach = np.ptp(pos @ inverse, axis=0) + np.linalg.norm(inverse, axis=0) * cutoff
    lengths = {}
    for s in itertools.product(*(range(-int(n) - 1, int(n) + 2) for n in np.where(pbc, reach, 0))):
        if any(n and not repeats for n, repeats in zip(s, pbc, strict=True)):
            continue
        d = np.linalg.norm(pos[None] + np.array(s) @ lattice - pos[:, None], axis=-1)
        for i, j in np.argwhere(d < cutoff).tolist():
            if i != j or any(s):
                lengths[i, j, *s] = float(d[i, j])
    return dict(sorted(lengths.items()))


@pytest.mark.parametrize("name", CELLS)
def test_periodic_edges_are_those_of_a_loop_over_images(name):
    num_atoms, cell, pbc, cutoff = CELLS[name]
    pos = np.random.default_rng(6).uniform(-5, 9, (num_atoms, 3))
    edges = neighbor_edges(torch.from_numpy(pos), cutoff, cell=torch.from_numpy(cell), pbc=pbc)
    assert rows(*edges) == list(image_rows(pos, cutoff, cell, pbc))


@pytest.mark.parametrize("third", [0.0, 1e-9, 1.0])
def test_a_vector_along_which_nothing_repeats_does_not_matter(third):
    # ASE itself loses edges here, hence the loop.
    cell = np.array([[4.0, 0.5, 0], [-2.5, 3, 1], [0, 0, 0]])
    cell[2] = third * (cell[0] - cell[1])
    pos = np.random.default_rng(7).uniform(-9, 12, (20, 3))
    pbc = (True, True, False)
    edges = neighbor_edges(torch.from_numpy(pos), 4.0, cell=torch.from_numpy(cell), pbc=pbc)
    assert rows(*edges) == list(image_rows(pos, 4.0, cell, pbc))


@pytest.mark.parametrize("name", CELLS)
def test_vectors_of_periodic_edges_are_within_the_cutoff_and_have_reverses(name):
    num_atoms, cell, pbc, cutoff = CELLS[name]
    pos = torch.from_numpy(np.random.default_rng(1).uniform(0, 5, (num_atoms, 3)))
    edge_index, cell_shift = neighbor_edges(pos, cutoff, cell=torch.from_numpy(cell), pbc=pbc)
    j, i = edge_index
    vec = pos[j] + cell_shift.double() @ torch.from_numpy(cell) - pos[i]
    assert len(vec) and float(vec.norm(dim=1).max()) < cutoff
    edges = rows(edge_index, cell_shift)
    assert set(edges) == {(j, i, -a, -b, -c) for i, j, a, b, c in edges}
    assert len(set(edges)) == len(edges)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_of_cells_gives_the_edges_of_each(shuffle):
    names = ["cubic", "slab", "chain", "one atom, many images", "very skewed"]
    rng = np.random.default_rng(2)
    pos = [rng.uniform(-3, 9, (CELLS[name][0], 3)) for name in names]
    cell = torch.tensor(np.stack([CELLS[name][1] for name in names]))
    pbc = torch.tensor([CELLS[name][2] for name in names])
    first = np.cumsum([0, *map(len, pos)])
    want = set()
    for k, name in enumerate(names):
        want |= set(ase_rows(pos[k], 4.0, CELLS[name][1], CELLS[name][2], int(first[k])))
    batch = torch.arange(len(names)).repeat_interleave(torch.tensor([len(p) for p in pos]))
    order = torch.randperm(len(batch)) if shuffle else torch.arange(len(batch))
    atoms = torch.from_numpy(np.concatenate(pos))[order]
    edge_index, cell_shift = neighbor_edges(atoms, 4.0, batch[order], cell=cell, pbc=pbc)
    got = rows(edge_index, cell_shift)
    assert got == sorted(got)
    assert {(*order[[i, j]].tolist(), *s) for i, j, *s in got} == want


def test_graphs_number_cells_even_where_a_batch_skips_one():
    cell = torch.stack([torch.eye(3) * a for a in (3.0, 50.0, 2.0)]).double()
    pos = torch.zeros(2, 3, dtype=torch.float64)
    edge_index, _ = neighbor_edges(pos, 2.5, torch.tensor([0, 2]), cell=cell)
    assert edge_index.tolist() == [[1] * 6, [1] * 6]


def test_one_cell_serves_every_graph_of_a_batch():
    pos, batch = molecules((3, 4))
    cell = torch.eye(3, dtype=torch.float64) * 3
    one = neighbor_edges(pos, 2.5, batch, cell=cell)
    each = neighbor_edges(pos, 2.5, batch, cell=cell.repeat(2, 1, 1), pbc=torch.ones(2, 3) > 0)
    for a, b in zip(one, each, strict=True):
        assert torch.equal(a, b)


def test_a_cell_that_repeats_nowhere_gives_the_edges_of_molecules():
    pos, batch = molecules()
    cell = torch.eye(3, dtype=torch.float64)
    for backend in ("auto", "all_pairs", "vesin"):
        edge_index, _ = neighbor_edges(pos, 1.7, batch, cell=cell, pbc=[False] * 3, backend=backend)
        assert torch.equal(edge_index, slow_edges(pos, 1.7, batch))


def test_a_supercell_has_eight_times_the_edges_of_its_cell():
    pos = torch.from_numpy(np.random.default_rng(3).uniform(0, 4, (5, 3)))
    cell = torch.tensor([[4, 0, 0], [1, 3.5, 0], [0.5, 0.3, 5]], dtype=torch.float64)
    shifts = torch.tensor(list(itertools.product((0, 1), repeat=3)), dtype=torch.float64)
    large = (pos + (shifts @ cell)[:, None]).reshape(-1, 3)
    small_edges = neighbor_edges(pos, 5.5, cell=cell)
    large_edges = neighbor_edges(large, 5.5, cell=2 * cell)

    def lengths(pos, edges, cell):
        (j, i), shift = edges
        return (pos[j] + shift.double() @ cell - pos[i]).norm(dim=1).sort().values

    want = lengths(pos, small_edges, cell).repeat_interleave(8)
    assert_close(lengths(large, large_edges, 2 * cell), want)


def test_atoms_that_drifted_through_millions_of_cells_keep_their_neighbours():
    cell = torch.eye(3, dtype=torch.float64) * 3
    pos = torch.tensor([[0.0, 0, 0], [1, 1, 1]], dtype=torch.float64)
    drift = torch.tensor([[0, 0, 0], [5_000_000, -4_000_000, 3_000_000]])
    edge_index, cell_shift = neighbor_edges(pos, 3.5, cell=cell)
    far_index, far_shift = neighbor_edges(pos + drift * 3.0, 3.5, cell=cell)
    moved = far_shift + drift[far_index[0]] - drift[far_index[1]]
    assert sorted(rows(far_index, moved)) == rows(edge_index, cell_shift)


def test_edges_sort_alike_whether_or_not_one_key_can_hold_them():
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randint(4, (2, 200), generator=generator)
    shift = torch.randint(-2, 3, (200, 3), generator=generator)
    for factor in (1, 10**7):
        order = sorted_order(source, target, shift * factor)
        edges = torch.cat([target[:, None], source[:, None], shift], dim=1)[order].tolist()
        assert edges == sorted(edges)


def test_a_cap_keeps_the_nearest_in_both_directions_and_says_what_it_dropped():
    pos, batch = molecules((30, 20), seed=5)
    edges = slow_edges(pos, 3.0, batch).T.tolist()
    nearest = set()
    for i in range(len(pos)):
        around = sorted(float((pos[j] - pos[i]).norm()) for j, k in edges if k == i)
        last = around[:6][-1] if around else 0.0
        nearest |= {(j, k) for j, k in edges if k == i and float((pos[j] - pos[i]).norm()) <= last}
    want = [(j, i) for j, i in edges if (j, i) in nearest and (i, j) in nearest]
    message = rf"max_num_neighbors=6 dropped {len(edges) - len(want)} of {len(edges)} edges"
    for backend in ("all_pairs", "vesin"):
        with pytest.warns(UserWarning, match=message) as caught:
            edge_index, _ = neighbor_edges(
                pos, 3.0, batch, backend=backend, max_num_neighbors=6, validate=False
            )
        assert len(caught) == 1 and caught[0].filename == __file__
        assert [tuple(edge) for edge in edge_index.T.tolist()] == want


def test_a_cap_on_a_crystal_keeps_the_nearest_images_in_both_directions():
    pos = np.random.default_rng(4).uniform(0, 3, (4, 3))
    cell = np.diag([3.0, 3.3, 2.7])
    lengths = image_rows(pos, 5.0, cell, (True, True, True))
    nearest = set()
    for i in range(len(pos)):
        nearest |= set(sorted((edge for edge in lengths if edge[0] == i), key=lengths.get)[:41])
    want = [(i, j, *s) for i, j, *s in lengths if {(i, j, *s), (j, i, *(-n for n in s))} <= nearest]
    with pytest.warns(UserWarning, match=f"dropped {len(lengths) - len(want)} of {len(lengths)}"):
        edges = neighbor_edges(
            torch.from_numpy(pos), 5.0, cell=torch.from_numpy(cell), max_num_neighbors=41
        )
    assert len(want) > 0 and rows(*edges) == want


def test_a_cap_that_drops_nothing_is_silent():
    pos, batch = molecules()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edge_index, _ = neighbor_edges(pos, 1.7, batch, max_num_neighbors=40)
    assert torch.equal(edge_index, slow_edges(pos, 1.7, batch))


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("pos must be a floating point", {"pos": torch.zeros(3, 2)}),
        ("pos must be a floating point", {"pos": torch.zeros(3, 3, dtype=torch.int64)}),
        ("cutoff must be positive and finite", {"cutoff": 0.0}),
        ("cutoff must be positive and finite", {"cutoff": float("nan")}),
        ("cutoff must be positive and finite", {"cutoff": float("inf")}),
        ("one number per atom", {"batch": torch.zeros(2, dtype=torch.int64)}),
        ("batch must have an integer dtype", {"batch": torch.zeros(3)}),
        ("batch must have an integer dtype", {"batch": torch.zeros(3, dtype=torch.bool)}),
        ("batch must not be negative, got -1", {"batch": torch.tensor([0, -1, 0])}),
        ("backend must be one of auto", {"backend": "scipy"}),
        ("max_num_neighbors must be at least 1", {"max_num_neighbors": 0}),
        ("cell must have shape", {"cell": torch.eye(2)}),
        ("cell of graph 0 is singular", {"cell": torch.zeros(3, 3)}),
        (
            "cell of graph 0 is singular",
            {"cell": torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 0, 1]])},
        ),
        ("cell of graph 0 is .*must be finite", {"cell": torch.full((3, 3), torch.nan)}),
        ("periodic vector of 2e\\+06 Å", {"cell": 2e6 * torch.eye(3)}),
        (
            "layers 0.0005 Å apart",
            {"cell": torch.tensor([[3.0, 0, 0], [0, 3, 0], [1, 1, 5e-4]], dtype=torch.float64)},
        ),
        ("cell is for 1 graphs but batch has 2", {"cell": torch.eye(3)[None]}),
        ("pbc is for 1 graphs", {"cell": torch.eye(3), "pbc": torch.ones(1, 3) > 0}),
        ("pbc must be booleans", {"cell": torch.eye(3), "pbc": torch.ones(3)}),
        ("pbc must be booleans", {"cell": torch.eye(3), "pbc": [True, False]}),
        ("pbc asks for periodic images but cell is None", {"pbc": [True, False, False]}),
        ("infinitely many", {"cell": torch.eye(3), "cutoff": None}),
        ("'torch_cluster' cannot do periodic", {"cell": torch.eye(3), "backend": "torch_cluster"}),
        ("'all_pairs' cannot do periodic", {"cell": torch.eye(3), "backend": "all_pairs"}),
        ("'vesin' needs a cutoff", {"cutoff": None, "backend": "vesin"}),
    ],
)
def test_bad_arguments_are_refused_by_name(message, arguments):
    good = {"pos": torch.rand(3, 3), "cutoff": 3.0, "batch": torch.tensor([0, 0, 1])}
    with pytest.raises(ValueError, match=message):
        neighbor_edges(**{**good, **arguments})


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_the_first_atom_that_is_not_finite_is_named(bad):
    pos, batch = molecules()
    pos[7, 2] = pos[9, 0] = bad
    with pytest.raises(ValueError, match="pos of atom 7 is"):
        neighbor_edges(pos, 1.7, batch)


@pytest.mark.parametrize("cutoff", [None, 1.7])
@pytest.mark.parametrize("shuffle", [False, True])
def test_two_atoms_on_one_point_are_named(cutoff, shuffle):
    pos, batch = molecules((4, 4))
    batch = batch.flip(0) if shuffle else batch
    pos[6] = pos[4]
    with pytest.raises(ValueError, match="atoms 4 and 6 on one point"):
        neighbor_edges(pos, cutoff, batch)
    assert [6, 4] in neighbor_edges(pos, cutoff, batch, validate=False)[0].T.tolist()


def test_two_atoms_on_one_point_of_a_crystal_are_named():
    pos = torch.tensor([[0.0, 0, 0], [1, 1, 1], [3, 0, 0]])
    with pytest.raises(ValueError, match="atoms 0 and 2 on one point"):
        neighbor_edges(pos, 2.0, cell=torch.eye(3) * 3)
    neighbor_edges(pos, 2.0, cell=torch.eye(3) * 4)


@pytest.mark.parametrize(
    ("backend", "line"),
    [("vesin", "pip install 'vesin"), ("torch_cluster", "pip install torch-cluster")],
)
def test_a_backend_that_is_missing_says_how_to_get_it(backend, line, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, backend, None)
    pos, batch = molecules((300,))
    with pytest.raises(ImportError, match=line):
        neighbor_edges(pos, 1.7, batch, backend=backend)
    # What is left is chosen instead.
    assert torch.equal(neighbor_edges(pos, 0.7)[0], slow_edges(pos, 0.7, batch))
