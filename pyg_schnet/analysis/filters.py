"""The filters that a model has learned: curves, cuts through space, and sums over a lattice."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pyg_schnet.analysis.canvas import SEQUENTIAL, new_figure, save_figure
from pyg_schnet.analysis.points import Grid, plane_grid
from pyg_schnet.analysis.structure import Structure, images_near, network_of
from pyg_schnet.models.networks import Network
from pyg_schnet.nn.interaction import InteractionBlock
from pyg_schnet.nn.tensor_interaction import TensorInteraction

_DISTANCES_AT_ONCE = 2**15
_PANELS = 6  # filters that are drawn in a row


@dataclass(frozen=True)
class FilterCurves:
    """Filters by distance.

    Attributes:
        distances: (K,), Å.
        values: (L, K, F) of each layer, with the cutoff function; without unit.
        cutoff: (K,) the cutoff function.
    """

    distances: np.ndarray
    values: np.ndarray
    cutoff: np.ndarray


@dataclass(frozen=True)
class FilterMap:
    """Filters on a plane.

    Attributes:
        grid: The plane; a filter belongs to the vector from the atom at the origin.
        filters: (S,) which filters.
        values: (S, *grid.shape), with the cutoff function; without unit.
        layer: Of which interaction, from 0.
    """

    grid: Grid
    filters: np.ndarray
    values: np.ndarray
    layer: int


def filter_curves(model: nn.Module, distances: np.ndarray | None = None) -> FilterCurves:
    r"""Every filter of every layer against the distance.

    .. math::
        W^l_f(d)\,f_c(d)

    By the networks themselves, also where the model reads them off tables. Of a
    :class:`~pyg_schnet.DTNN`, whose messages are no convolution but for linear ones, it gives the
    factors of the distances, :math:`W^{fd} e(d) + b^{fd}`, which take the place of filters there
    (thesis (TU Berlin, 2018), equations 4.11 to 4.13). Layers that share a filter are one.

    Schütt et al., NeurIPS 2017, section 4.1 and figure 3.

    Args:
        model: A :class:`~pyg_schnet.SchNet`, :class:`~pyg_schnet.DTNN` or
            :class:`~pyg_schnet.Potential`.
        distances: (K,), Å; None takes every 0.02 Å from 0 to the cutoff.

    Example:
        >>> from pyg_schnet import pretrained
        >>> found = filter_curves(pretrained("md17-benzene"))
        >>> found.values.shape, bool(abs(found.values[:, -1]).max() < 1e-6)
        ((3, 251, 64), True)
    """
    network = network_of(model)
    if distances is None:
        distances = np.linspace(0.0, network.cutoff, round(network.cutoff / 0.02) + 1)
    given = np.asarray(distances, dtype=np.float64)
    parameter = next(network.parameters())
    d = torch.as_tensor(given, dtype=parameter.dtype, device=parameter.device)
    with torch.no_grad():
        values = torch.stack([_filter(network, n, d) for n in range(_num_filters(network))])
        cutoff = _block(network, 0)[1](d)
    return FilterCurves(given, _double(values), _double(cutoff))


def filter_cut(
    model: nn.Module,
    layer: int = 0,
    filters: Sequence[int] | None = None,
    *,
    size: float = 10.0,
    spacing: float = 0.05,
) -> FilterMap:
    r"""Filters on a plane through the atom, :math:`W_f(|r|)\,f_c(|r|)`.

    Schütt et al., NeurIPS 2017, figure 3: cuts of 10 × 10 Å.

    Args:
        model: As :func:`filter_curves`.
        layer: Which interaction, from 0.
        filters: Which filters; None takes the first six.
        size: Å, both sides.
        spacing: Å, from one point to the next.

    Raises:
        ValueError: If there is no such layer or filter, or a length is not positive.

    Example:
        >>> from pyg_schnet import pretrained
        >>> filter_cut(pretrained("md17-benzene"), spacing=1.0).values.shape
        (6, 11, 11)
    """
    network = network_of(model)
    chosen = _chosen(network, layer, filters)
    grid = plane_grid([0.0, 0.0, 0.0], [0.0, 0.0, 1.0], size, spacing)
    parameter = next(network.parameters())
    r = np.linalg.norm(grid.points, axis=1)
    d = torch.as_tensor(r, dtype=parameter.dtype, device=parameter.device)
    with torch.no_grad():
        parts = [_filter(network, layer, part)[:, chosen] for part in d.split(_DISTANCES_AT_ONCE)]
    values = _double(torch.cat(parts)).T.reshape(-1, *grid.shape)
    return FilterMap(grid, np.array(chosen), values, layer)


def periodic_filters(
    model: nn.Module, structure: Any, points: np.ndarray, layer: int = 0
) -> np.ndarray:
    r"""Filters of a lattice: each is the sum over all images of a neighbour.

    .. math::
        \tilde W_f(r) = \sum_{n} W_f(|r + n|)\, f_c(|r + n|)

    The convolution over a crystal sees a neighbour at :math:`r` with all its images :math:`r + n`
    within the cutoff at once, so that this function of :math:`r`, with the period of the lattice,
    is its filter. At :math:`r = 0` it holds the term :math:`W(0)` too, which is no neighbour of
    an atom. Chapter of 2020, figure 2; thesis (TU Berlin, 2018), figure 4.5.

    Args:
        model: As :func:`filter_curves`.
        structure: The crystal, for its lattice alone: ``Data`` or ASE's ``Atoms``.
        points: (P, 3) vectors from the atom, Å.
        layer: Which interaction, from 0.

    Returns:
        (P, F), without unit.

    Raises:
        ValueError: If the structure has no lattice, there is no such layer, or the points are not
            finite.

    Example:
        >>> from ase.build import bulk
        >>> from pyg_schnet import pretrained
        >>> model, points = pretrained("md17-benzene"), np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 4.6]])
        >>> found = periodic_filters(model, bulk("Cu", a=3.6, cubic=True), points)
        >>> np.allclose(found[0], found[1], atol=1e-5)
        True
    """
    network = network_of(model)
    _chosen(network, layer, [0])
    lattice = Structure.of(structure).periodic
    if not len(lattice):
        raise ValueError("structure has no lattice to sum over; give a crystal.")
    given = torch.as_tensor(np.asarray(points, dtype=np.float64))
    if given.dim() != 2 or given.size(1) != 3 or not bool(torch.isfinite(given).all()):
        raise ValueError(f"points must be finite and of shape (P, 3), got {tuple(given.shape)}.")
    lattice, reach = lattice.double().cpu(), float(network.cutoff)
    given = given - torch.floor(given @ torch.linalg.pinv(lattice)) @ lattice
    low, high = given.amin(0), given.amax(0)
    images, _ = images_near(given.new_zeros(1, 3), lattice, low, high, reach)
    parameter = next(network.parameters())
    parts = []
    with torch.no_grad():
        for part in given.split(max(1, _DISTANCES_AT_ONCE // len(images))):
            away = torch.cdist(part, images, compute_mode="donot_use_mm_for_euclid_dist")
            inside = away < reach
            d = away[inside].to(parameter.device, parameter.dtype)
            w = _filter(network, layer, d)  # [E, F]
            sums = w.new_zeros(len(part), w.size(1))
            place = inside.nonzero()[:, 0].to(w.device)
            parts.append(_double(sums.index_add(0, place, w)))
    return np.concatenate(parts)


def periodic_filter_map(
    model: nn.Module,
    structure: Any,
    grid: Grid,
    layer: int = 0,
    filters: Sequence[int] | None = None,
) -> FilterMap:
    """:func:`periodic_filters` on a plane.

    Args:
        model: As there.
        structure: As there.
        grid: The plane; an atom lies at the origin.
        layer: As there.
        filters: Which filters; None takes the first six.

    Raises:
        ValueError: As there.
    """
    chosen = _chosen(network_of(model), layer, filters)
    values = periodic_filters(model, structure, grid.points, layer)[:, chosen]
    return FilterMap(grid, np.array(chosen), values.T.reshape(-1, *grid.shape), layer)


def plot_filter_curves(found: FilterCurves, path: str | os.PathLike[str], most: int = 64) -> Path:
    """Draw filters against the distance, one panel for each layer.

    Args:
        found: The filters.
        path: Of the figure; its suffix says which kind.
        most: Filters that are drawn of each layer, those with the largest values.

    Returns:
        The file written.
    """
    from matplotlib import colormaps

    layers = len(found.values)
    figure = new_figure(2.0 + 2.6 * layers, 3.2)
    axes = figure.subplots(1, layers, squeeze=False, sharey=True)[0]
    for number, (ax, values) in enumerate(zip(axes, found.values, strict=True)):
        size = np.abs(values).max(axis=0)
        shown = np.sort(np.argsort(size)[-most:])
        for place, f in enumerate(shown):
            color = colormaps[SEQUENTIAL](place / max(1, len(shown) - 1))
            ax.plot(found.distances, values[:, f], lw=0.7, color=color)
        ax.axhline(0.0, color="0.3", lw=0.6)
        ax.set(xlabel="distance (Å)", title=f"layer {number}")
        ax.set_xlim(found.distances[0], found.distances[-1])
    axes[0].set_ylabel("filter times cutoff")
    return save_figure(figure, path)


def plot_filter_map(
    found: FilterMap | Sequence[FilterMap], path: str | os.PathLike[str], title: str = ""
) -> Path:
    """Draw filters on planes: one row of panels for each map, one panel for each filter.

    Each panel has colours of its own, from the smallest to the largest value.

    Args:
        found: The filters.
        path: Of the figure; its suffix says which kind.
        title: Of the figure.

    Returns:
        The file written.
    """
    maps = [found] if isinstance(found, FilterMap) else list(found)
    columns = max(len(one.filters) for one in maps)
    figure = new_figure(1.0 + 1.7 * columns, 0.6 + 1.8 * len(maps))
    axes = figure.subplots(len(maps), columns, squeeze=False)
    for row, one in zip(axes, maps, strict=True):
        width, height = one.grid.lengths
        for ax in row[len(one.filters) :]:
            ax.set_axis_off()
        for ax, f, values in zip(row, one.filters, one.values, strict=False):
            extent = (-0.5 * width, 0.5 * width, -0.5 * height, 0.5 * height)
            ax.imshow(values.T, origin="lower", extent=extent, cmap=SEQUENTIAL)
            ax.set_title(f"layer {one.layer}, filter {f}", fontsize="small")
            if ax is not row[0]:
                ax.set_yticklabels([])
        row[0].set_ylabel("y (Å)")
    for ax in axes[-1]:
        ax.set_xlabel("x (Å)")
    if title:
        figure.suptitle(title)
    return save_figure(figure, path)


def _block(network: Network, layer: int) -> tuple[nn.Module, nn.Module]:
    """An interaction, and its cutoff function."""
    block = network.interactions[layer]
    if isinstance(block, InteractionBlock):
        return block, block.conv.cutoff_fn
    return block, cast(TensorInteraction, block).cutoff_fn


def _filter(network: Network, layer: int, d: Tensor) -> Tensor:
    """The filters of one layer with the cutoff function, (E, F)."""
    block, cutoff_fn = _block(network, layer)
    expanded = network.distance_expansion(d)  # [E, G]
    if isinstance(block, InteractionBlock):
        return block.conv.filter(d, expanded)
    return cast(TensorInteraction, block).lin_distance(expanded) * cutoff_fn(d).view(-1, 1)


def _num_filters(network: Network) -> int:
    """Layers with filters of their own."""
    layers = len(network.interactions)
    if layers == 0:
        raise ValueError("A model without interactions has no filters.")
    return 1 if getattr(network, "shared_filters", False) else layers


def _chosen(network: Network, layer: int, filters: Sequence[int] | None) -> list[int]:
    layers = len(network.interactions)
    if not 0 <= layer < layers:
        raise ValueError(f"layer must lie in 0..{layers - 1}, got {layer}.")
    first = network.interactions[0]
    size = getattr(first, "num_factors", None) or cast(InteractionBlock, first).conv.num_filters
    chosen = list(range(min(_PANELS, size))) if filters is None else [int(f) for f in filters]
    wrong = [f for f in chosen if not 0 <= f < size]
    if wrong:
        raise ValueError(f"filters must lie in 0..{size - 1}, got {wrong[0]}.")
    return chosen


def _double(values: Tensor) -> np.ndarray:
    return values.double().numpy(force=True)
