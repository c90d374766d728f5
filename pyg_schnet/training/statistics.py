"""What can be predicted without a network: means and dressed atoms."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from pyg_schnet.nn.spatial_extent import SpatialExtent
from pyg_schnet.training.batches import MoleculeTable


@dataclass(frozen=True)
class Offsets:
    """Constants of the readout: per-atom ``mean`` and ``std``, and ``atomref`` (100, 1).

    Of T properties: (T,), (T,) and (100, T).
    """

    mean: float | Tensor
    std: float | Tensor
    atomref: Tensor


ENOUGH = 200_000
"""Structures that constants are fitted to where there are so many that they stay on the disk."""


def enough(table: MoleculeTable, rows: Tensor) -> Tensor:
    """Rows to fit constants to: all, or the first of them where the table is not in memory."""
    return rows[:ENOUGH] if table.is_mapped else rows


def dressed_atoms(table: MoleculeTable, rows: Tensor, readout: str = "add") -> Tensor:
    r"""One energy per element that fits the targets best by composition alone.

    .. math::
        \min_{e} \sum_{m \in \mathrm{rows}} \Big( y_m - \sum_Z n_{mZ}\,e_Z \Big)^2

    For a target per atom (``readout="mean"``), :math:`n_{mZ}` are shares of the composition, that
    add up to one. Elements that do not occur get zero, or with ``"mean"`` the mean of the targets.
    Where compositions do not determine the solution, it is the shortest one.

    Args:
        table: The structures.
        rows: Those to fit, usually the training set.
        readout: "add" or "mean".

    Returns:
        (100, 1), float64.
    """
    rows = enough(table, rows)
    counts, y = table.composition(rows), table.y[rows, :1].to(torch.float64)
    if readout == "add":
        return fit_composition(counts, y)
    shares = counts / counts.sum(1, keepdim=True)
    return y.mean() + fit_composition(shares, y - y.mean())


def fit_composition(counts: Tensor, values: Tensor) -> Tensor:
    """One value per element, so that their sums over the atoms fit ``values`` best.

    Args:
        counts: (M, 100) atoms of each element, float64.
        values: (M, 1), float64.

    Returns:
        (100, 1), float64; the shortest solution where there are many, zero for absent elements.
    """
    present = counts.sum(0) > 0
    # gelsd copes with rank-deficient compositions (isomers, one molecule); the default does not.
    fit = torch.linalg.lstsq(counts[:, present], values, driver="gelsd").solution
    per_element = torch.zeros(100, 1, dtype=torch.float64)
    per_element[present] = fit
    return per_element


def offsets(
    table: MoleculeTable,
    rows: Tensor,
    kind: str,
    readout: str,
    atomref: Tensor | None = None,
) -> Offsets:
    """Constants of the readout from the training set.

    Args:
        table: The molecules.
        rows: The training set.
        kind: "dressed" (regression on the composition), "atomref" (single-atom references given,
            then the mean per atom, as the papers) or "mean" (mean per atom only).
        readout: "add" or "mean"; for "mean" the target itself is the mean of contributions.
        atomref: (100, 1) single-atom references, for kind "atomref".

    Raises:
        ValueError: If ``kind`` is unknown, or "atomref" without references.
    """
    if kind not in ("dressed", "atomref", "mean"):
        raise ValueError(f"offsets must be 'dressed', 'atomref' or 'mean', got {kind!r}.")
    if kind == "atomref" and atomref is None:
        raise ValueError(
            "This target has no single-atom references; use offsets='dressed' or 'mean'."
        )
    rows = enough(table, rows)
    per_element = torch.zeros(100, 1, dtype=torch.float64)
    if kind == "dressed":
        per_element = dressed_atoms(table, rows, readout)
    elif kind == "atomref" and atomref is not None:
        per_element = atomref.double()
    counts = table.composition(rows)
    y = table.y[rows, 0]
    atoms = table.num_atoms[rows].double()
    if readout == "add":
        per_atom = (y - (counts @ per_element).squeeze(1)) / atoms
    else:
        per_atom = y - (counts @ per_element).squeeze(1) / atoms
    std = float(per_atom.std()) if len(rows) > 1 else 0.0
    return Offsets(float(per_atom.mean()), std if std > 1e-8 else 1.0, per_element)


def with_target(table: MoleculeTable, y: Tensor) -> MoleculeTable:
    """The same structures with other targets, (M, T)."""
    other = copy.copy(table)
    other.y = y.contiguous()
    return other


def fit_extent(
    head: SpatialExtent, table: MoleculeTable, rows: Tensor, limit: int = 20_000
) -> None:
    """Set the constants of the head of the spatial extent by those structures.

    Args:
        head: Changed in place.
        table: The structures.
        rows: The training set.
        limit: Structures that are enough for a handful of constants.
    """
    rows = rows[:limit]
    batch = table.batch(rows, cutoff=1e-3)
    head.fit(batch.z, batch.pos, batch.batch, batch.y[:, :1])


def baselines(
    table: MoleculeTable, train: Tensor, test: Tensor, readout: str = "add"
) -> tuple[Tensor, Tensor]:
    """What the mean predictor and the dressed atoms, both fitted on ``train``, say of ``test``.

    Args:
        table: The structures.
        train: Rows to fit.
        test: Rows to predict.
        readout: "add", or "mean" for a target per atom.

    Returns:
        Two tensors (len(test),), float64, in the unit of the target.
    """
    mean = table.y[train, 0].mean().expand(len(test))
    per_element, parts = dressed_atoms(table, train, readout), [mean.new_zeros(0)]
    for rows in test.split(ENOUGH):
        counts = table.composition(rows)
        if readout == "mean":
            counts = counts / counts.sum(1, keepdim=True)
        parts.append((counts @ per_element).squeeze(1))
    return mean, torch.cat(parts)


def force_scale(table: MoleculeTable, rows: Tensor) -> float:
    """Root mean square of the force components of ``rows``, eV/Å; 1 where that is zero.

    Times 1 Å, it is a scale for atomic energies: with it, and the network's initial output of the
    order of one over some Å, forces start at the size that they have.

    Args:
        table: With forces.
        rows: Those to look at, usually the training set.

    Raises:
        ValueError: If there are no forces.
    """
    if table.forces is None:
        raise ValueError("scale='forces' needs forces, but the data set has none.")
    rows = enough(table, rows)
    mine = torch.zeros(len(table), dtype=torch.bool)
    mine[rows] = True
    chosen = table.forces[torch.repeat_interleave(mine, table.num_atoms).to(table.forces.device)]
    rms = float(chosen.double().square().mean().sqrt())
    return rms if rms > 0.0 else 1.0
