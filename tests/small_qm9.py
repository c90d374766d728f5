"""A folder of small made-up molecules in the format of QM9's original files."""

from pathlib import Path

import numpy as np

HARTREE = 27.211386024367243
ATOMS = {"H": (1, -0.6), "C": (6, -38.0), "O": (8, -75.2)}


def write_small_qm9(folder: Path, count: int = 60, seed: int = 0) -> Path:
    """Write ``count`` molecules whose energy is a sum of atoms and of pair terms, in Hartree."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(1, count + 1):
        size = int(rng.integers(3, 7))
        symbols = rng.choice(list(ATOMS), size=size)
        pos = np.array([[1.1 * i, 0.0, 0.0] for i in range(size)]) + rng.normal(0, 0.15, (size, 3))
        energy = sum(ATOMS[s][1] for s in symbols)
        for i in range(size):
            for j in range(i):
                energy -= 0.05 * np.exp(-np.linalg.norm(pos[i] - pos[j]))
        values = [1.0, 1.0, 1.0, 1.5, 10.0, -0.3, 0.1, 0.4, 40.0, 0.05, *[energy] * 4, 6.0]
        lines = [str(size), f"gdb {number}\t" + "\t".join(f"{v:.8f}" for v in values)]
        for symbol, r in zip(symbols, pos, strict=True):
            lines.append(f"{symbol}\t" + "\t".join(f"{v:.8f}" for v in r) + "\t0.0")
        lines += ["100.0\t200.0", "C\tC", "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4", ""]
        (folder / f"dsgdb9nsd_{number:06d}.xyz").write_text("\n".join(lines))
    return folder
