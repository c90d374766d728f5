"""Molecular dynamics: the own integrator, ASE's, and the same steps driven by PyG's SchNet."""

import importlib.util
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.md.verlet import VelocityVerlet
from torch import nn

from pyg_schnet import load
from pyg_schnet.benchmarks.speed import systems, work
from pyg_schnet.benchmarks.speed.rows import ROWS
from pyg_schnet.benchmarks.speed.timing import Comparison, compare
from pyg_schnet.interop import to_pyg
from pyg_schnet.models.pretrained import find_model
from pyg_schnet.simulation import Calculator, prepare_replicas
from pyg_schnet.units import FEMTOSECOND

if TYPE_CHECKING:
    from pyg_schnet.benchmarks.speed.peers import SchNetPack

TIMESTEP = 0.5  # fs
BEADS = 8
_OURS, _THEIRS = 100, 3  # steps in a call


class VerletByPyG:
    """Velocity Verlet in torch with PyG's SchNet, edges by radius_graph at each step.

    Args:
        model: PyG's.
        atoms: Elements and masses.
        positions: (N, 3) Å.
        momenta: (N, 3), ASE's unit.
    """

    def __init__(
        self, model: nn.Module, atoms: Atoms, positions: np.ndarray, momenta: np.ndarray
    ) -> None:
        self.model = model.eval()
        self.z = torch.from_numpy(atoms.numbers.copy()).long()
        self.batch = torch.zeros_like(self.z)
        self.masses = torch.from_numpy(atoms.get_masses())[:, None]
        self.positions = torch.from_numpy(positions.copy())
        self.momenta = torch.from_numpy(momenta.copy())
        self.forces = self._forces()

    def steps(self, count: int) -> None:
        """Take so many steps."""
        h = TIMESTEP * FEMTOSECOND
        for _ in range(count):
            half = self.momenta + 0.5 * h * self.forces
            self.positions = self.positions + h * half / self.masses
            self.forces = self._forces()
            self.momenta = half + 0.5 * h * self.forces

    def _forces(self) -> torch.Tensor:
        pos = self.positions.float()
        edges = work._edges_of_pyg(pos, self.batch, self.model.cutoff)
        system = systems.System(self.z, pos, self.batch, edges)
        self.model.interaction_graph = work.GivenEdges(system)
        return work._forces_of_pyg(system, self.model)[1].double()


def measure(
    device: str = "cpu", seconds: float = 4.0, peer: "SchNetPack | None" = None
) -> list[dict[str, Any]]:
    """Comparisons of dynamics on the CPU, each a row of its own.

    Args:
        device: "cpu"; elsewhere there is nothing to measure.
        seconds: For each row.
        peer: SchNetPack, whose energies, forces and edges of a step are timed too.
    """
    if device != "cpu":
        return []
    rows = [*_ethanol(seconds, peer), *_c20(seconds)]
    for row in rows:
        bar = "" if row["bar"] is None else f"   bar {row['bar']:g}"
        print(f"{row['name']:66}{row['theirs']:10.3f}{row['ours']:10.4f}{row['ratio']:8.1f}{bar}")
        for name in ("ours", "theirs"):
            if f"{name}_ns_per_day" in row:
                print(
                    f"  {name}: {row[f'{name}_steps_per_second']:,.0f} steps/s, "
                    f"{row[f'{name}_ns_per_day']:.3g} ns/day"
                )
        print("".join(f"  {note}\n" for note in row.get("notes", ())), end="")
    return rows


def _ethanol(seconds: float, peer: "SchNetPack | None") -> list[dict[str, Any]]:
    atoms = molecule("CH3CH2OH")
    potential = load(find_model("md17-ethanol"))
    model = potential.model
    moving = prepare_replicas(potential, [atoms], timestep=TIMESTEP)
    by_pyg = VerletByPyG(to_pyg(model), atoms, moving.positions, moving.momenta)
    moving.advance(50)
    by_pyg.steps(50)
    apart = float(np.abs(moving.positions - by_pyg.positions.numpy()).max())
    name = f"ethanol, velocity Verlet, T={model.num_interactions} F={model.num_filters}"
    found = compare(lambda: moving.advance(_OURS), lambda: by_pyg.steps(_THEIRS), seconds)
    row = _row(f"{name}: own integrator, PyG", found, _OURS, _THEIRS, 10.0, steps=True)
    row["notes"] = [f"after 50 steps positions differ by up to {apart:.1e} Å"]
    if peer is not None:
        row |= _schnetpack(peer, seconds)
        row["notes"].append(row["schnetpack_note"])
    rows = [row]

    atoms.calc = Calculator(potential, skin=2.0)
    atoms.set_momenta(moving.momenta)
    dynamics = VelocityVerlet(atoms, TIMESTEP * FEMTOSECOND)
    evaluate, positions = atoms.calc.evaluator(atoms), atoms.positions.copy()

    def by_ase() -> None:
        for _ in range(_OURS):
            dynamics.step()

    found = compare(lambda: moving.advance(_OURS), by_ase, seconds)
    row = _row(f"{name}: own integrator, ASE's", found, _OURS, _OURS, None, steps=True)
    call = compare(lambda: evaluate(positions), lambda: by_ase(), seconds / 2)
    share = 1 - call.ours / (call.theirs / _OURS)
    row["share_of_ase"] = round(share, 3)
    row["notes"] = [f"ASE's own share of its steps: {100 * share:.0f} %"]
    rows.append(row)

    many = prepare_replicas(potential, [atoms] * 32, timestep=TIMESTEP)
    found = compare(lambda: many.advance(10), lambda: moving.advance(_OURS), seconds / 2)
    speed = 32e4 / found.ours
    alone = 1e3 * _OURS / found.theirs
    rows.append(
        {
            "name": f"{name}: 32 replicas at once, one alone, ms for each step of one",
            "ours": found.ours / 320,
            "theirs": found.theirs / _OURS,
            "ratio": round(speed / alone, 2),
            "bar": None,
            "ours_steps_per_second": speed,
            "ours_ns_per_day": speed * TIMESTEP * 86_400e-6,
        }
    )
    if importlib.util.find_spec("torch_sim") is not None:
        rows.append(_torch_sim(name, potential, molecule("CH3CH2OH"), seconds / 2))
    return rows


