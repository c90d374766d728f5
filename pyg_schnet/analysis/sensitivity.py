"""How much the features of an atom change when another one moves."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pyg_schnet.analysis.canvas import OKABE_ITO, new_figure, save_figure
from pyg_schnet.analysis.structure import (
    Structure,
    atomic_number,
    images_near,
    network_of,
    symbol_of,
)
from pyg_schnet.models.networks import Network

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ATOMS_AT_ONCE = 2000
_MOST_DOTS = 20_000


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivities of ordered pairs of atoms.

    Attributes:
        centre: (M,) atomic number of the atom whose features change.
        moved: (M,) atomic number of the atom that moves.
        distance: (M,) between them, of a crystal to the nearest image, Å.
        value: (M,) length of the change of the features for each Å, 1/Å.
    """

    centre: np.ndarray
    moved: np.ndarray
    distance: np.ndarray
    value: np.ndarray

    def of(self, centre: int | str, moved: int | str) -> "Sensitivity":
        """Those of one pair of elements.

        Args:
            centre: Element of the atom whose features change.
            moved: Element of the atom that moves.

        Raises:
            ValueError: If there is no such element.
        """
        chosen = (self.centre == atomic_number(centre)) & (self.moved == atomic_number(moved))
        return Sensitivity(
            self.centre[chosen], self.moved[chosen], self.distance[chosen], self.value[chosen]
        )


