"""``pyg-schnet predict``."""

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyg_schnet.cli.structures import read_structures

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_MOST_TOLD = 20  # structures left out that are told of on the screen


def predict_parser() -> "ArgumentParser":
    """Options of ``predict``."""
    from jsonargparse import ArgumentParser

    predict = ArgumentParser(description="Predict structures of any file that ASE reads.")
    predict.add_argument("file", nargs="+", help="Structures; crystals as CIF, POSCAR or JSON.")
    predict.add_argument(
        "--model",
        required=True,
        help="File, run folder, or name of a model; qm9 for a table of all properties.",
    )
    predict.add_argument(
        "--output",
        type=str | None,
        help="CSV file; by default the screen. With --batch, .extxyz too: energies and forces.",
    )
    predict.add_argument("--index", default=":", help="Which structures, in ASE's notation.")
    predict.add_argument("--forces", type=bool, default=False, help="Largest force too.")
    predict.add_argument(
        "--batch",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="Many structures at a time, as a stream; the same command goes on after an interrupt.",
    )
    predict.add_argument(
        "--skip_bad",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="With --batch: leave out and list structures that cannot be read or predicted.",
    )
    predict.add_argument("--device", default="cpu", help="With --batch: cpu or cuda.")
    return predict


def predict(options: "Namespace") -> int:
    """Write a table of predictions; 1 if files had to be left out."""
    import numpy as np

    from pyg_schnet.models import load, read_header
    from pyg_schnet.models.pretrained import find_model
    from pyg_schnet.simulation import families, predict_structures

    if options.batch:
        return _screen(options)
    if options.skip_bad:
        raise ValueError("--skip_bad is of --batch; give that too.")
    if options.model in families() and not Path(options.model).exists():
        return _predict_properties(options)
    path = find_model(options.model)
    info = read_header(path)["info"]
    name = f"{info.get('target', 'prediction')} ({info.get('unit', 'unit of the model')})"
    columns = ["index", "formula", name] + (["largest force (eV/Å)"] if options.forces else [])
    files, failed = options.file, 0
    if len(files) > 1:
        columns = ["file", *columns]
    model, rows = load(path), []
    for file in files:
        try:
            structures = read_structures(file, options.index)
            for row in predict_structures(structures, model, options.forces):
                line = [row["index"], row["formula"], f"{row['prediction']:.6f}"]
                if options.forces:
                    size = np.linalg.norm(np.asarray(row["forces"]), axis=1).max(initial=0.0)
                    line.append(f"{size:.6f}")
                rows.append([file, *line] if len(files) > 1 else line)
        except (ValueError, FileNotFoundError) as error:
            if len(files) == 1:
                raise
            print(f"pyg-schnet: {error}", file=sys.stderr)
            failed += 1
    if options.output is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])
    else:
        _write_table(options.output, [columns, *rows])
    return _left_out(failed, len(files))


def _screen(options: "Namespace") -> int:
    """Any number of structures in constant memory; 1 if some had to be left out."""
    from tqdm import tqdm

    from pyg_schnet.cli.structures import structure_source
    from pyg_schnet.models import load
    from pyg_schnet.models.pretrained import find_model
    from pyg_schnet.simulation import families, load_family
    from pyg_schnet.simulation.screening import screen

    if options.output is None:
        raise ValueError("--batch needs --output, the file that it writes and goes on with.")
    if options.model in families() and not Path(options.model).exists():
        model: Any = load_family(options.model, options.device)
    else:
        model = load(find_model(options.model), options.device)
    told = 0

    def tell(reason: str) -> None:
        nonlocal told
        told += 1
        if told <= _MOST_TOLD:
            tqdm.write(f"pyg-schnet: left out {reason}", file=sys.stderr)
        if told == _MOST_TOLD:
            tqdm.write("pyg-schnet: further ones are only listed.", file=sys.stderr)

    try:
        done = screen(
            [structure_source(file) for file in options.file],
            model,
            options.output,
            forces=options.forces,
            skip_bad=options.skip_bad,
            index=options.index,
            on_skip=tell,
        )
    except KeyboardInterrupt:
        print("pyg-schnet: interrupted; the same command goes on.", file=sys.stderr)
        return 130
    print(done.sentence())
    return 1 if done.skipped else 0


def _predict_properties(options: "Namespace") -> int:
    """Each structure by each model of a family: a table for each on the screen, or one CSV."""
    from pyg_schnet.datasets.qm9_properties import SCALARS
    from pyg_schnet.simulation import load_family, predict_properties

    if options.forces:
        raise ValueError(
            f"--forces needs one energy model, such as --model {options.model}-U0, not the models "
            f"of {options.model} together."
        )
    order = list(SCALARS)
    models = load_family(options.model)
    models = dict(sorted(models.items(), key=lambda m: order.index(m[0]) if m[0] in order else 99))
    infos: dict[str, Any] = {name: model.info for name, model in models.items()}
    units = {name: info["unit"] for name, info in infos.items()}
    known = {name: SCALARS[name].description if name in SCALARS else name for name in models}
    width = max(map(len, known.values()))
    columns = ["file", "index", "formula", *(f"{name} ({unit})" for name, unit in units.items())]
    rows, failed = [columns], 0
    for file in options.file:
        try:
            for row in predict_properties(read_structures(file, options.index), models):
                values = [f"{row[name]:.6f}" for name in models]
                rows.append([file, str(row["index"]), row["formula"], *values])
                if options.output is not None:
                    continue
                print(f"{file}, structure {row['index']}: {row['formula']}")
                for name, info in infos.items():
                    error = info.get("mae")
                    around = "" if error is None else f"  ± {error:.2g}"
                    value = f"{row[name]:14.4f} {units[name]}"
                    print(f"  {name:<6}{known[name]:<{width}}{value:<28}{around}")
        except (ValueError, FileNotFoundError) as error:
            if len(options.file) == 1:
                raise
            print(f"pyg-schnet: {error}", file=sys.stderr)
            failed += 1
    if options.output is not None:
        _write_table(options.output, rows)
    return _left_out(failed, len(options.file))


def _write_table(output: str, rows: list[list[Any]]) -> None:
    aside = Path(f"{output}.part")
    with aside.open("w", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows(rows)
    aside.replace(output)
    print(f"Wrote {len(rows) - 1} predictions to {output}")


def _left_out(failed: int, files: int) -> int:
    """Tell of files that could not be predicted, and the exit code."""
    if failed:
        print(f"pyg-schnet: {failed} of {files} files were left out.", file=sys.stderr)
    return 1 if failed else 0
