"""Every backend finds the periodic edges of random cells that a loop over all images finds."""

import functools
import importlib.util
import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.neighbors import FEW_PER_CELL
from pyg_schnet.graph.proposals import completed
from pyg_schnet.graph.vectors import edge_lengths

MODULES = {"auto": "torch", "images": "numba", "nvalchemi": "nvalchemiops"}
BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(MODULES.get(name, name)) is None,
            reason=f"{MODULES.get(name, name)} is not installed",
        ),
    )
    for name in ("auto", "images", "vesin", "pymatgen", "ase", "vesin_torch", "nvalchemi")
]
PATTERNS = list(itertools.product((False, True), repeat=3))
AFFORDABLE = 200_000  # pairs of an atom and an image that the loop over images looks at
CUTOFF = 5.0


@dataclass(frozen=True)
class Crystal:
    """What a crystal is made of: a few numbers, so that a failing one can be read."""

    ratios: tuple[float, float, float]
    angles: tuple[float, float, float]
    pbc: tuple[bool, bool, bool]
    num_atoms: int
    seed: int
    is_left_handed: bool
    others_are_zero: bool

    def make(self):
        """Positions, some of them outside of the cell, and the cell."""
        # Off the round numbers that are drawn often, whose images lie exactly at the cutoff.
        lengths = 0.99991 * CUTOFF / np.array(self.ratios)
        alpha, beta, gamma = np.cos(np.deg2rad(self.angles))
        sine = np.sqrt(1 - gamma**2)
        x = (alpha - beta * gamma) / sine
        cell = np.array([[1, 0, 0], [gamma, sine, 0], [beta, x, np.sqrt(1 - beta**2 - x**2)]])
        cell *= lengths[:, None]
        rng = np.random.default_rng(self.seed)
        cell = cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
        if (np.linalg.det(cell) < 0) != self.is_left_handed:
            cell = -cell
        pos = rng.uniform(-1.5, 2.5, (self.num_atoms, 3)) @ cell
        images = np.prod([2 * n + 1 for n in reach(pos, self.lattice(cell))])
        pos = pos[: max(1, int(np.sqrt(AFFORDABLE / images)))]
        return pos, self.lattice(cell) if self.others_are_zero else cell

    def lattice(self, cell):
        return np.where(np.array(self.pbc)[:, None], cell, 0)


def reach(pos, lattice):
    """The number of images to either side that can be within the cutoff, along each vector."""
    inverse = np.linalg.pinv(lattice)
    spread = np.ptp(pos @ inverse, axis=0) + np.linalg.norm(inverse, axis=0) * CUTOFF
    return np.where(np.any(lattice, axis=1), np.ceil(spread), 0).astype(int)


@functools.cache
def slow_edges(crystal):
    """Rows of target, source and shift, sorted, and distances, of all images that there are."""
    pos, cell = crystal.make()
    lattice = crystal.lattice(cell)
    shifts = [range(-n, n + 1) for n in reach(pos, lattice).tolist()]
    shifts = np.array(list(itertools.product(*shifts)))
    vectors = pos[None, None] + (shifts @ lattice)[:, None, None] - pos[:, None]  # [S, N, N, 3]
    lengths = np.sqrt(np.einsum("sijx,sijx->sij", vectors, vectors))
    itself = ~shifts.any(axis=1)[:, None, None] & np.eye(len(pos), dtype=bool)
    s, i, j = np.nonzero((lengths < CUTOFF + 1e-9) & ~itself)
    rows, lengths = np.column_stack([i, j, shifts[s]]), lengths[s, i, j]
    # None so near the cutoff that rounding would decide.
    assert not len(lengths) or abs(lengths - CUTOFF).min() > 1e-9
    order = np.lexsort(rows.T[::-1])
    return rows[order], lengths[order]


@st.composite
def crystals(draw):
    beta, gamma = draw(st.floats(30, 150)), draw(st.floats(30, 150))
    # The angles that the third one may have to enclose a volume.
    low, high = max(30, abs(beta - gamma)), min(150, beta + gamma, 360 - beta - gamma)
    alpha = low + draw(st.floats(0.1, 0.9)) * (high - low)
    return Crystal(
        ratios=tuple(draw(st.floats(0.3, 3)) for _ in range(3)),
        angles=(alpha, beta, gamma),
        pbc=draw(st.sampled_from(PATTERNS)),
        num_atoms=draw(st.integers(1, 12)),
        seed=draw(st.integers(0, 10**6)),
        is_left_handed=draw(st.booleans()),
        others_are_zero=draw(st.booleans()),
    )


