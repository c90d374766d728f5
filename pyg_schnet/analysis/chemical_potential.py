"""Local chemical potentials: what an atom would contribute at a place where there is none."""

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from pyg_schnet.analysis.canvas import SEQUENTIAL, new_figure, save_figure
from pyg_schnet.analysis.isosurface import LEVEL, Surface, molecular_surface
from pyg_schnet.analysis.points import Grid
from pyg_schnet.analysis.probe import EDGES_AT_ONCE, probe_contributions
from pyg_schnet.analysis.structure import (
    Structure,
    atomic_number,
    images_near,
    network_of,
    symbol_of,
    unit_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_NEAR_PLANE = 0.5  # Å, of atoms that are drawn onto a plane
_SHOWN = (0.02, 0.98)  # quantiles between which colours run: on the atoms potentials are steep


@dataclass(frozen=True)
class PotentialMap:
    """Local chemical potential on a grid.

    Attributes:
        grid: Where.
        values: (*grid.shape,) in ``unit``.
        probe: Atomic number of the probe.
        isolated: What the probe contributes alone, in ``unit``.
        unit: Of the model's property, usually eV.
    """

    grid: Grid
    values: np.ndarray
    probe: int
    isolated: float
    unit: str


@dataclass(frozen=True)
class PotentialSurface:
    """Local chemical potential on a surface.

    Attributes:
        surface: Where.
        values: (V,) at its vertices, in ``unit``.
        probe: Atomic number of the probe.
        isolated: What the probe contributes alone, in ``unit``.
        unit: Of the model's property, usually eV.
    """

    surface: Surface
    values: np.ndarray
    probe: int
    isolated: float
    unit: str


def local_chemical_potential(
    model: nn.Module,
    structure: Any,
    points: np.ndarray,
    probe: int | str | Sequence[int | str],
    *,
    channel: int = 0,
    edges_at_once: int = EDGES_AT_ONCE,
) -> np.ndarray:
    r"""What a probe atom of element Z contributes at each point.

    .. math::
        \Omega_Z(r) = e\left(a_Z + \sum_{l=0}^{T-1}
            v^l\left(\{x_j^l,\ |r_j - r|\}_j\right),\ Z\right)

    =====================  ================================================================
    :math:`x_j^l`          features of atom j after l interactions, without a probe about
    :math:`v^l`            the interaction, its sum over the atoms and all their images
                           within the cutoff
    :math:`e(x, Z)`        the head: its contribution of an atom, with its constants
    =====================  ================================================================

    The probe feels the structure and is not felt: a system of N + 1 atoms less what the probe does
    to the others. Where the probe reaches no atom, the result is what an isolated atom has.
    Schütt et al., "Learning Representations of Molecules and Materials with Atomistic Neural
    Networks" (2020), equation 19; thesis (TU Berlin, 2018), equations 3.11 to 3.13.

    Distances of a crystal are found in float64, features in the dtype of the model. Closer to an
    atom than any training example, which is below some 0.8 Å, it means nothing.

    Args:
        model: A :class:`~pyg_schnet.SchNet`, :class:`~pyg_schnet.DTNN` or
            :class:`~pyg_schnet.Potential` whose head has contributions of atoms.
        structure: ``Data``, ASE's ``Atoms`` or a
            :class:`~pyg_schnet.analysis.structure.Structure`.
        points: (P, 3), Å.
        probe: Element Z, as a number or a symbol; or K of them, which cost little more than one.
        channel: Which number of an atom, where the model predicts several.
        edges_at_once: Pairs of point and atom that are held at a time; less takes less memory.

    Returns:
        (P,), or (K, P) for K probes; float64, in the unit of the model's property.

    Raises:
        ValueError: If the points are not finite or of another shape, an element is unknown, the
            head has no contributions, or the model drops neighbours of a probe or finds them by a
            function of its own.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import pretrained
        >>> model = pretrained("md17-benzene")
        >>> far = np.array([[0.0, 0.0, 50.0]])
        >>> local_chemical_potential(model, molecule("C6H6"), far, ["H", "C"]).shape
        (2, 1)
    """
    network = network_of(model)
    given = np.asarray(points, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] != 3 or not np.isfinite(given).all():
        raise ValueError(f"points must be finite and of shape (P, 3), got shape {given.shape}.")
    many = isinstance(probe, Sequence) and not isinstance(probe, str)
    numbers = [atomic_number(one) for one in np.atleast_1d(np.asarray(probe, dtype=object))]
    target = Structure.of(structure, network)
    out = probe_contributions(
        network,
        target,
        torch.as_tensor(given, device=target.pos.device),
        numbers,
        channel,
        edges_at_once,
    ).numpy(force=True)
    return out if many else out[0]


def isolated_contribution(model: nn.Module, probe: int | str, *, channel: int = 0) -> float:
    """What an atom contributes alone: the limit of :func:`local_chemical_potential` far away.

    That is its limit in models with a cutoff. Without one, filters far away are what they are where
    the radial basis has ended, and the limit is another.

    Args:
        model: As there.
        probe: As there, one element.
        channel: As there.
    """
    network = network_of(model)
    parameter = next(network.parameters())
    nothing = Structure(
        torch.zeros(0, dtype=torch.long, device=parameter.device), parameter.new_zeros(0, 3)
    )
    where = torch.zeros(1, 3, dtype=torch.float64, device=parameter.device)
    numbers = [atomic_number(probe)]
    return float(probe_contributions(network, nothing, where, numbers, channel)[0, 0])


def potential_on_grid(
    model: nn.Module, structure: Any, grid: Grid, probe: int | str, *, channel: int = 0
) -> PotentialMap:
    """:func:`local_chemical_potential` on a plane or in a box.

    Args:
        model: As there.
        structure: As there.
        grid: Such as :func:`~pyg_schnet.analysis.points.box_grid`,
            :func:`~pyg_schnet.analysis.points.cell_grid` or
            :func:`~pyg_schnet.analysis.points.plane_grid` give.
        probe: As there, one element.
        channel: As there.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import pretrained
        >>> from pyg_schnet.analysis.points import molecular_plane
        >>> model, benzene = pretrained("md17-benzene"), molecule("C6H6")
        >>> found = potential_on_grid(model, benzene, molecular_plane(benzene, 6.0, 1.0), "C")
        >>> found.values.shape, found.unit
        ((7, 7), 'eV')
    """
    values = local_chemical_potential(model, structure, grid.points, probe, channel=channel)
    return PotentialMap(
        grid,
        values.reshape(grid.shape),
        atomic_number(probe),
        isolated_contribution(model, probe, channel=channel),
        unit_of(model),
    )


def potential_on_surface(
    model: nn.Module,
    structure: Any,
    probe: int | str,
    *,
    level: float = LEVEL,
    spacing: float = 0.15,
    channel: int = 0,
) -> PotentialSurface:
    """:func:`local_chemical_potential` on the surface around a molecule.

    Args:
        model: As there.
        structure: As there; a molecule.
        probe: As there, one element.
        level: 1/Å²; see :func:`~pyg_schnet.analysis.isosurface.molecular_surface`.
        spacing: Å, of the grid that finds the surface.
        channel: As there.

    Raises:
        ValueError: As there, and if the structure is a crystal.
        ImportError: If scikit-image is missing.
    """
    surface = molecular_surface(structure, level, spacing)
    return PotentialSurface(
        surface,
        local_chemical_potential(model, structure, surface.vertices, probe, channel=channel),
        atomic_number(probe),
        isolated_contribution(model, probe, channel=channel),
        unit_of(model),
    )


def plot_plane(
    found: PotentialMap | Sequence[PotentialMap],
    structure: Any,
    path: str | os.PathLike[str],
    *,
    limits: tuple[float, float] | None = None,
) -> Path:
    """Draw potentials on planes, one panel each, with the atoms near the plane.

    Args:
        found: Of planes.
        structure: That they are of.
        path: Of the figure; its suffix says which kind.
        limits: Ends of the colours, in the unit of the potential; None takes the quantiles 2 % and
            98 % of each panel.

    Returns:
        The file written.

    Raises:
        ValueError: If a grid is no plane.
    """
    maps = [found] if isinstance(found, PotentialMap) else list(found)
    rows, columns = _layout(len(maps))
    figure = new_figure(4.4 * columns, 3.6 * rows)
    for number, one in enumerate(maps):
        if len(one.grid.shape) != 2:
            raise ValueError(
                f"A plane has two directions, but this grid has {len(one.grid.shape)}; write boxes "
                "with write_cube or write_vtk."
            )
        ax = figure.add_subplot(rows, columns, number + 1)
        width, height = one.grid.lengths
        low, high = np.quantile(one.values, _SHOWN) if limits is None else limits
        image = ax.imshow(
            one.values.T,
            origin="lower",
            extent=(0.0, width, 0.0, height),
            cmap=SEQUENTIAL,
            vmin=low,
            vmax=high,
            interpolation="bilinear",
        )
        _draw_atoms(ax, one.grid, Structure.of(structure))
        _add_bar(figure, image, ax, one, 0.9)
        ax.set(xlabel="x (Å)", ylabel="y (Å)", title=f"probe {symbol_of(one.probe)}")
    return save_figure(figure, path)


def atoms_on_plane(grid: Grid, structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """Atoms and images within 0.5 Å of a plane and within its edges.

    Args:
        grid: The plane.
        structure: The atoms.

    Returns:
        Their places along the two directions, (M, 2) Å, and their atomic numbers (M,).
    """
    points = torch.as_tensor(grid.points)
    pos, of = images_near(
        structure.pos.double().cpu(),
        structure.periodic.double().cpu(),
        points.amin(0),
        points.amax(0),
        _NEAR_PLANE,
    )
    units = grid.steps / np.linalg.norm(grid.steps, axis=1, keepdims=True)
    away = pos.numpy() - grid.origin
    flat = away @ units.T  # [M, 2]
    distance = np.abs(away @ np.cross(units[0], units[1]))
    inside = (flat >= 0).all(1) & (flat <= grid.lengths).all(1) & (distance < _NEAR_PLANE)
    return flat[inside], structure.z.numpy(force=True)[of.numpy()[inside]]


def _draw_atoms(ax: "Axes", grid: Grid, structure: Structure) -> None:
    for place, number in zip(*atoms_on_plane(grid, structure), strict=True):
        symbol = symbol_of(int(number))
        box = {"boxstyle": "circle,pad=0.15", "fc": "white", "ec": "0.2", "lw": 0.6, "alpha": 0.8}
        x, y = place.tolist()
        ax.text(x, y, symbol, ha="center", va="center", fontsize=7, bbox=box)


def plot_surface(
    found: PotentialSurface | Sequence[PotentialSurface],
    path: str | os.PathLike[str],
    *,
    view: tuple[float, float] = (35.0, -60.0),
    limits: tuple[float, float] | None = None,
) -> Path:
    """Draw potentials on the surfaces of molecules, one panel each.

    Args:
        found: What to draw.
        path: Of the figure; its suffix says which kind.
        view: Elevation and azimuth from which to look, degrees.
        limits: Ends of the colours, in the unit of the potential; None takes the quantiles 2 % and
            98 % of each panel.

    Returns:
        The file written.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    surfaces = [found] if isinstance(found, PotentialSurface) else list(found)
    rows, columns = _layout(len(surfaces))
    figure = new_figure(4.4 * columns, 3.8 * rows)
    for number, one in enumerate(surfaces):
        ax = figure.add_subplot(rows, columns, number + 1, projection="3d")
        low, high = np.quantile(one.values, _SHOWN) if limits is None else limits
        scale = Normalize(low, high)
        _draw_triangles(ax, one, scale)
        ax.view_init(*view)
        ax.set_title(f"probe {symbol_of(one.probe)}", y=0.95)
        mapped = ScalarMappable(scale, SEQUENTIAL)
        _add_bar(figure, mapped, ax, one, 0.7)
    return save_figure(figure, path)


def _draw_triangles(ax: "Any", one: PotentialSurface, scale: "Normalize") -> None:
    from matplotlib import colormaps

    corners = one.surface.vertices[one.surface.faces]  # [F, 3, 3]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    light = np.array([0.4, -0.4, 0.82])
    # Lit from both sides, since the order of corners says nothing of inside and outside.
    shade = 0.65 + 0.35 * np.abs(normals @ light)
    colors = colormaps[SEQUENTIAL](scale(one.values[one.surface.faces].mean(axis=1)))
    colors[:, :3] *= shade[:, None]
    art3d = importlib.import_module("mpl_toolkits.mplot3d.art3d")
    ax.add_collection3d(
        art3d.Poly3DCollection(corners, facecolors=colors, edgecolors=colors, lw=0.3)
    )
    low, high = one.surface.vertices.min(axis=0), one.surface.vertices.max(axis=0)
    half, middle = 0.5 * (high - low).max(), 0.5 * (low + high)
    for name, center in zip("xyz", middle, strict=True):
        getattr(ax, f"set_{name}lim")(center - half, center + half)
    ax.set_box_aspect((1, 1, 1), zoom=1.4)
    ax.set_axis_off()


def _layout(panels: int) -> tuple[int, int]:
    """Rows and columns, at most three of these and none of them nearly empty."""
    columns = 2 if panels == 4 else min(3, panels)
    return -(-panels // columns), columns


def _add_bar(
    figure: "Figure",
    mapped: "ScalarMappable",
    ax: "Axes",
    one: PotentialMap | PotentialSurface,
    shrink: float,
) -> None:
    from matplotlib.ticker import ScalarFormatter

    whole = ScalarFormatter(useOffset=False)  # energies, and not their last digits
    figure.colorbar(mapped, ax=ax, label=_label(one), extend="both", shrink=shrink, format=whole)


def _label(one: PotentialMap | PotentialSurface) -> str:
    return f"Ω$_\\mathrm{{{symbol_of(one.probe)}}}$ ({one.unit})"
