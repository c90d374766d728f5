"""What training on forces gains: energies and forces against energies alone, on the same data.

python -m pyg_schnet.benchmarks.accuracy.energy_only ethanol --results benchmarks/results/accuracy
"""

import argparse
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = dict[str, Any]


def improvement(with_forces: Record, energies_only: Record) -> dict[str, float]:
    """How many times smaller the errors are when forces are trained on too.

    Args:
        with_forces: Results of a row on energies and forces.
        energies_only: Results of the row on energies alone, of the same data.

    Raises:
        ValueError: If the two were not run on as many structures, or in other units.
    """
    sizes = [
        {(seed["n_train"], seed["n_test"]) for seed in record["seeds"].values()}
        for record in (with_forces, energies_only)
    ]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{with_forces['name']} and {energies_only['name']} were run with other numbers of "
            f"structures: {sorted(sizes[0])} and {sorted(sizes[1])} to train and to test."
        )
    found = {}
    for quantity, ours in with_forces["errors"].items():
        other = energies_only["errors"][quantity]
        if other["unit"] != ours["unit"]:
            raise ValueError(f"Errors in {ours['unit']} and {other['unit']} do not compare.")
        found[quantity] = other["mean"] / ours["mean"]
    return found


def draw(pairs: Sequence[tuple[Path, Path]], output: Path) -> Path:
    """Draw errors of energies and of forces, trained with forces and without.

    Args:
        pairs: Results on energies and forces, and on energies alone; one pair per molecule.
        output: The PNG to write.

    Raises:
        FileNotFoundError: If a row has not been run.
        ValueError: As :func:`improvement`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for path in (path for pair in pairs for path in pair):
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no {path}: run pyg-schnet benchmark accuracy {path.stem} first."
            )
    records = [[json.loads(path.read_text()) for path in pair] for pair in pairs]
    width = max(3.2, 1.2 + 0.9 * len(pairs))
    figure = Figure(figsize=(2 * width, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for ax, quantity in zip(axes, ("energy", "forces"), strict=True):
        _panel(ax, quantity, records)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f"{output.stem}.part{output.suffix}")
    figure.savefig(aside, dpi=130)
    os.replace(aside, output)
    return output


def _panel(ax: "Axes", quantity: str, records: list[list[Record]]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    labels = ("energies and forces", "energies only")
    for k, label in enumerate(labels):
        found = [pair[k]["errors"][quantity] for pair in records]
        means = [error["mean"] for error in found]
        spread = [error["standard_error"] or 0.0 for error in found]
        ax.errorbar(range(len(records)), means, spread, fmt="os"[k], label=f"trained on {label}")
    for i, (ours, other) in enumerate(records):
        low, high = (record["errors"][quantity]["mean"] for record in (ours, other))
        ax.plot([i, i], [low, high], color="0.7", lw=1, zorder=0)
        ax.annotate(
            f"{improvement(ours, other)[quantity]:.1f}×",
            (i, math.sqrt(low * high)),
            xytext=(5, 0),
            textcoords="offset points",
        )
    unit = records[0][0]["errors"][quantity]["unit"]
    ax.set(
        yscale="log",
        xlim=(-0.5, len(records) - 0.5),
        xticks=range(len(records)),
        ylabel=f"MAE of {quantity} ({unit})",
    )
    ax.set_title(f"{quantity}, {_sizes(records)} training structures", fontsize="medium")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_formatter(NullFormatter())
    names = [pair[0]["options"]["molecule"] for pair in records]
    ax.set_xticklabels(names, rotation=30 if len(names) > 2 else 0)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.margins(y=0.15)


def _sizes(records: list[list[Record]]) -> str:
    sizes = {seed["n_train"] for pair in records for seed in pair[0]["seeds"].values()}
    return " / ".join(f"{size:,}" for size in sorted(sizes))


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the molecules that are named, and print the factors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("molecules", nargs="+", help="Such as ethanol.")
    parser.add_argument("--size", default="1k", help="1k or 50k.")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/accuracy"))
    parser.add_argument("--output", type=Path, default=None, help="By default beside the folder.")
    options = parser.parse_args(arguments)
    output = options.output or options.results.with_name("md17_energy_only.png")
    names = [f"md17-{molecule}-{options.size}" for molecule in options.molecules]
    pairs = [
        (options.results / f"{name}.json", options.results / f"{name}-energy.json")
        for name in names
    ]
    draw(pairs, output)
    for name, pair in zip(names, pairs, strict=True):
        factors = improvement(*(json.loads(path.read_text()) for path in pair))
        words = ", ".join(f"{quantity} {factor:.1f} times" for quantity, factor in factors.items())
        print(f"{name}: errors with forces are smaller by: {words}")
    print(f"Wrote {output}")


if __name__ == "__main__":
    main()
