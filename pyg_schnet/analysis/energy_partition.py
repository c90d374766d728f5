"""How models share out a property among the atoms, by element and from training to training."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pyg_schnet.analysis.canvas import OKABE_ITO, new_figure, save_figure
from pyg_schnet.analysis.structure import (
    Structure,
    atomic_number,
    network_of,
    symbol_of,
    unit_of,
)
from pyg_schnet.models.networks import Network
from pyg_schnet.nn.readout import Atomwise

_ATOMS_AT_ONCE = 2000
_SHOWN = (0.0005, 0.9995)  # quantiles between which distributions are drawn


@dataclass(frozen=True)
class Partition:
    """Contributions of all atoms of some structures, by one or several models.

    Attributes:
        z: (N,) atomic numbers.
        structure: (N,) to which structure an atom belongs, 0..S-1.
        values: (M, N) contributions by each of M models, with the constants of the model.
        readout: "add" or "mean": how a structure's contributions become its property.
        unit: Of the values.
    """

    z: np.ndarray
    structure: np.ndarray
    values: np.ndarray
    readout: str
    unit: str

    @property
    def elements(self) -> np.ndarray:
        """(E,) the atomic numbers that occur, in ascending order."""
        return np.unique(self.z)

    @property
    def num_structures(self) -> int:
        """S."""
        return int(self.structure.max()) + 1

    def of(self, element: int | str) -> np.ndarray:
        """Contributions of the atoms of one element, (M, N of this element).

        Args:
            element: A symbol or an atomic number.

        Raises:
            ValueError: If there is no such element.
        """
        return self.values[:, self.z == atomic_number(element)]

    def totals(self) -> np.ndarray:
        """The property of each structure, the sum or mean of its contributions, (M, S)."""
        count = np.bincount(self.structure, minlength=self.num_structures)
        sums = np.stack(
            [np.bincount(self.structure, row, minlength=len(count)) for row in self.values]
        )
        return sums / count if self.readout == "mean" else sums


@dataclass(frozen=True)
class ElementStatistics:
    """Means and spreads of contributions by element.

    Attributes:
        elements: (E,) atomic numbers.
        count: (E,) atoms of each.
        mean: (M, E), in the unit of the contributions.
        std: (M, E) standard deviation over the atoms.
    """

    elements: np.ndarray
    count: np.ndarray
    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class Agreement:
    """How alike several models share out a property, for each element.

    Attributes:
        elements: (E,) atomic numbers.
        correlation: (E, M, M) Pearson's correlation; NaN where a model gives all atoms the same.
        rms: (E, M, M) root mean square difference, in the unit of the contributions.
    """

    elements: np.ndarray
    correlation: np.ndarray
    rms: np.ndarray


def atom_contributions(
    models: nn.Module | Sequence[nn.Module], structures: Iterable[Any]
) -> Partition:
    r"""What each atom contributes to the property of its structure.

    .. math::
        E = \sum_i e_i, \qquad
        e_i = s\,\bigl(\sigma\,(A_2\,\mathrm{ssp}(A_1 x_i + a_1) + a_2) + \mu + e_0(Z_i)\bigr)

    or the mean of the :math:`e_i`, where the model takes means. Only the property of a structure is
    trained on; how it is shared out is the model's own doing. Thesis (TU Berlin, 2018), figures 3.9
    to 4.8.

    Args:
        models: One or several :class:`~pyg_schnet.SchNet`, :class:`~pyg_schnet.DTNN` or
            :class:`~pyg_schnet.Potential` of one property, with the head "atomwise".
        structures: Molecules or crystals, each ``Data`` or ASE's ``Atoms``.

    Returns:
        Contributions in float64, in the unit of the models.

    Raises:
        ValueError: If there is no model or no structure, a structure has no atom, a model has
            another head or several properties, or one takes sums and another means.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import pretrained
        >>> found = atom_contributions(pretrained("md17-benzene"), [molecule("C6H6")])
        >>> found.of("C").shape, round(found.totals()[0, 0])
        ((1, 6), -6354)
    """
    given = [models] if isinstance(models, nn.Module) else list(models)
    networks = [_checked(model) for model in given]
    if not networks:
        raise ValueError("models is empty; give at least one.")
    readouts = {str(cast(Atomwise, network.readout).readout) for network in networks}
    if len(readouts) != 1:
        raise ValueError(
            "Some of the models take sums of contributions and others means; compare like ones."
        )
    known = [Structure.of(structure) for structure in structures]
    if not known:
        raise ValueError("structures is empty; give at least one.")
    for number, structure in enumerate(known):
        if not structure.z.numel():
            raise ValueError(f"Structure {number} has no atom; leave it out.")
    values = np.stack([_values(network, known) for network in networks])
    z = torch.cat([structure.z for structure in known]).numpy(force=True)
    sizes = [structure.z.numel() for structure in known]
    owner = np.repeat(np.arange(len(known)), sizes)
    return Partition(z, owner, values, readouts.pop(), unit_of(given[0]))


def element_statistics(found: Partition) -> ElementStatistics:
    """Means and standard deviations of the contributions of each element.

    Args:
        found: What :func:`atom_contributions` gave.

    Example:
        >>> values = np.array([[-1.0, -3.0, 5.0]])
        >>> known = Partition(np.array([1, 1, 8]), np.zeros(3, int), values, "add", "eV")
        >>> element_statistics(known).mean.tolist(), element_statistics(known).std.tolist()
        ([[-2.0, 5.0]], [[1.0, 0.0]])
    """
    parts = [found.of(int(element)) for element in found.elements]
    return ElementStatistics(
        found.elements,
        np.array([part.shape[1] for part in parts]),
        np.stack([part.mean(axis=1) for part in parts], axis=1),
        np.stack([part.std(axis=1) for part in parts], axis=1),
    )


def agreement(found: Partition) -> Agreement:
    r"""How alike several models share out a property.

    Models may differ by constants of the elements that cancel in the property; so each model's mean
    over the atoms of an element is taken away first:

    .. math::
        d_{mi} = e_{mi} - \langle e_m \rangle_{Z_i}, \qquad
        \rho_{mn} = \frac{\langle d_m d_n \rangle}
                         {\sqrt{\langle d_m^2 \rangle \langle d_n^2 \rangle}}, \qquad
        \Delta_{mn} = \sqrt{\langle (d_m - d_n)^2 \rangle}

    Args:
        found: Of several models.

    Raises:
        ValueError: If it is of one model only.

    Example:
        >>> values = np.array([[1.0, 2.0, 3.0], [12.0, 14.0, 16.0]])
        >>> known = Partition(np.array([6, 6, 6]), np.zeros(3, int), values, "add", "eV")
        >>> alike = agreement(known)
        >>> float(alike.correlation[0, 0, 1].round(6)), float(alike.rms[0, 0, 1].round(6))
        (1.0, 0.816497)
    """
    if len(found.values) < 2:
        raise ValueError("Agreement is between models; give the contributions by two at least.")
    correlation, rms = [], []
    for element in found.elements:
        part = found.of(int(element))
        less = part - part.mean(axis=1, keepdims=True)
        products = less @ less.T / less.shape[1]  # [M, M]
        size = np.sqrt(np.diag(products))
        # Rounding leaves contributions that are all the same a spread that is not one.
        size = np.where(size > 1e-12 * np.abs(part).max(initial=0.0), size, np.nan)
        correlation.append(products / np.outer(size, size))
        rms.append(np.sqrt(np.square(less[:, None] - less[None]).mean(axis=2)))
    return Agreement(found.elements, np.stack(correlation), np.stack(rms))


def plot_partition(
    found: Partition,
    path: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    elements: Sequence[int | str] | None = None,
) -> Path:
    """Draw the distribution of contributions, a panel for each element, a line for each model.

    Each model's mean over the atoms of an element is taken away, as in :func:`agreement`; above the
    panel stand the mean of these means and their standard deviation. The outermost thousandth of
    the atoms lies outside the panel.

    Args:
        found: What :func:`atom_contributions` gave.
        path: Of the figure; its suffix says which kind.
        names: Of the models; None numbers them.
        elements: That are drawn, in this order; None: all.

    Returns:
        The file written.

    Raises:
        ValueError: If there are not as many names as models, or an element does not occur.
    """
    count = len(found.values)
    names = [f"model {k}" for k in range(count)] if names is None else list(names)
    if len(names) != count:
        raise ValueError(f"names must be {count}, one for each model, got {len(names)}.")
    alike = agreement(found) if count > 1 else None
    known = found.elements.tolist()
    shown = known if elements is None else [atomic_number(one) for one in elements]
    if not shown or not set(shown) <= set(known):
        wrong = next((repr(one) for one in elements or () if atomic_number(one) not in known), "")
        raise ValueError(f"elements must be some of those of the structures, got {wrong or '[]'}.")
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(0.6 + 3.2 * columns, 0.4 + 2.7 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    for place, (ax, element) in enumerate(zip(axes, shown, strict=False)):
        part = found.of(element)
        means = part.mean(axis=1)
        less = part - means[:, None]
        low, high = (float(end) for end in np.quantile(less, _SHOWN))
        # Where all atoms contribute the same, rounding is no width.
        room = max(0.05 * (high - low), 1e-6 * float(np.abs(part).max())) or 0.5
        edges = np.linspace(low - room, high + room, 61)
        for number, row in enumerate(less):
            color = OKABE_ITO[number % len(OKABE_ITO)]
            label = names[number] if place == 0 and count > 1 else None
            density, _ = np.histogram(row, edges, density=True)
            ax.stairs(density, edges, color=color, lw=1.1, label=label)
        spread = f" ± {means.std():.3g}" if count > 1 else ""
        title = f"{symbol_of(element)}, mean {means.mean():.5g}{spread} {found.unit}"
        if alike is not None:
            others = alike.correlation[known.index(element)][~np.eye(count, dtype=bool)]
            title += f"\ncorrelation {others.mean():.2f}"
        ax.set_title(title, fontsize="medium")
        ax.set_xlabel(f"contribution less mean ({found.unit})")
        ax.set_ylim(bottom=0.0)
    for ax in axes[::columns]:
        ax.set_ylabel(f"atoms (1/{found.unit})")
    if count > 1:
        axes[0].legend(frameon=False, fontsize="small")
    return save_figure(figure, path)


def _checked(model: nn.Module) -> Network:
    network = network_of(model)
    head = network.readout
    if not isinstance(head, Atomwise) or head.mean.numel() != 1:
        what = "several properties" if isinstance(head, Atomwise) else f"head={network.head!r}"
        raise ValueError(
            "Contributions add up to a property only of a model of one property with "
            f"head='atomwise', but this one has {what}."
        )
    return network


def _values(network: Network, structures: Sequence[Structure]) -> np.ndarray:
    """Contributions of all atoms, (N,), float64."""
    like, head = next(network.parameters()), cast(Atomwise, network.readout)
    parts = []
    with torch.no_grad():
        for group in _groups(structures):
            z = torch.cat([one.z for one in group]).to(like.device)
            pos = torch.cat([one.pos for one in group]).to(like.device, like.dtype)
            sizes = torch.tensor([one.z.numel() for one in group], device=like.device)
            batch = torch.arange(len(group), device=like.device).repeat_interleave(sizes)
            cell = pbc = None
            if group[0].cell is not None:
                cells = torch.stack([cast(Tensor, one.cell) for one in group])
                cell = cells.to(like.device, like.dtype)
                pbc = torch.stack([cast(Tensor, one.pbc) for one in group]).to(like.device)
            x = network.features(z, pos, batch, cell=cell, pbc=pbc)
            values = head.contributions(x, z.long()) * head.scale
            parts.append(values[:, 0].double().numpy(force=True))
    return np.concatenate(parts)


def _groups(structures: Sequence[Structure]) -> Iterable[list[Structure]]:
    """Neighbours in the list that fit one batch: all with a lattice or none, not too many atoms."""
    group: list[Structure] = []
    atoms = 0
    for one in structures:
        alike = not group or (group[0].cell is None) == (one.cell is None)
        if group and (not alike or atoms + one.z.numel() > _ATOMS_AT_ONCE):
            yield group
            group, atoms = [], 0
        group.append(one)
        atoms += one.z.numel()
    yield group
