import pytest
import torch
from torch_geometric.data import Batch, Data, InMemoryDataset

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.training.batches import EpochlessLoader, MoleculeTable, OrderedLoader


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


def test_a_batch_is_what_pyg_collates(table):
    rows = torch.tensor([7, 2, 2, 11])
    ours = table.batch(rows, cutoff=3.0)
    theirs = Batch.from_data_list([molecules()[i] for i in rows])
    for name in ("z", "pos", "y", "batch", "ptr"):
        assert torch.equal(ours[name], theirs[name]), name
    assert ours.num_graphs == 4
    assert torch.equal(ours.edge_index, neighbor_edges(theirs.pos, 3.0, batch=theirs.batch)[0])


def test_composition_counts_atoms_by_element(table):
    counts = table.composition()
    for i, molecule in enumerate(molecules()):
        for z in range(100):
            assert counts[i, z] == int((molecule.z == z).sum())


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
