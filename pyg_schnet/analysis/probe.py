"""Atoms that feel a structure and are not felt by it."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pyg_schnet.analysis.structure import Structure, images_near
from pyg_schnet.models.networks import Network
from pyg_schnet.models.schnet import SchNet
from pyg_schnet.nn.cfconv import CFConv
from pyg_schnet.nn.interaction import InteractionBlock
from pyg_schnet.nn.readout import Atomwise
from pyg_schnet.nn.tensor_interaction import TensorInteraction
from pyg_schnet.ops import Graph, cfconv

EDGES_AT_ONCE = 2**16
"""Pairs of probe and atom that are held at a time."""


def sent_features(network: Network, structure: Structure) -> list[Tensor]:
    r"""What the atoms send in each interaction, :math:`x^0, \dots, x^{T-1}`, each (N, hidden).

    Args:
        network: Of T interactions.
        structure: In the dtype of the network.

    Example:
        >>> water = Structure(torch.tensor([8, 1, 1]), torch.rand(3, 3))
        >>> [tuple(x.shape) for x in sent_features(SchNet(16, 12, 2, 10, 5.0), water)]
        [(3, 16), (3, 16)]
    """
    found: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append(given[0])

    # The first thing done with features is a dense layer, whatever else a model does.
    first = [_first_layer(block) for block in network.interactions]
    hooks = [layer.register_forward_pre_hook(keep) for layer in first]
    try:
        with torch.no_grad():
            network.features(structure.z, structure.pos, cell=structure.cell, pbc=structure.pbc)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _first_layer(block: nn.Module) -> nn.Module:
    conv = block.conv if isinstance(block, InteractionBlock) else cast(TensorInteraction, block)
    if not conv.is_fused():
        raise ValueError(
            "A probe needs the package's own interactions, without hooks or overridden messages."
        )
    return conv.lin1 if isinstance(conv, CFConv) else conv.lin_atom


def probe_contributions(
    network: Network,
    structure: Structure,
    points: Tensor,
    probes: Sequence[int],
    channel: int = 0,
    edges_at_once: int = EDGES_AT_ONCE,
) -> Tensor:
    r"""What the head makes of the features of a probe.

    .. math::
        x_p^{l+1} = x_p^l + v^l\left(\{x_j^l, |r_j - r|\}_{j}\right), \qquad x_p^0 = a_Z

    with the sum over the atoms j of the structure and their images, whose features are those
    without the probe. As :math:`v^l` depends on them alone, :math:`x_p^T - a_Z` is the same for
    probes of all elements, and is computed once for all of them.

    Args:
        network: A network whose head has contributions of atoms.
        structure: In the dtype of the network.
        points: (P, 3) positions of the probe, Å.
        probes: K atomic numbers.
        channel: Which of the numbers of an atom, where the head has several.
        edges_at_once: Pairs of probe and atom that are held at a time, at most (but for a single
            probe that has more).

    Returns:
        (K, P), float64, in the unit of the property.

    Raises:
        ValueError: If the network looks for its neighbours by a function of its own, drops some of
            a probe's, or its head has no contributions.
    """
    if getattr(network, "interaction_graph", None) is not None:
        raise ValueError(
            "A probe cannot be put into a model with an interaction_graph of its own; set "
            "model.interaction_graph = None for the built-in neighbour search."
        )
    out = torch.empty(len(probes), points.size(0), dtype=torch.float64, device=points.device)
    with torch.no_grad():
        sent = sent_features(network, structure)
        for start, stop, graph, distance in _edges(network, structure, points, edges_at_once):
            change = _change(network, sent, graph, distance)  # [P, H]
            for row, number in enumerate(probes):
                z = structure.z.new_full((stop - start,), number, dtype=torch.long)
                x = network.embedding(z[:1]) + change
                values = network.readout.contributions(x, z)[:, channel].double()
                if isinstance(network.readout, Atomwise):
                    values = values * network.readout.scale
                out[row, start:stop] = values
    return out


def _edges(
    network: Network, structure: Structure, points: Tensor, edges_at_once: int
) -> Iterator[tuple[int, int, Graph, Tensor]]:
    """Probes from start to stop, the edges from atoms to them, and their lengths (E,), Å."""
    lattice = structure.periodic.double()
    bounded = network.cutoff_fn != "none" or len(lattice) > 0
    reach = float(network.cutoff)
    atoms, all_points = structure.pos.double(), points.double()
    if len(lattice):
        inverse = torch.linalg.pinv(lattice)
        atoms = atoms - torch.floor(atoms @ inverse) @ lattice
        all_points = all_points - torch.floor(all_points @ inverse) @ lattice
    images, origin = atoms, torch.arange(len(atoms), device=atoms.device)
    if bounded and len(all_points):
        low, high = all_points.amin(0), all_points.amax(0)
        images, origin = images_near(atoms, lattice, low, high, reach)
    count = max(1, edges_at_once // max(1, len(images)))
    cap = network.max_num_neighbors
    nothing = lattice.new_zeros(0, 3)
    for start in range(0, len(all_points), count):
        part = all_points[start : start + count]
        near, of = images, origin
        if bounded:
            # Neighbouring points lie in one corner of the box, with fewer atoms about.
            near, which = images_near(images, nothing, part.amin(0), part.amax(0), reach)
            of = origin[which]
        away = torch.cdist(part, near, compute_mode="donot_use_mm_for_euclid_dist")  # [P, M]
        inside = away < reach if bounded else torch.ones_like(away, dtype=torch.bool)
        if cap is not None and len(part) and int(inside.sum(1).max()) > cap:
            raise ValueError(
                f"A probe has more neighbours than max_num_neighbors={cap}, and which are dropped "
                "would change from point to point; set model.max_num_neighbors = None."
            )
        target, column = inside.nonzero(as_tuple=True)
        graph = Graph.of(
            torch.stack([of[column], target]),
            len(atoms),
            len(part),
            structure.pos.dtype,
            network.backend,
        )
        yield start, start + len(part), graph, away[inside].to(structure.pos.dtype)


def _change(network: Network, sent: list[Tensor], graph: Graph, distance: Tensor) -> Tensor:
    """What all interactions add to the features of the probes, (P, hidden)."""
    probes = graph.in_ptr.size(0) - 1
    change = network.embedding.weight.new_zeros(probes, network.hidden_channels)
    if isinstance(network, SchNet):
        attributes = network._edge_attributes(graph, distance)
        for block, x, edge_attr in zip(network.interactions, sent, attributes, strict=True):
            change = change + block((x, None), graph, distance, edge_attr)
        return change
    expanded = network.distance_expansion(distance)  # [E, G]
    layers = cast(list[TensorInteraction], list(network.interactions))
    if network.tied:
        layers = layers * len(sent)
    factors = None
    for layer, x in zip(layers, sent, strict=True):
        if factors is None or not network.tied:
            factors = layer.lin_distance(expanded)  # [E, num_factors]
        change = change + _tensor_messages(layer, x, graph, distance, factors)
    return change


def _tensor_messages(
    layer: TensorInteraction, x: Tensor, graph: Graph, distance: Tensor, factors: Tensor
) -> Tensor:
    """What one pass of a DTNN adds to the features of the probes, (P, hidden)."""
    h, scale = layer.lin_atom(x), layer.cutoff_fn(distance)
    if layer.activation == "linear":
        return layer.lin_out(cfconv(h, factors, scale, graph))
    source, target = graph.edge_index
    messages = layer.message(h.index_select(0, source), factors, scale)
    out = messages.new_zeros(graph.in_ptr.size(0) - 1, layer.hidden_channels)
    return out.index_add(0, target, messages)