def _torch_sim(name: str, potential: nn.Module, atoms: Atoms, seconds: float) -> dict[str, Any]:
    from pyg_schnet.simulation.torch_sim_adapter import TorchSimEngine

    moving = prepare_replicas(potential, [atoms] * 32, timestep=TIMESTEP)
    theirs = TorchSimEngine(
        Calculator(potential, skin=2.0), [atoms] * 32, 300.0, TIMESTEP, thermostat="none",
        time_constant=100.0, seed=0, keep_velocities=False, hottest=1e6,
    )  # fmt: skip
    found = compare(lambda: moving.advance(10), lambda: theirs.advance(10), seconds)
    return _row(f"{name}: 32 replicas, own integrator, torch-sim", found, 10, 10, None, steps=True)


def _c20(seconds: float) -> list[dict[str, Any]]:
    system = systems.fullerene_c20()
    ours, theirs = work.models(system, 6, 128, 10.0)
    atoms = Atoms(system.z.numpy(), system.pos.double().numpy())
    atoms.calc = calculator = Calculator(ours)
    generator = np.random.default_rng(0)
    places = atoms.positions + 0.01 * generator.standard_normal((64, 20, 3))
    count = 0

    def by_calculator() -> None:
        nonlocal count
        count += 1
        atoms.positions = places[count % 64]
        atoms.get_forces()
        atoms.get_potential_energy()

    theirs.eval()
    found = compare(by_calculator, lambda: work._forces_of_pyg(system, theirs), seconds)
    row = _row("C20, T=6 F=128: ASE calculator, PyG", found, 1, 1, 5.0)
    evaluate = calculator.evaluator(atoms)
    call = compare(lambda: evaluate(places[0]), by_calculator, seconds / 2)
    row["share_of_ase"] = round(1 - call.ours / call.theirs, 3)
    row["notes"] = [f"ASE's own share of our call: {100 * row['share_of_ase']:.0f} %"]

    beads = prepare_replicas(calculator, [atoms] * BEADS, timestep=TIMESTEP)
    together, single = np.concatenate(places[:BEADS]), places[0].copy()
    costs = {}
    for threads in dict.fromkeys((1, torch.get_num_threads())):
        alone = prepare_replicas(calculator, [atoms], timestep=TIMESTEP)._forces
        alone._most_threads = threads
        costs[threads] = compare(
            lambda: beads._forces(together), partial(alone, single), seconds, least=15
        )
    found = costs[1]
    batch = {
        "name": f"C20, T=6 F=128: {BEADS} beads in one batch, a single call on one core",
        "ours": found.ours,
        "theirs": found.theirs,
        "ratio": round(found.theirs / found.ours, 3),
        "bar": 0.2,
        "notes": [
            f"on {torch.get_num_threads()} threads a batch costs {cost.ours / cost.theirs:.1f} "
            f"single calls on {threads}"
            for threads, cost in costs.items()
        ],
    }
    return [row, batch]


def _row(
    name: str,
    found: Comparison,
    ours: int,
    theirs: int,
    bar: float | None,
    steps: bool = False,
) -> dict[str, Any]:
    """Milliseconds of one step each, of calls of so many steps."""
    scale = ours / theirs
    row: dict[str, Any] = {
        "name": name,
        "ours": found.ours / ours,
        "theirs": found.theirs / theirs,
        "ratio": round(found.ratio * scale, 2),
        "low": round(found.low * scale, 2),
        "high": round(found.high * scale, 2),
        "bar": bar,
    }
    if steps:
        for side in ("ours", "theirs"):
            speed = 1e3 / row[side]
            row[f"{side}_steps_per_second"] = round(speed, 1)
            row[f"{side}_ns_per_day"] = round(speed * TIMESTEP * 86_400e-6, 2)
    return row


def _schnetpack(peer: "SchNetPack", seconds: float) -> dict[str, Any]:
    """What its energies, forces and edges of a step take, without an integrator."""
    row = next(row for row in ROWS if row.task is work.dynamics)
    system = row.system()
    models = work.models(system, row.blocks, row.features, row.cutoff)
    found = peer.measure(row, system, row.task(system, *models)[0], seconds)
    if "theirs" not in found:
        return {"schnetpack_note": found.get("failure", "SchNetPack was not measured.")}
    speed = 1e3 / found["theirs"]
    day = speed * TIMESTEP * 86_400e-6
    return {
        "schnetpack_steps_per_second": round(speed, 1),
        "schnetpack_ns_per_day": round(day, 2),
        "schnetpack_note": f"SchNetPack, at most: {speed:,.0f} steps/s, {day:.3g} ns/day",
    }
