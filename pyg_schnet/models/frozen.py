"""A SchNet with its weights taken, evaluated by one compiled function."""

import ctypes
import math
import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch_geometric.data import Data

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.vectors import edge_vectors
from pyg_schnet.models.frozen_weights import Weights, check_model, engine_module
from pyg_schnet.models.inputs import checked_batch, copied, same, volumes
from pyg_schnet.models.potential import num_graphs_of

_ENTRIES = ("z", "batch", "cell", "pbc", "edge_index", "cell_shift")
_FLOATS = (np.dtype("float32"), np.dtype("float64"))
_INCOMING = ("IN_PTR", "IN_TARGET", "IN_SOURCE", "IN_OFFSET")
_OUTGOING = ("OUT_PTR", "OUT_SOURCE", "OUT_TARGET", "OUT_OFFSET")
_SMALL = 8_000_000  # multiply-adds; below this, waking a second thread costs more than it brings
_CHUNKS_PER_THREAD, _CHUNK = 4, 8  # at most; atoms, at least
_MARGIN = 1e-5  # Å, so that rounding in the search cannot lose a pair within the cutoff


class FrozenPotential:
    r"""Energy, forces and stress of a :class:`~pyg_schnet.SchNet` in one compiled call.

    For molecular dynamics and other long series of evaluations on a CPU, where the overhead of
    torch on small molecules outweighs the arithmetic. Call and results are those of
    :class:`~pyg_schnet.Potential` in eval mode, without gradients. The weights are copied: later
    changes of the model have no effect.

    .. math::
        W_l(d) \approx \sum_{m=0}^{5} B_m(t)\, C^l_{k+m}, \qquad
        \mathbf F_i = -\frac{\partial E}{\partial \mathbf r_i}

    The filters :math:`W_l` are read off a quintic B-spline on a grid of distances, which is refined
    until it agrees with the filter networks to 1e-6 of their maximum (slopes 1e-5); for float64
    1e-10 and 1e-9. The cutoff function is evaluated exactly. Forces are the exact gradient of the
    energy that is returned.

    Where edges are not given they are searched with a radius larger by ``skin`` and kept until an
    atom has moved by half of it, or anything else changes (Verlet, Phys. Rev. 159, 98, 1967). Pairs
    beyond the cutoff weigh nothing, so results do not depend on ``skin``.

    Args:
        model: Energy model on the CPU, in float32 or float64.
        stress: Compute the stress of periodic structures too.
        skin: Å, at least 0. With 0 each move of an atom makes a new search.

    Attributes:
        searches: Number of neighbour searches so far.

    Raises:
        ValueError: If the model is not one that can be frozen: a dipole, a function as
            ``interaction_graph``, modules of other kinds, not on the CPU, or half precision.
        ImportError: If Numba is missing.

    Example:
        >>> from pyg_schnet import SchNet
        >>> water = Data(z=torch.tensor([8, 1, 1]), pos=torch.rand(3, 3))
        >>> frozen = FrozenPotential(SchNet(32, 32, 2, 20, 5.0))
        >>> result = frozen(water)
        >>> result["energy"].shape, result["forces"].shape
        (torch.Size([1]), torch.Size([3, 3]))
        >>> energy, forces, _ = frozen.structure(water).evaluate(water.pos.numpy())
        >>> bool((forces == result["forces"].numpy()).all())
        True
    """

    def __init__(self, model: nn.Module, *, stress: bool = False, skin: float = 0.5) -> None:
        if not (math.isfinite(skin) and skin >= 0):
            raise ValueError(f"skin must be a finite length of at least 0 Å, got {skin}.")
        model = check_model(model)
        self.stress = stress
        self.skin = skin
        self.searches = 0
        self.weights = Weights(model)
        self._lock = threading.Lock()
        self._current: Structure | None = None
        self._name = repr(model)

    def __call__(self, data: Data) -> dict[str, Tensor]:
        """Evaluate one structure or a batch.

        Args:
            data: As for :meth:`pyg_schnet.Potential.forward`.

        Returns:
            "energy" (B,) in float64, eV; "forces" (N, 3), eV/Å; and "stress" (B, 3, 3), eV/Å³, if
            asked for.

        Raises:
            ValueError: As the potential and the model.
        """
        entries = data.to_dict()
        pos = entries["pos"].detach()
        with self._lock:
            current = self._current
            if current is None or not current.serves(data, entries, pos):
                room = _Room() if current is None else current.room
                self._current = None  # should the new one raise
                current = self._current = Structure(self, data, room)
            energy, forces, virial = current.evaluate_tensor(pos)
        result = {"energy": energy, "forces": forces}
        if virial is not None:
            result["stress"] = (virial / current.volume).to(pos.dtype)
        return result

    def structure(self, data: Data) -> "Structure":
        """A handle on one structure (or batch) whose positions alone will change.

        It holds what :meth:`__call__` would have to compare or look up each time, and its own work
        space, so that different threads may use different handles.

        Args:
            data: As for :meth:`__call__`; its positions are used only for their number.

        Raises:
            ValueError: As :meth:`__call__`.
        """
        return Structure(self, data, _Room())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name}, stress={self.stress}, skin={self.skin:g})"


