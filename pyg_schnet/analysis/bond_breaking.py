"""How the energy of two atoms changes as they part, by several models."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pyg_schnet.analysis.canvas import OKABE_ITO, new_figure, save_figure
from pyg_schnet.analysis.structure import atomic_number, network_of, symbol_of, unit_of
from pyg_schnet.models.ensemble import Ensemble


@dataclass(frozen=True)
class DimerCurves:
    """Energies of a dimer by several models.

    Attributes:
        elements: Atomic numbers of the two atoms.
        distances: (K,), Å.
        energies: (M, K) of each model, in ``unit``.
        isolated: (M,) sum of the energies of the two atoms alone, in ``unit``.
        unit: Of the models' property, usually eV.
    """

    elements: tuple[int, int]
    distances: np.ndarray
    energies: np.ndarray
    isolated: np.ndarray
    unit: str

    @property
    def mean(self) -> np.ndarray:
        """(K,) mean of the models."""
        return self.energies.mean(axis=0)

    @property
    def spread(self) -> np.ndarray:
        """(K,) standard deviation among the models, with M - 1; zero for one model."""
        models = len(self.energies)
        return self.energies.std(axis=0, ddof=min(1, models - 1))

    def relative(self) -> "DimerCurves":
        """The curves less the energies of the two atoms alone, model by model.

        For models whose zeros of energy differ. That of a bond then is as good as what the models
        say of single atoms, which few of them have seen.
        """
        energies = self.energies - self.isolated[:, None]
        return replace(self, energies=energies, isolated=np.zeros_like(self.isolated))


def dimer_curves(
    models: nn.Module | Sequence[nn.Module],
    elements: tuple[int | str, int | str],
    distances: np.ndarray | None = None,
) -> DimerCurves:
    """Energies of two atoms at several distances.

    Where the models were not trained, at short and long distances, they need not agree: their
    spread shows how far they can be trusted. Chapter of 2020, figure 4.

    Args:
        models: An :class:`~pyg_schnet.Ensemble`, or models of energies one by one.
        elements: The two atoms.
        distances: (K,), Å, above zero; None takes every 0.02 Å from 0.4 to 6 Å.

    Raises:
        ValueError: If there is no model, one predicts several properties, or a distance is not
            above zero.

    Example:
        >>> from pyg_schnet import pretrained
        >>> models = [pretrained("md17-benzene"), pretrained("md17-toluene")]
        >>> found = dimer_curves(models, ("C", "H"), np.array([1.1, 2.0]))
        >>> found.energies.shape, found.spread.shape
        ((2, 2), (2,))
    """
    if isinstance(models, Ensemble):
        members: list[nn.Module] = list(models.members)
    else:
        members = [models] if isinstance(models, nn.Module) else list(models)
    if not members:
        raise ValueError("models is empty; give at least one.")
    d = np.linspace(0.4, 6.0, 281) if distances is None else np.asarray(distances, dtype=np.float64)
    if d.ndim != 1 or not len(d) or not (np.isfinite(d) & (d > 0)).all():
        raise ValueError(f"distances must be above 0 Å and finite, shape (K,), got {d.tolist()}.")
    numbers = atomic_number(elements[0]), atomic_number(elements[1])
    pairs = [_energies(member, numbers, d) for member in members]
    alone = [sum(_energies(member, (n,), np.zeros(1))[0] for n in numbers) for member in members]
    return DimerCurves(numbers, d, np.stack(pairs), np.array(alone), unit_of(members[0]))


def _energies(model: nn.Module, numbers: tuple[int, ...], distances: np.ndarray) -> np.ndarray:
    """Energies of one or two atoms, the second one away along z, (K,)."""
    network = network_of(model)
    if network.out_channels != 1:
        raise ValueError(
            f"A dimer's curve is of one property, but a model predicts {network.out_channels}."
        )
    parameter = next(network.parameters())
    copies, atoms = len(distances), len(numbers)
    pos = np.zeros((copies, atoms, 3))
    pos[:, atoms - 1, 2] = distances
    device = parameter.device
    with torch.no_grad():
        energy = network(
            torch.tensor(numbers, device=device).repeat(copies),
            torch.as_tensor(pos.reshape(-1, 3), dtype=parameter.dtype, device=device),
            torch.arange(copies, device=device).repeat_interleave(atoms),
            num_graphs=copies,
            dtype=torch.float64,
        )
    return energy.view(-1).numpy(force=True)


def plot_dimer(
    found: DimerCurves,
    path: str | os.PathLike[str],
    *,
    window: float = 15.0,
    reference: tuple[np.ndarray, np.ndarray] | None = None,
) -> Path:
    """Draw the curve of each model, their mean and their spread.

    Energies are relative to the smallest mean.

    Args:
        found: The curves.
        path: Of the figure; its suffix says which kind.
        window: Energies up to this are shown, in the unit of the energies.
        reference: Distances (R,), Å, and energies (R,) to compare with, shifted so that the
            smallest is zero.

    Returns:
        The file written.
    """
    figure = new_figure(5.4, 5.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    base = float(found.mean.min())
    mean, spread = found.mean - base, found.spread
    for number, one in enumerate(found.energies):
        label = f"{len(found.energies)} models" if number == 0 else None
        above.plot(found.distances, one - base, color="0.6", lw=0.6, label=label)
    above.fill_between(
        found.distances, mean - spread, mean + spread, color=OKABE_ITO[0], alpha=0.25, lw=0
    )
    above.plot(found.distances, mean, color=OKABE_ITO[0], lw=1.6, label="mean ± spread")
    if reference is not None:
        energies = reference[1] - np.min(reference[1])
        above.plot(reference[0], energies, "x", color=OKABE_ITO[1], ms=4, label="reference")
    names = "–".join(symbol_of(number) for number in found.elements)
    lowest = min(0.0, float((found.energies - base).min()))
    above.set(
        ylim=(max(lowest, -window) - 0.05 * window, window),
        ylabel=f"energy ({found.unit})",
        title=f"{names} by {len(found.energies)} models",
    )
    above.legend(frameon=False, fontsize="small")
    below.semilogy(found.distances, np.maximum(spread, 1e-12), color=OKABE_ITO[0], lw=1.2)
    below.set(xlabel="distance (Å)", ylabel=f"spread ({found.unit})")
    if spread.max() > 0:
        below.set_ylim(bottom=0.5 * float(spread[spread > 0].min()))
    return save_figure(figure, path)
