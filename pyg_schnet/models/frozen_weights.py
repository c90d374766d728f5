"""What a compiled evaluation needs to know of a SchNet: weights and tables as plain arrays."""

import copy
from types import ModuleType
from typing import cast

import torch
from torch import Tensor, nn

from pyg_schnet.models.schnet import SchNet
from pyg_schnet.nn.activation import ShiftedSoftplus
from pyg_schnet.nn.basis import GaussianSmearing
from pyg_schnet.nn.cfconv import CFConv
from pyg_schnet.nn.cutoff import CUTOFFS, CosineCutoff, HardCutoff
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.interaction import InteractionBlock
from pyg_schnet.nn.readout import Atomwise
from pyg_schnet.nn.tabulated import FilterTable
from pyg_schnet.ops.backends.reference import prefilter
from pyg_schnet.ops.spline import ROWS, Grid, basis_polynomials


class Weights:
    """What the compiled function needs to know of a model."""

    def __init__(self, model: SchNet) -> None:
        cpu = engine_module()
        head = cast(Atomwise, model.readout)
        self.dtype = model.embedding.weight.dtype
        self.bits = 32 if self.dtype == torch.float32 else 64
        self.hidden = cpu.padded(model.hidden_channels, self.bits)
        self.filters = cpu.padded(model.num_filters, self.bits)
        self.readout = cpu.padded(head.lin1.out_features, self.bits)
        self.num_layers = model.num_interactions
        self.cutoff, self.cutoff_fn = float(model.cutoff), model.cutoff_fn
        self.normalize, self.max_num_neighbors = model.normalize, model.max_num_neighbors
        self.mean_over_atoms = head.readout == "mean"
        self.scale = float(head.scale)
        self._kept: list[Tensor] = []

        blocks = [cast(InteractionBlock, block) for block in model.interactions]
        grid, tables = _tables(model, blocks)
        embedding = model.embedding.weight.detach().double()
        self.first = torch.empty(0)
        if blocks:
            lin1 = blocks[0].conv.lin1.weight.detach().double()
            self.first = self._padded(embedding @ lin1.T, 0, self.filters)
        layers = torch.zeros(max(1, len(blocks)), cpu.NUM_LAYER_ADDRESSES, dtype=torch.int64)
        kept = [self._keep(self._padded(table, 0, self.filters)) for table in tables]
        for number, (row, block) in enumerate(zip(layers, blocks, strict=False)):
            conv = block.conv
            h, f = self.hidden, self.filters
            row[cpu.IN] = self._matrix(conv.lin1.weight.T, h, f)
            row[cpu.MIDDLE] = self._matrix(conv.lin2.weight.T, f, h)
            row[cpu.MIDDLE_BIAS] = self._vector(conv.lin2.bias, h)
            row[cpu.OUT] = self._matrix(block.lin.weight.T, h, h)
            row[cpu.OUT_BIAS] = self._vector(block.lin.bias, h)
            row[cpu.IN_BACK] = self._matrix(conv.lin1.weight, f, h)
            row[cpu.MIDDLE_BACK] = self._matrix(conv.lin2.weight, h, f)
            row[cpu.OUT_BACK] = self._matrix(block.lin.weight, h, h)
            row[cpu.TABLE] = kept[number % len(kept)]
        self._kept.append(layers)

        self.scalars = torch.zeros(cpu.NUM_SCALARS, dtype=torch.float64)
        self.scalars[cpu.STEP] = grid.step
        self.scalars[cpu.CUTOFF] = self.cutoff
        self.scalars[cpu.STD] = head.std.to(self.dtype)
        self.scalars[cpu.READOUT_CONSTANT] = head.lin2.bias.detach()[0]
        spline = torch.zeros(2, ROWS, ROWS, dtype=torch.float64)
        for order in (0, 1):
            rows = torch.tensor(basis_polynomials(order), dtype=torch.float64)
            spline[order] = rows.T / grid.step**order
        zeros = torch.zeros(max(self.hidden, self.filters, self.readout), dtype=self.dtype)
        arguments = {
            "INTERACTIONS": self.num_layers,
            "HIDDEN": self.hidden,
            "FILTERS": self.filters,
            "READOUT": self.readout,
            "COSINE": int(self.cutoff_fn == "cosine"),
            "INTERVALS": grid.intervals,
            "SPLINE": self._keep(spline),
            "CONSTANT": self._keep((head.atomref[:, 0] + head.mean).contiguous()),
            "EMBEDDING": self._keep(self._padded(embedding, 0, self.hidden)),
            "LAYERS": layers.data_ptr(),
            "READOUT_IN": self._matrix(head.lin1.weight.T, self.hidden, self.readout),
            "READOUT_BIAS": self._vector(head.lin1.bias, self.readout),
            "READOUT_OUT": self._vector(head.lin2.weight[0], self.readout),
            "READOUT_BACK": self._matrix(head.lin1.weight, self.readout, self.hidden),
            "ZEROS": self._keep(zeros),
        }
        self.arguments = [0] * cpu.NUM_ARGUMENTS
        for name, value in arguments.items():
            self.arguments[getattr(cpu, name)] = value

    def seeds(self, batch: Tensor, num_graphs: int) -> Tensor:
        """Derivative of the energy of its molecule by the energy of each atom, (N,)."""
        seeds = torch.full(batch.shape, self.scale, dtype=torch.float64)
        if self.mean_over_atoms:
            seeds /= torch.bincount(batch, minlength=num_graphs)[batch]
        return seeds

    def work(self, atoms: int, edges: int) -> int:
        """Multiply-adds of an evaluation, about."""
        dense = 2 * self.hidden * (2 * self.filters + self.hidden)
        return self.num_layers * (atoms * dense + 20 * edges * self.filters)

    def scratch(self, group: int) -> int:
        """Numbers that a thread needs while ``group`` atoms pass the dense layers."""
        return group * (max(self.hidden, self.filters, self.readout) + self.hidden)

    def _keep(self, value: Tensor) -> int:
        self._kept.append(value)
        return value.data_ptr()

    def _padded(self, value: Tensor, rows: int, columns: int) -> Tensor:
        """In the dtype of the model, with zeros up to a size."""
        out = torch.zeros(max(rows, value.size(0)), columns, dtype=self.dtype)
        out[: value.size(0), : value.size(1)] = value.detach()
        return out

    def _matrix(self, value: Tensor, rows: int, columns: int) -> int:
        packed = engine_module().packed(self._padded(value, rows, columns).numpy())
        return self._keep(torch.from_numpy(packed))

    def _vector(self, value: Tensor, size: int) -> int:
        return self._keep(self._padded(value.view(1, -1), 1, size))


