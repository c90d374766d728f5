"""Checks of what a caller hands to the neighbour search: this is where data enters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyg_schnet.graph.layout import Edges

BACKENDS = (
    "auto",
    "all_pairs",
    "torch_cluster",
    "images",
    "vesin",
    "pymatgen",
    "ase",
    "vesin_torch",
    "nvalchemi",
)
"""Names that ``backend`` may have."""

LONGEST = 1e6
"""Å, of a periodic vector; beyond it searches do not come to an end."""
THINNEST = 1e-3
"""Å, between layers of a periodic cell; below it they do not either."""


def check_arguments(
    pos: Tensor, cutoff: float | None, batch: Tensor | None, backend: str, cap: int | None
) -> None:
    """Raise ValueError for an argument of the wrong shape, dtype or range."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if pos.dim() != 2 or pos.size(1) != 3 or not pos.is_floating_point():
        raise ValueError(
            f"pos must be a floating point tensor of shape (N, 3), "
            f"got {pos.dtype} of shape {tuple(pos.shape)}"
        )
    if cutoff is not None and not (math.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"cutoff must be positive and finite (Å), or None, got {cutoff}")
    if cap is not None and cap < 1:
        raise ValueError(f"max_num_neighbors must be at least 1, or None to keep all, got {cap}")
    if batch is not None:
        _check_batch(batch, pos)


def _check_batch(batch: Tensor, pos: Tensor) -> None:
    if batch.is_floating_point() or batch.is_complex() or batch.dtype == torch.bool:
        raise ValueError(f"batch must have an integer dtype, got {batch.dtype}")
    if batch.shape != pos.shape[:1]:
        raise ValueError(
            f"batch must hold one number per atom, shape ({len(pos)},), got {tuple(batch.shape)}"
        )
    if batch.device != pos.device:
        raise ValueError(f"batch is on {batch.device} but pos on {pos.device}; move one of them")


def check_finite(pos: Tensor) -> None:
    """Raise ValueError naming the first atom whose position is NaN or infinite."""
    # One reduction for good data: a NaN or an infinity anywhere shows in the sum.
    if bool(torch.isfinite(pos.sum())):
        return
    bad = (~torch.isfinite(pos)).any(dim=1).nonzero()
    if len(bad):
        atom = int(bad[0])
        raise ValueError(
            f"pos of atom {atom} is {pos[atom].tolist()}; every position must be finite"
        )


def check_apart(edges: Edges) -> None:
    """Raise ValueError naming two atoms that lie on one point."""
    squared = edges.squared
    if squared is None or squared.numel() == 0 or bool(squared.min() > 0):
        return
    pair = int((squared <= 0).nonzero()[0])
    i, j = sorted((int(edges.source[pair]), int(edges.target[pair])))
    raise ValueError(
        f"pos has atoms {i} and {j} on one point (distance 0); remove one of them, "
        f"or pass validate=False to keep both"
    )


def periodicity(
    cell: Tensor | None, pbc: Tensor | Sequence[bool] | None, num_graphs: int
) -> tuple[Tensor, Tensor] | None:
    """Cells (B, 3, 3), float64, and pbc (B, 3), bool, both on the CPU; None if nothing repeats.

    Raises:
        ValueError: for wrong shapes, ``pbc`` without ``cell``, or periodic lattice vectors that
            are not finite, not linearly independent, or of a size without sense. Vectors along
            which nothing repeats may be anything finite, zero too (as ASE leaves them in slabs
            and chains).
    """
    repeats = torch.ones(3, dtype=torch.bool) if pbc is None else torch.as_tensor(pbc).cpu()
    if repeats.dtype != torch.bool or tuple(repeats.shape[-1:]) != (3,) or repeats.dim() > 2:
        raise ValueError(
            f"pbc must be booleans of shape (3,) or (B, 3), "
            f"got {repeats.dtype} of shape {tuple(repeats.shape)}"
        )
    if cell is None:
        if pbc is not None and bool(repeats.any()):
            raise ValueError("pbc asks for periodic images but cell is None; give cell (B, 3, 3)")
        return None
    if tuple(cell.shape[-2:]) != (3, 3) or cell.dim() > 3:
        raise ValueError(f"cell must have shape (3, 3) or (B, 3, 3), got {tuple(cell.shape)}")
    cells = cell.detach().double().cpu()
    for name, given, dim in (("cell", cells, 3), ("pbc", repeats, 2)):
        if given.dim() == dim and len(given) < num_graphs:
            raise ValueError(f"{name} is for {len(given)} graphs but batch has {num_graphs}")
    size = max(num_graphs, len(cells) if cells.dim() == 3 else 0)
    cells = cells.expand(size, 3, 3)
    repeats = repeats[: size if repeats.dim() == 2 else 3].expand(size, 3)
    _check_lattices(cells, repeats)
    return (cells, repeats) if bool(repeats.any()) else None


def _check_lattices(cells: Tensor, repeats: Tensor) -> None:
    if not bool(torch.isfinite(cells).all()):
        graph = int((~torch.isfinite(cells)).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"cell of graph {graph} is {cells[graph].tolist()}; it must be finite")
    # Unit vectors, so that a small cell is no more singular than a large one; 1e-6 lies above
    # float32's rounding of a flat cell and far below any cell that describes a crystal.
    rows = torch.nn.functional.normalize(cells, dim=-1) * repeats[..., None]
    values = torch.linalg.svdvals(rows)
    bad = ((values > 1e-6).sum(-1) < repeats.sum(-1)).nonzero()
    if len(bad):
        graph = int(bad[0])
        raise ValueError(
            f"cell of graph {graph} is singular, {cells[graph].tolist()}: the lattice vectors "
            f"along which pbc is True must be linearly independent"
        )
    lengths = torch.linalg.vector_norm(cells, dim=-1)
    if bool((lengths * repeats > LONGEST).any()):
        graph = int((lengths * repeats > LONGEST).any(-1).nonzero()[0])
        raise ValueError(
            f"cell of graph {graph} has a periodic vector of {float(lengths[graph].max()):g} Å; "
            f"give vectors of at most {LONGEST:g} Å, or pbc=False along it"
        )
    # No layers lie nearer than the shortest vector times the smallest singular value.
    least = torch.where(values > 1e-6, values, 1.0).amin(-1)
    shortest = torch.where(repeats, lengths, torch.inf).amin(-1)
    for graph in (least * shortest < THINNEST).nonzero().flatten().tolist():
        periodic = cells[graph][repeats[graph]]
        height = float(1.0 / torch.linalg.vector_norm(torch.linalg.pinv(periodic), dim=0).max())
        if height < THINNEST:
            raise ValueError(
                f"cell of graph {graph} has layers {height:g} Å apart, so that each atom has "
                f"countless images; give a cell whose layers are at least {THINNEST:g} Å apart"
            )
