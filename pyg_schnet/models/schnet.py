"""SchNet: embedding, interaction blocks, readout."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from pyg_schnet.graph.vectors import edge_vectors
from pyg_schnet.models.atomistic import AtomisticModel, InteractionGraph
from pyg_schnet.models.heads import build_head, head_name
from pyg_schnet.models.inputs import checked_batch, count_graphs
from pyg_schnet.models.presets import PRESETS
from pyg_schnet.models.pyg_names import translate_pyg_state
from pyg_schnet.nn.basis import GaussianSmearing
from pyg_schnet.nn.cutoff import checked_cutoff
from pyg_schnet.nn.dipole import Dipole
from pyg_schnet.nn.fading import FractionalAtoms
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.head import Head
from pyg_schnet.nn.interaction import InteractionBlock
from pyg_schnet.nn.polarizability import Polarizability
from pyg_schnet.nn.readout import MAX_ATOMIC_NUMBER, Atomwise, pool
from pyg_schnet.nn.spatial_extent import SpatialExtent
from pyg_schnet.nn.tabulated import EdgeFilters, FilterTable
from pyg_schnet.ops import Graph


class SchNet(AtomisticModel):
    r"""SchNet, a drop-in for ``torch_geometric.nn.SchNet`` that can be all three SchNets.

    .. math::
        x_i^0 &= a_{Z_i} \\
        x_i^{l+1} &= x_i^l + v_i^l(x^l, d) \\
        E &= \sum_i e(x_i^T)

    =====================  ==========================  ============================================
    :math:`a_Z`            ``embedding``               one vector per element, (100, hidden)
    :math:`d`              ``distance_expansion``      distances in Gaussians
    :math:`v^l`            ``interactions[l]``         :class:`~pyg_schnet.nn.InteractionBlock`
    :math:`e`              ``readout``                 :class:`~pyg_schnet.nn.Atomwise`, or another
                                                       head: see ``head``
    =====================  ==========================  ============================================

    Schütt et al., NeurIPS 2017; J. Chem. Phys. 148, 241722 (2018). Arguments up to ``atomref`` and
    their meaning are PyG's, but no neighbour is dropped by default, the cosine stays zero beyond
    the cutoff for given edges too, and ``atomref`` is not trained. docs/paper_vs_code.md lists
    every departure; :meth:`preset` gives the papers' own models.

    Args:
        hidden_channels: Features of an atom.
        num_filters: Features while convolving.
        num_interactions: Number of interaction blocks, T.
        num_gaussians: Size of the radial basis, on a grid from 0 to ``cutoff``.
        cutoff: Å. With ``cutoff_fn="none"`` only the end of the grid: all pairs interact.
        interaction_graph: A function of (pos, batch) that returns (edge_index, distances), used
            instead of the built-in neighbour search.
        max_num_neighbors: None keeps all neighbours; a number keeps the nearest, and warns.
        readout: "add" (extensive) or "mean" (intensive), or one of them per property; of the
            atomwise head.
        dipole: Predict the magnitude of the dipole moment instead; PyG's word for head="dipole".
        mean: Mean of the atomic contributions, in the unit of the property; or one per property.
        std: Their standard deviation; or one per property.
        atomref: Single-atom values by atomic number, (100, out_channels) or (100,).
        head: How the features of the atoms become a property: "atomwise" (sum or mean of
            contributions, :class:`~pyg_schnet.nn.Atomwise`), "dipole"
            (:class:`~pyg_schnet.nn.Dipole`), "spatial_extent"
            (:class:`~pyg_schnet.nn.SpatialExtent`), "polarizability"
            (:class:`~pyg_schnet.nn.Polarizability`), "softmax"
            (:class:`~pyg_schnet.nn.SoftmaxPooling`) or "set2set"
            (:class:`~pyg_schnet.nn.Set2SetPooling`). None takes "atomwise", or "dipole" with
            ``dipole``.
        head_options: Arguments of the head's class that are its own, such as
            ``{"magnitude": False}`` for the dipole vector or ``{"tensor": True}`` for the
            polarizability tensor.
        out_channels: Properties predicted together: by "atomwise", "softmax" and "set2set".
        filters: "exact" evaluates the filter networks on each edge; "tabulated" reads them off a
            spline whose relative error is measured (:class:`~pyg_schnet.nn.tabulated.FilterTable`);
            "auto" takes the table in float32 where that is the cheaper, and float64 exactly.
        filter_activation: After the last layer of the filter network: "linear" (SchNetPack, PyG)
            or "ssp" (the papers' code).
        cutoff_fn: "cosine", "hard" or "none".
        normalize: None, or "neighbors" to divide each convolution by the number of neighbours.
        gamma: Of the Gaussians, 1/Å²; None takes 1/(2 spacing²).
        shared_filters: One filter network for all blocks (thesis, section 5.2).
        backend: Who computes the convolution; see :func:`pyg_schnet.ops.choose_backend`.
        seed: Seed of the initial weights; None uses torch's generator as it stands, and draws the
            same weights as PyG would.

    Raises:
        ValueError: If an option is unknown or a size not positive.

    Example:
        >>> model = SchNet(hidden_channels=64, num_filters=64, num_interactions=3, cutoff=5.0)
        >>> z, pos = torch.tensor([8, 1, 1]), torch.rand(3, 3)
        >>> model(z, pos).shape
        torch.Size([1, 1])
        >>> model
        SchNet(hidden_channels=64, num_filters=64, num_interactions=3, num_gaussians=50, cutoff=5.0)
    """

    def __init__(
        self,
        hidden_channels: int = 128,
        num_filters: int = 128,
        num_interactions: int = 6,
        num_gaussians: int = 50,
        cutoff: float = 10.0,
        interaction_graph: InteractionGraph | None = None,
        max_num_neighbors: int | None = None,
        readout: str | Sequence[str] = "add",
        dipole: bool = False,
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
        atomref: Tensor | None = None,
        *,
        head: str | None = None,
        head_options: Mapping[str, Any] | None = None,
        out_channels: int = 1,
        filters: str = "auto",
        filter_activation: str = "linear",
        cutoff_fn: str = "cosine",
        normalize: str | None = None,
        gamma: float | None = None,
        shared_filters: bool = False,
        backend: str = "auto",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.hidden_channels = _positive("hidden_channels", hidden_channels, 2)
        self.num_filters = _positive("num_filters", num_filters)
        self.num_interactions = _positive("num_interactions", num_interactions, 0)
        self.num_gaussians = num_gaussians
        checked_cutoff(cutoff)
        self.cutoff = cutoff
        self.interaction_graph = interaction_graph
        self.max_num_neighbors = max_num_neighbors
        self.head = head_name(head, dipole)
        self.dipole = self.head == "dipole"
        self.head_options = dict(head_options or {})
        self.out_channels = _positive("out_channels", out_channels)
        if filters not in ("auto", "exact", "tabulated"):
            raise ValueError(f"filters must be 'exact', 'tabulated' or 'auto', got {filters!r}.")
        self.filters = filters
        self.filter_activation = filter_activation
        self.cutoff_fn = cutoff_fn
        self.normalize = normalize
        self.gamma = gamma
        self.shared_filters = shared_filters
        self.backend = backend
        self.seed = seed
        self._table: FilterTable | None = None
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self._build(readout, {"mean": mean, "std": std, "atomref": atomref})
        self.register_load_state_dict_pre_hook(translate_pyg_state)
        self.register_load_state_dict_post_hook(_measure_again)
        if self.filters != "exact" and self.num_interactions > 0:
            self._table_of_filters()

    def _build(
        self, readout: str | Sequence[str], constants: dict[str, float | Tensor | None]
    ) -> None:
        """Make the layers, in the order in which PyG draws their random numbers."""
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, self.hidden_channels, padding_idx=0)
        self.distance_expansion = GaussianSmearing(0.0, self.cutoff, self.num_gaussians, self.gamma)
        shared = None
        if self.shared_filters:
            shared = FilterNetwork(self.num_gaussians, self.num_filters, self.filter_activation)
        self.interactions = nn.ModuleList(
            InteractionBlock(
                self.hidden_channels,
                self.num_gaussians,
                self.num_filters,
                self.cutoff,
                filter_activation=self.filter_activation,
                cutoff_fn=self.cutoff_fn,
                normalize=self.normalize,
                filter_network=shared,
                backend=self.backend,
            )
            for _ in range(self.num_interactions)
        )
        # A head draws twice, as default and as Xavier, but PyG's head once before the last reset.
        with torch.random.fork_rng(devices=[]):
            self.readout: Head = build_head(
                self.head,
                self.hidden_channels,
                self.out_channels,
                self.cutoff,
                readout,
                constants,
                self.head_options,
            )
        for layer in (self.readout.lin1, self.readout.lin2):
            layer.reset_parameters()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: normal embeddings, Xavier-uniform dense layers, zero biases."""
        self.embedding.reset_parameters()
        for block in self.interactions:
            cast(InteractionBlock, block).reset_parameters()
        self.readout.reset_parameters()

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """One of the SchNets that people mean by the name, with its source.

        Args:
            name: "neurips-2017", "jcp-2018", "chapter-2020", "schnetpack" or "pyg"; see
                :mod:`pyg_schnet.models.presets`.
            **overrides: Arguments of the constructor that shall differ.

        Raises:
            ValueError: If the name is unknown.
            TypeError: If an override is no argument of the constructor.

        Example:
            >>> SchNet.preset("neurips-2017").filter_activation
            'ssp'
        """
        if name not in PRESETS:
            known = ", ".join(repr(key) for key in PRESETS)
            raise ValueError(f"preset must be one of {known}, got {name!r}.")
        return cls(**{**PRESETS[name].arguments, **overrides})

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments that make this architecture again; constants are in the buffers.

        Raises:
            ValueError: If ``interaction_graph`` is set, since a function cannot be written down.
        """
        if self.interaction_graph is not None:
            raise ValueError(
                "A SchNet with an interaction_graph cannot be written to a file; set "
                "model.interaction_graph = None and give edge_index, or set it again after loading."
            )
        given_apart = ("interaction_graph", "readout", "mean", "std", "atomref")
        names = [n for n in inspect.signature(SchNet).parameters if n not in given_apart]
        known = {name: getattr(self, name) for name in names}
        known["head_options"] = dict(self.head_options)
        readout = self.readout.readout if isinstance(self.readout, Atomwise) else "add"
        return known | {"readout": readout if isinstance(readout, str) else list(readout)}

    def features(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        edge_index: Tensor | None = None,
        cell: Tensor | None = None,
        cell_shift: Tensor | None = None,
        pbc: Tensor | None = None,
        *,
        fractional: FractionalAtoms | None = None,
    ) -> Tensor:
        """Features of the atoms after the last interaction, (N, hidden_channels).

        Arguments as :meth:`forward`.

        Raises:
            ValueError: As :meth:`forward`.
        """
        batch = checked_batch(z, pos, batch, self.embedding.weight.dtype)
        # Distances are the same both ways, but the shifts of periodic images are not.
        undirected = cell is None and all(
            cast(InteractionBlock, block).conv.is_fused() for block in self.interactions
        )
        graph, distance = self._graph(
            pos, batch, edge_index, cell, cell_shift, pbc, undirected=undirected
        )
        numbers = z if z.dtype == torch.int32 else z.long()
        if fractional is None:
            x = self.embedding(numbers)  # [N, H]
        else:
            self._check_fading(fractional, z)
            x = fractional.embed(self.embedding, numbers)
        for block, edge_attr in zip(
            self.interactions, self._edge_attributes(graph, distance), strict=True
        ):
            # The convolution is linear in its input, so a faded input is a faded message.
            sent = x if fractional is None else fractional.fade(x)
            x = x + block(sent, graph, distance, edge_attr)
        return x

    def _check_fading(self, fractional: FractionalAtoms, z: Tensor) -> None:
        fractional.check(z)
        if fractional.presence is not None and self.normalize is not None:
            raise ValueError(
                f"Atoms cannot fade from a model with normalize={self.normalize!r}, which counts "
                "each neighbour as a whole one; use normalize=None."
            )

    def _edge_attributes(self, graph: Graph, distance: Tensor) -> list[Tensor] | list[EdgeFilters]:
        """What each block makes its filters of: Gaussians of distances, or rows of a table."""
        table = self._filter_table(distance)
        if table is None:
            return [self.distance_expansion(distance)] * len(self.interactions)
        scale = cast(InteractionBlock, self.interactions[0]).conv.cutoff_fn(distance)
        lookups = table.look_up(distance, scale, self.backend)
        return lookups * len(self.interactions) if self.shared_filters else lookups

    def _filter_table(self, distance: Tensor) -> FilterTable | None:
        """The table, where it shall be used."""
        if self.filters == "exact" or len(self.interactions) == 0:
            return None
        if self.filters == "auto" and distance.dtype != torch.float32:
            return None
        table = self._table_of_filters()
        if table is None or self.filters == "tabulated" or table.is_constant():
            return table
        return table if distance.numel() > table.grid(distance.dtype).num_knots else None

    def _table_of_filters(self) -> FilterTable | None:
        """The table of the present basis and networks; None if they cannot be tabulated.

        Raises:
            ValueError: If ``filters="tabulated"`` and they cannot.
        """
        blocks = cast(list[InteractionBlock], list(self.interactions))
        networks = [block.conv.nn for block in blocks]
        networks = networks[:1] if self.shared_filters else networks
        if not FilterTable.fits(self.distance_expansion, networks):
            if self.filters == "tabulated":
                raise ValueError(
                    "filters='tabulated' needs the package's own basis and filter networks, "
                    "without hooks; use filters='exact' or 'auto' with others."
                )
            return None
        table = self._table
        if (
            table is None
            or table.basis is not self.distance_expansion
            or any(a is not b for a, b in zip(table.networks, networks, strict=True))
        ):
            dtypes = [torch.float32]
            if self.filters == "tabulated":
                dtypes.append(torch.float64)
            table = FilterTable(
                self.distance_expansion,
                cast(list[FilterNetwork], networks),
                self._end_of_filters(),
                dtypes,
            )
            self._table = table
        return table

    def _end_of_filters(self) -> float:
        """Å; beyond it the filters are multiplied by zero, or are constant."""
        if self.cutoff_fn != "none":
            return self.cutoff
        width = float((2 * self.distance_expansion.gamma).rsqrt())
        return self.cutoff + 7.0 * width

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        edge_index: Tensor | None = None,
        cell: Tensor | None = None,
        cell_shift: Tensor | None = None,
        pbc: Tensor | None = None,
        *,
        num_graphs: int | None = None,
        dtype: torch.dtype | None = None,
        fractional: FractionalAtoms | None = None,
    ) -> Tensor:
        """Predict.

        Args:
            z: Atomic numbers (N,), integers in 0..99; 0 is padding: its embedding is zero and
                stays so.
            pos: Positions (N, 3), Å, in the dtype of the model.
            batch: Molecule of each atom (N,); None for one molecule.
            edge_index: (2, E): row 0 source j, row 1 target i. None searches for neighbours.
            cell: Lattice vectors as rows, (3, 3) or (B, 3, 3), Å; None for molecules.
            cell_shift: (E, 3) integers, given with ``edge_index`` for periodic structures.
            pbc: (3,) or (B, 3) booleans; None with a ``cell`` means periodic in all directions.
            num_graphs: Number of molecules; None takes the largest number in ``batch`` plus one.
            dtype: Of the result. float64 keeps what float32 cannot hold of a total energy.
            fractional: Atoms that are only partly there, or partly of another element; for models
                with the head "atomwise" and ``normalize=None``.

        Returns:
            (B, out_channels), that is (B, 1) by default; (B, 3) for a dipole vector, (B, 3, 3) for
            a polarizability tensor.

        Raises:
            ValueError: If shapes, dtypes or atomic numbers do not fit; and from the neighbour
                search, if positions are not finite or two atoms lie on one point.
        """
        given, batch = batch, checked_batch(z, pos, batch, self.embedding.weight.dtype)
        if num_graphs is None:
            num_graphs = count_graphs(z, given)
        if fractional is not None:
            edges = (edge_index, cell, cell_shift, pbc)
            x = self.features(z, pos, batch, *edges, fractional=fractional)
            out = fractional.total(self.readout, x, z.long(), batch, num_graphs)
            return out.to(x.dtype if dtype is None else dtype)
        if not torch.compiler.is_compiling():
            from pyg_schnet.models.sweep_rules import applies, applies_to_atoms
            from pyg_schnet.models.sweeps import learned_by_atoms, learned_energies

            if applies(self, pos, cell, num_graphs):
                rest = (batch, edge_index, cell, cell_shift, pbc)
                learned = learned_energies(self, z, pos, *rest, num_graphs=num_graphs)
                head = cast(Atomwise, self.readout)
                known = pool(head.constant(z.long()), batch, num_graphs, head.readout) * head.scale
                return (learned.view(-1, 1) + known).to(pos.dtype if dtype is None else dtype)
            if applies_to_atoms(self, pos, cell, num_graphs):
                edges = (edge_index, cell, cell_shift, pbc)
                learned = learned_by_atoms(self, z, pos, batch, *edges, num_graphs=num_graphs)
                one = cast(Dipole | Polarizability | SpatialExtent, self.readout)
                more: tuple[Any, ...] = (pos, dtype) if one.uses_positions else (dtype,)
                return one.combine(learned.to(pos.dtype), z.long(), batch, num_graphs, *more)
        pairs: tuple[Tensor, ...] = ()
        if getattr(self.readout, "uses_edges", False):
            if edge_index is None and self.interaction_graph is None:
                edge_index, cell_shift = self._search(pos, batch, cell, pbc)
            among = edge_index
            if among is None and self.interaction_graph is not None:
                among, _ = self.interaction_graph(pos, batch)
            assert among is not None
            pairs = among, edge_vectors(pos, among, cell, cell_shift, batch)
        elif getattr(self.readout, "uses_positions", False):
            pairs = (pos,)
        x = self.features(z, pos, batch, edge_index, cell, cell_shift, pbc)
        return self.readout(x, z.long(), batch, num_graphs, *pairs, dtype=dtype)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(hidden_channels={self.hidden_channels}, "
            f"num_filters={self.num_filters}, num_interactions={self.num_interactions}, "
            f"num_gaussians={self.num_gaussians}, cutoff={self.cutoff})"
        )


def _measure_again(model: SchNet, incompatible_keys: object) -> None:
    """Other weights need another grid."""
    if model._table is not None:
        model._table.measure()


def _positive(name: str, value: int, least: int = 1) -> int:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
    return value
