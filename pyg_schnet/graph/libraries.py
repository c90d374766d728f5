r"""Neighbour searches of other libraries that take one structure at a time.

Each makes a function of positions (n, 3), float64, a cell and its periodicity. It returns targets,
sources and the shifts :math:`S` of the sources, which mean
:math:`r_j + S\,\mathrm{cell} - r_i` as ours do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.graph.layout import Edges, Molecules
from pyg_schnet.graph.proposals import Pairs, completed, decide, padded

Search = Callable[[Tensor, Tensor, Tensor], tuple[Any, Any, Any]]

_INSTALL = {
    "vesin": "pip install 'vesin>=0.6'",
    "vesin_torch": "pip install vesin-torch",
    "pymatgen": "pip install pymatgen",
    "ase": "pip install ase",
}


def library_edges(
    name: str,
    molecules: Molecules,
    cutoff: float,
    lattices: tuple[Tensor, Tensor] | None,
    cell: Tensor | None,
) -> Edges:
    r"""Edges closer than ``cutoff``, periodic images too, structure by structure.

    Only the search itself runs once per structure; distances, decision and order are those of the
    whole batch at once, which matters for crystals of few atoms.

    Args:
        name: "vesin", "pymatgen" and "ase" search on the CPU, "vesin_torch" where ``pos`` is.
        molecules: Atoms grouped by molecule.
        cutoff: Å.
        lattices: Cells (B, 3, 3), float64, and pbc (B, 3), bool, on the CPU; None: no images.
        cell: The caller's cell, (3, 3) or (B, 3, 3), in whose rounding the edges are decided.

    Returns:
        Sorted edges, on the device of the positions.

    Raises:
        ImportError: where the library is not installed.
    """
    device = molecules.pos.device
    there = device if name == "vesin_torch" else torch.device("cpu")
    points = molecules.pos.to(there, torch.float64)
    search = _SEARCHES[name](padded(cutoff, molecules.pos))
    counts = molecules.counts.tolist()
    if lattices is None:
        boxes = torch.eye(3, dtype=torch.float64, device=there).expand(len(counts), 3, 3)
        repeats = torch.zeros(1, 3, dtype=torch.bool, device=there).expand(len(counts), 3)
    else:
        graphs = molecules.graphs.cpu()
        boxes, repeats = lattices[0][graphs], lattices[1][graphs]
        boxes, repeats = completed(boxes, repeats).to(there), repeats.to(there)
    parts = [
        search(*one)
        for one in zip(points.split(counts), boxes.unbind(), repeats.unbind(), strict=True)
    ]
    sizes = [len(part[0]) for part in parts]
    target, source, shift = (_joined(column).to(device) for column in zip(*parts, strict=True))
    first = torch.repeat_interleave(
        molecules.starts, torch.tensor(sizes, device=device), output_size=sum(sizes)
    )
    pairs = Pairs(source + first, target + first, None if lattices is None else shift)
    return decide(molecules, pairs, cutoff, cell)


def _joined(parts: tuple[Any, ...]) -> Tensor:
    if isinstance(parts[0], Tensor):
        return torch.cat([part.to(torch.int64) for part in parts])
    return torch.from_numpy(np.concatenate(parts).astype(np.int64, copy=False))


def _library(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"backend {name!r} needs {module.partition('.')[0]}: {_INSTALL[name]}"
        ) from error


def _vesin(radius: float) -> Search:
    # As many threads as torch may use: one in a worker of a DataLoader.
    lists = _library("vesin", "vesin").NeighborList(
        cutoff=radius, full_list=True, n_threads=torch.get_num_threads()
    )

    def search(points: Tensor, box: Tensor, repeats: Tensor) -> tuple[Any, Any, Any]:
        pairs, shift = lists.compute(points.numpy(), box.numpy(), repeats.numpy(), "PS")
        return pairs[:, 0], pairs[:, 1], shift

    return search


def _vesin_torch(radius: float) -> Search:
    lists = _library("vesin_torch", "vesin_torch").NeighborList(
        cutoff=radius, full_list=True, n_threads=torch.get_num_threads()
    )

    def search(points: Tensor, box: Tensor, repeats: Tensor) -> tuple[Any, Any, Any]:
        pairs, shift = lists.compute(points, box, repeats, "PS")
        return pairs[:, 0], pairs[:, 1], shift

    return search


def _pymatgen(radius: float) -> Search:
    find = _library("pymatgen.optimization.neighbors", "pymatgen").find_points_in_spheres

    def search(points: Tensor, box: Tensor, repeats: Tensor) -> tuple[Any, Any, Any]:
        # As Structure.get_neighbor_list does, without the sites that it makes first.
        positions = np.ascontiguousarray(points.numpy())
        pbc = repeats.numpy().astype(np.int64)
        lattice = np.ascontiguousarray(box.numpy())
        target, source, shift, _ = find(positions, positions, radius, pbc, lattice, tol=0.0)
        return _without_selves(target, source, shift)

    return search


def _ase(radius: float) -> Search:
    find = _library("ase.neighborlist", "ase").primitive_neighbor_list

    def search(points: Tensor, box: Tensor, repeats: Tensor) -> tuple[Any, Any, Any]:
        return find("ijS", repeats.numpy(), box.numpy(), points.numpy(), radius)

    return search


def _without_selves(target: Any, source: Any, shift: Any) -> tuple[Any, Any, Any]:
    other = (target != source) | shift.any(axis=1)
    return target[other], source[other], shift[other]


_SEARCHES: dict[str, Callable[[float], Search]] = {
    "vesin": _vesin,
    "vesin_torch": _vesin_torch,
    "pymatgen": _pymatgen,
    "ase": _ase,
}
LIBRARIES = tuple(_SEARCHES)
"""Names that :func:`library_edges` knows."""