def feature_jacobian(model: nn.Module, structure: Any) -> np.ndarray:
    r"""How the last features of each atom change with each position.

    .. math::
        J_{i h j k} = \frac{\partial x^T_{ih}}{\partial r_{jk}}

    Columns are found by differentiating twice: :math:`g(u) = \partial (u \cdot x) / \partial r` is
    linear in u, and its derivative along a direction of r is the change of all features at once.
    The 3N directions are those of 3N copies of the structure, several in one batch.

    Args:
        model: A :class:`~pyg_schnet.SchNet`, :class:`~pyg_schnet.DTNN` or
            :class:`~pyg_schnet.Potential`.
        structure: ``Data`` or ASE's ``Atoms``; in a crystal all images of an atom move with it.

    Returns:
        (N, hidden_channels, N, 3), 1/Å.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import pretrained
        >>> feature_jacobian(pretrained("md17-benzene"), molecule("C6H6")).shape
        (12, 64, 12, 3)
    """
    network = network_of(model)
    given = Structure.of(structure, network)
    atoms = given.z.numel()
    directions = 3 * atoms
    out = np.empty((directions, atoms, network.hidden_channels))
    step = max(1, _ATOMS_AT_ONCE // max(1, atoms))
    for start in range(0, directions, step):
        columns = torch.arange(start, min(start + step, directions), device=given.pos.device)
        found = _columns(network, given, columns)
        out[start : start + len(columns)] = found.double().numpy(force=True)
    return out.transpose(1, 2, 0).reshape(atoms, network.hidden_channels, atoms, 3)


def _columns(network: Network, structure: Structure, directions: Tensor) -> Tensor:
    """Change of the features along some of the 3N directions, (D, N, hidden)."""
    copies, atoms = len(directions), structure.z.numel()
    pos = structure.pos.repeat(copies, 1).requires_grad_()
    z = structure.z.repeat(copies)
    batch = torch.arange(copies, device=z.device).repeat_interleave(atoms)
    cell, pbc = structure.cell, structure.pbc
    if cell is not None and pbc is not None:
        cell, pbc = cell.expand(copies, 3, 3), pbc.expand(copies, 3)
    with torch.enable_grad():
        x = network.features(z, pos, batch, cell=cell, pbc=pbc)  # [D N, H]
        u = torch.zeros_like(x, requires_grad=True)
        (g,) = torch.autograd.grad(x, pos, u, create_graph=True)
        along = torch.zeros_like(pos).view(copies, -1)
        along[torch.arange(copies, device=z.device), directions] = 1.0
        (change,) = torch.autograd.grad(g, u, along.view_as(g))
    return change.view(copies, atoms, -1)


def feature_sensitivity(model: nn.Module, structures: Iterable[Any]) -> Sensitivity:
    r"""How strongly the features of one atom depend on the position of another.

    .. math::
        s_{ij} = \left\| \frac{\partial x^T_i}{\partial \mathbf r_{ij}} \right\|
               = \Big( \sum_{h,k} \big( \partial x^T_{ih} / \partial r_{jk} \big)^2 \Big)^{1/2}

    when atom j moves and all others stay: by way of the pair itself and, from the second
    interaction on, by way of third atoms too. Thesis (TU Berlin, 2018), figures 4.11 and 4.13.

    Args:
        model: As :func:`feature_jacobian`.
        structures: Each as there.

    Returns:
        All ordered pairs of two atoms of the structures.

    Raises:
        ValueError: If there is no structure.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import pretrained
        >>> found = feature_sensitivity(pretrained("md17-benzene"), [molecule("C6H6")])
        >>> found.value.shape, found.of("C", "H").value.shape
        ((132,), (36,))
    """
    network = network_of(model)
    parts = []
    for structure in structures:
        given = Structure.of(structure, network)
        jacobian = feature_jacobian(network, given)
        value = np.sqrt(np.square(jacobian).sum(axis=(1, 3)))  # [N, N], centre by moved
        i, j = np.nonzero(~np.eye(len(value), dtype=bool))
        z = given.z.numpy(force=True)
        parts.append((z[i], z[j], nearest_distances(given)[i, j], value[i, j]))
    if not parts:
        raise ValueError("structures is empty; give at least one.")
    centre, moved, distance, values = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return Sensitivity(centre, moved, distance, values)


def nearest_distances(structure: Structure) -> np.ndarray:
    """Distances of all pairs of atoms, of a crystal to the nearest image, (N, N), Å."""
    pos, lattice = structure.pos.double().cpu(), structure.periodic.double().cpu()
    if len(lattice):
        pos = pos - torch.floor(pos @ torch.linalg.pinv(lattice)) @ lattice
    away = torch.cdist(pos, pos, compute_mode="donot_use_mm_for_euclid_dist")
    if len(lattice):
        low, high = pos.amin(0), pos.amax(0)
        images, of = images_near(pos, lattice, low, high, float(away.max()))
        to = torch.cdist(pos, images, compute_mode="donot_use_mm_for_euclid_dist")
        away = away.scatter_reduce(1, of.expand(len(pos), -1), to, "amin")
    return away.numpy()


def binned_sensitivity(
    found: Sensitivity, bins: int = 40
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sensitivities by distance, and how often pairs are at that distance.

    Args:
        found: Of one pair of elements, as :meth:`Sensitivity.of` gives.
        bins: Intervals of equal width from 0 to the largest distance.

    Returns:
        Middles of the bins (bins,), Å; the medians there (bins,), 1/Å, NaN in an empty bin; the
        distribution of distances (bins,), whose integral is one, 1/Å.

    Raises:
        ValueError: If there is no pair, or no bin.

    Example:
        >>> one = np.ones(3, dtype=int)
        >>> pairs = Sensitivity(one, one, np.array([0.4, 1.6, 2.0]), np.array([3.0, 5.0, 7.0]))
        >>> middle, median, density = binned_sensitivity(pairs, 2)
        >>> median.tolist(), [round(value, 3) for value in density.tolist()]
        ([3.0, 6.0], [0.333, 0.667])
    """
    if not len(found.value) or bins < 1:
        raise ValueError(f"There must be pairs and bins, got {len(found.value)} and {bins}.")
    edges = np.linspace(0.0, found.distance.max(), bins + 1)
    density, _ = np.histogram(found.distance, edges, density=True)
    place = np.clip(np.digitize(found.distance, edges) - 1, 0, bins - 1)
    median = np.array(
        [np.median(found.value[place == k]) if (place == k).any() else np.nan for k in range(bins)]
    )
    return 0.5 * (edges[1:] + edges[:-1]), median, density


def plot_sensitivity(
    found: Sensitivity,
    path: str | os.PathLike[str],
    pairs: Sequence[tuple[int | str, int | str]] | None = None,
) -> Path:
    """Draw sensitivities against distance, above the distribution of distances.

    Args:
        found: What :func:`feature_sensitivity` gave.
        path: Of the figure; its suffix says which kind.
        pairs: Elements, (centre, moved), one column each; None takes all that there are, at most
            four, the most frequent ones.

    Returns:
        The file written.

    Raises:
        ValueError: If a pair of elements does not occur.
    """
    if pairs is None:
        both = np.stack([found.centre, found.moved], axis=1)
        kinds, counts = np.unique(both, axis=0, return_counts=True)
        most = kinds[np.argsort(-counts, kind="stable")[:4]]
        pairs = [(int(a), int(b)) for a, b in most]
    figure = new_figure(3.2 * len(pairs) + 0.6, 4.6)
    axes = figure.subplots(2, len(pairs), squeeze=False, sharex="col", height_ratios=[2, 1])
    for column, (centre, moved) in enumerate(pairs):
        chosen = found.of(centre, moved)
        names = [symbol_of(atomic_number(one)) for one in (centre, moved)]
        if not len(chosen.value):
            raise ValueError(f"No atom {names[0]} has an atom {names[1]} in its structure.")
        color = OKABE_ITO[column % len(OKABE_ITO)]
        _draw_pair(axes[0, column], axes[1, column], chosen, color)
        axes[0, column].set_title(f"features of {names[0]}, {names[1]} moves", fontsize="medium")
        axes[1, column].set_xlabel("distance (Å)")
    axes[0, 0].set_ylabel("|∂x/∂r| (1/Å)")
    axes[1, 0].set_ylabel("pairs (1/Å)")
    return save_figure(figure, path)


def _draw_pair(above: "Axes", below: "Axes", chosen: Sensitivity, color: str) -> None:
    middle, median, density = binned_sensitivity(chosen)
    some = np.linspace(0, len(chosen.value) - 1, min(len(chosen.value), _MOST_DOTS)).astype(int)
    above.plot(chosen.distance[some], chosen.value[some], ".", ms=2, alpha=0.3, color=color)
    # A bin without pairs is a gap in the line.
    above.plot(middle, median, "o-", ms=2, color="0.1", lw=1.0, label="median")
    above.set_ylim(bottom=0.0)
    above.set_xlim(left=max(0.0, float(chosen.distance.min()) - 0.2))
    above.legend(frameon=False, fontsize="small")
    below.fill_between(middle, density, step="mid", color=color, alpha=0.5, lw=0)
    below.set_ylim(bottom=0.0)