class Structure:
    """Atoms whose positions alone change: made by :meth:`FrozenPotential.structure`.

    Attributes:
        num_atoms: N.
        num_graphs: Number of molecules, B.
        volume: Of the cells (B, 1, 1), Å³, if the potential computes stress.
    """

    @torch.inference_mode(False)
    def __init__(self, frozen: FrozenPotential, data: Data, room: "_Room") -> None:
        self.frozen, self.room = frozen, room
        self._weights = weights = frozen.weights
        self._cpu = cpu = engine_module()
        self._lock = threading.Lock()
        self._given = {name: copied(data.get(name)) for name in _ENTRIES}
        z, pos, cell = data.get("z"), data.get("pos"), self._given["cell"]
        if not (pos.is_cpu and z.is_cpu):
            raise ValueError(
                f"A frozen potential works on the CPU, but pos is on {pos.device} and z on "
                f"{z.device}; move data there with data.cpu()."
            )
        self._batch = checked_batch(z, pos, self._given["batch"], weights.dtype).contiguous()
        self.num_atoms, self.num_graphs = z.numel(), num_graphs_of(data)
        if self.num_atoms and not 0 <= int(self._batch.min()) <= int(self._batch.max()) < (
            self.num_graphs
        ):
            raise ValueError(
                f"batch must number the molecules from 0 to {self.num_graphs - 1}, got "
                f"{int(self._batch.min())} to {int(self._batch.max())}."
            )
        self.volume: Tensor | float = 1.0
        if frozen.stress:
            if cell is None:
                raise ValueError("The stress needs a periodic structure, but data has no cell.")
            self.volume = volumes(cell.double())

        self._engine = cpu.engine(weights.bits)
        self._scalars = weights.scalars.clone()
        self._element = self._given["z"].long().contiguous()
        self._seed = weights.seeds(self._batch, self.num_graphs)
        self._arguments = (ctypes.c_int64 * cpu.NUM_ARGUMENTS)(*weights.arguments)
        counters = cpu.COUNTER_STRIDE * cpu.num_counters(weights.num_layers)
        self._counters = (ctypes.c_int64 * counters)()
        self._set(
            COUNTERS=ctypes.addressof(self._counters),
            ATOMS=self.num_atoms,
            MOLECULES=self.num_graphs,
            SCALARS=self._scalars,
            MOLECULE=self._batch,
            ELEMENT=self._element,
            ATOM_SEED=self._seed,
        )
        self._threads = 0  # for which there is room
        self._has_edges = self._given["edge_index"] is not None
        if self._has_edges:
            self._use_given_edges()

    def serves(self, data: Data, entries: dict[str, Any], pos: Tensor) -> bool:
        """Whether only the positions of ``data``, which has these entries, differ."""
        if pos.dtype != self._weights.dtype or pos.shape != self._element.shape + (3,):
            return False
        if not pos.is_cpu:
            return False
        if not all(same(entries.get(name), kept) for name, kept in self._given.items()):
            return False
        # A batch may end in empty molecules.
        return self._given["batch"] is None or num_graphs_of(data) == self.num_graphs

    def evaluate(self, pos: NDArray) -> tuple[NDArray, NDArray, NDArray | None]:
        r"""Energy, forces and virial at other positions.

        .. math::
            \Xi = \left. \frac{\partial E}{\partial \varepsilon} \right|_{\varepsilon=0}

        Args:
            pos: (N, 3), Å, float32 or float64, whatever the dtype of the model.

        Returns:
            Energies (B,), float64, eV; forces (N, 3) in the dtype of the model, eV/Å; and the
            virials (B, 3, 3), float64, eV, if the potential computes stress, else None. The stress
            is the virial by the volume.

        Raises:
            ValueError: If ``pos`` has another shape or dtype; and from the neighbour search, if
                positions are not finite or two atoms lie on one point.
        """
        if pos.shape != (self.num_atoms, 3) or pos.dtype not in _FLOATS:
            raise ValueError(
                f"pos must be float32 or float64 of shape ({self.num_atoms}, 3), got {pos.dtype} "
                f"of shape {pos.shape}."
            )
        if not pos.flags.writeable:  # which tensors must be, though nobody writes here
            pos = pos.copy()
        pos = np.ascontiguousarray(pos)
        energy, forces, virial = self.evaluate_tensor(torch.from_numpy(pos))
        return energy.numpy(), forces.numpy(), None if virial is None else virial.numpy()

    def evaluate_tensor(self, pos: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """As :meth:`evaluate`, from a tensor to tensors; ``pos`` is not checked."""
        cpu, arguments = self._cpu, self._arguments
        pos = pos.contiguous()
        energy = torch.empty(self.num_graphs, dtype=torch.float64)
        forces = torch.empty(self.num_atoms, 3, dtype=self._weights.dtype)
        virial = None
        if self.frozen.stress:
            virial = torch.empty(self.num_graphs, 3, 3, dtype=torch.float64)
        with self._lock:
            if not self._has_edges:
                self._search(pos)
            arguments[cpu.POSITIONS] = pos.data_ptr()
            arguments[cpu.POSITIONS_ARE_DOUBLE] = pos.dtype == torch.float64
            arguments[cpu.ENERGY] = energy.data_ptr()
            arguments[cpu.FORCES] = forces.data_ptr()
            arguments[cpu.VIRIAL] = 0 if virial is None else virial.data_ptr()
            if self._run():
                self._search(pos)
                self._run()
        return energy, forces, virial

    def _run(self) -> int:
        """Evaluate; not 0 where the edges kept do not serve the positions."""
        cpu, arguments = self._cpu, self._arguments
        threads = min(torch.get_num_threads(), self._most_threads)
        if threads > self._threads:
            self._provide(threads)
        arguments[cpu.STATUS] = 0
        # Few rows at a time would waste the dense layers.
        chunks = max(threads, min(_CHUNKS_PER_THREAD * threads, self.num_atoms // _CHUNK))
        arguments[cpu.CHUNKS] = 1 if threads == 1 else chunks
        ctypes.memset(self._counters, 0, ctypes.sizeof(self._counters))
        self._engine(arguments, threads)
        return arguments[cpu.STATUS]

    @torch.inference_mode(False)
    def _search(self, pos: Tensor) -> None:
        """Find the edges anew; in float64, so that one search serves positions of either dtype."""
        weights, frozen, given = self._weights, self.frozen, self._given
        cell = None if given["cell"] is None else given["cell"].double()
        skin, radius, capped = frozen.skin, None, weights.max_num_neighbors is not None
        if weights.cutoff_fn != "none" or cell is not None:
            radius = weights.cutoff + (0.0 if capped else skin + _MARGIN)
        edge_index, shift = neighbor_edges(
            pos.double(),
            radius,
            batch=given["batch"],
            cell=cell,
            pbc=given["pbc"],
            max_num_neighbors=weights.max_num_neighbors,
        )
        frozen.searches += 1
        self._list_pos = pos.to(torch.float64, copy=True).contiguous()
        self._scalars[self._cpu.LIST_REACH] = math.inf if radius is None else (0.5 * skin) ** 2
        if capped:
            self._scalars[self._cpu.LIST_REACH] = 0.0
        self._set(LIST_POSITIONS=self._list_pos, NORMALIZE=int(weights.normalize is not None))
        limit = math.inf if radius is None else weights.cutoff
        self._use_edges(edge_index, None if cell is None else shift, limit)
        self._has_edges = True

    def _use_given_edges(self) -> None:
        weights, edge_index = self._weights, self._given["edge_index"]
        if edge_index.dim() != 2 or edge_index.size(0) != 2:
            raise ValueError(f"edge_index must have shape (2, E), got {tuple(edge_index.shape)}.")
        self._set(NORMALIZE=0 if weights.normalize is None else 2)
        limit = math.inf if weights.cutoff_fn == "none" else weights.cutoff
        self._use_edges(edge_index.long(), self._given["cell_shift"], limit)

    def _use_edges(self, edge_index: Tensor, shift: Tensor | None, limit: float) -> None:
        """Sort the edges by target and by source."""
        from pyg_schnet.ops.backends.cpu.edges import csr

        in_ptr, by_target = csr(edge_index[1], self.num_atoms)
        edge_index = edge_index.index_select(1, by_target)
        out_ptr, by_source = csr(edge_index[0], self.num_atoms)
        shift = None if shift is None else shift.index_select(0, by_target)
        cell, offset = self._given["cell"], None
        if cell is not None:
            # The vectors between atoms that all lie at the origin.
            origin = torch.zeros(self.num_atoms, 3, dtype=torch.float64)
            offset = edge_vectors(origin, edge_index, cell.double(), shift, self._batch)
        short = edge_index.int()
        incoming = (in_ptr, short[1], short[0], 0 if offset is None else offset.contiguous())
        place = _reverses(edge_index, None if cell is None else shift, self.num_atoms)
        self._is_symmetric = place is not None
        outgoing = incoming
        if place is None:
            place = torch.empty_like(by_source)
            place[by_source] = torch.arange(by_source.numel())
            back = short.index_select(1, by_source)
            other_way = 0 if offset is None else -offset.index_select(0, by_source)
            outgoing = (out_ptr, back[0], back[1], other_way)
        place = place.int()
        self._edges = (incoming, outgoing, place)  # keeps their memory
        self._num_edges = edge_index.size(1)
        self._scalars[self._cpu.LIMIT] = limit
        for side, names in ((incoming, _INCOMING), (outgoing, _OUTGOING)):
            self._set(**dict(zip(names, side, strict=True)))
        self._set(PLACE=place, SYMMETRIC=int(self._is_symmetric))
        self._most_threads = 1
        if self._weights.work(self.num_atoms, self._num_edges) > _SMALL:
            self._most_threads = max(1, self.num_atoms // _CHUNK)
        self._provide(max(1, self._threads))

    @torch.inference_mode(False)
    def _provide(self, threads: int) -> None:
        """Find room for intermediate results; enter the first dense layer, a lookup by element."""
        weights, atoms, edges = self._weights, self.num_atoms, self._num_edges
        hidden, filters, layers = weights.hidden, weights.filters, weights.num_layers
        scratch = weights.scratch(self._cpu.GROUP)
        again = 0 if self._is_symmetric else edges
        parts = self.room.parts(
            weights.dtype,
            IN_LINES=edges * self._cpu.LINE,
            OUT_LINES=again * self._cpu.LINE,
            SLOPE=edges,
            SHARE=atoms,
            X=atoms * hidden,
            H=layers * atoms * filters,
            SLOPES=layers * atoms * hidden,
            GX=atoms * hidden,
            GY=2 * atoms * filters,
            SCRATCH=threads * scratch,
        )
        parts |= self.room.parts(torch.int32, IN_KNOT=edges, OUT_KNOT=again)
        if self._is_symmetric:
            parts |= {"OUT_LINES": parts["IN_LINES"], "OUT_KNOT": parts["IN_KNOT"]}
        # Not of the same dtype as the first ones: float64 work has a pool of its own.
        parts |= self.room.parts(
            torch.float64,
            pool="exact",
            WORK_POSITIONS=3 * atoms,
            ATOM_ENERGY=atoms,
            ATOM_VIRIAL=6 * atoms,
            SCRATCH_DOUBLE=threads * self._cpu.SCRATCH_DOUBLES,
        )
        self._set(SCRATCH_SIZE=scratch, **parts)
        self._threads = threads
        if layers:
            first = parts["H"][: atoms * filters].view(atoms, filters)
            torch.index_select(weights.first, 0, self._element, out=first)

    def _set(self, **values: Tensor | int) -> None:
        for name, value in values.items():
            address = value.data_ptr() if isinstance(value, Tensor) else value
            self._arguments[getattr(self._cpu, name)] = address


class _Room:
    """Memory for intermediate results, kept from one structure to the next while it suffices."""

    def __init__(self) -> None:
        self._pools: dict[str, Tensor] = {}

    def parts(self, dtype: torch.dtype, pool: str = "", **sizes: int) -> dict[str, Tensor]:
        """Tensors of these sizes, each beginning at a whole vector."""
        pool = pool or str(dtype)
        starts, total = {}, 0
        for name, size in sizes.items():
            starts[name] = total
            total += -(-size // 16) * 16
        held = self._pools.get(pool)
        if held is None or held.numel() < total:
            more = total if held is None else max(total, 2 * held.numel())
            held = self._pools[pool] = torch.empty(more, dtype=dtype)
        return {name: held[start : start + sizes[name]] for name, start in starts.items()}


def _reverses(edge_index: Tensor, shift: Tensor | None, num_atoms: int) -> Tensor | None:
    """The number of the reverse of each edge, or None where some edge has none."""
    source, target = edge_index[0], edge_index[1]
    key, reverse = target * num_atoms + source, source * num_atoms + target
    if shift is not None and shift.numel():
        shift = shift.long()
        most = int(shift.abs().max())
        span = 2 * most + 1
        if num_atoms**2 * span**3 >= 2**63:
            return None
        for axis in range(3):
            key = key * span + (shift[:, axis] + most)
            reverse = reverse * span + (most - shift[:, axis])
    order, reversed_order = torch.argsort(key), torch.argsort(reverse)
    if not torch.equal(key[order], reverse[reversed_order]):
        return None
    place = torch.empty_like(order)
    place[reversed_order] = order
    return place
