"""To and from ``torch_geometric.nn.SchNet``."""

from torch import Tensor, nn
from torch_geometric.nn import SumAggregation
from torch_geometric.nn.models import SchNet as PyGSchNet
from torch_geometric.nn.models.schnet import RadiusInteractionGraph

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.vectors import edge_lengths
from pyg_schnet.models import SchNet
from pyg_schnet.nn.activation import ShiftedSoftplus
from pyg_schnet.nn.readout import Atomwise


class _AllNeighbors(nn.Module):
    """An ``interaction_graph`` for PyG's SchNet: every neighbour, and no need of pyg-lib."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def forward(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        edge_index, _ = neighbor_edges(pos, self.cutoff, batch=batch)
        return edge_index, edge_lengths(pos, edge_index)


def from_pyg(model: PyGSchNet) -> SchNet:
    """Our SchNet with the weights and constants of PyG's.

    Predictions agree, except that PyG's own neighbour search drops neighbours beyond its
    ``max_num_neighbors`` (32 by default) and this one does not. An ``interaction_graph`` of your
    own is taken along. PyG trains ``atomref``; here it becomes a constant.

    Args:
        model: A ``torch_geometric.nn.SchNet``.

    Returns:
        The model, in the dtype, on the device and in the mode of the given one.

    Raises:
        ValueError: If ``model`` is something else.

    Example:
        >>> theirs = PyGSchNet(hidden_channels=16, num_filters=16, num_interactions=2)
        >>> from_pyg(theirs).num_interactions
        2
    """
    if not isinstance(model, PyGSchNet):
        raise ValueError(f"from_pyg takes a torch_geometric.nn.SchNet, got {type(model).__name__}.")
    graph = model.interaction_graph
    built_in = isinstance(graph, RadiusInteractionGraph | _AllNeighbors)
    ours = SchNet(
        hidden_channels=model.hidden_channels,
        num_filters=model.num_filters,
        num_interactions=model.num_interactions,
        num_gaussians=model.num_gaussians,
        cutoff=model.cutoff,
        interaction_graph=None if built_in else graph,
        readout="add" if isinstance(model.readout, SumAggregation) else "mean",
        dipole=model.dipole,
    )
    weight = model.embedding.weight
    ours = ours.to(device=weight.device, dtype=weight.dtype)
    # The state_dict lacks the hyper-parameters that PyG keeps as plain numbers.
    ours.load_state_dict(model.state_dict())
    ours.distance_expansion.gamma.fill_(-model.distance_expansion.coeff)
    if model.scale is not None:
        ours.readout.scale.fill_(float(model.scale))
    if isinstance(ours.readout, Atomwise) and model.mean is not None and model.std is not None:
        ours.readout.set_statistics(mean=model.mean, std=model.std)
    return ours.train(model.training)


def to_pyg(model: SchNet) -> PyGSchNet:
    """PyG's SchNet with the weights of ours.

    It gets an ``interaction_graph`` that keeps every neighbour, since PyG's default keeps 32 and
    needs pyg-lib.

    Args:
        model: A SchNet of the kind that PyG has: cosine cutoff, linear filters, no normalisation.

    Raises:
        ValueError: If the model is of another kind; the sentence names the option.

    Example:
        >>> to_pyg(SchNet(16, 16, 2, 20, 5.0)).cutoff
        5.0
    """
    for name, needed in (
        ("filter_activation", "linear"),
        ("cutoff_fn", "cosine"),
        ("normalize", None),
        ("shared_filters", False),
    ):
        if getattr(model, name) != needed:
            raise ValueError(
                f"PyG's SchNet has {name}={needed!r} only, but this model has "
                f"{getattr(model, name)!r}."
            )
    head = model.readout
    if type(head.act) is not ShiftedSoftplus:
        raise ValueError(f"PyG's SchNet has the ssp in its head, but this model has {head.act!r}.")
    if model.head not in ("atomwise", "dipole") or model.out_channels != 1 or model.head_options:
        raise ValueError(
            "PyG's SchNet has head='atomwise' with one output and head='dipole', without options; "
            f"this model has head={model.head!r}, out_channels={model.out_channels} and "
            f"head_options={model.head_options}."
        )
    atomwise = head if isinstance(head, Atomwise) else None
    theirs = PyGSchNet(
        model.hidden_channels,
        model.num_filters,
        model.num_interactions,
        model.num_gaussians,
        model.cutoff,
        interaction_graph=model.interaction_graph or _AllNeighbors(model.cutoff),
        readout=atomwise.readout if atomwise else "add",
        dipole=model.dipole,
        mean=float(atomwise.mean) if atomwise else None,
        std=float(atomwise.std) if atomwise else None,
        atomref=atomwise.atomref.clone().float() if atomwise else None,
    )
    weight = model.embedding.weight
    theirs = theirs.to(device=weight.device, dtype=weight.dtype)
    state = {}
    for name, value in model.state_dict().items():
        local = name.removeprefix("readout.")
        if local in ("mean", "std", "scale", "distance_expansion.gamma"):
            continue
        if local == "atomref":
            state["initial_atomref"] = state["atomref.weight"] = value
            continue
        state[local] = value
        if ".conv.nn." in local:
            state[local.replace(".conv.nn.", ".mlp.")] = value
    theirs.load_state_dict(state)
    theirs.distance_expansion.coeff = -float(model.distance_expansion.gamma)
    if float(head.scale) != 1.0:
        theirs.scale = float(head.scale)
    return theirs.train(model.training)


__all__ = ["from_pyg", "to_pyg"]