def search(chosen, backend, dtype=torch.float64):
    """Positions, cells, batch, and the edges of them all."""
    made = [crystal.make() for crystal in chosen]
    pos = torch.from_numpy(np.concatenate([pos for pos, _ in made])).to(dtype)
    cell = torch.from_numpy(np.stack([cell for _, cell in made])).to(dtype)
    batch = torch.arange(len(made)).repeat_interleave(torch.tensor([len(p) for p, _ in made]))
    pbc = torch.tensor([crystal.pbc for crystal in chosen])
    return pos, cell, batch, neighbor_edges(pos, CUTOFF, batch, cell, pbc, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@given(chosen=st.lists(crystals(), min_size=20, max_size=20, unique=True))
@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_backend_finds_the_edges_of_a_loop_over_images(backend, chosen):
    pos, cell, batch, (edge_index, shift) = search(chosen, backend)
    found = torch.cat([edge_index.flip(0), shift.T]).T
    lengths = edge_lengths(pos, edge_index, cell, shift, batch)
    want = [slow_edges(crystal) for crystal in chosen]
    sizes = torch.bincount(batch)
    first = torch.repeat_interleave(
        sizes.cumsum(0) - sizes, torch.tensor([len(rows) for rows, _ in want])
    )
    rows = torch.from_numpy(np.concatenate([rows for rows, _ in want]))
    rows[:, :2] += first[:, None]
    assert torch.equal(found, rows)
    want_lengths = torch.from_numpy(np.concatenate([lengths for _, lengths in want]))
    assert_close(lengths, want_lengths, rtol=0, atol=1e-10)


def test_the_random_cells_are_many_and_of_every_kind():
    known = set()

    @given(chosen=crystals())
    @settings(max_examples=500, derandomize=True, database=None, deadline=None)
    def collect(chosen):
        known.add(chosen)

    collect()
    assert {crystal.pbc for crystal in known} == set(PATTERNS)
    assert {len(crystal.make()[0]) for crystal in known} == set(range(1, 13))
    assert len(known) > 400 and max(max(crystal.ratios) for crystal in known) > 2.9


def some_crystals():
    """Of each pattern one, and one with an atom that has no neighbour."""
    kinds = enumerate(zip(PATTERNS, itertools.cycle((True, False))))
    chosen = [
        Crystal((1.2, 0.9, 2.0), (70.0, 100.0, 50.0 + 5 * k), pbc, k + 1, k, odd, not odd)
        for k, (pbc, odd) in kinds
    ]
    return [*chosen, Crystal((0.3, 0.3, 0.3), (90.0, 90.0, 90.0), (True,) * 3, 1, 0, False, False)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_shuffled_batch_with_gaps_has_the_edges_of_each_crystal(backend, dtype):
    chosen = some_crystals()
    pos, cell, batch, (edge_index, shift) = search(chosen, backend, dtype)
    assert not bool((edge_index == len(pos) - 1).any())  # the last has no neighbour
    order = torch.randperm(len(pos), generator=torch.Generator().manual_seed(0))
    where = torch.argsort(order)
    pbc = torch.tensor([crystal.pbc for crystal in chosen])
    # Every crystal counts twice, the first time without an atom.
    twice = (cell.repeat_interleave(2, 0), pbc.repeat_interleave(2, 0))
    given = pos[order].requires_grad_()
    index, moved = neighbor_edges(given, CUTOFF, 2 * batch[order] + 1, *twice, backend)
    assert not index.requires_grad and not moved.requires_grad
    rows = sorted(torch.cat([where[edge_index.flip(0)], shift.T]).T.tolist())
    assert torch.cat([index.flip(0), moved.T]).T.tolist() == rows
    first = 0
    for k, crystal in enumerate(chosen):
        alone, its_shift = search([crystal], backend, dtype)[3]
        mine = batch[edge_index[1]] == k
        assert torch.equal(alone + first, edge_index[:, mine])
        assert torch.equal(its_shift, shift[mine])
        first += int((batch == k).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_decide_alike_where_rounding_decides(backend, dtype):
    """A turned cubic lattice, one shell of whose neighbours lies on the cutoff up to rounding."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    grid = 2.5 * torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 3) @ turn
    origins = torch.rand(4, 1, 3, generator=generator, dtype=torch.float64) * 30
    pos, cell = (origins + grid).view(-1, 3).to(dtype), (7.5 * turn).to(dtype).repeat(4, 1, 1)
    numbers = torch.arange(4).repeat_interleave(27)
    want = neighbor_edges(pos, 5.0, numbers, cell, backend="vesin")
    found = neighbor_edges(pos, 5.0, numbers, cell, backend=backend)
    for a, b in zip(found, want):
        assert torch.equal(a, b)
    assert 108 * 26 < want[0].size(1) < 108 * 32  # some of the six at the cutoff, not all


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_find_gives_no_edges(backend):
    cell = torch.eye(3) * 50
    for num_atoms in (0, 1):
        edge_index, shift = neighbor_edges(
            torch.zeros(num_atoms, 3), 5.0, None, cell, None, backend
        )
        assert edge_index.shape == (2, 0) and shift.shape == (0, 3)
        assert edge_index.dtype == shift.dtype == torch.int64


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cap_is_heeded(backend):
    pos, cell = (torch.from_numpy(part) for part in some_crystals()[7].make())
    with pytest.warns(UserWarning, match="max_num_neighbors=10 dropped"):
        found = neighbor_edges(pos, CUTOFF, None, cell, None, backend, max_num_neighbors=10)
    with pytest.warns(UserWarning, match="max_num_neighbors=10 dropped"):
        want = neighbor_edges(pos, CUTOFF, None, cell, None, "vesin", max_num_neighbors=10)
    assert torch.equal(found[0], want[0]) and torch.equal(found[1], want[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_for_crystals_take_molecules(backend):
    pos = torch.rand(30, 3, generator=torch.Generator().manual_seed(0)) * 6
    batch = torch.tensor([0, 10**12]).repeat_interleave(torch.tensor([10, 20]))
    want, zeros = neighbor_edges(pos, 3.0, batch, backend="all_pairs")
    edge_index, shift = neighbor_edges(pos, 3.0, batch, backend=backend)
    assert torch.equal(edge_index, want) and torch.equal(shift, zeros)


def test_large_cells_go_to_a_cell_list_and_small_ones_without_numba(monkeypatch):
    called = []
    library_edges = neighbor_edges.__globals__["library_edges"]
    monkeypatch.setitem(
        neighbor_edges.__globals__,
        "library_edges",
        lambda name, *rest: called.append(name) or library_edges(name, *rest),
    )
    cell = torch.eye(3) * 20
    for num_atoms in (FEW_PER_CELL, FEW_PER_CELL + 1):
        pos = torch.rand(num_atoms, 3, generator=torch.Generator().manual_seed(0)) * 20
        neighbor_edges(pos, 3.0, cell=cell)
    assert called == ["vesin"]
    monkeypatch.setitem(__import__("sys").modules, "numba", None)
    neighbor_edges(pos[:2], 3.0, cell=cell)
    assert called == ["vesin", "vesin"]


@pytest.mark.parametrize("name", ["images", "vesin", "pymatgen", "ase", "vesin_torch", "nvalchemi"])
def test_a_library_that_is_missing_says_how_to_get_it(name, monkeypatch):
    modules = {
        "images": "pyg_schnet.graph.images",
        "pymatgen": "pymatgen.optimization.neighbors",
        "ase": "ase.neighborlist",
        "nvalchemi": "nvalchemiops.torch.neighbors",
    }
    monkeypatch.setitem(__import__("sys").modules, modules.get(name, name), None)
    with pytest.raises(ImportError, match=rf"backend '{name}' needs .*: pip install"):
        neighbor_edges(torch.zeros(1, 3), 3.0, cell=torch.eye(3), backend=name)


def test_completed_cells_keep_what_repeats_and_have_a_volume():
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(8, 3, 3, generator=generator, dtype=torch.float64)
    repeats = torch.tensor(PATTERNS)
    full = completed(cells * repeats[..., None], repeats)
    assert torch.equal(full[repeats], cells[repeats])
    for cell, pattern in zip(full, repeats):
        products = cell @ cell.T
        others = ~pattern
        assert_close(products[others][:, others], torch.eye(int(others.sum())).double())
        assert_close(products[others][:, pattern], torch.zeros_like(products[others][:, pattern]))
