"""Filters of all layers as splines on one grid: what a network gives, for the price of a lookup."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pyg_schnet.nn.activation import ShiftedSoftplus
from pyg_schnet.nn.basis import GaussianSmearing
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.ops import Grid, fingerprint, spline_weights, ssp, table_coefficients

# Relative errors of W and of W' that a table may have; float32 cannot show smaller ones.
TOLERANCE = {torch.float32: (1e-6, 1e-5), torch.float64: (1e-10, 1e-9)}
_FIRST_STEP = 0.25  # in widths of a Gaussian: where a single one meets the tolerance of float32
_LAST_STEP = 2.0**-9  # Å
_FIXED: ContextVar[bool] = ContextVar("fixed", default=False)


@contextmanager
def fixed_filters() -> Iterator[None]:
    """Within it, nobody asks for gradients of the filters, so tables are kept from call to call.

    Example:
        >>> with fixed_filters():
        ...     pass
    """
    token = _FIXED.set(True)
    try:
        yield
    finally:
        _FIXED.reset(token)


def filters_are_fixed() -> bool:
    """Whether :func:`fixed_filters` is at work.

    Example:
        >>> filters_are_fixed()
        False
    """
    return _FIXED.get()


@dataclass(frozen=True)
class EdgeFilters:
    """The filter of each edge, not yet multiplied out.

    Attributes:
        rows: One filter for each edge (E, F), or the coefficients of a table (K, F).
        weights: Factors of the rows, the cutoff function included: (E,), or (E, 6) for a table.
        knot: (E,) first of the six rows of a table that an edge reads; None without table.
    """

    rows: Tensor
    weights: Tensor
    knot: Tensor | None = None

    def values(self) -> Tensor:
        """The filter of each edge with its factors, (E, F)."""
        if self.knot is None:
            return self.rows * self.weights.view(-1, 1)
        read = self.knot.long().unsqueeze(1) + torch.arange(6, device=self.knot.device)  # [E, 6]
        return torch.einsum("em,emf->ef", self.weights, self.rows[read])


class FilterTable:
    r"""The filter networks of all layers on a grid, read off by a spline of degree five.

    .. math::
        W_l(d) \approx \sum_{m=0}^{5} B_m(d/h - k)\, C_{l,k+m}

    A filter depends on the distance alone, so a network per edge says the same thing many times.
    The coefficients are computed from the networks whenever those may have changed, gradients
    flow through them, and the interpolated energy has exact forces of its own.

    Args:
        basis: The radial basis.
        networks: One filter network for each layer, all of the same sizes.
        end: Å, where the distances end.
        dtypes: Dtypes whose grids are to be made at once; others when first asked for.

    The grid of training is made from the networks as they are at first and stays until
    :meth:`measure` is called, as :class:`~pyg_schnet.SchNet` does when weights are loaded and a
    training run at each validation. Constant networks, in evaluation, get a grid of their own,
    refined anew when they have changed.

    Attributes:
        grids: The grids of training, by dtype; a run that goes on takes those it had.

    Example:
        >>> basis, network = GaussianSmearing(0.0, 5.0, 20), FilterNetwork(20, 8)
        >>> table = FilterTable(basis, [network], 5.0)
        >>> d = torch.tensor([0.8, 2.1])
        >>> found = table.look_up(d, torch.ones(2))[0].values()
        >>> bool((found - network(basis(d))).abs().max() < 1e-5)
        True
    """

    def __init__(
        self,
        basis: GaussianSmearing,
        networks: Sequence[FilterNetwork],
        end: float,
        dtypes: Sequence[torch.dtype] = (torch.float32,),
    ) -> None:
        self.basis = basis
        self.networks = list(networks)
        self.end = end
        self._kept: tuple[object, Grid, Tensor] | None = None
        self._layers = [network[place] for network in self.networks for place in (0, 2)]
        self._ends_in_ssp = isinstance(self.networks[0][-1], ShiftedSoftplus)
        self.grids = {dtype: self.refined_grid(dtype) for dtype in dtypes}

    @staticmethod
    def fits(basis: nn.Module, networks: Sequence[nn.Module]) -> bool:
        """Whether these are the package's own modules, with nothing hooked onto them."""
        if type(basis) is not GaussianSmearing or not networks:
            return False
        return all(
            type(network) is FilterNetwork
            and not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
            for network in networks
        )

    @property
    def _parameters(self) -> list[Tensor]:
        # By way of the modules, because a parameter may be replaced; past __getattr__, for speed.
        names = ("weight", "bias")
        return [cast(Tensor, layer._parameters[n]) for layer in self._layers for n in names]

    def is_constant(self) -> bool:
        """Whether the coefficients can be kept: nobody will ask for gradients of the networks.

        Under torch.compile they are computed in each call.
        """
        if torch.compiler.is_compiling():
            return False
        return (
            filters_are_fixed()
            or not torch.is_grad_enabled()
            or not any(p.requires_grad for p in self._parameters)
        )

    def look_up(self, distance: Tensor, scale: Tensor, backend: str = "auto") -> list[EdgeFilters]:
        """What the convolution of each layer needs.

        Args:
            distance: (E,), Å.
            scale: (E,) factor of each filter, such as the cutoff function.
            backend: See :func:`pyg_schnet.ops.choose_backend`.
        """
        grid, coefficients = self.coefficients(distance.dtype, backend)
        knot, weights = spline_weights(scale, distance, grid, backend)
        return [EdgeFilters(table, weights, knot) for table in coefficients.unbind(0)]

    def coefficients(self, dtype: torch.dtype, backend: str = "auto") -> tuple[Grid, Tensor]:
        """The grid, and the coefficients of all layers on it, (layers, K, F).

        They have gradients unless they are constant.
        """
        if not self.is_constant():
            grid = self.grid(dtype)
            return grid, table_coefficients(
                self._values(grid.samples(self._device), dtype), backend
            )
        if self._device.type != "cpu":
            grid = self.grid(dtype)
            with torch.no_grad():
                values = self._values(grid.samples(self._device), dtype)
                return grid, table_coefficients(values, backend)
        return self._constant(dtype)

    def constant_grid(self, dtype: torch.dtype) -> Grid:
        """The grid of the networks as they are, on the CPU; refined anew when they have changed."""
        return self._constant(dtype)[0]

    def _constant(self, dtype: torch.dtype) -> tuple[Grid, Tensor]:
        # Weights also change behind autograd's back (p.data.copy_), so their bytes are compared.
        key = (dtype, fingerprint([*self._parameters, self.basis.offset, self.basis.gamma]))
        kept = self._kept  # another thread may keep another dtype's in the meantime
        if kept is None or kept[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                grid = self.refined_grid(dtype)
                values = self._values(grid.samples(self._device), torch.float64)
                kept = self._kept = key, grid, table_coefficients(values).to(dtype)
        return kept[1:]

    def grid(self, dtype: torch.dtype) -> Grid:
        """The grid of training in a dtype."""
        if dtype not in self.grids:
            self.grids[dtype] = self.refined_grid(dtype)
        return self.grids[dtype]

    def measure(self) -> None:
        """Keep the grids of training that are good for the networks as they are; renew others."""
        for dtype, grid in self.grids.items():
            if not self._is_within(self.error(grid), dtype):
                self.grids[dtype] = self.refined_grid(dtype)

    def steps(self) -> dict[str, tuple[float, int]]:
        """Step and number of intervals of the grids of training, by name of the dtype."""
        return {str(dtype): (grid.step, grid.intervals) for dtype, grid in self.grids.items()}

    def set_steps(self, steps: dict[str, tuple[float, int]]) -> None:
        """Go on with the grids that :meth:`steps` told, so that the numbers are the same.

        Args:
            steps: What it gave, perhaps for other dtypes too.
        """
        for dtype in self.grids:
            if str(dtype) in steps:
                self.grids[dtype] = Grid(*steps[str(dtype)])

    @staticmethod
    def _is_within(errors: tuple[float, float], dtype: torch.dtype) -> bool:
        tolerance = TOLERANCE.get(dtype, TOLERANCE[torch.float32])
        return all(e <= t for e, t in zip(errors, tolerance, strict=True))

    def refined_grid(self, dtype: torch.dtype) -> Grid:
        """A grid for the networks as they are, with an :meth:`error` within the tolerance.

        Differences of values divided by a small step lose digits, so in float64 there is a finest
        grid that pays; its error may be up to ten times the tolerance.
        """
        tolerance = TOLERANCE.get(dtype, TOLERANCE[torch.float32])
        step = _FIRST_STEP / float((2 * self.basis.gamma).sqrt())
        best, least = None, math.inf
        while True:
            grid = Grid.covering(self.end, max(step, _LAST_STEP))
            errors = self.error(grid)
            if self._is_within(errors, dtype):
                return grid
            if not all(math.isfinite(e) for e in errors):
                return grid  # weights that are not finite; the result will say so
            if step <= _LAST_STEP:
                warnings.warn(
                    f"The filters change too fast for a table: relative errors {errors[0]:.1e} of "
                    f"W and {errors[1]:.1e} of its slope at steps of {grid.step:g} Å; use "
                    'filters="exact".',
                    stacklevel=2,
                )
                return grid
            # Errors fall with the sixth and fifth power of the step.
            worst = max(e / t for e, t in zip(errors, tolerance, strict=True))
            if worst >= least and least <= 10.0:
                assert best is not None
                return best
            if worst < least:
                best, least = grid, worst
            step *= min(0.9, max(0.5, 0.95 * worst ** (-1 / 5)))

    def error(self, grid: Grid) -> tuple[float, float]:
        """Largest relative error of W, and of its slope, measured between the knots in float64.

        Relative to the largest value of the layer.
        """
        with torch.inference_mode(False), torch.no_grad():
            values = self._values(grid.samples(self._device), torch.float64)
            coefficients = table_coefficients(values)
            starts = torch.arange(grid.intervals, device=self._device).double() * grid.step
            # The same places in each interval, so that the weights are the same everywhere.
            places = torch.tensor([1 / 6, 1 / 2, 5 / 6], dtype=torch.float64, device=self._device)
            exact = self._values_and_slopes((places.view(-1, 1) * grid.step + starts).view(-1))
            errors = []
            for order, wanted in enumerate(exact):
                one = torch.ones_like(places)
                _, weights = spline_weights(one, places * grid.step, grid, order=order)
                found = torch.cat(
                    [
                        sum(
                            weight * coefficients[:, m : m + grid.intervals]
                            for m, weight in enumerate(row)
                        )
                        for row in weights.tolist()
                    ],
                    1,
                )
                largest = wanted.abs().amax((1, 2)).clamp(min=1e-30)
                errors.append(float(((found - wanted).abs().amax((1, 2)) / largest).max()))
        return errors[0], errors[1]

    @property
    def _device(self) -> torch.device:
        return self._parameters[0].device

    def _values(self, d: Tensor, dtype: torch.dtype) -> Tensor:
        """All networks at the distances ``d``, (layers, len(d), F), in one batched product."""
        expanded = self.basis(d).to(dtype)  # [K, G]
        parameters = self._parameters
        first, first_bias, last, last_bias = (parameters[n::4] for n in range(4))
        layers, size = len(first), first[0].size(0)
        weight, bias = torch.cat(first).to(dtype), torch.cat(first_bias).to(dtype)
        hidden = ssp(nn.functional.linear(expanded, weight, bias))  # [K, layers F]
        hidden = hidden.view(-1, layers, size).transpose(0, 1)
        weights = torch.stack(last).to(dtype).transpose(1, 2)
        biases = torch.stack(last_bias).to(dtype).unsqueeze(1)
        out = torch.baddbmm(biases, hidden, weights)  # [layers, K, F]
        return ssp(out) if self._ends_in_ssp else out

    def _values_and_slopes(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """All networks and their derivatives at ``d``, float64, (layers, len(d), F)."""
        basis = self.basis(d)
        slopes = -2 * self.basis.gamma * (d.view(-1, 1) - self.basis.offset) * basis
        values, derivatives = [], []
        for network in self.networks:
            first, last = cast(nn.Linear, network[0]), cast(nn.Linear, network[2])
            inner = basis @ first.weight.double().T + first.bias.double()
            inner_slope = torch.sigmoid(inner) * (slopes @ first.weight.double().T)
            value = ssp(inner) @ last.weight.double().T + last.bias.double()
            slope = inner_slope @ last.weight.double().T
            if self._ends_in_ssp:
                value, slope = ssp(value), torch.sigmoid(value) * slope
            values.append(value)
            derivatives.append(slope)
        return torch.stack(values), torch.stack(derivatives)
