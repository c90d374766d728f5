"""What was found: one JSON file per row, its summary on the screen, and the table of all rows."""

import json
import math
import os
import platform
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import pyg_schnet
from pyg_schnet.benchmarks.accuracy.catalogue import Published, Row, load_protocol, load_rows
from pyg_schnet.training.targets import UNITS

NOT_YET = "not yet run"
NOT_KNOWN = "not known here"
UNSTATED = "unit of the file"
"""What a data set calls a unit that its file does not tell; the row says which it is."""


def convert(value: float, unit: str, wanted: str) -> float:
    """An error in another unit of energy, of energy over Å, or of energy per atom.

    Raises:
        ValueError: If the two units are not of one kind.

    Example:
        >>> round(convert(0.31, "kcal/mol", "meV"), 2)
        13.44
    """
    if unit in (wanted, UNSTATED):
        return value
    (plain, kind), (plain_wanted, wanted_kind) = _parts(unit), _parts(wanted)
    if kind != wanted_kind or plain not in UNITS or plain_wanted not in UNITS:
        raise ValueError(f"An error in {unit} cannot be told in {wanted}.")
    return value * UNITS[plain_wanted] / UNITS[plain]


def _parts(unit: str) -> tuple[str, str]:
    """A unit of energy and what it is told over."""
    over = next((of for of in ("/Å", "/atom") if unit.endswith(of)), "")
    return unit.removesuffix(over), over


