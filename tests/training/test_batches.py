import itertools

import pytest
import torch
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.loader import DataLoader

from pyg_schnet.graph import RadiusEdges, neighbor_edges
from pyg_schnet.graph.vectors import edge_vectors
from pyg_schnet.training import batches, loaders, stored_edges
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.loaders import EpochlessLoader, OrderedLoader, Rounds

NAMES = ("z", "pos", "y", "batch", "ptr")


def molecules(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 6, (count,), generator=generator).tolist()
    return [
        Data(
            z=torch.randint(1, 9, (n,), generator=generator),
            pos=4 * torch.rand(n, 3, generator=generator),
            y=torch.rand(1, 1, generator=generator, dtype=torch.float64),
        )
        for n in sizes
    ]


class InMemory(InMemoryDataset):
    def __init__(self, data_list):
        super().__init__()
        self.data, self.slices = self.collate(data_list)


@pytest.fixture
def table():
    return MoleculeTable.from_dataset(InMemory(molecules()))


@pytest.fixture(params=["compiled", "torch", "searched"])
def way(request, monkeypatch):
    """The ways to a batch: Numba's loops, torch's operators, and without stored edges."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(batches, "_compiled", lambda: None)
    if request.param == "searched":
        monkeypatch.setattr(stored_edges, "EDGE_MEMORY", 0)


def assert_equal(ours, theirs):
    """The same in all that PyG's batch has; edges are sorted by target, then source."""
    for name in NAMES:
        assert torch.equal(ours[name], theirs[name]), name
        assert ours[name].is_contiguous(), name
    assert ours.num_graphs == theirs.num_graphs
    if "edge_index" in theirs:
        source, target = theirs.edge_index
        order = torch.argsort(target * len(theirs.z) + source)
        assert torch.equal(ours.edge_index, theirs.edge_index[:, order])
        assert ours.edge_index.is_contiguous()


