"""DTNN, the deep tensor neural network: embedding, passes of one interaction, readout."""

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyg_schnet.models.atomistic import AtomisticModel
from pyg_schnet.models.inputs import checked_batch, count_graphs
from pyg_schnet.nn.basis import GaussianSmearing
from pyg_schnet.nn.cutoff import checked_cutoff
from pyg_schnet.nn.fading import FractionalAtoms
from pyg_schnet.nn.head import MAX_ATOMIC_NUMBER
from pyg_schnet.nn.readout import Atomwise
from pyg_schnet.nn.tensor_interaction import TensorInteraction

FIRST_CENTRE = -1.0  # Å, of the Gaussians in the paper


class DTNN(AtomisticModel):
    r"""Deep tensor neural network, SchNet's predecessor, with the call of :class:`SchNet`.

    .. math::
        x_i^0 &= a_{Z_i} \\
        x_i^{t+1} &= x_i^t + v_i(x^t, d) \\
        E &= \sum_i \left( E_\sigma\,\left( A_2 \tanh(A_1 x_i^T + a_1) + a_2 \right) + E_\mu
             \right)

    =====================  ==========================  ============================================
    :math:`a_Z`            ``embedding``               one vector per element, (100, hidden)
    :math:`d`              ``distance_expansion``      distances in Gaussians from -1 Å to cutoff
    :math:`v`              ``interactions``            :class:`~pyg_schnet.nn.TensorInteraction`;
                                                       one for all T passes, or one for each
    :math:`A, a`           ``readout``                 :class:`~pyg_schnet.nn.Atomwise` with a
                                                       hyperbolic tangent
    :math:`E_\mu`,         ``readout.mean``,           per atom, from the training set; beside them
    :math:`E_\sigma`       ``readout.std``             single-atom values, ``readout.atomref``
    =====================  ==========================  ============================================

    Schütt et al., Nat. Commun. 8, 13890 (2017); thesis (TU Berlin, 2018), chapter 3. The defaults
    are the paper's for QM9: 30 features, 60 factors, T = 3, Gaussians from -1 to 20 Å every 0.2 Å
    of that width (to 10 Å for QM7b, 15 Å for toluene, malonaldehyde and salicylic acid of MD17),
    all pairs interacting. Initial features are normal with variance :math:`1/\sqrt{30}`, weights
    Xavier-uniform. Its training: stochastic gradient descent with a momentum of 0.9.

    Args:
        hidden_channels: Features of an atom.
        num_factors: Rank of the interaction tensor.
        num_interactions: Number of passes, T.
        num_gaussians: Size of the radial basis, on a grid from -1 Å to ``cutoff``; None takes one
            every 0.2 Å.
        cutoff: Å. With ``cutoff_fn="none"`` only the end of the grid: all pairs of molecules
            interact, and of crystals those within it.
        max_num_neighbors: None keeps all neighbours; a number keeps the nearest, and warns.
        readout: "add" (extensive) or "mean" (intensive), or one of them per property.
        mean: Mean of the atomic contributions, in the unit of the property; or one per property.
        std: Their standard deviation; or one per property.
        atomref: Single-atom values by atomic number, (100, out_channels) or (100,).
        tied: One interaction for all passes; False: each has weights of its own.
        activation: Of the messages: "tanh" or "linear" (thesis, section 4.3).
        output_channels: Width of the hidden layer of the readout; None takes half of
            ``hidden_channels``.
        out_channels: Properties predicted together.
        cutoff_fn: "none", "cosine" or "hard".
        gamma: Of the Gaussians, 1/Å²; None takes 1/(2 spacing²).
        backend: Who computes where the messages are linear; see
            :func:`pyg_schnet.ops.choose_backend`.
        seed: Seed of the initial weights; None uses torch's generator as it stands.

    Raises:
        ValueError: If an option is unknown or a size not positive.

    Example:
        >>> model = DTNN(num_interactions=2, cutoff=10.0)
        >>> z, pos = torch.tensor([8, 1, 1]), torch.rand(3, 3)
        >>> model(z, pos).shape
        torch.Size([1, 1])
        >>> model
        DTNN(hidden_channels=30, num_factors=60, num_interactions=2, num_gaussians=56, cutoff=10.0)
    """

    readout: Atomwise

    def __init__(
        self,
        hidden_channels: int = 30,
        num_factors: int = 60,
        num_interactions: int = 3,
        num_gaussians: int | None = None,
        cutoff: float = 20.0,
        max_num_neighbors: int | None = None,
        readout: str | Sequence[str] = "add",
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
        atomref: Tensor | None = None,
        *,
        tied: bool = True,
        activation: str = "tanh",
        output_channels: int | None = None,
        out_channels: int = 1,
        cutoff_fn: str = "none",
        gamma: float | None = None,
        backend: str = "auto",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        checked_cutoff(cutoff)
        if num_gaussians is None:
            num_gaussians = round((cutoff - FIRST_CENTRE) / 0.2) + 1
        if output_channels is None:
            output_channels = hidden_channels // 2
        sizes = {
            "hidden_channels": (hidden_channels, 2),
            "num_factors": (num_factors, 1),
            "num_interactions": (num_interactions, 0),
            "output_channels": (output_channels, 1),
            "out_channels": (out_channels, 1),
        }
        for name, (value, least) in sizes.items():
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        self.hidden_channels = hidden_channels
        self.num_factors = num_factors
        self.num_interactions = num_interactions
        self.num_gaussians = num_gaussians
        self.cutoff = cutoff
        self.interaction_graph = None
        self.max_num_neighbors = max_num_neighbors
        self.tied = tied
        self.activation = activation
        self.output_channels = output_channels
        self.out_channels = out_channels
        self.cutoff_fn = cutoff_fn
        self.gamma = gamma
        self.backend = backend
        self.seed = seed
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self._build(readout, mean, std, atomref)

    def _build(
        self,
        readout: str | Sequence[str],
        mean: float | Tensor | None,
        std: float | Tensor | None,
        atomref: Tensor | None,
    ) -> None:
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, self.hidden_channels, padding_idx=0)
        self.distance_expansion = GaussianSmearing(
            FIRST_CENTRE, self.cutoff, self.num_gaussians, self.gamma
        )
        self.interactions = nn.ModuleList(
            TensorInteraction(
                self.hidden_channels,
                self.num_factors,
                self.num_gaussians,
                self.cutoff,
                activation=self.activation,
                cutoff_fn=self.cutoff_fn,
                backend=self.backend,
            )
            for _ in range(min(self.num_interactions, 1) if self.tied else self.num_interactions)
        )
        self.readout = Atomwise(
            self.hidden_channels,
            self.out_channels,
            self.output_channels,
            readout=readout,
            mean=mean,
            std=std,
            atomref=atomref,
            activation="tanh",
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: normal embeddings, Xavier-uniform dense layers, zero biases."""
        nn.init.normal_(self.embedding.weight, std=self.hidden_channels**-0.25)
        with torch.no_grad():
            self.embedding.weight[0].zero_()
        for layer in self.interactions:
            cast(TensorInteraction, layer).reset_parameters()
        self.readout.reset_parameters()

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments that make this architecture again; constants are in the buffers."""
        given_apart = ("readout", "mean", "std", "atomref")
        names = [n for n in inspect.signature(DTNN).parameters if n not in given_apart]
        readout = self.readout.readout
        known = {name: getattr(self, name) for name in names}
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
        """Features of the atoms after the last pass, (N, hidden_channels).

        Arguments as :meth:`forward`.
        """
        batch = checked_batch(z, pos, batch, self.embedding.weight.dtype)
        layers = cast(list[TensorInteraction], list(self.interactions))
        # Distances are the same both ways, but the shifts of periodic images are not.
        undirected = cell is None and all(layer.is_fused() for layer in layers)
        graph, distance = self._graph(
            pos, batch, edge_index, cell, cell_shift, pbc, undirected=undirected
        )
        numbers = z if z.dtype == torch.int32 else z.long()
        if fractional is None:
            x, presence = self.embedding(numbers), None  # [N, H]
        else:
            fractional.check(z)
            x, presence = fractional.embed(self.embedding, numbers), fractional.presence
        if self.num_interactions == 0:
            return x
        expanded = self.distance_expansion(distance)  # [E, G]
        if not self.tied:
            for layer in layers:
                x = x + layer(x, graph, distance, expanded, presence)
            return x
        factors = layers[0].lin_distance(expanded)  # [E, num_factors]
        for _ in range(self.num_interactions):
            x = x + layers[0].interact(x, graph, distance, factors, presence)
        return x

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
            fractional: Atoms that are only partly there, or partly of another element.

        Returns:
            (B, out_channels), that is (B, 1) by default.

        Raises:
            ValueError: If shapes, dtypes or atomic numbers do not fit; and from the neighbour
                search, if positions are not finite or two atoms lie on one point.
        """
        given, batch = batch, checked_batch(z, pos, batch, self.embedding.weight.dtype)
        if num_graphs is None:
            num_graphs = count_graphs(z, given)
        x = self.features(z, pos, batch, edge_index, cell, cell_shift, pbc, fractional=fractional)
        if fractional is None:
            return self.readout(x, z.long(), batch, num_graphs, dtype)
        out = fractional.total(self.readout, x, z.long(), batch, num_graphs)
        return out.to(x.dtype if dtype is None else dtype)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(hidden_channels={self.hidden_channels}, "
            f"num_factors={self.num_factors}, num_interactions={self.num_interactions}, "
            f"num_gaussians={self.num_gaussians}, cutoff={self.cutoff})"
        )
