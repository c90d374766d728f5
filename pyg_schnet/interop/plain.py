"""SchNet and DTNN in torch's own operations, for programs that run without this package.

The models compute with operators of this package. Those below have the same weights and formulas,
in operations that TorchScript, ``torch.export`` and ONNX know, and read distances instead of
searching for neighbours.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_schnet.models import DTNN, Ensemble, Potential, SchNet, load
from pyg_schnet.models.pretrained import find_model
from pyg_schnet.nn.cfconv import CFConv
from pyg_schnet.nn.cutoff import CUTOFFS
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.head import AtomicValues
from pyg_schnet.nn.interaction import InteractionBlock
from pyg_schnet.nn.readout import MAX_ATOMIC_NUMBER
from pyg_schnet.nn.tensor_interaction import TensorInteraction

_ACTIVATIONS = {"ShiftedSoftplus": "ssp", "SiLU": "silu", "Tanh": "tanh"}


@contextmanager
def torch_without_pyg() -> Iterator[None]:
    """Torch's own ``index_select`` and ``select`` for a while.

    PyG 2.8 puts Python functions in their place that TorchScript cannot compile, so metatomic must
    be imported before PyG, or within this.

    Example:
        >>> import inspect
        >>> with torch_without_pyg():
        ...     inspect.isbuiltin(torch.index_select)
        True
    """
    replaced = {name: getattr(torch, name) for name in ("index_select", "select")}
    try:
        for name in replaced:
            setattr(torch, name, getattr(torch._C._VariableFunctions, name))
        yield
    finally:
        for name, function in replaced.items():
            setattr(torch, name, function)


def _ssp(x: Tensor) -> Tensor:
    return F.softplus(x) - math.log(2.0)


class PlainBasis(nn.Module):
    """Gaussians of distances, and the cutoff function.

    Args:
        model: Whose they are.
        dtype: Of the numbers.
    """

    def __init__(self, model: SchNet | DTNN, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("offset", model.distance_expansion.offset.to(dtype))
        self.gamma = float(model.distance_expansion.gamma)
        self.cutoff = float(model.cutoff)
        self.kind = str(model.cutoff_fn)
        self.offset: Tensor

    def forward(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Of distances (E,), Å: (E, num_gaussians) and (E, 1)."""
        gaussians = torch.exp(-self.gamma * (distance.unsqueeze(1) - self.offset).square())
        if self.kind == "cosine":
            inside = distance.clamp(max=self.cutoff)
            scale = 0.5 * (torch.cos(inside * (math.pi / self.cutoff)) + 1.0)
        elif self.kind == "hard":
            scale = (distance < self.cutoff).to(distance.dtype)
        else:
            scale = torch.ones_like(distance)
        return gaussians, scale.unsqueeze(1)


class PlainBlock(nn.Module):
    """An interaction block of SchNet.

    Args:
        block: The block.
        dtype: Of the weights.
    """

    def __init__(self, block: InteractionBlock, dtype: torch.dtype) -> None:
        super().__init__()
        network = cast(FilterNetwork, block.conv.nn)
        self.filter0, self.filter1 = _dense(network[0], dtype), _dense(network[2], dtype)
        self.ends_in_ssp = len(network) > 3
        self.normalize = block.conv.normalize is not None
        self.lin1 = _dense(block.conv.lin1, dtype)
        self.lin2 = _dense(block.conv.lin2, dtype)
        self.lin = _dense(block.lin, dtype)

    def forward(
        self, x: Tensor, source: Tensor, target: Tensor, gaussians: Tensor, scale: Tensor
    ) -> Tensor:
        """What is added to ``x`` (N, hidden_channels)."""
        w = self.filter1(_ssp(self.filter0(gaussians)))  # [E, F]
        if self.ends_in_ssp:
            w = _ssp(w)
        h = self.lin1(x)  # [N, F]
        messages = h.index_select(0, source) * (w * scale)
        y = torch.zeros_like(h).index_add(0, target, messages)
        if self.normalize:
            ones = torch.ones_like(scale)
            counts = torch.zeros_like(h[:, :1]).index_add(0, target, ones)
            y = y / counts.clamp(min=1.0)
        return self.lin(_ssp(self.lin2(y)))


