"""Have forces a curl? The work along a closed loop in the space of all positions."""

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase.calculators.calculator import BaseCalculator
from torch import nn

from pyg_schnet.simulation.calculator import EnergyAndForces, energy_and_forces

if TYPE_CHECKING:
    from ase import Atoms

_ORDER = 8  # of the Gauss-Legendre rule on each part of a loop
_MOST_PARTS = 1024
_HARMONICS = 2


@dataclass(frozen=True)
class ClosedLoop:
    r"""What :func:`closed_loop` found.

    Attributes:
        work: :math:`\oint \mathbf F \cdot d\mathbf r`, eV: zero for the gradient of an energy.
        energy_range: Highest less lowest energy on the loop, eV.
        relative: ``abs(work) / energy_range``.
        deviation: The largest of :math:`|E(s) - E(0) + \int_0^s \mathbf F \cdot d\mathbf r|` along
            the loop, by ``energy_range``: zero if forces are minus the gradient of the energy.
        energy_change: Energy at the end less that at the start, eV.
        quadrature_error: Change of ``work`` when the points were last doubled, eV.
        points: Evaluations of forces in the last quadrature.

    Example:
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> loop = closed_loop(EMT(), molecule("N2"))
        >>> abs(loop.work) < 1e-6 < loop.energy_range
        True
    """

    work: float
    energy_range: float
    relative: float
    deviation: float
    energy_change: float
    quadrature_error: float
    points: int


def closed_loop(
    potential: nn.Module | BaseCalculator | str | os.PathLike[str],
    atoms: "Atoms",
    *,
    amplitude: float = 0.05,
    seed: int = 0,
    tolerance: float = 1e-7,
) -> ClosedLoop:
    r"""Work of the forces along a closed loop in the space of all positions.

    .. math::
        \mathbf r(s) = \mathbf r_0 + \sum_{k=1}^{2} \bigl( \mathbf a_k (\cos 2\pi k s - 1)
        + \mathbf b_k \sin 2\pi k s \bigr), \qquad
        W = \oint \mathbf F \cdot d\mathbf r

    with :math:`\mathbf a_k, \mathbf b_k` drawn from a normal distribution, so that coordinates move
    by ``amplitude`` (root mean square). The integral is by Gauss-Legendre rules of order 8 on equal
    parts of the loop, which are halved until the work changes by less than ``tolerance`` of the
    energy range, or there are 1024 of them.

    Args:
        potential: What :class:`Calculator` takes, or any calculator of ASE.
        atoms: Where the loop begins. It is not changed; constraints are ignored.
        amplitude: Å.
        seed: Of the loop.
        tolerance: Of the quadrature, relative to the energy range.

    Raises:
        ValueError: If ``amplitude`` or ``tolerance`` is not above 0; as
            :meth:`Calculator.evaluator`.

    Example:
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> closed_loop(EMT(), molecule("N2")).relative < 1e-6
        True
    """
    for name, value in {"amplitude": amplitude, "tolerance": tolerance}.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and above 0, got {value}.")
    evaluate = energy_and_forces(potential, atoms)
    loop = Loop(atoms.positions, amplitude, seed)
    start = evaluate(loop.positions(0.0))[0]
    parts, last = 8, math.inf
    while True:
        ends = np.array([evaluate(loop.positions(s))[0] for s in np.linspace(0, 1, parts + 1)])
        works, energies = _works(loop, evaluate, parts)
        work = float(works.sum())
        reach = float(np.ptp(np.concatenate([ends, energies])))
        error, last = abs(work - last), work
        if error <= tolerance * reach or parts >= _MOST_PARTS:
            break
        parts *= 2
    missing = ends[1:] - ends[0] + np.cumsum(works)
    least = np.finfo(np.float64).tiny  # a potential may be constant
    return ClosedLoop(
        work=work,
        energy_range=reach,
        relative=abs(work) / max(reach, least),
        deviation=float(np.abs(missing).max()) / max(reach, least),
        energy_change=evaluate(loop.positions(1.0))[0] - start,
        quadrature_error=error,
        points=parts * _ORDER,
    )


class Loop:
    """The loop of :func:`closed_loop`.

    Args:
        start: (N, 3) Å.
        amplitude: Å.
        seed: Of the coefficients.

    Attributes:
        cosines: (2, N, 3), of the two harmonics.
        sines: (2, N, 3).
    """

    def __init__(self, start: np.ndarray, amplitude: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._start = start.copy()
        self._k = 2 * np.pi * np.arange(1, _HARMONICS + 1)
        # Each cosine and sine has a mean square of one half.
        size = amplitude / math.sqrt(_HARMONICS)
        self.cosines, self.sines = size * rng.standard_normal((2, _HARMONICS, *start.shape))

    def positions(self, s: float) -> np.ndarray:
        """Positions (N, 3) at 0 <= s <= 1."""
        moved = np.tensordot(np.cos(self._k * s) - 1, self.cosines, 1)
        return self._start + moved + np.tensordot(np.sin(self._k * s), self.sines, 1)

    def tangent(self, s: float) -> np.ndarray:
        """Their derivative by s, (N, 3)."""
        along = np.tensordot(-self._k * np.sin(self._k * s), self.cosines, 1)
        return along + np.tensordot(self._k * np.cos(self._k * s), self.sines, 1)


def _works(loop: Loop, evaluate: EnergyAndForces, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Work on each part of the loop, and the energies at the nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(_ORDER)
    works, energies = np.zeros(parts), np.empty((parts, _ORDER))
    for part in range(parts):
        for i in range(_ORDER):
            s = (part + 0.5 * (nodes[i] + 1)) / parts
            energies[part, i], forces = evaluate(loop.positions(s))
            works[part] += 0.5 / parts * weights[i] * np.vdot(forces, loop.tangent(s))
    return works, energies.ravel()
