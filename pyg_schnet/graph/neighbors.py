"""Edges of molecules and crystals: one function, many backends, the same edges from each."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor

from pyg_schnet.graph.all_pairs import all_pairs
from pyg_schnet.graph.cap import keep_nearest
from pyg_schnet.graph.cell_list import nvalchemi_edges, torch_cluster_edges
from pyg_schnet.graph.checks import check_apart, check_arguments, check_finite, periodicity
from pyg_schnet.graph.layout import Edges, Molecules, group_atoms, ungroup
from pyg_schnet.graph.libraries import LIBRARIES, library_edges

CROSSOVER = {"cpu": 128, "cuda": 4096}
"""Pairs per atom above which a cell list beats all pairs (CPU measured, 0.1 atoms/Å³ and 5 Å)."""

PERIODIC = ("images", *LIBRARIES, "nvalchemi")
"""Backends that know of images; they take molecules too."""

FEW_PER_CELL = 256
"""Atoms per cell up to which a loop over images beats a cell list (CPU measured)."""


def neighbor_edges(
    pos: Tensor,
    cutoff: float | None,
    batch: Tensor | None = None,
    cell: Tensor | None = None,
    pbc: Tensor | Sequence[bool] | None = None,
    backend: str = "auto",
    max_num_neighbors: int | None = None,
    *,
    validate: bool = True,
) -> tuple[Tensor, Tensor]:
    r"""Edges between atoms closer than ``cutoff``, both directions of each, none dropped.

    An edge from source :math:`j` to target :math:`i` with lattice shift :math:`s` exists where

    .. math::
        0 \le |r_j + s\,\mathrm{cell} - r_i| < r_c, \qquad (j, s) \ne (i, 0)

    The inequality is strict; the cutoff function of a model is zero at :math:`r_c` anyway. It is
    evaluated on squares, in the dtype of ``pos`` (half precision: in float32), whatever the
    backend. Without a cutoff all pairs within each molecule are edges, as in the papers' models
    of QM9. Edges carry no gradient: recompute the vectors, ``pos[j] + shift @ cell - pos[i]``.

    Each image of a neighbour is an edge of its own, as in Schütt et al., "Learning Representations
    of Molecules and Materials with Atomistic Neural Networks" (2020), equation 17.

    Args:
        pos: (N, 3) positions, Å. Atoms may lie outside the cell.
        cutoff: Å, or None for all pairs (not with a periodic cell).
        batch: (N,) integer number of the molecule of each atom, sorted or not, gaps allowed.
        cell: (3, 3), one for all, or (B, 3, 3) lattice vectors as rows, Å.
        pbc: (3,) or (B, 3) booleans, whether to repeat along each lattice vector. None: along
            all three where a cell is given.
        backend: ``"auto"``, the fastest installed for structures of this kind and size, or

            - ``"all_pairs"`` (index arithmetic) and ``"torch_cluster"``, for molecules;
            - ``"images"``, a compiled loop over atoms and images, for few atoms per cell;
            - ``"vesin"``, ``"pymatgen"``, ``"ase"`` (slow) and ``"vesin_torch"``, which take one
              structure at a time and search on the CPU, but for ``"vesin_torch"``;
            - ``"nvalchemi"`` (nvalchemi-toolkit-ops), a batch at once on the device of ``pos``.
        max_num_neighbors: Keep only so many nearest neighbours per atom, and edges kept in both
            directions; warns of the number dropped. None, the default, keeps all.
        validate: Whether to look for positions that are not finite and for atoms on one point.

    Returns:
        ``edge_index`` (2, E), row 0 sources, row 1 targets, sorted by target, then source, then
        shift; and ``cell_shift`` (E, 3), zeros that take no memory where nothing is periodic.

    Raises:
        ValueError: for arguments of the wrong shape, dtype or range, positions that are not
            finite, atoms on one point, a singular cell, or a backend that cannot do periodic
            cells or the absence of a cutoff.
        ImportError: for a backend that is not installed.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
        >>> edge_index, cell_shift = neighbor_edges(pos, cutoff=5.0)
        >>> edge_index.tolist()
        [[1, 0], [0, 1]]
        >>> pbc = [True, False, False]
        >>> edge_index, cell_shift = neighbor_edges(pos[:1], 2.5, cell=2 * torch.eye(3), pbc=pbc)
        >>> cell_shift.tolist()
        [[-1, 0, 0], [1, 0, 0]]
    """
    check_arguments(pos, cutoff, batch, backend, max_num_neighbors)
    if validate:
        check_finite(pos)
    molecules = group_atoms(pos, batch)
    graphs = molecules.graphs
    if len(graphs) and int(graphs[0]) < 0:
        raise ValueError(f"batch must not be negative, got {int(graphs[0])}")
    lattices = periodicity(cell, pbc, int(graphs[-1]) + 1 if len(graphs) else 0)
    with torch.no_grad():
        wants_distances = validate or max_num_neighbors is not None
        edges = _search(molecules, cutoff, lattices, cell, backend, wants_distances)
        if molecules.order is not None:
            edges = ungroup(edges, molecules.order)
        if validate:
            check_apart(edges)
        if max_num_neighbors is not None:
            edges = keep_nearest(edges, len(pos), max_num_neighbors)
        edge_index = torch.stack([edges.source, edges.target])
        shift = edges.shift
        if shift is None:
            shift = edge_index.new_zeros(1, 3).expand(edge_index.size(1), 3)
    return edge_index, shift


def _search(
    molecules: Molecules,
    cutoff: float | None,
    lattices: tuple[Tensor, Tensor] | None,
    cell: Tensor | None,
    backend: str,
    wants_distances: bool,
) -> Edges:
    if backend == "auto":
        if lattices is not None:
            backend = _fastest_periodic(molecules)
        else:
            backend = _fastest(molecules, cutoff)
    if lattices is not None:
        if cutoff is None:
            raise ValueError("cutoff=None with a periodic cell asks for infinitely many images")
        if backend not in PERIODIC:
            raise ValueError(
                f"backend {backend!r} cannot do periodic cells; "
                f"use 'auto' or one of {', '.join(PERIODIC)}"
            )
    if not len(molecules.pos):
        none = molecules.counts.new_zeros(0)
        shift = None if lattices is None else none.new_zeros(0, 3)
        return Edges(none, none, molecules.pos.new_zeros(0), shift)
    if backend == "all_pairs":
        return all_pairs(molecules, cutoff, wants_distances)
    if cutoff is None:
        raise ValueError(f"backend {backend!r} needs a cutoff; use 'all_pairs' for all pairs")
    if backend == "torch_cluster":
        return torch_cluster_edges(molecules, cutoff)
    if backend in LIBRARIES:
        return library_edges(backend, molecules, cutoff, lattices, cell)
    edges_of = nvalchemi_edges if backend == "nvalchemi" else _images().image_edges
    if lattices is not None and cell is not None:
        return edges_of(molecules, cutoff, lattices, cell)
    # Any cell will do, where nothing repeats.
    num_graphs, unit = int(molecules.graphs[-1]) + 1, torch.eye(3, dtype=torch.float64)
    nowhere = torch.zeros(3, dtype=torch.bool).expand(num_graphs, 3)
    alone = edges_of(molecules, cutoff, (unit.expand(num_graphs, 3, 3), nowhere), unit)
    return replace(alone, shift=None)


def _images() -> ModuleType:
    try:
        return importlib.import_module("pyg_schnet.graph.images")
    except ImportError as error:
        raise ImportError("backend 'images' needs Numba: pip install numba") from error


def _fastest_periodic(molecules: Molecules) -> str:
    """The backend for crystals: the loop over images for few atoms per cell, else a cell list."""
    counts = molecules.counts
    if molecules.pos.device.type != "cpu":
        for module, backend in (("nvalchemiops", "nvalchemi"), ("vesin_torch", "vesin_torch")):
            if importlib.util.find_spec(module) is not None:
                return backend
    pairs_per_atom = float((counts * counts).sum()) / max(1, len(molecules.pos))
    if pairs_per_atom <= FEW_PER_CELL and importlib.util.find_spec("numba") is not None:
        return "images"
    return "vesin"


def _fastest(molecules: Molecules, cutoff: float | None) -> str:
    """The backend for molecules without images: it follows the pairs per atom."""
    num_atoms, device = len(molecules.pos), molecules.pos.device.type
    if cutoff is None or num_atoms <= CROSSOVER["cpu"]:
        return "all_pairs"
    pairs_per_atom = float((molecules.counts * (molecules.counts - 1)).sum()) / num_atoms
    if pairs_per_atom <= CROSSOVER.get(device, CROSSOVER["cuda"]):
        return "all_pairs"
    return _cell_list(device) or "all_pairs"


def _cell_list(device: str) -> str | None:
    try:
        if device == "cpu":
            importlib.import_module("vesin")
            return "vesin"
        importlib.import_module("torch_cluster")
        # A build without CUDA imports well and fails only when called.
        return "torch_cluster" if torch.ops.torch_cluster.cuda_version() > 0 else None
    except (ImportError, OSError):
        return None
