"""Radius search by cell lists of other libraries, for large and for periodic systems."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from pyg_schnet.graph.layout import Edges, Molecules, lattice_offset, squared_distance


def vesin_edges(
    molecules: Molecules, cutoff: float, lattices: tuple[Tensor, Tensor] | None, cell: Tensor | None
) -> Edges:
    r"""Edges closer than ``cutoff``, periodic images too, by vesin, graph by graph on the CPU.

    vesin's shift :math:`S` of a pair means :math:`D = r_j - r_i + S\,\mathrm{cell}`, as ours.
    It only proposes pairs, in float64 and within a slightly larger radius; which of them are
    kept is decided in the dtype of the positions, as every backend does.

    Args:
        molecules: Atoms grouped by molecule.
        cutoff: Å.
        lattices: Cells (B, 3, 3), float64, and pbc (B, 3), bool, on the CPU; None: no images.
        cell: The caller's cell, (3, 3) or (B, 3, 3), whose dtype and device the distances have.

    Returns:
        Sorted edges, on the device of the positions.

    Raises:
        ImportError: where vesin is not installed.
    """
    try:
        vesin = importlib.import_module("vesin")
    except ImportError as error:
        raise ImportError("backend 'vesin' needs vesin: pip install 'vesin>=0.6'") from error

    pos = molecules.pos.cpu()
    cells = None if cell is None else cell.detach().to("cpu", pos.dtype)
    # As many threads as torch may use: one in a worker of a DataLoader.
    search = vesin.NeighborList(
        cutoff=_padded(cutoff, pos), full_list=True, n_threads=torch.get_num_threads()
    )
    points = pos.double().numpy()
    parts, first = [], 0
    for graph, count in zip(molecules.graphs.tolist(), molecules.counts.tolist(), strict=True):
        box, repeats = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.bool)
        if lattices is not None:
            box, repeats = lattices[0][graph], lattices[1][graph]
        found = search.compute(
            points[first : first + count], box.numpy(), repeats.numpy(), quantities="ijS"
        )
        target, source, shift = (torch.from_numpy(a.astype("int64")) for a in found)
        offset = None
        if cells is not None and lattices is not None:
            offset = lattice_offset(shift, cells if cells.dim() == 2 else cells[graph])
        squared = squared_distance(pos[first : first + count], source, target, offset)
        near = (squared < cutoff * cutoff).nonzero().squeeze(1)
        near = near[_sorted_order(source[near], target[near], shift[near])]
        parts.append((source[near] + first, target[near] + first, squared[near], shift[near]))
        first += count
    device = molecules.pos.device
    source, target, squared, shift = (
        torch.cat(part).to(device) for part in zip(*parts, strict=True)
    )
    return Edges(source, target, squared, None if lattices is None else shift)


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
            pos, pos, _padded(cutoff, pos), batch, batch, max_num_neighbors=room
        )
        if room >= most or int(torch.bincount(target).max()) < room:
            break
        room = min(most, 4 * room)
    apart = (source != target).nonzero().squeeze(1)
    source, target = source[apart], target[apart]
    squared = squared_distance(pos, source, target)
    near = (squared < cutoff * cutoff).nonzero().squeeze(1)
    near = near[_sorted_order(source[near], target[near], None)]
    return Edges(source[near], target[near], squared[near])


def _padded(cutoff: float, pos: Tensor) -> float:
    """A radius that no pair escapes by rounding: libraries round distances in their own ways."""
    reach = cutoff + (float(pos.abs().max()) if pos.numel() else 0.0)
    return cutoff + 64 * torch.finfo(pos.dtype).eps * reach


def _sorted_order(source: Tensor, target: Tensor, shift: Tensor | None) -> Tensor:
    """The order that sorts edges by target, then source, then shift."""
    num = int(torch.maximum(source.max(), target.max())) + 1 if len(source) else 1
    key, size = target * num + source, num * num
    if shift is None or not len(source):
        return torch.argsort(key)
    low = shift.amin(0)
    spans = (shift.amax(0) - low + 1).tolist()
    if size * spans[0] * spans[1] * spans[2] < 2**63:
        for axis, span in enumerate(spans):
            key = key * span + (shift[:, axis] - low[axis])
        return torch.argsort(key)
    # Atoms that have drifted through very many cells: one key would overflow.
    order = torch.arange(len(key), device=key.device)
    for part in (*shift.T.flip(0), key):
        order = order[torch.argsort(part[order], stable=True)]
    return order
