"""How time grows with atoms, features and blocks; a figure of energy and forces against PyG."""

from functools import partial
from pathlib import Path
from typing import Any

from pyg_schnet.benchmarks.speed import systems, work
from pyg_schnet.benchmarks.speed.timing import compare

MOLECULES = (1, 4, 16, 64, 256)
FEATURES = (32, 64, 128, 256)
BLOCKS = (1, 3, 6, 9)


def measure(device: str = "cpu", output: Path | None = None) -> list[dict[str, Any]]:
    """Time energy and forces of 18-atom molecules; draw ``scaling_DEVICE.png`` into ``output``."""
    points = [("molecules", n, n, 64, 3) for n in MOLECULES]
    points += [("features", f, 16, f, 3) for f in FEATURES]
    points += [("blocks", t, 16, 64, t) for t in BLOCKS]
    rows: list[dict[str, Any]] = []
    for along, value, count, features, blocks in points:
        system = partial(systems.molecules, count)().to(device)
        pair = work.energy_and_forces(system, *work.models(system, blocks, features, 5.0))
        found = compare(*pair, seconds=1.5, least=5)
        rows.append({"along": along, "value": value, **found.as_dict()})
        print(f"{along:10}{value:6}{found.theirs:10.2f}{found.ours:10.3f}{found.ratio:8.1f}")
    if output is not None:
        _draw(rows, Path(output) / f"scaling_{device}.png")
    return rows


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    for axis, along in zip(axes, ("molecules", "features", "blocks"), strict=True):
        chosen = [row for row in rows if row["along"] == along]
        values = [row["value"] for row in chosen]
        axis.plot(values, [row["theirs"] for row in chosen], "o-", label="PyG")
        axis.plot(values, [row["ours"] for row in chosen], "o-", label="pyg_schnet")
        axis.set(xscale="log", yscale="log", xlabel=along)
    axes[0].set_ylabel("energy and forces / ms")
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"wrote {path}")
