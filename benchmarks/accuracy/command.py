"""``pyg-schnet benchmark accuracy``: its options, and what it does with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

OVERRIDES = ("raw", "root", "max_time", "max_steps", "train_size", "val_size", "test_size")


def parser() -> "ArgumentParser":
    """The options of the command."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        description="Errors against the papers': train a row of their tables, test on the rest."
    )
    parser.add_argument(
        "names",
        nargs="+",
        help="Rows, such as md17-ethanol-1k or 'iso17-*'; or list; or table; or curve and rows.",
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="By default each row's.")
    parser.add_argument("--raw", type=str | None, help="Original files to read the data set from.")
    parser.add_argument("--root", type=str | None, help="Folder of the processed data set.")
    parser.add_argument("--max_time", type=str | None, help="Such as 35m, for a shorter run.")
    parser.add_argument("--max_steps", type=int | None, help="Likewise.")
    parser.add_argument("--train_size", type=int | None, help="Structures to train on.")
    parser.add_argument("--val_size", type=int | None, help="Structures for validation.")
    parser.add_argument("--test_size", type=int | None, help="Structures for test.")
    parser.add_argument("--sizes", type=int, nargs="+", help="Of training sets, for a curve.")
    parser.add_argument("--options", nargs="+", help="Others of the run, as key=value.")
    parser.add_argument("--output", default="benchmarks/results/accuracy", help="Of the results.")
    parser.add_argument("--runs", default="runs/accuracy", help="Folder of the run folders.")
    parser.add_argument("--overwrite", type=bool, default=False, help="Forget earlier results.")
    return parser


def main(chosen: "Namespace") -> None:
    """List rows, write the table, run rows, or run them with training sets of several sizes.

    Args:
        chosen: What :func:`parser` read.

    Raises:
        ValueError: As :func:`pyg_schnet.benchmarks.accuracy.runner.run`.
    """
    from pyg_schnet.benchmarks.accuracy import results, runner
    from pyg_schnet.benchmarks.accuracy.catalogue import load_rows

    output = Path(chosen.output)
    if chosen.names == ["list"]:
        for row in load_rows().values():
            record = results.read(output, row.name)
            state = results.run_in_words(record) if record and record["seeds"] else results.NOT_YET
            print(f"{row.name:<32}{row.table:<58}{state}")
        return
    if chosen.names == ["table"]:
        for row in load_rows().values():
            print(results.describe(row, results.read(output, row.name)))
        file = output.with_name(f"{output.name}.md")
        results.write_table(output, file)
        print(f"Wrote {file}")
        return
    overrides: dict[str, Any] = {name: chosen[name] for name in OVERRIDES}
    overrides |= _pairs(chosen.options or [])
    if chosen.names[0] == "curve":
        from pyg_schnet.benchmarks.accuracy import curve

        name, *others = chosen.names[1:] or [""]
        where = output.parent, overrides, chosen.runs, chosen.overwrite
        curve.run(name, others, chosen.sizes, chosen.seeds, *where)
        return
    runner.run(chosen.names, chosen.seeds, output, overrides, chosen.runs, chosen.overwrite)


def _pairs(words: list[str]) -> dict[str, Any]:
    pairs = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            raise ValueError(f"--options takes key=value, got {word!r}.")
        pairs[name.replace("-", "_")] = yaml.safe_load(value)
    return pairs
