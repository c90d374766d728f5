"""Energy, forces and stress of any energy model."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from pyg_schnet.models.inputs import volumes
from pyg_schnet.nn.tabulated import fixed_filters

if TYPE_CHECKING:
    from pyg_schnet.models.captured import CapturedPotential
    from pyg_schnet.models.engine import Engine
    from pyg_schnet.models.frozen import FrozenPotential


class EnergyModel(Protocol):
    """What :class:`Potential` asks of a model: the call of :class:`~pyg_schnet.SchNet`.

    Example:
        >>> class Springs(nn.Module):
        ...     def forward(self, z, pos, *edges, num_graphs=None, dtype=None, **more):
        ...         return 0.5 * torch.pdist(pos).square().sum().view(1, 1)
        >>> data = Data(z=torch.tensor([1, 1]), pos=torch.tensor([[0.0, 0, 0], [0, 0, 2]]))
        >>> Potential(Springs()).eval()(data)["forces"][:, 2].tolist()
        [2.0, -2.0]
    """

    def __call__(
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
    ) -> Tensor:
        """Energies (B, 1), eV."""


class Potential(nn.Module):
    r"""Energy with its exact derivatives.

    .. math::
        \mathbf F_i = -\frac{\partial E}{\partial \mathbf r_i}, \qquad
        \sigma = \frac{1}{V} \left.\frac{\partial E}{\partial \varepsilon}\right|_{\varepsilon=0}

    where the strain acts as :math:`\mathbf r \to \mathbf r (1 + \varepsilon)` on atoms and cell and
    is symmetrised, with ASE's sign. :math:`V` is the volume of the cell as given, also where a
    direction is not periodic: the stress of a slab falls as its vacuum grows. Results can be
    differentiated again (training on forces, Hessians) when gradients are enabled and the potential
    is in training mode or ``pos`` requires a gradient; otherwise they are detached.

    In eval mode a :class:`~pyg_schnet.SchNet` on the CPU whose filters may be tabulated is
    evaluated by one compiled function without autograd; :meth:`freeze` gives that function itself.
    In training mode its parameters get their gradients by compiled sweeps, without differentiating
    twice (:mod:`pyg_schnet.models.sweeps`).

    Forces: Schütt et al., NeurIPS 2017, section 4.2; J. Chem. Phys. 148, 241722 (2018).

    Args:
        model: Any energy model with the call of :class:`~pyg_schnet.SchNet`.
        forces: Compute forces.
        stress: Compute the stress of periodic structures too.

    Example:
        >>> from pyg_schnet import SchNet
        >>> water = Data(z=torch.tensor([8, 1, 1]), pos=torch.rand(3, 3))
        >>> result = Potential(SchNet(32, 32, 2, 20, 5.0)).eval()(water)
        >>> result["energy"].shape, result["forces"].shape
        (torch.Size([1]), torch.Size([3, 3]))
    """

    def __init__(self, model: nn.Module, *, forces: bool = True, stress: bool = False) -> None:
        super().__init__()
        head = getattr(model, "head", "atomwise")
        if head != "atomwise" or getattr(model, "out_channels", 1) != 1:
            what = f"head={head!r}" if head != "atomwise" else "several properties at once"
            raise ValueError(
                "A Potential needs an energy model, one property as a sum or a mean of "
                f"contributions, but this one has {what}."
            )
        self.model = model
        self.forces = forces
        self.stress = stress
        self._engine: Engine | None = None

    def freeze(self, *, skin: float = 0.5) -> "FrozenPotential | CapturedPotential":
        """The potential with its weights taken: one compiled function, or one CUDA graph.

        Args:
            skin: Å; neighbours are searched this far beyond the cutoff, and again only when an atom
                has moved by half of it. Results do not depend on it.

        Returns:
            An object with the call and the results of this potential in eval mode. Later changes of
            the model have no effect on it.

        Raises:
            ValueError: If the model is on the CPU but not a plain SchNet in float32 or float64.
            ImportError: If Numba is missing, on the CPU.

        Example:
            >>> from pyg_schnet import SchNet
            >>> water = Data(z=torch.tensor([8, 1, 1]), pos=torch.rand(3, 3))
            >>> Potential(SchNet(32, 32, 2, 20, 5.0)).freeze()(water)["forces"].shape
            torch.Size([3, 3])
        """
        if any(p.device.type == "cuda" for p in self.model.parameters()):
            from pyg_schnet.models.captured import CapturedPotential

            return CapturedPotential(self.model, stress=self.stress, skin=skin)
        from pyg_schnet.models.frozen import FrozenPotential

        return FrozenPotential(self.model, stress=self.stress, skin=skin)

    def forward(self, data: Data) -> dict[str, Tensor]:
        """Evaluate one structure or a batch.

        Args:
            data: A ``Data`` or ``Batch`` with ``z`` (N,), ``pos`` (N, 3), and where present
                ``batch``, ``edge_index``, ``cell`` (B, 3, 3), ``cell_shift`` (E, 3) and ``pbc``
                (B, 3). Edges are searched for where missing. It is not changed.

        Returns:
            "energy" (B,) in float64, eV; "forces" (N, 3), eV/Å; and "stress" (B, 3, 3), eV/Å³, if
            asked for.

        Raises:
            ValueError: If stress is asked for and ``data`` has no cell, or one without a volume
                (not looked for on a GPU, where edges are given); and as the model.
        """
        create_graph = torch.is_grad_enabled() and (self.training or data.pos.requires_grad)
        if self.stress and data.get("cell") is None:
            raise ValueError("The stress needs a periodic structure, but data has no cell.")
        if not create_graph and not self.training and self.forces:
            result = self._compiled(data)
            if result is not None:
                return result
        filters = nullcontext() if create_graph else fixed_filters()
        # Forces are derivatives, so they need autograd under no_grad and inference_mode too.
        with torch.inference_mode(False), torch.enable_grad(), filters:
            return self._evaluate(data, create_graph)

    def _compiled(self, data: Data) -> dict[str, Tensor] | None:
        """The result of the compiled function, where that can serve."""
        if self._engine is None:
            from pyg_schnet.models.engine import Engine

            self._engine = Engine()
        return self._engine.evaluate(self.model, data, self.stress)

    def _swept(self, data: Data, num_graphs: int) -> dict[str, Tensor] | None:
        """The result with gradients of the parameters by compiled sweeps, where they can serve."""
        from pyg_schnet.models.sweep_rules import applies
        from pyg_schnet.models.sweeps import energy_and_forces

        if not applies(self.model, data.pos, data.get("cell"), num_graphs):
            return None
        names = ("batch", "edge_index", "cell", "cell_shift", "pbc")
        energy, forces, stress = energy_and_forces(
            cast(Any, self.model),
            _usable(data, "z"),
            _usable(data, "pos"),
            **{name: _usable(data, name) for name in names},
            num_graphs=num_graphs,
            stress=self.stress,
        )
        result = {"energy": energy, "forces": forces}
        return result if stress is None else result | {"stress": stress}

    def _evaluate(self, data: Data, create_graph: bool) -> dict[str, Tensor]:
        num_graphs = num_graphs_of(data)
        if create_graph and self.forces:
            result = self._swept(data, num_graphs)
            if result is not None:
                return result
        given, batch, cell = _usable(data, "pos"), _usable(data, "batch"), _usable(data, "cell")
        pos = given if given.requires_grad else given.detach().requires_grad_(True)
        strained, strained_cell, strain, volume = pos, cell, None, torch.ones(())
        if self.stress:
            # On a GPU the search for edges looks at the cells as well; without it nobody does.
            volume = volumes(cell, checked=cell.is_cpu or data.get("edge_index") is None)
            strain = pos.new_zeros(num_graphs, 3, 3).requires_grad_(True)
            strained, strained_cell = _strained(pos, cell, strain, batch)
        energy = self.model(
            _usable(data, "z"),
            strained,
            batch,
            edge_index=_usable(data, "edge_index"),
            cell=strained_cell,
            cell_shift=_usable(data, "cell_shift"),
            pbc=_usable(data, "pbc"),
            num_graphs=num_graphs,
            dtype=torch.float64,
        ).view(num_graphs)
        result = {"energy": energy if create_graph else energy.detach()}
        wanted = [pos] if self.forces else []
        if strain is not None:
            wanted.append(strain)
        if not wanted:
            return result
        gradients = torch.autograd.grad(
            energy.sum(), wanted, create_graph=create_graph, materialize_grads=True
        )
        if self.forces:
            result["forces"] = -gradients[0]
        if strain is not None:
            result["stress"] = gradients[-1] / (volume if create_graph else volume.detach())
        return result


def _usable(data: Data, name: str) -> Any:
    """The entry ``name``, copied where autograd could not save it: made in inference mode."""
    value = data.get(name)
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def num_graphs_of(data: Data) -> int:
    """The number of structures in ``data``; the last of a batch may be empty."""
    batch = data.get("batch")
    if batch is None:
        return 1
    return int(data.num_graphs) if hasattr(data, "_num_graphs") else int(batch.max()) + 1


def _strained(
    pos: Tensor, cell: Tensor, strain: Tensor, batch: Tensor | None
) -> tuple[Tensor, Tensor]:
    symmetric = 0.5 * (strain + strain.transpose(1, 2))  # [B, 3, 3]
    cells = cell.view(-1, 3, 3)
    per_atom = symmetric[torch.zeros_like(pos[:, 0], dtype=torch.long) if batch is None else batch]
    moved = pos + torch.bmm(pos.unsqueeze(1), per_atom).squeeze(1)
    return moved, cells + cells @ symmetric  # one cell may be that of all
