r"""Gradients of a loss on energies, or on energies and forces without differentiating twice.

For a loss L(E, F) the parameters see E and F only through

.. math::
    J = \sum_m \bar E_m E_m + \dot E, \qquad
    \dot E = \sum_i \mathbf v_i \cdot \frac{\partial E}{\partial \mathbf r_i}, \quad
    \mathbf v = -\bar{\mathbf F}

with :math:`\bar E = \partial L / \partial E`, :math:`\bar F = \partial L / \partial F` held fixed:
:math:`\dot E` is the change of the energy as the atoms move along v. Differentiating J once, in
reverse, takes four sweeps over the layers in all:

=========  =================================  =====================================================
values     x, h, y, a                         forwards
adjoints   :math:`g = \partial E/\partial x`  backwards; they end in the forces
tangents   :math:`\dot x`                     forwards, along v
loss       :math:`\bar x`                     backwards; they end in the gradients of the weights
=========  =================================  =====================================================

A loss on energies alone needs the first and the last of them. The adjoint of :math:`\dot x` is g
itself, which the second sweep has left. Of a layer
:math:`q = V y` follows :math:`\bar V = \bar q y^\top + g_q \dot y^\top`;
of :math:`a = \mathrm{ssp}(q)`,
:math:`\bar q = s \bar a + s (1 - s)\, \dot q\, g_a` with s the logistic function of q; and of the
convolution, with :math:`w_e = \sum_m b_{em} T_{k+m}` and :math:`\dot w_e` likewise from
:math:`\dot b_e = b'_e \dot d_e`,

.. math::
    \dot y_i &= \sum_e w_e \dot h_j + \dot w_e h_j \\
    \bar h_j &= \sum_e w_e \bar y_i + \dot w_e g_{y,i} \\
    \bar T_{k+m} &\mathrel{+}= b_{em} (h_j \bar y_i + \dot h_j g_{y,i})
        + \dot b_{em} h_j g_{y,i}

Pearlmutter, Neural Computation 6, 147 (1994), for the product of a Hessian with a vector.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops.backends import choose_backend
from pyg_schnet.ops.cfconv import Graph
from pyg_schnet.ops.spline import Grid


@dataclass(frozen=True)
class DualNetwork:
    """A SchNet as plain tensors.

    Attributes:
        weights: The embedding (100, H); of each layer :math:`U` (F, H), :math:`V` (H, F), v (H,),
            :math:`C` (H, H), c (H,), as :class:`~pyg_schnet.nn.InteractionBlock` names them; and of
            the readout :math:`A_1` (R, H), :math:`a_1` (R,), :math:`A_2` (1, R), :math:`a_2` (1,).
        filter_weights: Of the filter network of each layer, or of the one that all share, weight
            (F, G) and bias (F,) of the first and (F, F) and (F,) of the second dense layer.
        expanded: The radial basis at :meth:`~pyg_schnet.ops.Grid.samples`, (K + 8, G).
        ends_in_ssp: Whether a shifted softplus follows the second dense layer of the filters.
        grid: Of the tables that the filters are read off.
        cutoff_fn: "cosine", "hard" or "none".
        cutoff: Å.
        std: Factor of the atomic contributions.
    """

    weights: Sequence[Tensor]
    filter_weights: Sequence[Tensor]
    expanded: Tensor
    ends_in_ssp: bool
    grid: Grid
    cutoff_fn: str
    cutoff: float
    std: float


def values_and_forces(
    network: DualNetwork,
    z: Tensor,
    pos: Tensor,
    seed: Tensor,
    graph: Graph,
    shift: Tensor | None = None,
    *,
    normalize: bool = False,
    forces: bool = True,
    virial: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None, Any]:
    r"""The first two sweeps, or the first alone.

    Args:
        network: The model.
        z: Atomic numbers (N,), int64 in 0..99.
        pos: (N, 3), Å.
        seed: (N,) derivative of the total energy in each atomic contribution.
        graph: The edges; on the CPU kernels.
        shift: (E, 3), Å, lattice vectors that belong to the edges; not for undirected graphs.
        normalize: Divide each convolution by the number of neighbours.
        forces: Make the second sweep too.
        virial: Compute :math:`\sum_e \partial E/\partial \mathbf r_e \otimes \mathbf r_e` too.

    Returns:
        The atomic contributions without constants (N,); forces (N, 3), eV/Å, or None; the virial by
        atom (N, 3, 3), eV, or None; and a record for :func:`parameter_gradients`.

    Raises:
        ValueError: If the graph is on another backend, or undirected and periodic.
    """
    if graph.backend != "cpu":
        raise ValueError(
            f"Dual sweeps run on the backend 'cpu' alone, but the graph is on {graph.backend!r}."
        )
    if graph.is_undirected and shift is not None:
        raise ValueError(
            "shift is given with an undirected graph; make it with Graph.of(undirected=False)."
        )
    inverse_count = None
    if normalize:
        inverse_count = graph.num_neighbors.clamp(min=1).to(pos.dtype).reciprocal()
    return _kernels().dual_values(
        network.weights,
        network.filter_weights,
        network.expanded,
        network.ends_in_ssp,
        z,
        pos.detach(),
        seed,
        (graph.edge_index, graph.in_ptr, graph.in_order),
        graph.is_undirected,
        None if shift is None else shift.detach().contiguous(),
        inverse_count,
        network.cutoff_fn,
        network.cutoff,
        network.grid.step,
        network.grid.intervals,
        network.std,
        forces,
        virial,
    )


def parameter_gradients(
    record: Any,
    weight: Tensor,
    direction: Tensor | None,
    strain: Tensor | None = None,
    batch: Tensor | None = None,
) -> list[Tensor]:
    """The last two sweeps: gradients of J in the weights.

    Args:
        record: Of :func:`values_and_forces`; it may be used again.
        weight: (N,) derivative of the loss in each atomic contribution.
        direction: (N, 3), v; None, if the loss depends on energies alone.
        strain: (B, 3, 3), symmetric, along which cells and positions change beside v.
        batch: (N,) molecule of each atom, given with ``strain``.

    Returns:
        A tensor like each of ``network.filter_weights``, then of ``network.weights``.
    """
    return _kernels().dual_gradients(record, weight, direction, strain, batch)


def is_available(dtype: torch.dtype, backend: str = "auto") -> bool:
    """Whether the sweeps are compiled for tensors on the CPU.

    Args:
        dtype: Of the model.
        backend: What the model asks for.

    Example:
        >>> is_available(torch.bfloat16)
        False
    """
    return choose_backend(torch.device("cpu"), dtype, backend) == "cpu"


def _kernels() -> Any:
    return importlib.import_module("pyg_schnet.ops.backends.cpu.dual")