def _tables(model: SchNet, blocks: list[InteractionBlock]) -> tuple[Grid, list[Tensor]]:
    """Spline coefficients of the filters, (K, num_filters), float64; one for shared networks."""
    if not blocks:
        return Grid.covering(model.cutoff, model.cutoff), []
    networks = [cast(FilterNetwork, block.conv.nn) for block in blocks]
    if all(network is networks[0] for network in networks):
        networks = networks[:1]
    basis = model.distance_expansion
    end = float(model.cutoff)
    if model.cutoff_fn == "none":
        end = float(basis.offset[-1] + 7.0 * (2.0 * basis.gamma).rsqrt())
    networks = [copy.deepcopy(network).double() for network in networks]
    with torch.no_grad():
        grid = FilterTable(basis, networks, end).grid(model.embedding.weight.dtype)
        # Finer than asked for, as this table is made only once: errors fall to an eighth.
        grid = Grid.covering(end, 0.7 * grid.step)
        expanded = basis(grid.samples())
        return grid, [prefilter(network(expanded), False) for network in networks]


def check_model(model: nn.Module) -> SchNet:
    """The model, if it is one that the compiled function can evaluate.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(model, SchNet):
        raise ValueError(f"Only a SchNet can be frozen, got {type(model).__name__}.")
    weight = model.embedding.weight
    if not isinstance(model.readout, Atomwise) or model.readout.lin2.out_features != 1:
        raise ValueError(
            "A frozen potential needs an energy model, but this one predicts something else."
        )
    if type(model.readout.act) is not ShiftedSoftplus:
        raise ValueError(
            "A frozen potential needs the shifted softplus in the head, but this model has "
            f"{model.readout.act!r}."
        )
    if model.interaction_graph is not None:
        raise ValueError(
            "A model with an interaction_graph cannot be frozen; set model.interaction_graph = "
            "None, and give edge_index where the edges are not those of the cutoff."
        )
    if weight.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"A frozen potential computes in float32 or float64, but the model is in "
            f"{str(weight.dtype).removeprefix('torch.')}; convert it with model.float()."
        )
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        raise ValueError(
            f"A frozen potential works on the CPU, but the model is on {weight.device}; move it "
            "with model.cpu()."
        )
    for number, block in enumerate(model.interactions):
        wrong = _wrong_module(block, model)
        if wrong:
            raise ValueError(f"A model with {wrong} in interactions[{number}] cannot be frozen.")
    if type(model.distance_expansion) is not GaussianSmearing:
        raise ValueError("A model with another distance_expansion than Gaussians cannot be frozen.")
    return model


def _wrong_module(block: nn.Module, model: SchNet) -> str:
    """The name of a module of another kind, if there is one."""
    if type(block) is not InteractionBlock:
        return f"a {type(block).__name__}"
    conv = block.conv
    if type(conv) is not CFConv or conv.normalize != model.normalize:
        return f"the convolution {conv!r}"
    cutoff = conv.cutoff_fn
    if type(cutoff) is not CUTOFFS[model.cutoff_fn] or (
        isinstance(cutoff, CosineCutoff | HardCutoff) and cutoff.cutoff != model.cutoff
    ):
        return f"the cutoff function {cutoff!r}"
    if type(conv.nn) is not FilterNetwork:
        return f"a filter network of type {type(conv.nn).__name__}"
    if type(block.act) is not ShiftedSoftplus:
        return f"the activation {block.act!r}"
    return ""


def engine_module() -> ModuleType:
    """The compiled part, whose compiler is optional."""
    try:
        from pyg_schnet.ops.backends.cpu import engine
    except ImportError as error:
        raise ImportError("A frozen potential needs Numba: pip install numba") from error
    return engine
