"""Why distances are expanded: a small SchNet fitted to the hydrogen molecule with and without."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from pyg_schnet.analysis.canvas import OKABE_ITO, new_figure, save_figure
from pyg_schnet.models.schnet import SchNet
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.interaction import InteractionBlock

DEPTH = 4.7483
"""eV; of the well of H2, from its bottom to the separated atoms."""
BOND_LENGTH = 0.74144
"""Å; of H2. Huber and Herzberg, Constants of Diatomic Molecules (1979)."""
STEEPNESS = 1.945
"""1/Å; of the Morse curve with the harmonic frequency of H2, 4401.21 cm⁻¹ (there)."""

_CUTOFF = 5.0
_CHANNELS = 32


@dataclass(frozen=True)
class CurveFit:
    """A fit of the energy of two atoms.

    Attributes:
        distances: (K,), Å.
        reference: (K,) energies that were fitted, eV.
        fitted: (K,) energies of the model after the last step, eV.
        errors: (S,) root mean square error before each step, eV.
        radial_basis: Whether distances were expanded in Gaussians.
    """

    distances: np.ndarray
    reference: np.ndarray
    fitted: np.ndarray
    errors: np.ndarray
    radial_basis: bool

    @property
    def rmse(self) -> float:
        """Root mean square error after the last step, eV."""
        return float(np.sqrt(np.square(self.fitted - self.reference).mean()))


class RawDistance(nn.Module):
    """No expansion: the distance itself as the only feature.

    Example:
        >>> RawDistance()(torch.tensor([1.0, 2.0])).shape
        torch.Size([2, 1])
    """

    def forward(self, distance: Tensor) -> Tensor:
        """``distance`` (E,), Å, as (E, 1)."""
        return distance.view(-1, 1)


def morse(distances: np.ndarray) -> np.ndarray:
    r"""Energy of H2 against the separated atoms, by a Morse curve.

    .. math::
        E(d) = D \left( \left(1 - e^{-a (d - d_0)}\right)^2 - 1 \right)

    Its depth, bond length and frequency are those of the experiment; elsewhere it is a model.
    Morse, Phys. Rev. 34, 57 (1929).

    Args:
        distances: (K,), Å.

    Returns:
        (K,), eV.

    Example:
        >>> morse(np.array([BOND_LENGTH]))
        array([-4.7483])
    """
    return DEPTH * ((1 - np.exp(-STEEPNESS * (np.asarray(distances) - BOND_LENGTH))) ** 2 - 1)


def fit_h2(
    radial_basis: bool = True,
    distances: np.ndarray | None = None,
    energies: np.ndarray | None = None,
    *,
    steps: int = 1000,
    learning_rate: float = 3e-3,
    num_gaussians: int = 50,
    seed: int = 0,
) -> CurveFit:
    """Fit a SchNet of one interaction and 32 features to the energy of two hydrogen atoms.

    With ``radial_basis=False`` the filter network gets the distance itself. It then starts as a
    nearly linear function of it, filters are alike, and the curve is learned slowly; Gaussians
    start apart from each other. Both fits are alike in all else: Adam on all points at once.
    Chapter of 2020, figure 3.

    Args:
        radial_basis: Whether distances are expanded in Gaussians.
        distances: (K,), Å; None takes 60 from 0.4 to 4 Å.
        energies: (K,), eV; None takes :func:`morse`.
        steps: Of Adam.
        learning_rate: Of the first step; it falls to zero as a cosine.
        num_gaussians: Of the basis, from 0 to 5 Å.
        seed: Of the first weights.

    Raises:
        ValueError: If distances and energies do not fit together or ``steps`` is not positive.

    Example:
        >>> fit_h2(steps=2).errors.shape
        (2,)
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    d = np.linspace(0.4, 4.0, 60) if distances is None else np.asarray(distances, dtype=np.float64)
    wanted = morse(d) if energies is None else np.asarray(energies, dtype=np.float64)
    if d.ndim != 1 or len(d) < 2 or d.shape != wanted.shape or not np.isfinite(wanted).all():
        raise ValueError(
            f"distances and finite energies must be at least two numbers each, and as many, got "
            f"{d.shape} and {wanted.shape}."
        )
    model = _small_model(radial_basis, num_gaussians, wanted, seed)
    pos = torch.zeros(len(d), 2, 3)
    pos[:, 1, 2] = torch.as_tensor(d)
    batch = torch.arange(len(d)).repeat_interleave(2)
    inputs = torch.ones(2 * len(d), dtype=torch.long), pos.view(-1, 3), batch
    pairs = torch.arange(2 * len(d)).view(-1, 2)
    edges = torch.cat([pairs.T, pairs.T.flip(0)], dim=1)
    target = torch.as_tensor(wanted, dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    errors = np.empty(steps)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * learning_rate * (1 + math.cos(math.pi * step / steps))
        loss = (model(*inputs, edge_index=edges, num_graphs=len(d)).view(-1) - target).square()
        errors[step] = float(loss.detach().mean().sqrt())
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    with torch.no_grad():
        fitted = model(*inputs, edge_index=edges, num_graphs=len(d)).view(-1).double().numpy()
    return CurveFit(d, wanted, fitted, errors, radial_basis)


def _small_model(radial_basis: bool, num_gaussians: int, energies: np.ndarray, seed: int) -> SchNet:
    model = SchNet(
        _CHANNELS,
        _CHANNELS,
        1,
        num_gaussians,
        _CUTOFF,
        cutoff_fn="none",
        filters="exact",
        mean=float(energies.mean() / 2),
        std=float(energies.std()) or 1.0,
        seed=seed,
    )
    if not radial_basis:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = FilterNetwork(1, _CHANNELS)
            network.reset_parameters()
        model.distance_expansion = RawDistance()  # type: ignore[assignment]
        cast(InteractionBlock, model.interactions[0]).conv.nn = network
    return model


def plot_h2(fits: list[CurveFit], path: str | os.PathLike[str]) -> Path:
    """Draw fitted curves, and how fast their errors fell.

    Args:
        fits: To the same energies.
        path: Of the figure; its suffix says which kind.

    Returns:
        The file written.

    Raises:
        ValueError: If there is no fit.
    """
    if not fits:
        raise ValueError("fits is empty; give at least one.")
    figure = new_figure(9.0, 3.8)
    left, right = figure.subplots(1, 2)
    first = fits[0]
    left.plot(first.distances, first.reference, "x", color="0.2", ms=4, label="reference")
    for number, one in enumerate(fits):
        name = "Gaussians of the distance" if one.radial_basis else "the distance itself"
        color = OKABE_ITO[number % len(OKABE_ITO)]
        left.plot(one.distances, one.fitted, color=color, lw=1.3, label=name)
        right.semilogy(np.arange(len(one.errors)), one.errors, color=color, lw=0.9)
    left.set(xlabel="H–H distance (Å)", ylabel="energy (eV)", title="fits of H2")
    right.set(xlabel="step of Adam", ylabel="RMSE (eV)", title="error of all points")
    left.legend(frameon=False, fontsize="small")
    return save_figure(figure, path)
