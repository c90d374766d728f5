import pytest
import torch
from torch.testing import assert_close

from pyg_schnet.graph.vectors import edge_lengths, edge_vectors

POS = torch.tensor([[0.1, 0.2, 0.3], [1.0, -0.5, 2.0], [0.4, 0.4, 0.4]], dtype=torch.float64)
EDGES = torch.tensor([[1, 0, 2], [0, 1, 2]])
SHIFT = torch.tensor([[1, 0, -1], [0, 2, 0], [0, 0, 1]])
BATCH = torch.tensor([0, 0, 1])
CELLS = torch.arange(18.0, dtype=torch.float64).view(2, 3, 3).square()


@pytest.mark.parametrize("many", [False, True], ids=["one cell", "a cell per structure"])
def test_vectors_are_source_plus_shift_minus_target(many):
    cell = CELLS if many else CELLS[0]
    vectors = edge_vectors(POS, EDGES, cell, SHIFT, BATCH)
    for e, (j, i) in enumerate(EDGES.T.tolist()):
        lattice = CELLS[int(BATCH[i])] if many else CELLS[0]
        for axis in range(3):
            want = POS[j, axis] - POS[i, axis]
            for k in range(3):
                want = want + SHIFT[e, k] * lattice[k, axis]
            assert_close(vectors[e, axis], want)
    assert_close(
        edge_lengths(POS, EDGES, cell, SHIFT, BATCH),
        torch.stack([v.dot(v).sqrt() for v in vectors]),
    )


def test_a_cell_without_shifts_and_cells_without_a_batch_are_refused():
    with pytest.raises(ValueError, match="without cell_shift"):
        edge_vectors(POS, EDGES, CELLS[0])
    with pytest.raises(ValueError, match="cell holds 2 structures; batch must say"):
        edge_vectors(POS, EDGES, CELLS, SHIFT)
