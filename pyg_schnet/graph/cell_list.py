"""Radius search by cell lists of other libraries, a whole batch at once on its device."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from pyg_schnet.graph.layout import Edges, Molecules
from pyg_schnet.graph.proposals import Pairs, completed, decide, padded


def torch_cluster_edges(molecules: Molecules, cutoff: float) -> Edges:
    """Edges closer than ``cutoff`` by torch_cluster; nothing is dropped, nothing repeats.

    On a GPU torch_cluster reserves room for ``max_num_neighbors`` of every atom, so the search
    starts with little room and repeats with more while any atom may have filled its own.

    Raises:
        ImportError: where torch_cluster is not installed.
    """
    try:
        torch_cluster = importlib.import_module("torch_cluster")
    except ImportError as error:
        raise ImportError(
            "backend 'torch_cluster' needs torch-cluster, built for the installed torch: "
            "pip install torch-cluster --no-build-isolation"
        ) from error

    pos, counts = molecules.pos, molecules.counts
    most = int(counts.max())
    # Numbered without gaps; a single graph goes without a batch, for which the search is faster.
    batch = None
    if len(counts) > 1:
        numbers = torch.arange(len(counts), device=pos.device)
        batch = torch.repeat_interleave(numbers, counts, output_size=len(pos))
    room = min(most, 128) if pos.is_cuda else most
    while True:
        target, source = torch_cluster.radius(
            pos, pos, padded(cutoff, pos), batch, batch, max_num_neighbors=room
        )
        if room >= most or int(torch.bincount(target).max()) < room:
            break
        room = min(most, 4 * room)
    apart = (source != target).nonzero().squeeze(1)
    return decide(molecules, Pairs(source[apart], target[apart], None), cutoff, None)


def nvalchemi_edges(
    molecules: Molecules, cutoff: float, lattices: tuple[Tensor, Tensor], cell: Tensor
) -> Edges:
    """Edges between images by nvalchemi-toolkit-ops, on the device of the positions.

    It reserves room for a number of neighbours of every atom and says so where that was too
    little; the search then repeats with twice as much.

    Args:
        molecules: Atoms grouped by structure.
        cutoff: Å.
        lattices: Cells (B, 3, 3), float64, and pbc (B, 3), bool, on the CPU.
        cell: The caller's cell, (3, 3) or (B, 3, 3), in whose rounding the edges are decided.

    Raises:
        ImportError: where nvalchemi-toolkit-ops is not installed.
    """
    try:
        library = importlib.import_module("nvalchemiops.torch.neighbors")
    except ImportError as error:
        raise ImportError(
            "backend 'nvalchemi' needs nvalchemi-toolkit-ops: pip install nvalchemi-toolkit-ops"
        ) from error
    pos, counts = molecules.pos, molecules.counts
    graphs = molecules.graphs.cpu()
    boxes, repeats = lattices[0][graphs], lattices[1][graphs]
    numbers = torch.arange(len(counts), device=pos.device)
    room = 128
    while True:
        try:
            pairs, _, shift = library.neighbor_list(
                pos.double(),
                padded(cutoff, pos),
                cell=completed(boxes, repeats).to(pos.device),
                pbc=repeats.to(pos.device),
                batch_idx=torch.repeat_interleave(numbers, counts, output_size=len(pos)).int(),
                batch_ptr=torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int(),
                max_neighbors=room,
                return_neighbor_list=True,
            )
            break
        except library.NeighborOverflowError:
            room *= 2
    target, source = pairs.long()
    return decide(molecules, Pairs(source, target, shift.long()), cutoff, cell)
