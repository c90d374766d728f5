"""Sorting edges, and keeping one edge for the two directions of a pair."""

import pytest
import torch
from helpers import all_pairs, distances, random_molecule, small_schnet
from ops.test_form import BACKENDS, needs_cpu
from torch import Tensor
from torch.testing import assert_close

from pyg_schnet import SchNet
from pyg_schnet.ops import Graph, edge_difference


def symmetric_edges(sizes: list[int], seed: int, keep: float = 0.6) -> Tensor:
    """Random pairs within components, both directions, sorted by target, then source."""
    generator = torch.Generator().manual_seed(seed)
    edges, first = [], 0
    for size in sizes:
        for i in range(size):
            for j in range(i + 1, size):
                if float(torch.rand((), generator=generator)) < keep:
                    edges += [(first + i, first + j), (first + j, first + i)]
        first += size
    edges.sort(key=lambda edge: (edge[1], edge[0]))
    return torch.tensor(edges, dtype=torch.long).view(-1, 2).T.contiguous()


def of(edge_index: Tensor, nodes: int, undirected: bool = True, backend: str = "cpu") -> Graph:
    return Graph.of(edge_index, nodes, backend=backend, undirected=undirected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_edges_of_each_node_are_found_by_target_and_by_source(backend):
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(0, 6, (2, 40), generator=generator)
    graph = Graph.of(edge_index.int(), 8, 7, backend=backend)
    assert torch.equal(graph.edge_index, edge_index) and not graph.is_undirected
    source, target = edge_index.tolist()
    for ptr, order, row, rows in (
        (graph.in_ptr, graph.in_order, target, 7),
        (graph.out_ptr, graph.out_order, source, 8),
    ):
        assert ptr.numel() == rows + 1
        for i in range(rows):
            found = order[ptr[i] : ptr[i + 1]].tolist()
            assert found == [e for e in range(40) if row[e] == i]
    assert graph.num_neighbors.tolist() == [target.count(i) for i in range(7)]


@needs_cpu
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sizes", [[4, 3], [1, 6, 1, 2, 1], [2, 2, 2], [9, 8, 7, 9]])
def test_pairs_of_random_symmetric_graphs(sizes, seed):
    edge_index = symmetric_edges(sizes, seed)
    nodes, graph = sum(sizes), of(edge_index, sum(sizes))
    if not edge_index.numel():
        assert not graph.is_undirected
        return
    assert graph.is_undirected
    source, target = graph.edge_index.tolist()
    wanted = [(j, i) for j, i in edge_index.T.tolist() if j > i]
    assert list(zip(source, target)) == wanted
    for ptr, order, row in (
        (graph.in_ptr, graph.in_order, target),
        (graph.out_ptr, graph.out_order, source),
    ):
        for i in range(nodes):
            found = order[ptr[i] : ptr[i + 1]].tolist()
            assert found == [e for e in range(len(wanted)) if row[e] == i]
    # Blocks cover all nodes in order, and no edge leaves one.
    blocks = graph.blocks.tolist()
    assert blocks[0] == 0 and blocks[-1] == nodes and blocks == sorted(set(blocks))
    block_of = [sum(first <= node for first in blocks[1:]) for node in range(nodes)]
    assert all(block_of[j] == block_of[i] for j, i in wanted)
    both = edge_index[1].tolist()
    assert graph.num_neighbors.tolist() == [both.count(i) for i in range(nodes)]


SYMMETRIC = symmetric_edges([4, 4], 0, keep=1.0)


@needs_cpu
@pytest.mark.parametrize(
    "edge_index",
    [
        SYMMETRIC[:, :-1],
        SYMMETRIC[:, 1:-1],
        SYMMETRIC.flip(1),
        SYMMETRIC[:, torch.randperm(24, generator=torch.Generator().manual_seed(1))],
        torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]),
        torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]]),
        torch.tensor([[1, 2], [0, 0]]),
        torch.tensor([[1, 2, 0, 0], [0, 0, 1, 1]]),
        torch.tensor([[1, 2, 3, 0, 0, 2], [0, 0, 0, 1, 2, 3]]),
        torch.zeros(2, 0, dtype=torch.long),
    ],
    ids=[
        "odd",
        "unsymmetric",
        "sorted downwards",
        "unsorted",
        "repeated",
        "self loops",
        "one way",
        "repeated one way",
        "as many up as down",
        "empty",
    ],
)
def test_other_edges_stay_as_they_are(edge_index):
    graph = of(edge_index, 8)
    assert not graph.is_undirected
    assert torch.equal(graph.edge_index, edge_index)
    assert torch.equal(graph.num_neighbors, torch.bincount(edge_index[1], minlength=8))


