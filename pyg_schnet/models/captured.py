"""A potential on a GPU whose kernels are launched together, as one CUDA graph."""

import copy
import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.models.inputs import copied, same, volumes
from pyg_schnet.models.potential import Potential, num_graphs_of
from pyg_schnet.models.schnet import SchNet

_ENTRIES = ("z", "batch", "cell", "pbc", "edge_index", "cell_shift")
_WARM_UP = 3  # calls before the capture, in which kernels are compiled and memory is found


class CapturedPotential:
    """Energy, forces and stress on CUDA by replaying one graph of kernels.

    Launching the kernels of a small molecule one by one takes longer than running them. Call and
    results are those of :class:`~pyg_schnet.Potential` in eval mode, without gradients. The weights
    are copied: later changes of the model have no effect. A graph serves as long as the atoms, the
    cell and the list of edges stay; edges that are not given are searched with a radius larger by
    ``skin`` and kept until an atom has moved by half of it.

    Args:
        model: Energy model on CUDA.
        stress: Compute the stress of periodic structures too.
        skin: Å, at least 0; not used by a model that divides by the number of neighbours, or whose
            filters do not vanish beyond the cutoff.

    Attributes:
        searches: Number of neighbour searches so far.
        captures: Number of graphs captured so far.

    Raises:
        ValueError: If the model is not on CUDA or ``skin`` negative.
    """

    def __init__(self, model: nn.Module, *, stress: bool = False, skin: float = 0.5) -> None:
        device = next(model.parameters()).device
        if device.type != "cuda":
            raise ValueError(f"A graph is captured on CUDA, but the model is on {device}.")
        if not (math.isfinite(skin) and skin >= 0):
            raise ValueError(f"skin must be a finite length of at least 0 Å, got {skin}.")
        # Edges beyond the cutoff would be counted among the neighbours.
        counts = getattr(model, "normalize", None) is not None
        fades = getattr(model, "cutoff_fn", "cosine") != "none"
        self.skin = skin if fades and not counts else 0.0
        self.searches = 0
        self.captures = 0
        self._model = cast(SchNet, copy.deepcopy(model).eval().requires_grad_(False))
        self._potential = Potential(self._model, stress=stress).eval()
        self._entries: dict[str, Any] = {}
        self._list_pos: Tensor | None = None
        self._input: Data | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: dict[str, Tensor] = {}

    @torch.inference_mode(False)
    def __call__(self, data: Data) -> dict[str, Tensor]:
        """Evaluate one structure or a batch; as :meth:`pyg_schnet.Potential.forward`."""
        pos = data.pos.detach()
        if not self._serves(data, pos):
            self._prepare(data, pos)
        assert self._graph is not None and self._input is not None
        self._input.pos.copy_(pos)
        self._graph.replay()
        return {name: value.clone() for name, value in self._output.items()}

    def _serves(self, data: Data, pos: Tensor) -> bool:
        """Whether only the positions differ from those of the graph, and not by too much."""
        if self._graph is None or self._input is None or pos.shape != self._input.pos.shape:
            return False
        if not all(same(data.get(name), self._entries[name]) for name in _ENTRIES):
            return False
        if self._list_pos is None:
            return True
        moved = float((pos - self._list_pos).square().sum(1).max()) if len(pos) else 0.0
        return moved <= (0.5 * self.skin) ** 2

    def _prepare(self, data: Data, pos: Tensor) -> None:
        """Find the edges and capture."""
        self._graph = None
        self._entries = {name: copied(data.get(name)) for name in _ENTRIES}
        given = {name: value for name, value in self._entries.items() if value is not None}
        if self._potential.stress and "cell" in given:
            volumes(given["cell"])  # the graph will not look at it
        self._list_pos = None
        if "edge_index" not in given:
            all_pairs = self._model.cutoff_fn == "none" and given.get("cell") is None
            capped = self._model.max_num_neighbors
            given["edge_index"], given["cell_shift"] = neighbor_edges(
                pos,
                None if all_pairs else self._model.cutoff + (0.0 if capped else self.skin),
                batch=given.get("batch"),
                cell=given.get("cell"),
                pbc=given.get("pbc"),
                max_num_neighbors=capped,
            )
            self.searches += 1
            if not all_pairs:
                # With a cap the nearest may change at any move.
                self._list_pos = pos.clone() if not capped else torch.full_like(pos, math.inf)
        self._input = Batch(pos=pos.clone(), **given)
        if "batch" in given:
            self._input._num_graphs = num_graphs_of(data)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._potential(self._input)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._output = self._potential(self._input)
        self._graph = graph
        self.captures += 1