def errors_of(row: Row, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Errors of a run in the units of the paper: the mean absolute ones and, beside, the rms ones.

    Args:
        row: Whose quantities are wanted.
        metrics: As in metrics.json of the run.
    """
    found = {}
    for quantity, known in row.paper.items():
        for kind, name in (("mae", quantity), ("rmse", f"{quantity}_rmse")):
            if quantity == "property":
                value, unit = metrics[f"test_{kind}"], metrics["unit"]
            else:
                value = metrics[f"test_{quantity}_{kind}"]
                unit = "eV" if quantity == "energy" else "eV/Å"
            found[name] = convert(value, unit, known.unit)
    return found


def facts() -> dict[str, Any]:
    """What the time of a run, not its errors, depends on."""
    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pyg_schnet": pyg_schnet.__version__,
    }


def new_record(row: Row, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file of results before any seed is run.

    Args:
        row: The row.
        overrides: What the user changed of it.
    """
    return {
        "name": row.name,
        "table": row.table,
        "source": row.source,
        "protocol": row.protocol,
        "options": row.options(),
        "overrides": dict(overrides),
        "paper": {quantity: asdict(known) for quantity, known in row.paper.items()},
        "seeds": {},
        "errors": {},
    }


def summarize(row: Row, record: dict[str, Any]) -> None:
    """Set the mean, its standard error and the ratio to the paper from the seeds.

    Args:
        row: The row.
        record: Changed in place.
    """
    record["errors"] = {}
    for quantity, known in row.paper.items():
        values = [seed[quantity] for seed in record["seeds"].values()]
        if not values:
            continue
        spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        mean = statistics.mean(values)
        record["errors"][quantity] = {
            "mean": mean,
            "standard_error": spread,
            "unit": known.unit,
            "paper": known.value,
            "ratio": None if known.value is None else mean / known.value,
        }


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """The results of a row, or None if there are none.

    Args:
        folder: Of the JSON files.
        name: Of the row.

    Raises:
        ValueError: If the file is damaged.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run the row again.") from None
    return record


def write(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write the results of a row, whole or not at all.

    Args:
        folder: Of the JSON files, made if needed.
        record: The results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['name']}.json"
    _write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return path


def describe(row: Row, record: Mapping[str, Any] | None) -> str:
    """Paper, ours and ratio of one row, in lines for the screen.

    Args:
        row: The row.
        record: Its results, if there are any.
    """
    lines = [f"{row.name}: {row.table} ({row.source})"]
    lines.append(f"  {'':<10}{'paper':>16}{'ours':>22}{'ratio':>9}")
    for quantity, known in row.paper.items():
        ours, ratio = _ours(known, quantity, record)
        goal = row.goal.get(quantity)
        aim = f"   goal {goal.value:g}" if goal else ""
        lines.append(f"  {quantity:<10}{_paper(known):>16}{ours:>22}{ratio:>9}   {known.unit}{aim}")
    if record and record["seeds"]:
        lines.append(f"  {run_in_words(record)}")
    return "\n".join(lines)


def run_in_words(record: Mapping[str, Any]) -> str:
    """How a row was run: seeds, steps, time, and what was changed of its protocol.

    Args:
        record: Its results.
    """
    seeds = record["seeds"].values()
    words = [f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"]
    sizes = {key: {seed[key] for seed in seeds} for key in ("n_train", "n_test")}
    words += [
        f"{' / '.join(f'{n:,}' for n in sorted(of))} {word}"
        for (_, of), word in zip(sizes.items(), ("to train", "to test"), strict=True)
    ]
    steps = [seed["steps"] for seed in seeds if seed.get("steps")]
    if steps:
        minutes = statistics.mean(seed["seconds"] for seed in seeds) / 60
        stopped = " or ".join(sorted({seed["stopped"] for seed in seeds}))
        words.append(f"{statistics.mean(steps):,.0f} steps in {minutes:.1f} min ({stopped})")
    words += _chosen_in_words([seed["chosen"] for seed in seeds if "chosen" in seed])
    options = record["options"]
    words += [
        f"{key}={value}" + (f" instead of {options[key]}" if options.get(key) else "")
        for key, value in record["overrides"].items()
    ]
    return ", ".join(words)


def _chosen_in_words(chosen: list[dict[str, Any]]) -> list[str]:
    """What validation chose of a kernel ridge regression, for each seed."""
    forms = list(dict.fromkeys(f"{of['kernel']} kernel of {of['representation']}" for of in chosen))
    if not forms:
        return []
    numbers = [
        f"{name} {' / '.join(f'{of[name]:.3g}' for of in chosen)}"
        for name in ("width", "regularization")
    ]
    return [" or ".join(forms), *numbers]


def write_table(folder: Path, output: Path) -> str:
    """All rows in Markdown, with the numbers of the JSON files and no others.

    Args:
        folder: Of the JSON files.
        output: The file to write.

    Returns:
        What was written.
    """
    rows = load_rows()
    records = {name: read(folder, name) for name in rows}
    done = sum(bool(record and record["seeds"]) for record in records.values())
    lines = [
        "# Errors against the papers'",
        "",
        "Written by `pyg-schnet benchmark accuracy table` from the JSON files in `accuracy/`; none "
        f"of the numbers is filled in by hand. {done} of {len(rows)} rows have been run. Errors "
        "are mean absolute ones on structures that were not trained on, forces by component; "
        f'"{NOT_KNOWN}" stands where no source of the paper\'s number was found, and ± is a '
        "standard error over seeds.",
    ]
    for table in dict.fromkeys(row.table for row in rows.values()):
        chosen = [row for row in rows.values() if row.table == table]
        lines += ["", f"## {table}", "", f"{'; '.join(dict.fromkeys(r.source for r in chosen))}."]
        lines += ["", "| row | error of | paper | ours | ratio | unit | run |", "|---" * 7 + "|"]
        for row in chosen:
            lines += _table_lines(row, records[row.name])
        for name in dict.fromkeys(row.protocol for row in chosen):
            lines += ["", f"Protocol `{name}`: {load_protocol(name).about.strip()}"]
        notes = [f"- `{row.name}`: {row.note}" for row in chosen if row.note]
        lines += ["", *notes] if notes else []
        found = {k.found_in: None for row in chosen for k in row.paper.values() if k.found_in}
        lines += ["", f"Numbers of the paper as stated in: {'; '.join(found)}."] if found else []
    text = "\n".join(lines) + "\n"
    output.parent.mkdir(parents=True, exist_ok=True)
    _write_text(output, text)
    return text


def _table_lines(row: Row, record: Mapping[str, Any] | None) -> list[str]:
    lines = []
    words = run_in_words(record) if record and record["seeds"] else ""
    for i, (quantity, known) in enumerate(row.paper.items()):
        ours, ratio = _ours(known, quantity, record)
        goal = f" (goal: {row.goal[quantity].value:g})" if quantity in row.goal else ""
        cells = [row.name if i == 0 else "", quantity, _paper(known) + goal, ours, ratio]
        lines.append(f"| {' | '.join([*cells, known.unit, words if i == 0 else ''])} |")
    return lines


def _paper(known: Published) -> str:
    return NOT_KNOWN if known.value is None else f"{known.value:g}"


def _ours(known: Published, quantity: str, record: Mapping[str, Any] | None) -> tuple[str, str]:
    found = record["errors"].get(quantity) if record else None
    if found is None:
        return NOT_YET, "-"
    spread = found["standard_error"]
    ours = f"{found['mean']:.4g}" + ("" if spread is None else f" ± {spread:.2g}")
    return ours, "-" if known.value is None else f"{found['mean'] / known.value:.2f}"


def _write_text(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".part")
    aside.write_text(text)
    os.replace(aside, path)
