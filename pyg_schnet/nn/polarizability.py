"""The polarizability from atoms and pairs of atoms."""

import torch
from torch import Tensor, nn

from pyg_schnet.nn.basis import GaussianSmearing
from pyg_schnet.nn.cutoff import CosineCutoff
from pyg_schnet.nn.head import AtomicValues, reset_dense
from pyg_schnet.nn.pooling import pool


class Polarizability(AtomicValues):
    r"""The polarizability: its isotropic part from atoms, its anisotropy from pairs of atoms.

    .. math::
        \boldsymbol\alpha = s \sum_i \Big( a_i\,\mathbf 1 + \sigma \sum_{j \in N(i)} w_{ij}
        \left( \hat{\mathbf r}_{ij} \hat{\mathbf r}_{ij}^\top - \tfrac{1}{3} \mathbf 1 \right)
        \Big), \qquad
        w_{ij} = f_c(d_{ij}) \sum_k p_{ik}\,p_{jk}\,W_k(d_{ij})

    =====================  ==================  ====================================================
    :math:`a_i`            ``contributions``   network and constants of the atoms, as in
                                               :class:`~pyg_schnet.nn.Atomwise`
    :math:`p_i`            ``pair``            dense, in_channels to num_pairs
    :math:`W`              ``radial``          Gaussians of the distance, then dense, to num_pairs
    :math:`f_c`            ``cutoff_fn``       cosine
    :math:`\sigma`         ``std``             as of the :math:`a_i`
    :math:`s`              ``scale``           a factor of the result, usually 1; float64
    =====================  ==================  ====================================================

    The tensor is symmetric, turns with the molecule, does not depend on the origin, and is additive
    for molecules beyond the cutoff from each other. The second term has no trace, so a third of the
    trace is the sum of :math:`a_i`: the isotropic polarizability, which is all that
    ``tensor=False`` predicts.

    This is the bond polarizability model (Le Fèvre, Adv. Phys. Org. Chem. 3, 1 (1965)) with learned
    bonds. PaiNN (Schütt, Unke and Gastegger, ICML 2021, tensorial properties) uses atomic vectors,
    :math:`\nu_i \mathbf r_i^\top + \mathbf r_i \nu_i^\top`, that SchNet does not have.

    Args:
        in_channels: Features of an atom.
        hidden_channels: Width of the hidden layer; None takes ``in_channels // 2``.
        tensor: Predict the tensor (B, 3, 3) instead of a third of its trace (B, 1).
        cutoff: Of the pairs, Å; edges beyond count nothing.
        num_pairs: Features of a pair.
        num_gaussians: Size of the radial basis of the pairs.
        mean: Per-atom mean of the isotropic part, in the unit of the property, such as Bohr^3.
        std: Per-atom standard deviation.
        atomref: Single-atom values by atomic number, (100, 1) or (100,).

    Raises:
        ValueError: If ``std`` is not positive, ``atomref`` has another shape, or ``cutoff`` is no
            distance.

    Example:
        >>> head = Polarizability(64, tensor=True)
        >>> x, z, batch = torch.rand(2, 64), torch.tensor([6, 8]), torch.zeros(2, dtype=torch.long)
        >>> edge_index = torch.tensor([[0, 1], [1, 0]])
        >>> vectors = torch.tensor([[0.0, 0.0, -1.2], [0.0, 0.0, 1.2]])
        >>> alpha = head(x, z, batch, 1, edge_index, vectors)
        >>> alpha.shape, bool(alpha[0, 0, 0] == alpha[0, 1, 1])
        (torch.Size([1, 3, 3]), True)
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        *,
        tensor: bool = False,
        cutoff: float = 5.0,
        num_pairs: int = 16,
        num_gaussians: int = 20,
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
        atomref: Tensor | None = None,
    ) -> None:
        super().__init__(in_channels, 1, hidden_channels, mean, std, atomref)
        self.tensor = self.uses_edges = tensor
        if tensor:
            self.pair = nn.Linear(in_channels, num_pairs)
            self.distance_expansion = GaussianSmearing(0.0, cutoff, num_gaussians)
            self.radial = nn.Linear(num_gaussians, num_pairs, bias=False)
            self.cutoff_fn = CosineCutoff(cutoff)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, zero biases; the constants stay."""
        super().reset_parameters()
        if hasattr(self, "pair"):
            reset_dense(self.pair)
            nn.init.xavier_uniform_(self.radial.weight)

    def forward(
        self,
        x: Tensor,
        z: Tensor,
        batch: Tensor,
        num_graphs: int,
        edge_index: Tensor | None = None,
        vectors: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """The polarizability of each molecule: (B, 1), or tensors (B, 3, 3).

        Args:
            x: Features (N, in_channels).
            z: Atomic numbers (N,).
            batch: Molecule of each atom (N,).
            num_graphs: Number of molecules, B.
            edge_index: (2, E): row 0 source j, row 1 target i; for the tensor.
            vectors: (E, 3), Å, along each edge, either way; for the tensor.
            dtype: Of the result; None takes that of ``x``.

        Raises:
            ValueError: If the tensor is asked for without edges.
        """
        dtype = x.dtype if dtype is None else dtype
        isotropic = self.combine(self.learned(x), z, batch, num_graphs, torch.float64)
        if not self.tensor:
            return isotropic.to(dtype)
        if edge_index is None or vectors is None:
            raise ValueError("A polarizability tensor needs edge_index and vectors, got None.")
        identity = torch.eye(3, dtype=torch.float64, device=x.device)
        whole = isotropic.view(-1, 1, 1) * identity
        pairs = self._anisotropy(x, batch, num_graphs, edge_index, vectors)
        return (whole + pairs.double() * self.scale).to(dtype)

    def combine(
        self,
        learned: Tensor,
        z: Tensor,
        batch: Tensor,
        num_graphs: int,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """The isotropic part from what :meth:`learned` gave, (B, 1)."""
        out = pool(self.with_constants(learned, z), batch, num_graphs, "add") * self.scale
        return out.to(learned.dtype if dtype is None else dtype)

    def _anisotropy(
        self, x: Tensor, batch: Tensor, num_graphs: int, edge_index: Tensor, vectors: Tensor
    ) -> Tensor:
        """The part without trace, (B, 3, 3)."""
        source, target = edge_index[0], edge_index[1]
        squared = vectors.square().sum(dim=1, keepdim=True).clamp(min=1e-12)  # [E, 1]
        distance = squared.sqrt().view(-1)
        features = self.pair(x)  # [N, K]
        both = features.index_select(0, source) * features.index_select(0, target)  # [E, K]
        weight = (both * self.radial(self.distance_expansion(distance))).sum(dim=1)
        weight = weight * self.cutoff_fn(distance) * self.std.to(x.dtype)
        outer = vectors.unsqueeze(2) * vectors.unsqueeze(1) / squared.unsqueeze(2)  # [E, 3, 3]
        third = torch.eye(3, dtype=x.dtype, device=x.device) / 3.0
        pairs = weight.view(-1, 1) * (outer - third).flatten(1)  # [E, 9]
        return pool(pairs, batch.index_select(0, target), num_graphs, "add").view(-1, 3, 3)