@needs_cpu
def test_pairs_are_kept_of_symmetric_graphs_alone():
    """Random sorted edges among four nodes, as many of them symmetric as not."""
    generator = torch.Generator().manual_seed(0)
    found = {True: 0, False: 0}
    for _ in range(600):
        matrix = torch.rand(4, 4, generator=generator) < 0.5
        if found[True] < 200:
            matrix = matrix.triu(1) | matrix.triu(1).T
        if float(torch.rand((), generator=generator)) < 0.5:
            j, i = torch.randint(0, 4, (2,), generator=generator).tolist()
            matrix[i, j] = ~matrix[i, j]
        target, source = matrix.nonzero().T
        symmetric = bool((matrix == matrix.T).all() and matrix.any() and not matrix.diag().any())
        graph = of(torch.stack([source, target]), 4)
        assert graph.is_undirected == symmetric, matrix
        found[symmetric] += 1
    assert min(found.values()) > 100


@needs_cpu
def test_a_large_component_stays_directed_for_the_sake_of_threads():
    small, large = all_pairs(20), all_pairs(60)
    assert of(small, 20).is_undirected
    assert not of(large, 60).is_undirected
    two = torch.cat([large, large + 60], 1)
    assert of(two, 120).is_undirected


@needs_cpu
def test_whether_a_graph_is_kept_as_pairs_is_asked_for():
    assert not of(SYMMETRIC, 8, undirected=False).is_undirected
    assert not of(SYMMETRIC, 8, backend="reference").is_undirected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("undirected", [False, True])
@pytest.mark.parametrize(
    "edges", [[[0, 8], [1, 0]], [[8, 0], [0, 1]], [[-1, 0], [0, 1]], [[1, 0], [0, -1]]]
)
def test_a_node_that_is_not_there_is_refused(backend, undirected, edges):
    with pytest.raises(IndexError, match="edge_index must hold node numbers from 0 to 7, got"):
        of(torch.tensor(edges), 8, undirected, backend)


@needs_cpu
@pytest.mark.parametrize("options", [{}, {"normalize": "neighbors"}, {"filters": "tabulated"}])
def test_schnet_gives_the_same_for_pairs_and_for_directed_edges(options, monkeypatch):
    model: SchNet = small_schnet(**options)
    molecules = [random_molecule(size, size) for size in (5, 1, 7, 3)]
    z = torch.cat([molecule.z for molecule in molecules])
    batch = torch.repeat_interleave(torch.arange(4), torch.tensor([5, 1, 7, 3]))
    graphs, results = [], []
    whole = Graph.of

    def noted(*arguments, **keywords):
        # The first call as it is, the second without pairs.
        graphs.append(
            whole(*arguments, **{**keywords, **({"undirected": False} if graphs else {})})
        )
        return graphs[-1]

    monkeypatch.setattr(Graph, "of", noted)
    for _ in range(2):
        pos = torch.cat([molecule.pos for molecule in molecules]).requires_grad_()
        energy = model(z, pos, batch)
        (forces,) = torch.autograd.grad(energy.sum(), pos, create_graph=True)
        loss = energy.square().sum() + forces.square().sum()
        results.append((energy, forces, *torch.autograd.grad(loss, list(model.parameters()))))
    assert [graph.is_undirected for graph in graphs] == [True, False]
    for one, other in zip(*results):
        assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("undirected", [False, True], ids=["directed", "pairs"])
def test_vectors_of_edges_and_their_gradients(backend, undirected, dtype):
    edge_index = symmetric_edges([4, 3], 2)
    graph = Graph.of(edge_index, 8, dtype=dtype, backend=backend, undirected=undirected)
    pos = torch.randn(8, 3, dtype=dtype)
    want = [(pos[j] - pos[i]).tolist() for j, i in graph.edge_index.T.tolist()]
    assert edge_difference(pos, graph).tolist() == want
    lengths = edge_difference(pos.T.contiguous().T, graph).norm(dim=1)
    assert_close(lengths, distances(pos, graph.edge_index))
    if dtype == torch.float64:
        pos.requires_grad_()
        assert torch.autograd.gradcheck(lambda r: edge_difference(r, graph), (pos,))
        assert torch.autograd.gradgradcheck(lambda r: edge_difference(r, graph).sin(), (pos,))


def test_refuses_positions_of_other_nodes():
    graph = Graph.of(SYMMETRIC, 8)
    for pos in (torch.zeros(7, 3), torch.zeros(8, 2), torch.zeros(24)):
        with pytest.raises(ValueError, match=r"pos must have shape \(8, 3\), one row for each"):
            edge_difference(pos, graph)
