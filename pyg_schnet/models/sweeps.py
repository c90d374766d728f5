"""Training a SchNet by compiled sweeps over its layers instead of autograd.

Gradients of a loss on energies take a sweep there and one back; of a loss on forces too, two more,
along the adjoint of the forces (:mod:`pyg_schnet.ops.dual`), instead of autograd through autograd.
Numbers are the same, at a fraction of the time; what the sweeps do not know is left to autograd.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch_geometric.data import Batch

from pyg_schnet.graph.vectors import shift_vectors
from pyg_schnet.models.inputs import checked_batch, volumes
from pyg_schnet.models.schnet import SchNet
from pyg_schnet.nn.activation import ShiftedSoftplus
from pyg_schnet.nn.basis import GaussianSmearing
from pyg_schnet.nn.cfconv import CFConv
from pyg_schnet.nn.cutoff import CUTOFFS
from pyg_schnet.nn.dense import Dense
from pyg_schnet.nn.dipole import Dipole
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.hooks import have_hooks
from pyg_schnet.nn.interaction import InteractionBlock
from pyg_schnet.nn.polarizability import Polarizability
from pyg_schnet.nn.readout import Atomwise
from pyg_schnet.nn.spatial_extent import SpatialExtent
from pyg_schnet.nn.tabulated import FilterTable, filters_are_fixed
from pyg_schnet.ops import Graph, Grid, fingerprint
from pyg_schnet.ops.backends import kernel
from pyg_schnet.ops.dual import (
    DualNetwork,
    is_available,
    parameter_gradients,
    values_and_forces,
)
from pyg_schnet.ops.library import _is_transformed

_BY_AUTOGRAD: ContextVar[bool] = ContextVar("by_autograd", default=False)
_LARGE = 500  # atoms, from which autograd keeps several threads busy
# Heads that make something of one number per atom.
_OF_ONE_NUMBER = (Dipole, Polarizability, SpatialExtent)
_THREADS_PER_GRAPH = 3  # beyond which it is the faster; without gradients, beyond one
_RECORD = 1 << 28  # bytes that all layers may take where no gradient will ask for them
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


@contextmanager
def by_autograd() -> Iterator[None]:
    """Within it, all models are left to autograd.

    Example:
        >>> with by_autograd():
        ...     applies(SchNet(32, 32, 2, 20, 5.0), torch.rand(3, 3))
        False
    """
    token = _BY_AUTOGRAD.set(True)
    try:
        yield
    finally:
        _BY_AUTOGRAD.reset(token)


def applies(
    model: nn.Module,
    pos: Tensor,
    cell: Tensor | None = None,
    num_graphs: int = 1,
    *,
    heads: tuple[type[nn.Module], ...] = (Atomwise,),
) -> bool:
    """Whether :func:`learned_energies` and :func:`energy_and_forces` can stand for autograd.

    They can for a :class:`~pyg_schnet.SchNet` of the package's own modules, without hooks, on the
    CPU kernels, whose filters may be read off a table (``filters`` is "tabulated", or "auto" in
    float32), if gradients of parameters but none of ``pos`` or ``cell`` are asked for, or, under
    ``torch.no_grad()``, none at all. One large structure is left to autograd where there are many
    threads, since the sweeps share out whole molecules; and without gradients what is so large
    that keeping all layers would waste memory.

    Args:
        model: Any.
        pos: (N, 3).
        cell: (3, 3) or (B, 3, 3), or None.
        num_graphs: B.
        heads: Classes that the head may be of; see also :func:`applies_to_atoms`.

    Example:
        >>> applies(SchNet(32, 32, 2, 20, 5.0, filters="exact"), torch.rand(3, 3))
        False
    """
    if (
        type(model) is not SchNet
        or type(model.readout) not in heads
        or _BY_AUTOGRAD.get()
        or filters_are_fixed()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or not pos.is_cpu
    ):
        return False
    dtype, recorded = model.embedding.weight.dtype, torch.is_grad_enabled()
    if (
        (recorded and (pos.requires_grad or (cell is not None and cell.requires_grad)))
        or (not recorded and _bytes_of_record(model, pos) > _RECORD)
        or (
            pos.size(0) > _LARGE
            and torch.get_num_threads() > (_THREADS_PER_GRAPH if recorded else 1) * num_graphs
        )
        or pos.dtype != dtype
        or not (
            model.filters == "tabulated" or (model.filters == "auto" and dtype == torch.float32)
        )
        or model.interaction_graph is not None
        or "forward" in model.__dict__
        or not is_available(dtype, model.backend)
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack() > 0
        or _is_transformed()
        or any(getattr(torch_module, name, None) for name in _GLOBAL_HOOKS)
    ):
        return False
    if not _is_plain(model):
        return False
    parameters = _parameters(model)
    return all(p.dtype == dtype and p.is_cpu for p in parameters) and (
        not recorded or any(p.requires_grad for p in parameters)
    )


def applies_to_atoms(
    model: nn.Module, pos: Tensor, cell: Tensor | None = None, num_graphs: int = 1
) -> bool:
    """Whether :func:`learned_by_atoms` can stand for autograd: as :func:`applies`, for other heads.

    Example:
        >>> model = SchNet(32, 32, 2, 20, 5.0, dipole=True)
        >>> applies_to_atoms(model, torch.rand(3, 3)), applies(model, torch.rand(3, 3))
        (True, False)
    """
    return applies(model, pos, cell, num_graphs, heads=_OF_ONE_NUMBER)


def _bytes_of_record(model: SchNet, pos: Tensor) -> int:
    per_layer = 3 * model.hidden_channels + 2 * model.num_filters
    return pos.size(0) * model.num_interactions * per_layer * pos.element_size()


_WALKED: WeakKeyDictionary[nn.Module, tuple[list[int], list[nn.Module], bool]] = WeakKeyDictionary()


def _is_plain(model: SchNet) -> bool:
    """Whether all modules are those that the constructor made, without hooks.

    They are walked through again only where one has been replaced; what a user may set on them is
    looked at each time.
    """
    known = _WALKED.get(model)
    modules = [model] if known is None else [model, *known[1]]
    links = [id(child) for m in modules for child in m._modules.values()]
    if known is None or links != known[0]:
        modules = list(model.modules())
        links = [id(child) for m in modules for child in m._modules.values()]
        # Without the model itself, which would keep its own entry alive.
        known = _WALKED[model] = links, modules[1:], _has_plain_structure(model)
    if not known[2]:
        return False
    for block in model.interactions:
        conv = cast(nn.Module, block._modules["conv"])
        cutoff = cast(nn.Module, conv._modules["cutoff_fn"])
        if (
            conv.__dict__["normalize"] != model.normalize
            or cutoff.__dict__.get("cutoff", model.cutoff) != model.cutoff
            or not cast(CFConv, conv).is_fused()
        ):
            return False
    return not have_hooks(modules)


def _has_plain_structure(model: SchNet) -> bool:
    head, blocks = model.readout, list(model.interactions)
    if (
        type(head) not in (Atomwise, *_OF_ONE_NUMBER)
        or head.uses_edges
        or type(head.act) is not ShiftedSoftplus
        or head.lin2.out_features != 1
        or type(head.lin1) is not Dense
        or type(head.lin2) is not nn.Linear
        or type(model.embedding) is not nn.Embedding
        or model.embedding.max_norm is not None
        or model.embedding.scale_grad_by_freq
        or model.embedding.sparse
        or type(model.distance_expansion) is not GaussianSmearing
        or not blocks
    ):
        return False
    networks: list[FilterNetwork] = []
    for block in blocks:
        if type(block) is not InteractionBlock:
            return False
        conv, cutoff = block.conv, block.conv.cutoff_fn
        if (
            type(conv) is not CFConv
            or type(cutoff) is not CUTOFFS[model.cutoff_fn]
            or type(block.act) is not ShiftedSoftplus
            or not type(block.lin) is type(conv.lin1) is type(conv.lin2) is Dense
            or conv.lin1.bias is not None
        ):
            return False
        network = conv.nn
        if type(network) is not FilterNetwork or not all(
            type(layer) in ((nn.Linear, Dense) if place % 2 == 0 else (ShiftedSoftplus,))
            for place, layer in enumerate(network)
        ):
            return False
        networks.append(network)
    return not (model.shared_filters and any(network is not networks[0] for network in networks))


def _parameters(model: SchNet) -> list[Tensor]:
    networks = [cast(InteractionBlock, block).conv.nn for block in model.interactions]
    layers = [layer for network in networks for layer in cast(FilterNetwork, network)]
    own = [p for layer in layers for p in layer._parameters.values() if p is not None]
    return own + _weights(model)


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
        model: One that :func:`applies` accepts.
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
        model: One that :func:`applies` accepts.
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
        model: One that :func:`applies_to_atoms` accepts.
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
        options, len(filter_weights), *filter_weights, *_weights(options.model)
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


def _weights(model: SchNet) -> list[Tensor]:
    # Past __getattr__, for speed.
    own = [cast(Tensor, model.embedding._parameters["weight"])]
    for block in model.interactions:
        parts = block._modules
        conv = cast(nn.Module, parts["conv"])._modules
        for layer in (conv["lin1"], conv["lin2"], parts["lin"]):
            own += [p for p in cast(nn.Module, layer)._parameters.values() if p is not None]
    for layer in (model.readout.lin1, model.readout.lin2):
        own += [p for p in layer._parameters.values() if p is not None]
    return own


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
