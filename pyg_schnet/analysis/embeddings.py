"""What a model has learned of the elements: their embeddings, seen along principal axes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from pyg_schnet.analysis.canvas import OKABE_ITO, new_figure, save_figure
from pyg_schnet.analysis.structure import atomic_number, network_of, symbol_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)
FAMILIES = (
    ("alkali metals", (1,), OKABE_ITO[1], "o"),
    ("alkaline earths", (2,), OKABE_ITO[4], "o"),
    ("transition metals", tuple(range(3, 13)), "0.65", "s"),
    ("boron group", (13,), OKABE_ITO[3], "o"),
    ("carbon group", (14,), OKABE_ITO[7], "o"),
    ("nitrogen group", (15,), OKABE_ITO[0], "o"),
    ("chalcogens", (16,), OKABE_ITO[5], "o"),
    ("halogens", (17,), OKABE_ITO[2], "o"),
    ("noble gases", (18,), OKABE_ITO[6], "D"),
    ("lanthanides, actinides", (0,), "0.4", "^"),
)
"""Families of elements: name, groups, colour and mark; hydrogen is none of them."""


@dataclass(frozen=True)
class EmbeddingPCA:
    """Embeddings of elements along their principal axes.

    Attributes:
        elements: (E,) atomic numbers.
        coordinates: (E, C) along the first C axes, centred, in the unit of the features.
        axes: (C, hidden_channels) the axes, of length one.
        explained: (C,) share of the variance along each, 0..1.
        mean: (hidden_channels,) the mean embedding, which was taken off.
    """

    elements: np.ndarray
    coordinates: np.ndarray
    axes: np.ndarray
    explained: np.ndarray
    mean: np.ndarray


def group_of(number: int) -> int:
    """The group of an element in the periodic table, 1 to 18; 0 for lanthanides and actinides.

    The f-block is taken from lanthanum to ytterbium and from actinium to nobelium.

    Args:
        number: Atomic number, 1 to 118.

    Raises:
        ValueError: If there is no such element.

    Example:
        >>> [group_of(z) for z in (1, 6, 26, 57, 71, 79, 2)]
        [1, 14, 8, 0, 3, 11, 18]
    """
    period = period_of(number)
    place = number - _NOBLE_GASES[period - 1]  # from 1 on, within the period
    length = _NOBLE_GASES[period] - _NOBLE_GASES[period - 1]
    if place <= 2 and number != 2:
        return place
    if length == 32 and place <= 16:
        return 0
    return place + 18 - length


def period_of(number: int) -> int:
    """The period of an element in the periodic table, 1 to 7.

    Args:
        number: Atomic number, 1 to 118.

    Raises:
        ValueError: If there is no such element.

    Example:
        >>> [period_of(z) for z in (2, 3, 18, 87)]
        [1, 2, 3, 7]
    """
    if not 1 <= number <= _NOBLE_GASES[-1]:
        raise ValueError(f"number must be an atomic number in 1..118, got {number}.")
    return next(period for period, last in enumerate(_NOBLE_GASES) if number <= last)


def embedding_pca(
    model: nn.Module, elements: Sequence[int | str] | None = None, components: int = 2
) -> EmbeddingPCA:
    r"""Principal axes of the embeddings of elements.

    .. math::
        a_Z - \bar a = \sum_c t_{Zc}\, u_c, \qquad
        \mathrm{explained}_c = \sigma_c^2 \Big/ \sum_k \sigma_k^2

    by the singular value decomposition of the centred embeddings, with singular values
    :math:`\sigma`. An axis has a direction but no sign: its largest component is made positive.
    Only elements that the model was trained on have learned embeddings.

    Schütt et al., J. Chem. Phys. 148, 241722 (2018), of formation energies of crystals.

    Args:
        model: A :class:`~pyg_schnet.SchNet`, :class:`~pyg_schnet.DTNN` or
            :class:`~pyg_schnet.Potential`.
        elements: Atomic numbers or symbols; None takes those that the model's file names.
        components: Number of axes, C.

    Raises:
        ValueError: If elements are unknown, there are fewer than two, none are given and the
            model's file names none, or there are fewer axes than ``components``.

    Example:
        >>> from pyg_schnet import pretrained
        >>> found = embedding_pca(pretrained("md17-aspirin"))
        >>> found.elements.tolist(), found.coordinates.shape
        ([1, 6, 8], (3, 2))
    """
    if elements is None:
        elements = list((getattr(model, "info", None) or {}).get("elements", []))
        if not elements:
            raise ValueError(
                "The model's file does not say on which elements it was trained; give elements."
            )
    numbers = sorted({atomic_number(one) for one in elements})
    weight = network_of(model).embedding.weight.detach().double().numpy(force=True)
    most = min(len(numbers) - 1, weight.shape[1])
    if not 1 <= components <= most:
        raise ValueError(
            f"{len(numbers)} elements in {weight.shape[1]} dimensions have {most} principal axes; "
            f"got components={components}."
        )
    rows = weight[numbers]
    mean = rows.mean(axis=0)
    left, size, axes = np.linalg.svd(rows - mean, full_matrices=False)
    largest = np.abs(axes).argmax(axis=1)
    sign = np.sign(axes[np.arange(len(axes)), largest])
    return EmbeddingPCA(
        np.array(numbers),
        (left * size * sign)[:, :components],
        (axes * sign[:, None])[:components],
        (np.square(size) / np.square(size).sum())[:components],
        mean,
    )


def order_along_groups(found: EmbeddingPCA, least: int = 3) -> dict[int, np.ndarray]:
    r"""Whether elements of a group lie in the order of their periods.

    .. math::
        \tau_c = \frac{2}{n(n-1)} \sum_{A<B} \mathrm{sign}(t_{Bc} - t_{Ac})

    Kendall's rank correlation of period and coordinate: 1 or -1 where the coordinate runs through
    the group in order, about 0 where it does not heed it.

    Args:
        found: Coordinates of the elements.
        least: Elements that a group must have to be listed.

    Returns:
        Of each group, by number, one value per axis, (C,).

    Example:
        >>> t = np.array([[0.0], [2.0], [3.0], [4.0]])
        >>> pca = EmbeddingPCA(np.array([3, 11, 19, 9]), t, t[:1], t[0], t[0])
        >>> order_along_groups(pca)
        {1: array([1.])}
    """
    groups = np.array([group_of(int(z)) for z in found.elements])
    out = {}
    for group in range(1, 19):
        # Hydrogen stands above the alkali metals and is none.
        rows = found.coordinates[(groups == group) & (found.elements > 1)]
        if len(rows) >= max(2, least):
            above, below = np.triu_indices(len(rows), 1)
            out[group] = np.sign(rows[below] - rows[above]).mean(axis=0)
    return out


def plot_embeddings(found: EmbeddingPCA, path: str | os.PathLike[str], title: str = "") -> Path:
    """Draw elements along the first two principal axes, coloured by group.

    Beside them, how much of the variance each axis explains. Elements of a group are joined in the
    order of their periods.

    Args:
        found: At least two axes.
        path: Of the figure; its suffix says which kind.
        title: Of the figure.

    Returns:
        The file written.

    Raises:
        ValueError: If there is one axis only.
    """
    if len(found.axes) < 2:
        raise ValueError("A picture needs two axes; take components=2 or more.")
    figure = new_figure(9.5, 5.4)
    ax, bars = figure.subplots(1, 2, width_ratios=[4, 1])
    _draw_elements(ax, found)
    share = 100 * found.explained
    ax.set(
        xlabel=f"principal axis 1 ({share[0]:.0f} % of the variance)",
        ylabel=f"principal axis 2 ({share[1]:.0f} %)",
        title=title or f"embeddings of {len(found.elements)} elements",
    )
    figure.legend(loc="outside lower center", frameon=False, fontsize="x-small", ncols=6)
    bars.bar(np.arange(1, len(share) + 1), share, color=OKABE_ITO[0])
    bars.plot(np.arange(1, len(share) + 1), np.cumsum(share), "o-", color="0.3", ms=3, lw=1)
    bars.set(xlabel="principal axis", ylabel="explained variance (%)", ylim=(0, 105))
    bars.set_xticks(np.arange(1, len(share) + 1))
    return save_figure(figure, path)


def _draw_elements(ax: "Axes", found: EmbeddingPCA) -> None:
    groups = np.array([group_of(int(z)) for z in found.elements])
    groups[found.elements == 1] = -1
    x, y = found.coordinates[:, 0], found.coordinates[:, 1]
    for name, members, color, marker in (("hydrogen", (-1,), "white", "o"), *FAMILIES):
        of = np.isin(groups, members)
        if not of.any():
            continue
        ax.scatter(x[of], y[of], s=42, c=color, marker=marker, ec="0.2", lw=0.5, label=name)
        for group in members if members != (0,) else ():
            row = groups == group
            ax.plot(x[row], y[row], color=color, lw=0.6, alpha=0.5, zorder=0)
    for number, a, b in zip(found.elements, x, y, strict=True):
        ax.annotate(
            symbol_of(int(number)), (a, b), xytext=(4, 4), textcoords="offset points", fontsize=7
        )