@pytest.mark.parametrize("cutoff", [3.0, 1e-3, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_is_what_pyg_collates(way, cutoff, dtype):
    table = MoleculeTable.from_dataset(InMemory(molecules()), dtype)
    rows = torch.tensor([7, 2, 2, 11])
    ours = table.batch(rows, cutoff)
    theirs = Batch.from_data_list([molecules()[i] for i in rows])
    theirs.pos = theirs.pos.to(dtype)
    theirs.edge_index = neighbor_edges(theirs.pos, cutoff, batch=theirs.batch)[0]
    assert_equal(ours, theirs)
    assert type(ours) is type(theirs)
    assert torch.equal(ours.rows, rows)


def test_a_batch_comes_apart_into_its_molecules(way, table):
    rows = [7, 2, 2, 11]
    parts = table.batch(torch.tensor(rows), 3.0).to_data_list()
    for row, part in zip(rows, parts, strict=True):
        molecule = RadiusEdges(3.0)(molecules()[row])
        for name in ("z", "pos", "y", "edge_index"):
            assert torch.equal(part[name], molecule[name]), name
        assert part.rows.tolist() == [row]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forces_go_with_their_atoms(way, dtype):
    structures = molecules()
    for k, molecule in enumerate(structures):
        molecule.forces = torch.randn(molecule.pos.shape, generator=torch.manual_seed(k))
    table = MoleculeTable.from_dataset(InMemory(structures), dtype)
    rows = torch.tensor([[7, 2, 2], [11, 0, 7]])
    for some, batch in zip(rows, table.batches(rows, 3.0), strict=True):
        want = torch.cat([structures[i].forces for i in some]).to(dtype)
        assert torch.equal(batch.forces, want) and batch.forces.is_contiguous()
        last = batch.to_data_list()[-1]
        assert torch.equal(last.forces, structures[int(some[-1])].forces.to(dtype))
        batch.forces.zero_()
    assert torch.equal(table.forces[: len(structures[0].z)], structures[0].forces.to(dtype))


def crystals(count=9, seed=0):
    """Skewed cells smaller and larger than the cutoff; slabs, wires and a molecule among them."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for molecule in molecules(count, seed):
        molecule.cell = (3.0 * torch.eye(3) + torch.rand(3, 3, generator=generator))[None]
        molecule.pbc = torch.rand(1, 3, generator=generator) < 0.7
        made.append(molecule)
    made[3].pbc = torch.zeros(1, 3, dtype=torch.bool)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_crystals_bring_their_cells_and_shifts(way, dtype):
    structures = crystals()
    table = MoleculeTable.from_dataset(InMemory(structures), dtype)
    rows = torch.tensor([[7, 2, -1], [3, 0, 7]])
    for some, ours in zip(rows, table.batches(rows, 3.5), strict=True):
        theirs = Batch.from_data_list([structures[i] for i in some])
        pos, cell = theirs.pos.to(dtype), theirs.cell.to(dtype)
        edges = neighbor_edges(pos, 3.5, batch=theirs.batch, cell=cell, pbc=theirs.pbc)
        assert torch.equal(ours.pos, pos) and torch.equal(ours.cell, cell)
        assert torch.equal(ours.pbc, theirs.pbc)
        assert torch.equal(ours.edge_index, edges[0])
        assert torch.equal(ours.cell_shift, edges[1].int())
        part = ours.to_data_list()[1]
        alone = structures[int(some[1])]
        alone_edges = neighbor_edges(
            alone.pos.to(dtype), 3.5, cell=alone.cell.to(dtype), pbc=alone.pbc
        )
        assert torch.equal(part.edge_index, alone_edges[0])
        assert torch.equal(part.cell_shift, alone_edges[1].int())
        assert torch.equal(part.cell, alone.cell.to(dtype))


def test_shifts_of_atoms_far_outside_the_cell(way):
    """One byte holds shifts to 127; atoms that have drifted further need more."""
    structures = crystals(5)
    row = next(k for k, crystal in enumerate(structures) if len(crystal.z) > 1)
    structures[row].pos[0] += 200 * structures[row].cell[0, 0]
    structures[row].pbc = torch.ones(1, 3, dtype=torch.bool)
    table = MoleculeTable.from_dataset(InMemory(structures), torch.float64)
    batch = table.batch(torch.tensor([row]), 3.5)
    assert batch.cell_shift.abs().max() > 127
    vectors = edge_vectors(batch.pos, batch.edge_index, batch.cell, batch.cell_shift)
    assert vectors.norm(dim=1).max() < 3.5


def test_batches_share_nothing_that_one_could_change(way, table):
    first, second = table.batches(torch.tensor([[1, 2], [2, 1]]), 3.0)
    kept, whole = second.clone(), table.pos.clone()
    for name in (*NAMES, "edge_index"):
        first[name].zero_()
        assert torch.equal(second[name], kept[name]), name
    assert torch.equal(table.pos, whole)
    second.pos.requires_grad_()
    assert not first.pos.requires_grad
    first.pos.zero_()
    assert second.pos._version == 0


def test_large_and_empty_molecules(way):
    """Beyond 256 atoms, numbers of atoms no longer fit in one byte."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([300, 0, 1, 2, 280])
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    pos = 12 * torch.rand(int(sizes.sum()), 3, generator=generator)
    table = MoleculeTable(torch.ones(len(pos)).long(), pos, ptr, torch.zeros(5, 2).double())
    batch = table.batch(torch.tensor([4, 1, 0, 3, 2]), 3.0)
    assert batch.ptr.tolist() == [0, 280, 280, 580, 582, 583]
    assert torch.equal(batch.edge_index, neighbor_edges(batch.pos, 3.0, batch=batch.batch)[0])
    assert batch.edge_index.max() > 256


def test_edges_are_searched_in_any_number_of_pieces(monkeypatch):
    table = MoleculeTable.from_dataset(InMemory(molecules(40)))
    whole = stored_edges.store_edges(table.pos, table.num_atoms, 3.0)
    monkeypatch.setattr(stored_edges, "PAIRS_TOGETHER", {"cpu": 20, "cuda": 20})
    pieces = stored_edges.store_edges(table.pos, table.num_atoms, 3.0)
    for name in ("local", "first", "count"):
        assert torch.equal(getattr(whole, name), getattr(pieces, name)), name


def test_rows_count_from_the_end_where_negative_and_others_are_refused(way, table):
    there, same = (table.batch(torch.tensor(rows), 3.0) for rows in ([-1, -12], [11, 0]))
    assert_equal(there, same)
    for row in (12, -13):
        with pytest.raises(IndexError, match=f"rows has {row}, but the table has 12"):
            table.batch(torch.tensor([0, row]), 3.0)


def test_a_batch_of_no_molecules_is_empty(way, table):
    batch = table.batch(torch.tensor([], dtype=torch.long), 3.0)
    assert (batch.num_graphs, len(batch.z), batch.edge_index.shape) == (0, 0, (2, 0))


@pytest.mark.parametrize("batch_size", [3, 4, 5])
@pytest.mark.parametrize("ahead", [1, 8])
def test_the_order_is_that_of_pygs_loader(table, batch_size, ahead, monkeypatch):
    monkeypatch.setattr(loaders, "AHEAD", ahead)
    rows = torch.tensor([4, 11, 0, 7, 1, 9, 3, 10, 2, 8, 5])
    chosen = [RadiusEdges(3.0)(molecules()[i]) for i in rows]
    generator = torch.Generator().manual_seed(7)
    theirs = DataLoader(chosen, batch_size, shuffle=True, drop_last=True, generator=generator)
    passes = [batch for _ in range(3) for batch in theirs]
    ours = iter(EpochlessLoader(table, rows, batch_size, 3.0, seed=7))
    for batch in passes:
        assert_equal(next(ours), batch)
    for start in range(len(passes)):
        later = iter(EpochlessLoader(table, rows, batch_size, 3.0, seed=7, start=start))
        assert_equal(next(later), passes[start])


@pytest.mark.parametrize("batch_size", [4, 5, 12, 30])
def test_the_ordered_loader_is_pygs_without_shuffling(table, batch_size):
    chosen = [RadiusEdges(3.0)(molecules()[i]) for i in range(11)]
    theirs = DataLoader(chosen, batch_size, shuffle=False)
    ours = OrderedLoader(table, torch.arange(11), batch_size, 3.0)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert_equal(a, b)


def test_no_rows_are_refused_or_none(table):
    none = torch.tensor([], dtype=torch.long)
    assert list(OrderedLoader(table, none, 4, 3.0)) == []
    with pytest.raises(ValueError, match="rows is empty"):
        EpochlessLoader(table, none, 4, 3.0)


def test_composition_counts_atoms_by_element(table):
    counts = table.composition()
    for i, molecule in enumerate(molecules()):
        for z in range(100):
            assert counts[i, z] == int((molecule.z == z).sum())
    assert torch.equal(table.composition(torch.tensor([7, 2, 2])), counts[[7, 2, 2]])


def test_each_pass_uses_every_row_once_and_in_another_order(table):
    loader = EpochlessLoader(table, torch.arange(12), 4, cutoff=None, seed=5)
    stream = iter(loader)
    passes = [torch.cat([next(stream).rows for _ in range(3)]) for _ in range(2)]
    for rows in passes:
        assert torch.equal(rows.sort().values, torch.arange(12))
    assert not torch.equal(*passes)


def test_starting_at_a_step_gives_the_batches_from_there_on(table):
    whole = iter(EpochlessLoader(table, torch.arange(12), 5, cutoff=None, seed=5))
    rows = [next(whole).rows for _ in range(9)]
    later = iter(EpochlessLoader(table, torch.arange(12), 5, cutoff=None, seed=5, start=4))
    for expected in rows[4:]:
        assert torch.equal(next(later).rows, expected)


def test_a_batch_larger_than_the_set_shrinks_to_it(table):
    loader = EpochlessLoader(table, torch.arange(3), 32, cutoff=None)
    assert next(iter(loader)).num_graphs == 3


def test_the_ordered_loader_gives_every_row_once_in_order(table):
    loader = OrderedLoader(table, torch.arange(12), 5, cutoff=None)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert torch.equal(torch.cat([batch.rows for batch in batches]), torch.arange(12))


def test_not_finite_positions_or_targets_are_refused_with_their_row(table):
    pos = table.pos.clone()
    pos[5, 1] = float("nan")
    with pytest.raises(ValueError, match="pos has a NaN or infinite value in row 5"):
        MoleculeTable(table.z, pos, table.ptr, table.y)
    y = table.y.clone()
    y[3] = float("inf")
    with pytest.raises(ValueError, match="y has a NaN or infinite value in row 3"):
        MoleculeTable(table.z, table.pos, table.ptr, y)


def test_lengths_that_do_not_fit_are_refused(table):
    with pytest.raises(ValueError, match="does not fit together"):
        MoleculeTable(table.z[:-1], table.pos, table.ptr, table.y)


def test_a_view_of_a_dataset_is_refused():
    with pytest.raises(ValueError, match="not a view"):
        MoleculeTable.from_dataset(InMemory(molecules())[:4])


def test_rounds_are_the_batches_and_end_where_a_validation_is_due(table):
    def loader(start=0):
        return EpochlessLoader(table, torch.arange(len(table)), 2, 3.0, seed=4, start=start)

    rounds = itertools.islice(Rounds(loader(3), size=4, every=10, last=23), 6)
    sizes, batches = [], []
    for batches_of_a_round in rounds:
        sizes.append(len(batches_of_a_round))
        batches += batches_of_a_round
    assert sizes == [4, 3, 4, 4, 2, 3]
    for batch, want in zip(batches, loader(3), strict=False):
        assert torch.equal(batch.rows, want.rows)
