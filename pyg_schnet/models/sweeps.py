"""Training a SchNet by compiled sweeps over its layers instead of autograd.

Gradients of a loss on energies take a sweep there and one back; of a loss on forces too, two more,
along the adjoint of the forces (:mod:`pyg_schnet.ops.dual`), instead of autograd through autograd.
Numbers are the same, at a fraction of the time; what the sweeps do not know is left to autograd.
"""

from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from pyg_schnet.graph.vectors import shift_vectors
from pyg_schnet.models.inputs import checked_batch, volumes
from pyg_schnet.models.schnet import SchNet
from pyg_schnet.models.sweep_rules import by_autograd, dense_weights
from pyg_schnet.nn.readout import Atomwise
from pyg_schnet.nn.tabulated import FilterTable
from pyg_schnet.ops import Graph, Grid, fingerprint
from pyg_schnet.ops.backends import kernel
from pyg_schnet.ops.dual import (
    DualNetwork,
    parameter_gradients,
    values_and_forces,
)


def energy_and_forces(
    model: SchNet,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None = None,
    edge_index: Tensor | None = None,
    cell: Tensor | None = None,
    cell_shift: Tensor | None = None,
    pbc: Tensor | None = None,
    *,
    num_graphs: int,
    stress: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    r"""Energies and forces from which a loss can be differentiated in the parameters.

    Args:
        model: One that :func:`~pyg_schnet.models.sweep_rules.applies` accepts.
        z: As :meth:`pyg_schnet.SchNet.forward`, and so the other arguments.
        pos: (N, 3), Å.
        batch: (N,) or None.
        edge_index: (2, E) or None.
        cell: (3, 3) or (B, 3, 3), Å, or None.
        cell_shift: (E, 3) or None.
        pbc: (3,) or (B, 3), or None.
        num_graphs: B.
        stress: Compute the stress; needs a ``cell``.

    Returns:
        Energies (B,) in float64, eV; forces (N, 3), eV/Å; and with ``stress`` the stress (B, 3, 3),
        eV/Å³, symmetric, else None. Differentiated twice, they are computed again by autograd.

    Raises:
        ValueError: As :meth:`pyg_schnet.SchNet.forward`.

    Example:
        >>> model = SchNet(32, 32, 2, 20, 5.0)
        >>> z, pos = torch.tensor([8, 1, 1]), torch.rand(3, 3)
        >>> energy, forces, _ = energy_and_forces(model, z, pos, num_graphs=1)
        >>> (energy.sum() + forces.square().sum()).backward()
        >>> model.embedding.weight.grad is not None
        True
    """
    options = _options(
        model, z, pos, batch, edge_index, cell, cell_shift, pbc, num_graphs, True, stress
    )
    energy, forces, virial = _run(options)
    head = cast(Atomwise, model.readout)
    energy = energy + options.pool(head.constant(options.z).view(-1))
    return energy, forces, virial


def learned_energies(
    model: SchNet,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None = None,
    edge_index: Tensor | None = None,
    cell: Tensor | None = None,
    cell_shift: Tensor | None = None,
    pbc: Tensor | None = None,
    *,
    num_graphs: int,
) -> Tensor:
    """Energies without the constants of the readout, differentiable in the parameters.

    Args:
        model: One that :func:`~pyg_schnet.models.sweep_rules.applies` accepts.
        z: As :meth:`pyg_schnet.SchNet.forward`, and so the other arguments.
        pos: (N, 3), Å.
        batch: (N,) or None.
        edge_index: (2, E) or None.
        cell: (3, 3) or (B, 3, 3), Å, or None.
        cell_shift: (E, 3) or None.
        pbc: (3,) or (B, 3), or None.
        num_graphs: B.

    Returns:
        (B,), float64, eV.

    Example:
        >>> model = SchNet(32, 32, 2, 20, 5.0)
        >>> z, pos = torch.tensor([8, 1, 1]), torch.rand(3, 3)
        >>> learned_energies(model, z, pos, num_graphs=1).sum().backward()
        >>> model.embedding.weight.grad is not None
        True
    """
    return _run(
        _options(model, z, pos, batch, edge_index, cell, cell_shift, pbc, num_graphs, False, False)
    )[0]


def learned_by_atoms(
    model: SchNet,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None = None,
    edge_index: Tensor | None = None,
    cell: Tensor | None = None,
    cell_shift: Tensor | None = None,
    pbc: Tensor | None = None,
    *,
    num_graphs: int,
) -> Tensor:
    """What the head makes of each atom without constants, differentiable in the parameters.

    To the sweeps each atom is a molecule of its own; the head combines the numbers.

    Args:
        model: One that :func:`~pyg_schnet.models.sweep_rules.applies_to_atoms` accepts.
        z: As :meth:`pyg_schnet.SchNet.forward`, and so the other arguments.
        pos: (N, 3), Å.
        batch: (N,) or None.
        edge_index: (2, E) or None.
        cell: (3, 3) or (B, 3, 3), Å, or None.
        cell_shift: (E, 3) or None.
        pbc: (3,) or (B, 3), or None.
        num_graphs: B.

    Returns:
        (N, 1), float64; such as the charges that make a dipole.

    Example:
        >>> model = SchNet(32, 32, 2, 20, 5.0, dipole=True)
        >>> z, pos = torch.tensor([8, 1, 1]), torch.rand(3, 3)
        >>> learned_by_atoms(model, z, pos, num_graphs=1).shape
        torch.Size([3, 1])
    """
    options = _options(
        model, z, pos, batch, edge_index, cell, cell_shift, pbc, num_graphs, False, False
    )
    options.by_atoms = True
    return _run(options)[0].view(-1, 1)


def _run(options: "_Options") -> tuple[Tensor, Tensor, Tensor | None]:
    filter_weights = options.table._parameters
    return _EnergyAndForces.apply(
        options, len(filter_weights), *filter_weights, *dense_weights(options.model)
    )


def _options(
    model: SchNet,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None,
    edge_index: Tensor | None,
    cell: Tensor | None,
    cell_shift: Tensor | None,
    pbc: Tensor | None,
    num_graphs: int,
    forces: bool,
    stress: bool,
) -> "_Options":
    dtype = pos.dtype
    batch = checked_batch(z, pos, batch, dtype)
    z = z.long()
    if edge_index is None:
        edge_index, cell_shift = model._search(pos, batch, cell, pbc)
    graph = _graph(edge_index.long(), pos, model.backend, undirected=cell is None)
    shift = None
    if cell is not None:
        shift = shift_vectors(edge_index, cell, cell_shift, batch, dtype)
    given = {"edge_index": edge_index, "cell": cell, "cell_shift": cell_shift}
    return _Options(model, graph, shift, z, pos, batch, num_graphs, given, forces, stress)


def _graph(edge_index: Tensor, pos: Tensor, backend: str, undirected: bool) -> Graph:
    """Each pair once where possible, though one block alone: the sweeps need no second one."""
    found = kernel("cpu", "pairs")(edge_index, pos.size(0)) if undirected else None
    if found:
        pairs, in_ptr, in_order, out_ptr, out_order, blocks = found
        return Graph(pairs, in_ptr, in_order, out_ptr, out_order, blocks, "cpu")
    return Graph.of(edge_index, pos.size(0), dtype=pos.dtype, backend=backend)


_EXPANDED: WeakKeyDictionary[nn.Module, tuple[object, Tensor]] = WeakKeyDictionary()


def _expanded(table: FilterTable, grid: Grid, dtype: torch.dtype) -> Tensor:
    """The basis at the knots; kept, as it is not trained, until its numbers change."""
    basis = table.basis
    key = (dtype, grid, fingerprint([basis.offset, basis.gamma]))
    kept = _EXPANDED.get(basis)
    if kept is None or kept[0] != key:
        with torch.inference_mode(False), torch.no_grad():
            kept = _EXPANDED[basis] = key, basis(grid.samples()).to(dtype)
    return kept[1]


class _Options:
    """What the sweeps need beside the weights, and how atoms make a molecule."""

    def __init__(
        self,
        model: SchNet,
        graph: Graph,
        shift: Tensor | None,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        num_graphs: int,
        given: dict[str, Tensor | None],
        forces: bool,
        stress: bool,
    ) -> None:
        table = cast(FilterTable, model._table_of_filters())
        self.model, self.table, self.given = model, table, given
        self.forces, cell = forces, given["cell"]
        head = model.readout
        # Constant networks have a grid of their own, as fine as they need it.
        self.grid = table.constant_grid(pos.dtype) if table.is_constant() else table.grid(pos.dtype)
        self.ends_in_ssp = table._ends_in_ssp
        self.expanded = _expanded(table, self.grid, pos.dtype)
        self.graph, self.shift = graph, shift
        self.z, self.pos, self.batch, self.num_graphs = z, pos.detach(), batch, num_graphs
        self.cutoff_fn, self.cutoff, self.normalize = model.cutoff_fn, model.cutoff, model.normalize
        self.by_atoms = False
        std = getattr(head, "std", None)
        self.std, self.scale = 1.0 if std is None else float(std), float(head.scale)
        self.padding = model.embedding.padding_idx
        self.inverse_size: Tensor | None = None
        if getattr(head, "readout", "add") == "mean":
            counts = torch.bincount(batch, minlength=num_graphs).clamp(min=1)
            self.inverse_size = counts.double().reciprocal()
        self.volume = None
        if stress and cell is not None:
            self.volume = volumes(cell.detach()).expand(num_graphs, 1, 1)

    def by_autograd(self) -> list[Tensor]:
        """Energies, and if asked for forces and stress, that can be differentiated again."""
        from pyg_schnet.models.potential import Potential

        known = self.given.items()
        given: dict[str, Any] = {name: value for name, value in known if value is not None}
        with torch.enable_grad(), by_autograd():
            if self.by_atoms:
                x = self.model.features(self.z, self.pos, self.batch, **given)
                return [self.model.readout.learned(x).double().view(-1)]
            if not self.forces:
                out = self.model(
                    self.z,
                    self.pos,
                    self.batch,
                    num_graphs=self.num_graphs,
                    dtype=torch.float64,
                    **given,
                )
                return [out.view(-1)]
            data = Batch(z=self.z, pos=self.pos, batch=self.batch, **given)
            data._num_graphs = self.num_graphs
            potential = Potential(self.model, stress=self.volume is not None).train()
            result = potential(data)
        return list(result.values())

    def pool(self, values: Tensor) -> Tensor:
        """``scale`` times sum or mean of (N,) over the atoms of each molecule, (B,), float64."""
        if self.by_atoms:
            return values.double()
        zeros = torch.zeros(self.num_graphs, dtype=torch.float64)
        total = zeros.index_add_(0, self.batch, values.double()) * self.scale
        return total if self.inverse_size is None else total * self.inverse_size

    def spread(self, values: Tensor) -> Tensor:
        """The transpose of :meth:`pool`, (N,), in the dtype of the positions."""
        if self.by_atoms:
            return values.to(self.pos.dtype)
        values = values * self.scale
        if self.inverse_size is not None:
            values = values * self.inverse_size
        return values.index_select(0, self.batch).to(self.pos.dtype)


class _EnergyAndForces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, options: _Options, num_filter_weights: int, *weights: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        network = DualNetwork(
            weights[num_filter_weights:],
            weights[:num_filter_weights],
            options.expanded,
            options.ends_in_ssp,
            options.grid,
            options.cutoff_fn,
            options.cutoff,
            options.std,
        )
        count = options.pos.size(0) if options.by_atoms else options.num_graphs
        ones = torch.ones(count, dtype=torch.float64)
        energies, forces, virial, record = values_and_forces(
            network,
            options.z,
            options.pos,
            options.spread(ones),
            options.graph,
            options.shift,
            normalize=options.normalize is not None,
            forces=options.forces,
            virial=options.volume is not None,
        )
        # Saved for autograd's sake: it sees then if they are changed before the backward pass.
        ctx.save_for_backward(*weights)
        ctx.options, ctx.record, ctx.embedding = options, record, num_filter_weights
        ctx.set_materialize_grads(False)
        stress = None
        if virial is not None and options.volume is not None:
            stress = virial.new_zeros(options.num_graphs, 3, 3).index_add_(0, options.batch, virial)
            stress = 0.5 * (stress + stress.transpose(1, 2)) / options.volume
        return options.pool(energies), forces, stress

    @staticmethod
    def backward(
        ctx: Any, energy: Tensor | None, forces: Tensor | None, stress: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        options, needed = ctx.options, ctx.needs_input_grad[2:]
        weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            # To be differentiated again, which the sweeps cannot.
            wanted = [w for w, need in zip(weights, needed, strict=True) if need]
            pairs = zip(options.by_autograd(), (energy, forces, stress), strict=False)
            known = [(out, bar) for out, bar in pairs if bar is not None]
            made = iter(
                torch.autograd.grad(
                    [out for out, _ in known],
                    wanted,
                    [bar.to(out.dtype) for out, bar in known],
                    create_graph=True,
                    materialize_grads=True,
                )
            )
            return (None, None, *(next(made) if need else None for need in needed))
        pos = options.pos
        weight = torch.zeros_like(pos[:, 0]) if energy is None else options.spread(energy)
        direction = None
        if options.forces:
            direction = torch.zeros_like(pos) if forces is None else -forces
        strain = None
        if stress is not None:
            strain = 0.5 * (stress + stress.transpose(1, 2)) / options.volume
        gradients = parameter_gradients(ctx.record, weight, direction, strain, options.batch)
        if options.padding is not None:
            gradients[ctx.embedding][options.padding] = 0.0
        return (None, None, *(g if n else None for g, n in zip(gradients, needed, strict=True)))
