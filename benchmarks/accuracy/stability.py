"""Is a trained potential a good force field? Its drift in NVE, its bonds, and loops that close.

``python -m pyg_schnet.benchmarks.accuracy.stability md17-ethanol --molecule ethanol`` runs 100 ps
at 300 K from three seeds and writes ``benchmarks/results/stability_md17-ethanol.json``.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ase.optimize import BFGS

from pyg_schnet.datasets.generate import structure
from pyg_schnet.simulation import Calculator, closed_loop, nve_drift


def measure(
    model: str, molecule: str, seeds: int = 3, time: float = 100.0, temperature: float = 300.0
) -> dict[str, Any]:
    """Relax the molecule, then run NVE from each seed (time in ps, K) and one closed loop."""
    atoms = structure(molecule)
    atoms.calc = Calculator(model)
    BFGS(atoms, logfile=None).run(fmax=0.005, steps=1000)
    runs = []
    for seed in range(seeds):
        found = nve_drift(model, atoms, time=time, temperature=temperature, timestep=0.5, seed=seed)
        runs.append({"seed": seed} | found.summary())
        print(
            f"seed {seed}: {found.slope:+.4f} ± {found.slope_error:.4f} meV/atom per 100 ps, "
            f"{found.temperature:.0f} K, bonds broken {found.broken}, formed {found.formed}"
        )
    loop = asdict(closed_loop(model, atoms))
    print(f"closed loop: work {loop['relative']:.1e} of the range of energies")
    return {"model": model, "molecule": molecule, "timestep_fs": 0.5, "nve": runs, "loop": loop}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="File, run folder, or name of a model.")
    parser.add_argument("--molecule", default="ethanol")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    result = measure(chosen.model, chosen.molecule)
    file = chosen.output / f"stability_{Path(chosen.model).stem}.json"
    file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(f"Wrote {file}")
