"""The rows of the table: what is compared, and by how much it has to win on two CPU cores."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pyg_schnet.benchmarks.speed import systems, work


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        group: "inference" or "training".
        name: What is done to what.
        task: Makes the two calls.
        system: Makes the structures.
        blocks: Interactions, T.
        features: F.
        cutoff: Å.
        bar: The ratio to reach on two CPU cores; None for no mark.
        memory: Whether the added memory is compared too.
    """

    group: str
    name: str
    task: Callable[..., tuple[work.Task, work.Task]]
    system: Callable[[], systems.System]
    blocks: int
    features: int
    cutoff: float
    bar: float | None
    memory: bool = False


ROWS = [
    Row(
        "inference",
        "energy+forces, 32 molecules, all pairs",
        work.energy_and_forces,
        partial(systems.molecules, 32, cutoff=None),
        6,
        64,
        10.0,
        10.0,
    ),
    Row(
        "inference",
        "energy+forces, 4096 Si, 5 Å",
        work.energy_and_forces,
        systems.silicon,
        6,
        64,
        5.0,
        14.0,
        memory=True,
    ),
    Row(
        "inference",
        "energy, 256 molecules, 5 Å",
        work.energy,
        partial(systems.molecules, 256),
        6,
        64,
        5.0,
        16.0,
    ),
    Row(
        "inference",
        "energy+forces, 1 ethanol, frozen",
        work.frozen,
        partial(systems.ethanols, 1),
        3,
        64,
        5.0,
        20.0,
    ),
    Row(
        "inference",
        "energy+forces, C20, frozen",
        work.frozen,
        systems.fullerene_c20,
        6,
        128,
        10.0,
        8.0,
    ),
    Row(
        "inference",
        "molecular dynamics step, 1 ethanol, edges included",
        work.dynamics,
        partial(systems.ethanols, 1),
        3,
        64,
        5.0,
        None,
    ),
    Row(
        "training",
        "energies, 32 molecules, 5 Å",
        work.training_on_energies,
        partial(systems.molecules, 32),
        6,
        64,
        5.0,
        4.5,
    ),
    Row(
        "training",
        "energies, 256 molecules, 5 Å",
        work.training_on_energies,
        partial(systems.molecules, 256),
        6,
        64,
        5.0,
        20.0,
    ),
    Row(
        "training",
        "energies+forces, 32 molecules, 5 Å",
        work.training_on_forces,
        partial(systems.molecules, 32),
        6,
        64,
        5.0,
        7.0,
    ),
    Row(
        "training",
        "energies+forces, 32 ethanols",
        work.training_on_forces,
        partial(systems.ethanols, 32),
        3,
        64,
        5.0,
        5.0,
    ),
]
