"""Second derivatives of the energy: exactly by autograd, or by differences of forces."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from tqdm import tqdm

from pyg_schnet.models import Potential, SchNet
from pyg_schnet.nn import FilterNetwork, GaussianSmearing
from pyg_schnet.nn.tabulated import EdgeFilters, FilterTable
from pyg_schnet.ops import ssp

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

_STEP = 0.01  # Å; of differences, whose error falls with its fourth power
# Atoms of all copies together. Filters of each edge and copy need much more memory.
_MOST_ATOMS, _MOST_ATOMS_WITH_FILTERS = 2000, 200


@torch.inference_mode(False)
def hessian(
    potential: nn.Module,
    data: Data,
    *,
    atoms: Sequence[int] | None = None,
    chunk: int | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Second derivatives of the energy by the positions, in float64.

    .. math::
        H_{ia,jb} = \frac{\partial^2 E}{\partial r_{ia} \partial r_{jb}}, \qquad
        H v = -\frac{\partial}{\partial \mathbf r} \left(\mathbf F \cdot v\right)

    One product with a unit vector for each column, by differentiating the forces, for many copies
    of the structure in one batch. Nothing is approximated. The filters of a
    :class:`~pyg_schnet.SchNet`, and their first two derivatives, are the same in all copies and are
    evaluated for one of them; a SchNet with ``filters="tabulated"`` keeps its table.

    Args:
        potential: A :class:`~pyg_schnet.Potential` or an energy model. It is copied and converted
            to float64.
        data: One structure, as for :meth:`pyg_schnet.Potential.forward`.
        atoms: Only derivatives by the positions of these; None takes all.
        chunk: Copies at once; None takes what a few hundred megabytes have room for.
        progress: Show a bar, where there is a terminal.

    Returns:
        (3N, 3N), eV/Å², symmetric, in the order x, y, z of atom 0, of atom 1 and so on; with
        ``atoms``, in their order.

    Raises:
        ValueError: If ``data`` is a batch of several structures, ``atoms`` names one that is not
            there, or ``chunk`` is not positive; and as the model.

    Example:
        >>> from pyg_schnet import SchNet
        >>> water = Data(z=torch.tensor([8, 1, 1]), pos=torch.rand(3, 3))
        >>> h = hessian(Potential(SchNet(32, 32, 2, 20, 5.0)), water)
        >>> h.shape, bool((h == h.T).all())
        (torch.Size([9, 9]), True)
    """
    number = data.pos.size(0)
    if data.get("batch") is not None and number and int(data.batch.max()) > 0:
        raise ValueError("hessian takes one structure at a time, got a batch of several.")
    chosen = list(range(number)) if atoms is None else [int(i) for i in atoms]
    if any(not 0 <= i < number for i in chosen):
        raise ValueError(f"atoms must lie in 0..{number - 1}, got {chosen}.")
    model, light = _in_float64(potential.model if isinstance(potential, Potential) else potential)
    if chunk is None:
        chunk = max(1, (_MOST_ATOMS if light else _MOST_ATOMS_WITH_FILTERS) // max(1, number))
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 copy of the structure, got {chunk}.")
    device = next((p.device for p in model.parameters()), data.pos.device)
    columns = torch.tensor([3 * i + axis for i in chosen for axis in range(3)], dtype=torch.long)
    local = getattr(model, "_table", None)
    local = local if isinstance(local, _LocalFilters) else None
    rows: list[Tensor] = []
    forces_of = Potential(model)
    with (
        torch.enable_grad(),
        tqdm(
            total=len(columns),
            desc="hessian",
            unit=" columns",
            disable=None if progress and len(columns) > chunk else True,
        ) as bar,
    ):
        for part in columns.split(chunk) if len(columns) else ():
            if local is not None:
                local.copies = len(part)
            batch = _copies(data, len(part)).to(device)
            pos = batch.pos.requires_grad_(True)
            forces = forces_of(batch)["forces"]
            along = torch.zeros(len(part), 3 * number, dtype=torch.float64)
            along[torch.arange(len(part)), part] = -1.0
            (product,) = torch.autograd.grad(
                forces, pos, along.view(-1, 3).to(device), materialize_grads=True
            )
            rows.append(product.view(len(part), -1).cpu()[:, columns])
            bar.update(len(part))
    matrix = torch.cat(rows) if rows else torch.zeros(0, 0, dtype=torch.float64)
    return 0.5 * (matrix + matrix.T)


def hessian_by_differences(
    calculator: "BaseCalculator",
    atoms: "Atoms",
    *,
    indices: Sequence[int] | None = None,
    step: float = _STEP,
    progress: bool = False,
) -> Tensor:
    r"""Second derivatives of any calculator's energy, by differences of its forces.

    .. math::
        H_{ij} \approx -\frac{F_i(-2h) - 8 F_i(-h) + 8 F_i(h) - F_i(2h)}{12 h}

    where :math:`F_i(s)` is the force along i after coordinate j has moved by s; four evaluations
    for each. The error is of fourth order in h. Constraints of the structure are ignored.

    Args:
        calculator: Of ASE.
        atoms: The structure. It is not changed.
        indices: Only the positions of these atoms; None takes all.
        step: h, Å.
        progress: Show a bar, where there is a terminal.

    Returns:
        (3N, 3N), eV/Å², symmetrised, float64.

    Raises:
        ValueError: If ``step`` is not positive.

    Example:
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> hessian_by_differences(EMT(), molecule("N2")).shape
        torch.Size([6, 6])
    """
    if not step > 0:
        raise ValueError(f"step must be a positive length, got {step} Å.")
    chosen = list(range(len(atoms))) if indices is None else [int(i) for i in indices]
    moved = atoms.copy()
    moved.set_constraint()
    moved.calc = calculator
    start = moved.positions.copy()
    rows = np.empty((3 * len(chosen), 3 * len(chosen)))
    weights = {-2: 1.0, -1: -8.0, 1: 8.0, 2: -1.0}
    with tqdm(
        total=len(rows), desc="hessian", unit=" columns", disable=None if progress else True
    ) as bar:
        for place in range(len(rows)):
            gradient = np.zeros_like(start)
            for times, weight in weights.items():
                moved.positions = start
                moved.positions[chosen[place // 3], place % 3] += times * step
                gradient -= weight * moved.get_forces()
            rows[place] = (gradient[chosen] / (12 * step)).ravel()
            bar.update()
    return torch.from_numpy(0.5 * (rows + rows.T))


def _in_float64(model: nn.Module) -> tuple[nn.Module, bool]:
    """A copy of the model, and whether it needs no filters of each edge."""
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    if type(model) is not SchNet or model.interaction_graph is not None:
        return model, False
    blocks: list[Any] = list(model.interactions)
    if not blocks or not all(block.conv.is_fused() for block in blocks):
        return model, False
    networks = [block.conv.nn for block in blocks]
    networks = networks[:1] if model.shared_filters else networks
    if model.filters != "tabulated" and FilterTable.fits(model.distance_expansion, networks):
        # A SchNet asks its table for the filters, and this answers with the exact ones.
        model.filters = "tabulated"
        model._table = _LocalFilters(model.distance_expansion, networks)  # type: ignore[assignment]
    return model, model.filters == "tabulated"


def _copies(data: Data, number: int) -> Batch:
    """The structure several times over, in float64 and without edges to its copies."""
    one = Data(z=data.z, pos=data.pos.detach().double())
    for name in ("edge_index", "cell_shift", "pbc"):
        if data.get(name) is not None:
            one[name] = data[name]
    if data.get("cell") is not None:
        one.cell = data.cell.detach().double().view(1, 3, 3)
    if data.get("pbc") is not None:
        one.pbc = data.pbc.view(1, 3)
    return Batch.from_data_list([one] * number)


class _LocalFilters:
    r"""Filters near the distances they have now, with their exact slope and curvature there.

    .. math::
        W(d) = W(d_0) + (d - d_0) W'(d_0) + \tfrac12 (d - d_0)^2 W''(d_0)

    At d = d_0, where it is used, value and first two derivatives are those of the networks. The
    distances of a batch of copies of one structure repeat, so the networks see them once.

    Args:
        basis: The radial basis.
        networks: One for each layer, or one for all.

    Attributes:
        copies: Number of copies in the batch to come.
    """

    def __init__(self, basis: GaussianSmearing, networks: list[FilterNetwork]) -> None:
        self.basis = basis
        self.networks = networks
        self.copies = 1

    def is_constant(self) -> bool:
        """Nobody asks for gradients of the networks."""
        return True

    def look_up(self, distance: Tensor, scale: Tensor, backend: str = "auto") -> list[EdgeFilters]:
        """As :meth:`FilterTable.look_up`; the rows of a pair stand beside each other."""
        d = distance.detach()
        period = d.numel() // self.copies
        if not torch.equal(d, d[:period].repeat(self.copies)):
            period = d.numel()  # edges may have been found in another order
        away = distance - d
        zero = torch.zeros_like(away)
        weights = torch.stack([zero + 1.0, away, 0.5 * away**2, zero, zero, zero], 1)  # [E, 6]
        weights = weights * scale.view(-1, 1)
        place = torch.arange(d.numel(), device=d.device) % max(1, period)
        knot = (3 * place).int()
        filters = []
        for network in self.networks:
            rows = _taylor(self.basis, network, d[:period])  # [P, 3, F]
            # Six rows are read at each knot; the last three weigh nothing.
            padded = torch.cat([rows.flatten(0, 1), rows.new_zeros(3, rows.size(2))])
            filters.append(EdgeFilters(padded, weights, knot))
        return filters


@torch.no_grad()
def _taylor(basis: GaussianSmearing, network: FilterNetwork, d: Tensor) -> Tensor:
    """W, W' and W'' at the distances d (E,), by the chain rule; (E, 3, F)."""
    away = d.view(-1, 1) - basis.offset
    gamma = basis.gamma
    gaussians = basis(d)
    # Value, slope and curvature of all that follows, one below the other.
    h = torch.stack(
        [
            gaussians,
            -2 * gamma * away * gaussians,
            (4 * (gamma * away) ** 2 - 2 * gamma) * gaussians,
        ],
        1,
    )  # [E, 3, G]
    for layer in network:
        if isinstance(layer, nn.Linear):
            h = h @ layer.weight.T
            h[:, 0] += layer.bias
        else:
            slope = torch.sigmoid(h[:, 0])
            curvature = slope * h[:, 2] + slope * (1 - slope) * h[:, 1] ** 2
            h = torch.stack([ssp(h[:, 0]), slope * h[:, 1], curvature], 1)
    return h
