"""Errors over the number of training structures, of a network and of what was before it.

``pyg-schnet benchmark accuracy curve mp20`` trains the row mp20 and the baselines of the same data
on the first 125, 250, ... structures of the training set of each seed, and tests all on the same
ones. It writes curve_mp20.json and curve_mp20.png beside the folder of results.
"""

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyg_schnet.benchmarks.accuracy import runner
from pyg_schnet.benchmarks.accuracy.catalogue import Row, find_rows, load_rows

SMALLEST = 125
"""Training structures from which on the default sizes double."""

LABELS = {"schnet": "SchNet", "enn-s2s": "enn-s2s"}
"""Of predictors in a figure, where they are not their names with spaces."""

Record = dict[str, Any]


def run(
    name: str,
    others: Sequence[str] = (),
    sizes: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    output: str | Path = runner.RESULTS.parent,
    overrides: Mapping[str, Any] | None = None,
    runs: str | Path = runner.RUNS,
    overwrite: bool = False,
) -> Record:
    """Run a row and others with training sets of several sizes, and draw what came out.

    What is finished is kept, point by point; the same command goes on. Training on all structures
    is the run of the row itself and is not done twice.

    Args:
        name: Of the row; with a ``*``, of several rows, and the files are named by what is left.
        others: Rows to compare with; by default the baselines of the same data.
        sizes: Numbers of training structures; by default 125, 250, ... and all.
        seeds: Of weights, batches and split; by default the row's.
        output: Folder of the JSON file and the figure.
        overrides: Options of the runs to change, as for
            :func:`pyg_schnet.benchmarks.accuracy.runner.run`.
        runs: Folder of the run folders.
        overwrite: Forget the points of an earlier curve, and their runs.

    Returns:
        What the file holds.

    Raises:
        ValueError: If there is no such row, the rows are not of one property of the same data, or
            a size is not in reach.
    """
    changes = {key: value for key, value in (overrides or {}).items() if value is not None}
    chosen = _rows(name, others)
    row = chosen[0]
    config = runner.config_of(row, 0, changes)
    wanted = sorted(set(sizes)) if sizes else default_sizes(config.train_size)
    if wanted[0] < 1 or wanted[-1] > config.train_size:
        raise ValueError(
            f"sizes must lie between 1 and the {config.train_size} training structures of {name}, "
            f"got {wanted}."
        )
    path = Path(output) / f"curve_{name.replace('*', '').strip('-')}.json"
    shown = {k: Path(v).name if k in runner.PLACES else v for k, v in changes.items()}
    record = _begin(path, row, shown, overwrite)
    for size in wanted:
        for seed in row.seeds if seeds is None else seeds:
            for of in chosen:
                points = record["points"].setdefault(of.name, {}).setdefault(str(size), {})
                if str(seed) in points:
                    continue
                metrics = runner.metrics_of(of, seed, changes, Path(runs), overwrite, size)
                if metrics.get("stopped") == "interrupted":
                    print(f"{of.name}, {size} structures: interrupted; the same command goes on")
                    return record
                points[str(seed)] = runner.entry_of(of, metrics)
                _write(path, record)
                error = points[str(seed)]["property"]
                print(f"{of.name}, {size:,} structures, seed {seed}: {error:.4f} {record['unit']}")
    print(describe(record))
    print(f"Wrote {path} and {draw(record, path.with_suffix('.png'))}")
    return record


def default_sizes(largest: int) -> list[int]:
    """125, 250, 500, ... and the largest; no second one within a fifth of that.

    Example:
        >>> default_sizes(1438)
        [125, 250, 500, 1000, 1438]
    """
    sizes = []
    size = SMALLEST
    while size * 1.2 < largest:
        sizes.append(size)
        size *= 2
    return [*sizes, largest]


def mean_and_error(points: Mapping[str, Any]) -> tuple[float, float]:
    """Mean over seeds and its standard error, 0 for one seed.

    Args:
        points: By seed.
    """
    values = [point["property"] for point in points.values()]
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.mean(values), spread


def describe(record: Record) -> str:
    """The curve in lines for the screen.

    Args:
        record: The curve.
    """
    lines = [f"MAE in {record['unit']} by training structures:"]
    for name, by_size in record["points"].items():
        found = {int(size): mean_and_error(points) for size, points in by_size.items() if points}
        words = [f"{n:,}: {a:.4f} ± {b:.4f}" for n, (a, b) in sorted(found.items())]
        lines.append(f"  {name:<24}{'   '.join(words)}")
    return "\n".join(lines)


def draw(record: Record, output: Path) -> Path:
    """Errors over training structures on logarithmic axes; bars are standard errors over seeds.

    Args:
        record: The curve.
        output: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    for marker, (name, by_size) in zip("os^Dvx*", record["points"].items(), strict=False):
        found = sorted((int(size), mean_and_error(points)) for size, points in by_size.items())
        means, errors = ([value[k] for _, value in found] for k in (0, 1))
        label = record["labels"].get(name, name)
        ax.errorbar([n for n, _ in found], means, errors, marker=marker, capsize=3, label=label)
    sizes = sorted({int(size) for by_size in record["points"].values() for size in by_size})
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="training structures",
        ylabel=f"MAE ({record['unit']})",
    )
    # The last size, all there is, may lie too close to the one before it for two numbers.
    shown = [
        s for s, more in zip(sizes, [*sizes[1:], None], strict=True) if not more or more > 1.4 * s
    ]
    ax.set_xticks(shown, [f"{size:,}" for size in shown])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_title(record["title"], fontsize="medium")
    ax.legend(frameon=False, fontsize="small")
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f"{output.stem}.part{output.suffix}")
    figure.savefig(aside, dpi=130)
    os.replace(aside, output)
    return output


def _rows(name: str, others: Sequence[str]) -> list[Row]:
    """The row and those to compare with, once each."""
    first, *more = find_rows([name])
    if others:
        more = [*more, *find_rows(list(others))]
    else:
        more += [
            row
            for row in load_rows().values()
            if row.predictor != "schnet" and row.data == first.data
        ]
    for row in (first, *more):
        if set(row.paper) != {"property"} or row.data != first.data:
            raise ValueError(
                f"{row.name} cannot be on a curve with {first.name}: all rows of a curve are "
                "of one property of the same data."
            )
    return list({row.name: row for row in (first, *more)}.values())


def _begin(path: Path, row: Row, overrides: Record, overwrite: bool) -> Record:
    if path.is_file() and not overwrite:
        record: Record = json.loads(path.read_text())
        if record["overrides"] != overrides:
            raise ValueError(
                f"{path} was found with {record['overrides']}, and now {overrides} is asked for: "
                "give the same, choose another --output and --runs, or --overwrite true."
            )
        return record
    labels = {
        of.name: of.label or LABELS.get(of.predictor, of.predictor.replace("-", " "))
        for of in load_rows().values()
        if of.data == row.data
    }
    return {
        "name": row.name,
        "title": row.table,
        "unit": row.paper["property"].unit,
        "overrides": overrides,
        "labels": labels,
        "points": {},
    }


def _write(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.part")
    aside.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    os.replace(aside, path)
