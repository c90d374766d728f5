"""Alchemical pathways: one molecule turned into another, atom by atom a little at a time."""

import importlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from pyg_schnet.analysis.canvas import OKABE_ITO, new_figure, save_figure
from pyg_schnet.analysis.structure import Structure, atomic_number, network_of, unit_of
from pyg_schnet.nn.fading import FractionalAtoms

if TYPE_CHECKING:
    from collections.abc import Iterator

_BOND = 1.35  # Å, longest of an H to what it is bound to
_TURNS = 24  # about an axis, of the ways to lay one molecule onto another
_ROUNDS = 20


@dataclass(frozen=True)
class Transformation:
    """Two ends of a pathway on the same atoms.

    Attributes:
        z: (N,) atomic numbers at the start, 0 where an atom is not there yet.
        other: (N,) atomic numbers at the end, 0 where an atom is gone.
        pos: (N, 3) positions at the start, Å.
        other_pos: (N, 3) positions at the end, Å.
    """

    z: np.ndarray
    other: np.ndarray
    pos: np.ndarray
    other_pos: np.ndarray

    def start(self) -> Structure:
        """The molecule at the start, in float64."""
        return _present(self.z, self.pos)

    def end(self) -> Structure:
        """The molecule at the end, in float64."""
        return _present(self.other, self.other_pos)


@dataclass(frozen=True)
class AlchemicalPath:
    """Energies along a pathway.

    Attributes:
        fraction: (K,) how far along the pathway, 0..1.
        energy: (K,) in ``unit``.
        contributions: (K, N) of the atoms, faded as they are, in ``unit``; as exact as the dtype
            of the model.
        pos: (K, N, 3) positions, Å.
        unit: Of the model's property, usually eV.
    """

    fraction: np.ndarray
    energy: np.ndarray
    contributions: np.ndarray
    pos: np.ndarray
    unit: str

    @property
    def bend(self) -> np.ndarray:
        """(K,) energy less the straight line between the ends, in ``unit``."""
        first, last = self.energy[0], self.energy[-1]
        along = (self.fraction - self.fraction[0]) / (self.fraction[-1] - self.fraction[0])
        return self.energy - (first + along * (last - first))


def substitute(structure: Any, sites: Sequence[int], element: int | str = "N") -> Transformation:
    """Atoms become another element, and the hydrogen bound to each vanishes.

    So benzene becomes pyridine (one site), pyrazine (two opposite ones) or s-triazine (every
    second one). The positions stay; see :func:`with_end`.

    Args:
        structure: ``Data`` or ASE's ``Atoms``; a molecule.
        sites: Numbers of the atoms that change.
        element: What they become.

    Raises:
        ValueError: If there is no such atom, or it is bound to no hydrogen, or to several.

    Example:
        >>> from ase.build import molecule
        >>> found = substitute(molecule("C6H6"), [0])
        >>> found.other.tolist()
        [7, 6, 6, 6, 6, 6, 0, 1, 1, 1, 1, 1]
    """
    given = _molecule(structure)
    z, pos = given.z.numpy(force=True), given.pos.double().numpy(force=True)
    other = z.copy()
    for site in sites:
        if not 0 <= site < len(z):
            raise ValueError(f"sites must be atoms, 0..{len(z) - 1}, got {site}.")
        near = np.linalg.norm(pos - pos[site], axis=1) < _BOND
        bound = np.flatnonzero(near & (z == 1) & (np.arange(len(z)) != site))
        if len(bound) != 1:
            raise ValueError(
                f"Atom {site} must be bound to one hydrogen, which is to vanish, but has "
                f"{len(bound)} within {_BOND} Å; make the Transformation by its arrays instead."
            )
        other[site], other[bound[0]] = atomic_number(element), 0
    return Transformation(z, other, pos, pos.copy())