class PlainTensorBlock(nn.Module):
    """An interaction of a deep tensor neural network.

    Args:
        block: The interaction.
        dtype: Of the weights.
    """

    def __init__(self, block: TensorInteraction, dtype: torch.dtype) -> None:
        super().__init__()
        self.lin_atom = _dense(block.lin_atom, dtype)
        self.lin_distance = _dense(block.lin_distance, dtype)
        self.lin_out = _dense(block.lin_out, dtype)
        self.tanh = block.activation == "tanh"

    def forward(
        self, x: Tensor, source: Tensor, target: Tensor, gaussians: Tensor, scale: Tensor
    ) -> Tensor:
        """What is added to ``x`` (N, hidden_channels)."""
        factors = self.lin_distance(gaussians)
        message = self.lin_out(self.lin_atom(x).index_select(0, source) * factors)
        if self.tanh:
            message = torch.tanh(message)
        return torch.zeros_like(x).index_add(0, target, message * scale)


class PlainNetwork(nn.Module):
    """Contributions of the atoms to an energy, from elements and distances.

    Args:
        model: A SchNet or DTNN for one property, combined from atomic contributions.
        dtype: Of the weights.
    """

    def __init__(self, model: SchNet | DTNN, dtype: torch.dtype) -> None:
        super().__init__()
        head = cast(AtomicValues, model.readout)
        self.embedding = nn.Embedding.from_pretrained(model.embedding.weight.detach().to(dtype))
        self.basis = PlainBasis(model, dtype)
        if isinstance(model, SchNet):
            self.blocks = nn.ModuleList(
                PlainBlock(cast(InteractionBlock, block), dtype) for block in model.interactions
            )
            self.passes = 1
        else:
            self.blocks = nn.ModuleList(
                PlainTensorBlock(cast(TensorInteraction, block), dtype)
                for block in model.interactions
            )
            self.passes = model.num_interactions if model.tied else 1
        self.lin1, self.lin2 = _dense(head.lin1, dtype), _dense(head.lin2, dtype)
        self.activation = _ACTIVATIONS[type(head.act).__name__]
        scale = head.scale.detach().double()
        self.std = float(head.std * scale)
        constants = (head.atomref[:, 0] + head.mean).detach().double() * scale
        self.register_buffer("constants", constants)
        self.constants: Tensor

    def forward(self, z: Tensor, source: Tensor, target: Tensor, distance: Tensor) -> Tensor:
        """Energies of the atoms, (N,), eV, in float64.

        Args:
            z: Atomic numbers (N,), integers.
            source: Neighbour j of each edge (E,), integers.
            target: Centre i of each edge (E,).
            distance: (E,), Å, in the dtype of the weights.
        """
        return self.energies(self.features(z, source, target, distance), z)

    def features(self, z: Tensor, source: Tensor, target: Tensor, distance: Tensor) -> Tensor:
        """Features of the atoms after the last interaction, (N, hidden_channels)."""
        gaussians, scale = self.basis(distance)
        x = self.embedding(z)
        for _ in range(self.passes):
            for block in self.blocks:
                x = x + block(x, source, target, gaussians, scale)
        return x

    def energies(self, x: Tensor, z: Tensor) -> Tensor:
        """Energies of atoms (N,) from their features, in float64."""
        x = self.lin1(x)
        if self.activation == "ssp":
            x = _ssp(x)
        elif self.activation == "silu":
            x = F.silu(x)
        else:
            x = torch.tanh(x)
        learned = self.lin2(x).squeeze(1).to(torch.float64) * self.std
        return learned + self.constants.index_select(0, z)


@dataclass(frozen=True)
class Exportable:
    """What an export needs to know of a model.

    Attributes:
        network: Its plain form, in evaluation mode.
        cutoff: Å.
        cutoff_fn: "cosine", "hard" or "none".
        interaction_range: Å; cutoff times the number of interactions.
        mean: Whether the property is a mean over atoms, not a sum.
        elements: Atomic numbers that it was trained on; all where that is not known.
        info: What its file says of it.
    """

    network: PlainNetwork
    cutoff: float
    cutoff_fn: str
    interaction_range: float
    mean: bool
    elements: list[int]
    info: dict[str, Any]


