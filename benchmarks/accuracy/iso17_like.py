"""A small ISO17 of one's own: isomers of C7O2H10 from QM9, moved by GFN2-xTB, in the same layout.

``python -m pyg_schnet.benchmarks.accuracy.iso17_like data/iso17-like`` writes what
``pyg-schnet train iso17 --raw data/iso17-like`` reads. ISO17 itself has 129 isomers of 5,000 frames
each, labelled by PBE + vdW-TS; labels here are of another method, so errors cannot be compared.
"""

import argparse
from pathlib import Path

import ase
import ase.db
import ase.io
import numpy as np
from tqdm import tqdm

from pyg_schnet.datasets import QM9
from pyg_schnet.datasets.generate import generate
from pyg_schnet.datasets.iso17_raw import COMPOSITION, IDS


def isomers(root: str, count: int, seed: int) -> list[ase.Atoms]:
    """Molecules of QM9 with the composition of ISO17, drawn at random."""
    data = QM9(root)
    z, bounds = data._data.z.numpy(), data.slices["z"].numpy()
    sizes = np.flatnonzero(np.diff(bounds) == len(COMPOSITION))
    found = [i for i in sizes if np.array_equal(np.sort(z[bounds[i] : bounds[i + 1]]), COMPOSITION)]
    if len(found) < count:
        raise ValueError(
            f"count={count} isomers are asked for, and QM9 in {root} has {len(found)}."
        )
    chosen = np.random.default_rng(seed).choice(found, count, replace=False)
    return [ase.Atoms(data[int(i)].z.numpy(), data[int(i)].pos.double().numpy()) for i in chosen]


def make(folder: Path, root: str = "data/qm9", count: int = 129, frames: int = 100, seed: int = 0):
    """Run dynamics of each isomer at 500 K and write the databases; interrupted, it goes on."""
    runs = folder / "frames"
    runs.mkdir(parents=True, exist_ok=True)
    trajectories = []
    for number, atoms in enumerate(tqdm(isomers(root, count, seed), "isomers", disable=None)):
        path = runs / f"{number:03d}.extxyz"
        generate(atoms, path, frames, 500.0, every=2, equilibration=100.0, seed=number)
        trajectories.append(ase.io.read(path, ":"))
    rng = np.random.default_rng(seed)
    known = round(0.8 * count)
    rows: dict[str, list[ase.Atoms]] = {"reference": [], "test_within": [], "test_other": []}
    for number, trajectory in enumerate(trajectories):
        order = rng.permutation(frames)
        cut = round(0.8 * frames) if number < known else 0
        rows["reference"] += [trajectory[i] for i in order[:cut]]
        rest = "test_within" if number < known else "test_other"
        rows[rest] += [trajectory[i] for i in order[cut:]]
    rows["reference_eq"] = [trajectory[0] for trajectory in trajectories[:known]]
    rows["test_eq"] = [trajectory[0] for trajectory in trajectories[known:]]
    for name, some in rows.items():
        write_database(folder / f"{name}.db", some)
    ids = rng.permutation(len(rows["reference"])) + 1
    cut = round(0.9 * len(ids))
    for name, some in (("train", ids[:cut]), ("validation", ids[cut:])):
        (folder / IDS[name]).write_text("".join(f"{i}\n" for i in some))


def write_database(path: Path, frames: list[ase.Atoms]) -> None:
    """Frames in the layout of the published archive."""
    aside = path.with_suffix(".part.db")
    aside.unlink(missing_ok=True)
    with ase.db.connect(aside) as database:
        for atoms in frames:
            bare = ase.Atoms(atoms.numbers, atoms.positions)
            data = {"atomic_forces": atoms.get_forces()}
            database.write(bare, total_energy=float(atoms.get_potential_energy()), data=data)
    aside.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--qm9", default="data/qm9")
    parser.add_argument("--isomers", type=int, default=129)
    parser.add_argument("--frames", type=int, default=100)
    chosen = parser.parse_args()
    make(chosen.folder, chosen.qm9, chosen.isomers, chosen.frames)
