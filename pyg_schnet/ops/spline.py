r"""A uniform B-spline of degree five: grid, knot values to coefficients, basis functions.

.. math::
    s(d) = \sum_{m=0}^{5} B_m(t)\, C_{k+m}, \qquad
    k = \lfloor d / h \rfloor, \quad t = d/h - k

Six rows per distance instead of the four of a cubic, but errors fall as :math:`h^6` (values) and
:math:`h^5` (slopes) instead of :math:`h^4` and :math:`h^3`: for slopes good to 1e-5 the grid has
four times fewer knots, and a table is made anew at every training step. Four derivatives are
continuous.
"""

import functools
import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

DEGREE = 5
ROWS = DEGREE + 1
# Knot values to coefficients: the inverse of the discrete B-spline, (66 + 52 cos w + 2 cos 2w)/120,
# matched as a series in w up to w^8 by a filter of nine taps. Interpolation would need a recursive
# filter; this keeps its order, nearly its constant, and each coefficient is local.
PREFILTER = tuple(
    float(Fraction(a, b))
    for a, b in ((2561, 1152), (-11141, 14400), (2743, 14400), (-443, 14400), (139, 57600))
)
REACH = len(PREFILTER) - 1
# Steps are multiples of this, so that k * h is exact in float32 up to 1024 Å and t loses nothing.
STEP_UNIT = 2.0**-14


@functools.cache
def basis_polynomials(order: int) -> tuple[tuple[float, ...], ...]:
    r"""Coefficients of :math:`B_m^{(p)}(t)` in rising powers of t, for m = 0..5, without 1/h^p.

    Example:
        >>> [row[0] * 120 for row in basis_polynomials(0)]
        [1.0, 26.0, 66.0, 26.0, 1.0, 0.0]
    """
    rows = []
    for m in range(ROWS):
        # B_m(t) = sum_j (-1)^j C(6, j) (t + 5 - m - j)_+^5 / 5!
        powers = [Fraction(0)] * ROWS
        for j in range(ROWS - m):
            shift = DEGREE - m - j
            for q in range(ROWS):
                term = math.comb(DEGREE, q) * shift ** (DEGREE - q)
                powers[q] += (-1) ** j * math.comb(ROWS, j) * Fraction(term, math.factorial(DEGREE))
        for _ in range(order):
            powers = [q * value for q, value in enumerate(powers)][1:] + [Fraction(0)]
        rows.append(tuple(float(value) for value in powers))
    return tuple(rows)


@dataclass(frozen=True)
class Grid:
    """Uniform intervals of length ``step`` from 0 to ``intervals * step``.

    Attributes:
        step: h, Å, a multiple of 2^-14.
        intervals: Their number.

    Example:
        >>> grid = Grid(step=0.25, intervals=20)
        >>> grid.step * grid.intervals
        5.0
    """

    step: float
    intervals: int

    @classmethod
    def covering(cls, end: float, step: float) -> "Grid":
        """The grid from 0 to at least ``end`` with steps of at most ``step``, Å.

        Raises:
            ValueError: If ``step`` is smaller than 2^-14 Å or ``end`` not positive.

        Example:
            >>> Grid.covering(5.0, 0.03)
            Grid(step=0.02996826171875, intervals=167)
        """
        exact = math.floor(step / STEP_UNIT) * STEP_UNIT
        if not (exact > 0 and end > 0):
            raise ValueError(f"A grid needs step >= 2^-14 Å and end > 0, got {step} and {end}.")
        return cls(exact, math.ceil(end / exact))

    @property
    def end(self) -> float:
        """End of the grid, Å."""
        return self.step * self.intervals

    @property
    def num_knots(self) -> int:
        """Rows of a table of coefficients, K."""
        return self.intervals + DEGREE

    def samples(self, device: torch.device | None = None) -> Tensor:
        """Distances at which knot values are needed, (K + 8,), float64, some of them below 0."""
        first = -(DEGREE // 2) - REACH
        count = self.num_knots + 2 * REACH
        return torch.arange(first, first + count, dtype=torch.float64, device=device) * self.step