def with_end(transformation: Transformation, structure: Any) -> Transformation:
    """The transformation with positions of its own at the end.

    The structure is laid onto the start by turns and shifts, and its atoms are matched by element
    and place, so that together they move as little as possible (least squares). Atoms that are not
    there at the end keep the place that they had.

    Args:
        transformation: From start to end.
        structure: The molecule at the end, its atoms in any order.

    Raises:
        ValueError: If it has other elements than the end.

    Example:
        >>> from ase.build import molecule
        >>> path = with_end(substitute(molecule("C6H6"), [0]), molecule("C5H5N"))
        >>> moved = np.linalg.norm(path.other_pos - path.pos, axis=1)
        >>> bool(0.01 < moved.max() < 0.25)
        True
    """
    given = _molecule(structure)
    z, pos = given.z.numpy(force=True), given.pos.double().numpy(force=True)
    there = np.flatnonzero(transformation.other)
    wanted = transformation.other[there]
    if sorted(z) != sorted(wanted):
        raise ValueError(
            f"structure has the elements {sorted(z.tolist())}, but the transformation ends with "
            f"{sorted(wanted.tolist())}."
        )
    placed = transformation.other_pos.copy()
    placed[there] = _laid_onto(pos, z, transformation.pos[there], wanted)
    return replace(transformation, other_pos=placed)