def exportable(
    model: nn.Module | str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    elements: Sequence[int] | None = None,
) -> Exportable:
    """The plain form of a model of energies.

    Args:
        model: A SchNet or DTNN, a Potential of one, a file, or the name of a model that comes with
            the package.
        dtype: Of the plain form; None takes that of the model.
        elements: Atomic numbers that the model knows; None takes what its file says, and all where
            that says nothing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the model is an ensemble, predicts something else than one property in eV
            made of atomic contributions, or has modules of other kinds.
    """
    from ase.data import atomic_numbers

    if not isinstance(model, nn.Module):
        model = load(find_model(model))
    info = dict(getattr(model, "info", {}))
    network = model.model if isinstance(model, Potential) else model
    if isinstance(network, Ensemble):
        raise ValueError("An Ensemble cannot be exported; export its members one by one.")
    if not isinstance(network, SchNet | DTNN):
        raise ValueError(f"Only a SchNet or DTNN can be exported, got {type(network).__name__}.")
    if info.get("unit", "eV") != "eV":
        raise ValueError(
            f"The model predicts {info.get('target', 'something')} in {info['unit']}, but an "
            "export for engines needs an energy in eV."
        )
    _check(network)
    names = info.get("elements") if elements is None else elements
    known = list(range(1, MAX_ATOMIC_NUMBER + 1))
    if names:
        known = sorted({atomic_numbers[e] if isinstance(e, str) else int(e) for e in names})
    wanted = network.embedding.weight.dtype if dtype is None else dtype
    plain = PlainNetwork(network, wanted).eval().requires_grad_(False).cpu()
    head = cast(Any, network.readout)
    return Exportable(
        plain,
        float(network.cutoff),
        network.cutoff_fn,
        float(network.cutoff) * network.num_interactions,
        head.readout == "mean",
        known,
        info,
    )


def _check(network: SchNet | DTNN) -> None:
    head = network.readout
    if not isinstance(head, AtomicValues) or getattr(head, "readout", None) not in ("add", "mean"):
        raise ValueError(
            f"Only models of energies made of atomic contributions can be exported, not a "
            f"{type(head).__name__}."
        )
    if head.lin2.out_features != 1:
        raise ValueError(
            f"Only models of one property can be exported; this one has {head.lin2.out_features}."
        )
    if network.max_num_neighbors is not None:
        raise ValueError(
            f"A model with max_num_neighbors={network.max_num_neighbors} drops neighbours, which "
            "no engine does; set model.max_num_neighbors = None."
        )
    if getattr(network, "interaction_graph", None) is not None:
        raise ValueError("A model with an interaction_graph of its own cannot be exported.")
    for block in network.interactions:
        conv = block.conv if isinstance(block, InteractionBlock) else block
        own = type(conv) in (CFConv, TensorInteraction) and (
            isinstance(conv, TensorInteraction) or type(conv.nn) is FilterNetwork
        )
        if not own or type(conv.cutoff_fn) is not CUTOFFS[network.cutoff_fn]:
            raise ValueError(
                f"A model with a {type(block).__name__} of other parts cannot be exported."
            )
    if type(head.act).__name__ not in _ACTIVATIONS:
        raise ValueError(f"The activation {head.act!r} of the head cannot be exported.")


def _dense(layer: nn.Module, dtype: torch.dtype) -> nn.Linear:
    """A torch.nn.Linear with the weights of a dense layer of this package."""
    given = cast(nn.Linear, layer)
    made = nn.Linear(given.in_features, given.out_features, bias=given.bias is not None)
    made.weight = nn.Parameter(given.weight.detach().to(dtype).clone())
    if given.bias is not None:
        made.bias = nn.Parameter(given.bias.detach().to(dtype).clone())
    return made


__all__ = ["Exportable", "PlainNetwork", "exportable", "torch_without_pyg"]
