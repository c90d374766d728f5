"""What is timed: the same task, done by this package and by PyG."""

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from pyg_schnet import Potential, SchNet
from pyg_schnet.benchmarks.speed.systems import System
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.vectors import edge_lengths
from pyg_schnet.interop import to_pyg

Task = Callable[[], object]


class GivenEdges(nn.Module):
    """An interaction graph for PyG's SchNet that searches nothing."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system

    def forward(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The edges and their lengths."""
        s = self.system
        return s.edge_index, edge_lengths(pos, s.edge_index, s.cell, s.cell_shift, batch)


def models(system: System, blocks: int, features: int, cutoff: float) -> tuple[SchNet, nn.Module]:
    """Ours and PyG's with the same weights, on the device of the system."""
    ours = SchNet(features, features, blocks, 50, cutoff, seed=0).to(system.pos.device)
    theirs = to_pyg(ours)
    theirs.interaction_graph = GivenEdges(system)
    return ours, theirs


def as_data(system: System) -> Data:
    """The input of a :class:`~pyg_schnet.Potential`."""
    known = {k: v for k, v in vars(system).items() if v is not None}
    return Data(**known)


def energy(system: System, ours: SchNet, theirs: nn.Module) -> tuple[Task, Task]:
    """Energies alone, without gradients."""
    s = system

    @torch.no_grad()
    def run_ours() -> Tensor:
        return ours(s.z, s.pos, s.batch, s.edge_index, s.cell, s.cell_shift)

    @torch.no_grad()
    def run_theirs() -> Tensor:
        return theirs(s.z, s.pos, s.batch)

    return run_ours, run_theirs


def _forces_of_pyg(system: System, theirs: nn.Module) -> tuple[Tensor, Tensor]:
    pos = system.pos.clone().requires_grad_()
    energies = theirs(system.z, pos, system.batch)
    (gradient,) = torch.autograd.grad(energies.sum(), pos, create_graph=theirs.training)
    return energies, -gradient


def energy_and_forces(system: System, ours: SchNet, theirs: nn.Module) -> tuple[Task, Task]:
    """Energies and forces for evaluation."""
    potential, data = Potential(ours).eval(), as_data(system)
    theirs.eval()
    return lambda: potential(data), lambda: _forces_of_pyg(system, theirs)


def frozen(system: System, ours: SchNet, theirs: nn.Module) -> tuple[Task, Task]:
    """Energies and forces by the frozen engine."""
    engine, data = Potential(ours).freeze(), as_data(system)
    theirs.eval()
    return lambda: engine(data), lambda: _forces_of_pyg(system, theirs)


def walk(system: System) -> list[Tensor]:
    """Displacements of 64 steps, (N, 3) each, Å."""
    generator = torch.Generator().manual_seed(1)
    return [0.004 * torch.randn(system.pos.shape, generator=generator) for _ in range(64)]


def dynamics(system: System, ours: SchNet, theirs: nn.Module) -> tuple[Task, Task]:
    """A step of molecular dynamics: new positions, the edges found anew where that is due."""
    steps = walk(system)
    frozen = Potential(ours).freeze()
    known = {"z": system.z, "batch": system.batch}
    handle = frozen.structure(Data(pos=system.pos, **known))  # type: ignore[union-attr]
    places = [(system.pos + shift).numpy() for shift in steps]
    given = theirs.interaction_graph
    theirs.eval()
    count = [0, 0]

    def run_ours() -> object:
        count[0] += 1
        return handle.evaluate(places[count[0] % 64])

    def run_theirs() -> object:
        count[1] += 1
        pos = system.pos + steps[count[1] % 64]
        edge_index, shift = _edges_of_pyg(pos, system.batch, ours.cutoff), None
        moved = System(system.z, pos, system.batch, edge_index, system.cell, shift)
        theirs.interaction_graph = GivenEdges(moved)
        try:
            return _forces_of_pyg(moved, theirs)
        finally:
            theirs.interaction_graph = given

    return run_ours, run_theirs


def _edges_of_pyg(pos: Tensor, batch: Tensor, cutoff: float) -> Tensor:
    """All within the cutoff, by torch_cluster where that is installed."""
    if importlib.util.find_spec("torch_cluster") is None:
        return neighbor_edges(pos, cutoff, batch=batch)[0]
    from torch_cluster import radius_graph

    return radius_graph(pos, cutoff, batch, max_num_neighbors=len(pos))


def _clearing(model: nn.Module) -> Task:
    """What an optimiser does before each step."""
    parameters = list(model.parameters())

    def clear() -> None:
        for parameter in parameters:
            parameter.grad = None

    return clear


def training_on_energies(system: System, ours: SchNet, theirs: nn.Module) -> tuple[Task, Task]:
    """Forward and backward of a squared loss of energies."""
    s, count = system, system.num_graphs
    clear_ours, clear_theirs = _clearing(ours), _clearing(theirs)

    def run_ours() -> None:
        clear_ours()
        out = ours(s.z, s.pos, s.batch, s.edge_index, num_graphs=count)
        out.square().mean().backward()

    def run_theirs() -> None:
        clear_theirs()
        theirs(s.z, s.pos, s.batch).square().mean().backward()

    return run_ours, run_theirs


def training_on_forces(system: System, ours: SchNet, theirs: nn.Module) -> tuple[Task, Task]:
    """Forward and backward of a squared loss of energies and forces."""
    potential, data = Potential(ours).train(), as_data(system)
    theirs.train()
    clear_ours, clear_theirs = _clearing(ours), _clearing(theirs)

    def run_ours() -> None:
        clear_ours()
        result = potential(data)
        loss = result["energy"].square().mean() + result["forces"].square().mean()
        loss.backward()

    def run_theirs() -> None:
        clear_theirs()
        energies, forces = _forces_of_pyg(system, theirs)
        (energies.square().mean() + forces.square().mean()).backward()

    return run_ours, run_theirs