def alchemical_path(
    model: nn.Module,
    transformation: Transformation,
    fractions: np.ndarray | int = 21,
    *,
    positions: str = "fixed",
) -> AlchemicalPath:
    r"""Energies while one molecule becomes another.

    .. math::
        x_i^0(\lambda) &= (1 - \lambda)\, a_{A_i} + \lambda\, a_{B_i} \\
        \alpha_i(\lambda) &= 1 - \lambda, \quad \lambda \quad \mathrm{or} \quad 1

    with the factor :math:`\alpha` of the messages and the contribution of an atom that vanishes,
    appears or stays (:class:`~pyg_schnet.nn.fading.FractionalAtoms`). At the ends the energies are
    those of the two molecules. Thesis (TU Berlin, 2018), equations 3.14 and 3.15, figure 3.16.

    Args:
        model: A :class:`~pyg_schnet.SchNet`, :class:`~pyg_schnet.DTNN` or
            :class:`~pyg_schnet.Potential` with the head "atomwise" and ``normalize=None``.
        transformation: From start to end.
        fractions: (K,) values of lambda in 0..1, rising; or how many, from 0 to 1.
        positions: "fixed" keeps those of the start, "interpolated" moves along straight lines to
            those of the end.

    Raises:
        ValueError: If ``positions`` is another word, the fractions do not rise within 0..1, or
            atoms cannot fade from the model.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import pretrained
        >>> path = alchemical_path(pretrained("md17-uracil"), substitute(molecule("C6H6"), [0]), 5)
        >>> path.energy.shape, path.contributions.shape
        ((5,), (5, 12))
    """
    if positions not in ("fixed", "interpolated"):
        raise ValueError(f"positions must be 'fixed' or 'interpolated', got {positions!r}.")
    steps = np.linspace(0.0, 1.0, fractions) if isinstance(fractions, int) else fractions
    steps = np.asarray(steps, dtype=np.float64)
    if steps.ndim != 1 or len(steps) < 2 or (np.diff(steps) <= 0).any() or _outside(steps):
        raise ValueError(
            f"fractions must be at least two numbers that rise within 0..1, got {steps.tolist()}."
        )
    network, given = network_of(model), transformation
    parameter = next(network.parameters())
    copies, atoms = len(steps), len(given.z)
    along = steps if positions == "interpolated" else np.zeros(copies)
    pos = given.pos + along[:, None, None] * (given.other_pos - given.pos)  # [K, N, 3]
    whole = np.outer(1 - steps, given.z > 0) + np.outer(steps, given.other > 0)  # [K, N]
    fraction = np.repeat(steps[:, None], atoms, axis=1)

    def tensor(values: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
        flat = values.reshape(-1, 3) if values.ndim == 3 else values.reshape(-1)
        return torch.as_tensor(flat, dtype=dtype or parameter.dtype, device=parameter.device)

    def numbers(first: np.ndarray, second: np.ndarray) -> torch.Tensor:
        return tensor(np.tile(np.where(first > 0, first, second), copies), torch.long)

    fading = FractionalAtoms(
        presence=tensor(whole), other=numbers(given.other, given.z), fraction=tensor(fraction)
    )
    batch = torch.arange(copies, device=parameter.device).repeat_interleave(atoms)
    inputs = numbers(given.z, given.other), tensor(pos), batch
    with torch.no_grad():
        energy = network(*inputs, num_graphs=copies, dtype=torch.float64, fractional=fading)
        single = network.atomwise(*inputs, fractional=fading)
    return AlchemicalPath(
        steps,
        energy[:, 0].numpy(force=True),
        single[:, 0].double().view(copies, atoms).numpy(force=True),
        pos,
        unit_of(model),
    )


def plot_paths(paths: dict[str, AlchemicalPath], path: str | os.PathLike[str]) -> Path:
    """Draw energies along pathways, and how far they depart from straight lines.

    Args:
        paths: By name, such as "pyridine".
        path: Of the figure; its suffix says which kind.

    Returns:
        The file written.

    Raises:
        ValueError: If there is no pathway.
    """
    if not paths:
        raise ValueError("paths is empty; give at least one pathway.")
    figure = new_figure(9.0, 3.8)
    left, right = figure.subplots(1, 2)
    unit = next(iter(paths.values())).unit
    for number, (name, one) in enumerate(paths.items()):
        style = {"color": OKABE_ITO[number % len(OKABE_ITO)], "marker": "o", "ms": 2.5, "lw": 1.2}
        left.plot(one.fraction, one.energy - one.energy[0], label=name, **style)
        right.plot(one.fraction, one.bend, label=name, **style)
    right.axhline(0.0, color="0.3", lw=0.6)
    left.set(xlabel="λ", ylabel=f"E(λ) − E(0) ({unit})", title="along the pathway")
    right.set(xlabel="λ", ylabel=f"E(λ) less its chord ({unit})", title="departure from a line")
    left.legend(frameon=False, fontsize="small")
    return save_figure(figure, path)


def _outside(steps: np.ndarray) -> bool:
    return bool(steps.min() < 0 or steps.max() > 1 or not np.isfinite(steps).all())


def _molecule(structure: Any) -> Structure:
    given = Structure.of(structure)
    if given.cell is not None:
        raise ValueError("Pathways are of molecules; this structure repeats.")
    return given


def _present(z: np.ndarray, pos: np.ndarray) -> Structure:
    return Structure(torch.as_tensor(z[z > 0]), torch.as_tensor(pos[z > 0]))


def _laid_onto(
    pos: np.ndarray, z: np.ndarray, target: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Positions turned, shifted and reordered so that they lie as near to the target as they can.

    Matching and turning by turns, from many orientations: each step can only come nearer, and the
    best of the ends is taken.
    """
    assignment = importlib.import_module("scipy.optimize").linear_sum_assignment
    middle = target.mean(axis=0)
    pos, aim = pos - pos.mean(axis=0), target - middle
    mismatch = z[:, None] != wanted  # [N, N]
    best, least = pos, math.inf
    for turn in _orientations(pos, aim):
        turned, before = pos @ turn.T, math.inf
        for _ in range(_ROUNDS):
            cost = np.square(turned[:, None] - aim).sum(axis=2)
            _, order = assignment(np.where(mismatch, 1e6, cost).T)
            turned = pos[order] @ _best_turn(pos[order], aim).T
            missing = float(np.square(turned - aim).sum())
            if missing < least:
                best, least = turned, missing
            if missing > before - 1e-12:
                break
            before, turned = missing, pos @ _best_turn(pos[order], aim).T
    return best + middle


def _orientations(pos: np.ndarray, aim: np.ndarray) -> "Iterator[np.ndarray]":
    """Turns of the principal axes of one onto those of the other, and about the last of these."""
    _, _, own = np.linalg.svd(pos)
    _, _, other = np.linalg.svd(aim)
    for flip in (np.diag([1.0, 1.0, 1.0]), np.diag([1.0, -1.0, -1.0])):
        for k in range(_TURNS):
            c, s = math.cos(2 * math.pi * k / _TURNS), math.sin(2 * math.pi * k / _TURNS)
            about = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
            turn = other.T @ about @ flip @ own
            if np.linalg.det(turn) < 0:
                turn = other.T @ np.diag([1.0, 1.0, -1.0]) @ about @ flip @ own
            yield turn


def _best_turn(pos: np.ndarray, aim: np.ndarray) -> np.ndarray:
    """The rotation that brings ``pos`` nearest to ``aim`` (Kabsch, Acta Cryst. A 32, 922, 1976)."""
    left, _, right = np.linalg.svd(aim.T @ pos)
    sign = np.sign(np.linalg.det(left @ right))
    return left @ np.diag([1.0, 1.0, sign]) @ right
