"""When the compiled sweeps of :mod:`pyg_schnet.models.sweeps` can stand for autograd."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

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
from pyg_schnet.nn.tabulated import filters_are_fixed
from pyg_schnet.ops.dual import is_available
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
    """Whether the sweeps for energies, and for energies and forces, can stand for autograd.

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
    """Whether the sweeps for numbers of atoms can: as :func:`applies`, for other heads.

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
    return own + dense_weights(model)


def dense_weights(model: SchNet) -> list[Tensor]:
    """Parameters of a plain SchNet but those of its filters, in the order of the sweeps."""
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
