"""Several potentials as one: their mean, and their spread as a measure of what is not known."""

import os
from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.models.networks import Network
from pyg_schnet.models.potential import Potential, num_graphs_of


class Ensemble(nn.Module):
    r"""The mean of K potentials that differ in the seed they were trained from, and their spread.

    .. math::
        \bar E = \frac{1}{K} \sum_k E_k, \qquad
        s_E = \Big( \frac{1}{K - 1} \sum_k (E_k - \bar E)^2 \Big)^{1/2}

    and alike for each component of forces and stress. The mean forces are the exact negative
    gradient of the mean energy. Where members were trained on the same data, their spread tells
    where these leave the answer open; it is no error bar until it has been compared with errors
    (:func:`pyg_schnet.analysis.plot_calibration`).

    Schütt, thesis (TU Berlin, 2018), outlook, names uncertainty as an open question; ensembles of
    networks: Lakshminarayanan, Pritzel and Blundell, NeurIPS 2017; of potentials: Behler, Int. J.
    Quantum Chem. 115, 1032 (2015).

    Args:
        members: At least two energy models, or Potentials of them.
        forces: Compute forces.
        stress: Compute the stress of periodic structures too.

    Raises:
        ValueError: If there are fewer than two members.

    Example:
        >>> from pyg_schnet import SchNet
        >>> members = [SchNet(32, 32, 2, 20, 5.0, seed=seed) for seed in range(3)]
        >>> water = Data(z=torch.tensor([8, 1, 1]), pos=torch.rand(3, 3))
        >>> result = Ensemble(members).eval()(water)
        >>> result["energy_std"].shape, result["forces_std"].shape
        (torch.Size([1]), torch.Size([3, 3]))
    """

    def __init__(
        self, members: Sequence[nn.Module], *, forces: bool = True, stress: bool = False
    ) -> None:
        super().__init__()
        if len(members) < 2:
            raise ValueError(
                f"members has {len(members)} model{'' if members else 's'}; a spread needs at "
                "least two, trained from different seeds."
            )
        models = [member.model if isinstance(member, Potential) else member for member in members]
        self.members = nn.ModuleList(Potential(m, forces=forces, stress=stress) for m in models)
        self.forces = forces
        self.stress = stress

    @classmethod
    def from_files(
        cls,
        paths: Sequence[str | os.PathLike[str]],
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Members from files, run folders, or names of models that come with the package.

        Args:
            paths: One for each member.
            device: Where the models shall live.
            dtype: Of their parameters; None keeps that of the files.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If there are fewer than two, or they predict different things.
        """
        from pyg_schnet.models.checkpoint import load, read_header
        from pyg_schnet.models.pretrained import find_model

        files = [find_model(path) for path in paths]
        known = [read_header(file)["info"] for file in files]
        told = [tuple(info.get(key) for key in ("target", "unit", "data")) for info in known]
        if len(set(told)) > 1:
            words = "; ".join(
                f"{path}: {', '.join(map(str, of))}" for path, of in zip(paths, told, strict=True)
            )
            raise ValueError(f"Members of an ensemble must be trained on the same target: {words}.")
        ensemble = cls([load(file, device, dtype) for file in files]).eval()
        shared = [key for key in known[0] if all(i.get(key) == known[0][key] for i in known)]
        ensemble.__dict__["info"] = {key: known[0][key] for key in shared}
        return ensemble

    def forward(self, data: Data) -> dict[str, Tensor]:
        """Evaluate one structure or a batch by all members; edges are searched once.

        Args:
            data: As for :meth:`Potential.forward`.

        Returns:
            "energy" (B,) in float64, eV; "forces" (N, 3), eV/Å; "stress" (B, 3, 3), eV/Å³, if asked
            for: means over the members. And "energy_std", "forces_std" and "stress_std" of the same
            shapes: their standard deviations.

        Raises:
            ValueError: As :meth:`Potential.forward`.
        """
        given = self._with_edges(data)
        return _mean_and_spread([member(given) for member in self.members])

    def freeze(self, *, skin: float = 0.5) -> "FrozenEnsemble":
        """The ensemble with its weights taken; see :meth:`Potential.freeze`.

        Args:
            skin: Å, as there.
        """
        return FrozenEnsemble([cast(Potential, m).freeze(skin=skin) for m in self.members])

    def _with_edges(self, data: Data) -> Data:
        """The data with edges where all members want the same."""
        if data.get("edge_index") is not None:
            return data
        models = [cast(Potential, member).model for member in self.members]
        wanted = {_edges_of(model) for model in models}
        if len(wanted) > 1 or None in wanted:
            return data
        ((all_pairs, cutoff, cap),) = cast(set[Any], wanted)
        cell = data.get("cell")
        edge_index, cell_shift = neighbor_edges(
            data.pos.detach(),
            None if all_pairs and cell is None else cutoff,
            data.get("batch"),
            cell,
            data.get("pbc"),
            max_num_neighbors=cap,
        )
        given = Batch() if isinstance(data, Batch) else Data()
        for name in ("z", "pos", "batch", "cell", "pbc"):
            if data.get(name) is not None:
                given[name] = data[name]
        given.edge_index = edge_index
        if cell is not None:
            given.cell_shift = cell_shift
        if given.get("batch") is not None:
            given._num_graphs = num_graphs_of(data)
        return given

    def __repr__(self) -> str:
        return f"Ensemble({len(self.members)} x {cast(Potential, self.members[0]).model})"


class FrozenEnsemble:
    """What :meth:`Ensemble.freeze` returns: the same call and results.

    Args:
        members: Frozen potentials.

    Example:
        >>> from pyg_schnet import SchNet
        >>> models = [SchNet(16, 16, 2, 20, 5.0, seed=seed) for seed in (0, 1)]
        >>> data = Data(z=torch.tensor([8, 1]), pos=torch.tensor([[0.0, 0, 0], [0, 0, 1]]))
        >>> sorted(Ensemble(models).eval().freeze()(data))
        ['energy', 'energy_std', 'forces', 'forces_std']
    """

    def __init__(self, members: Sequence[Any]) -> None:
        self.members = list(members)

    def __call__(self, data: Data) -> dict[str, Tensor]:
        """As :meth:`Ensemble.forward`."""
        return _mean_and_spread([member(data) for member in self.members])


def _mean_and_spread(results: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name in results[0]:
        values = torch.stack([result[name] for result in results])
        found |= {name: values.mean(0), f"{name}_std": values.std(0)}
    return found


def _edges_of(model: nn.Module) -> tuple[bool, float, int | None] | None:
    """What decides on the edges of a model; None where it cannot be told."""
    if not isinstance(model, Network) or getattr(model, "interaction_graph", None) is not None:
        return None
    return model.cutoff_fn == "none", model.cutoff, model.max_num_neighbors
