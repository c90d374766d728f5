"""The study of C20: its stages one after the other, then the report."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pyg_schnet.benchmarks.accuracy.catalogue import Row
from pyg_schnet.benchmarks.c20 import (
    cost,
    figures,
    modes,
    polish,
    report,
    sampling,
    selection,
    words,
)
from pyg_schnet.benchmarks.c20.options import EVERY, TRAINED_AT, Options
from pyg_schnet.benchmarks.c20.reference import (
    Reference,
    gfn2_xtb,
    make_along_modes,
    make_displaced,
    make_trajectory,
    method_of,
)
from pyg_schnet.benchmarks.c20.stages import Result, Stages, write_text

_BULKY = ("centers", "density", "spectrum", "bonds_angstrom", "eigenvectors")


def run(options: Options, reference: Reference = gfn2_xtb) -> Result:
    """Run what is not finished yet, and write the report.

    In ``options.output``: a JSON file for each stage, ``report.html``, ``report.md``, ``figures``,
    ``study.json`` with the numbers of all, ``data``, ``runs`` and ``dynamics``. Interrupted, the
    same call goes on: with the frame of the trajectory, the step of the training and of the
    dynamics that it stopped at.

    Args:
        options: Of the study.
        reference: What makes the calculator of the reference method.

    Returns:
        What ``study.json`` holds.

    Raises:
        ModuleNotFoundError: If tblite is needed and not installed.
        ValueError: If options contradict what is in the folder.
    """
    stages = Stages(options.output)
    method = method_of(reference)
    start = {"frames": options.frames, "equilibration": options.equilibration, "method": method}
    found: Result = {
        "options": options.told(),
        "trajectory": stages.run("trajectory", start, lambda: make_trajectory(options, reference)),
    }
    made = {k: v for k, v in found["trajectory"].items() if k != "seconds"}
    known = {"starts": options.starts, "seed": options.seed, "method": method}
    found["reference"] = stages.run(
        "reference_modes", known, lambda: modes.of_reference(options, reference)
    )
    data: Result = {"trajectory": made}
    if options.displaced:
        found["displaced"] = stages.run(
            "displaced",
            known | {"displaced": options.displaced},
            lambda: make_displaced(options, reference, modes.minimum_of_reference(options)),
        )
        data["displaced"] = {k: v for k, v in found["displaced"].items() if k != "seconds"}
    found |= _train(stages, options, data)
    model = options.output / found["trained"]["file"]
    found["trained"]["forces_by_kind"] = selection.forces_by_kind(model, options.frames)
    if options.polish_steps:
        model = _polish(stages, options, reference, found, known)
    weights = {"weights": sampling.fingerprint(model)}
    found["model"] = stages.run(
        "model_modes", known | weights, lambda: modes.of_model(model, options)
    )
    found["deviations"] = modes.deviations(found["model"], found["reference"])
    _say_modes(found["deviations"])
    _sample(found, stages, model, options, weights | {"trajectory": made})
    timed = weights | {"seconds": options.cost_seconds, "method": method, "beads": options.beads}
    found["cost"] = stages.run("cost", timed, lambda: cost.measure(model, options, reference))
    return _write(found, options)


def _train(stages: Stages, options: Options, data: Result) -> Result:
    """The rows for a short time, where there are several; the chosen one for long."""

    def train(row: Row, name: str, max_time: str) -> Result:
        inputs = selection.inputs_of(row, options, max_time, data)
        result = stages.run(name, inputs, partial(selection.train_row, row, options, inputs))
        print(f"  forces {result['forces']:.4f} kcal/mol/Å, energy {result['energy']:.4f} kcal/mol")
        return result

    rows = {row.name: row for row in selection.rows_of(options)}
    models = []
    if len(rows) > 1:
        models = [train(row, f"model-{name}", options.select_time) for name, row in rows.items()]
    chosen = selection.choose(models)["name"] if models else next(iter(rows))
    used = selection.inputs_of(rows[chosen], options, options.max_time, data)["options"]
    trained = train(rows[chosen], "model", options.max_time)
    return {"models": models, "trained": trained | {"options": used}}


def _polish(
    stages: Stages, options: Options, reference: Reference, found: Result, known: Result
) -> Path:
    """Structures along one mode each, and the model polished on them: its file."""
    along = stages.run(
        "along_modes",
        known | {"along_modes": options.along_modes},
        lambda: make_along_modes(options, reference, modes.minimum_of_reference(options)),
    )
    trained = options.output / found["trained"]["file"]
    weights = {"weights": sampling.fingerprint(trained)}
    before = stages.run(
        "trained_modes",
        known | weights,
        lambda: modes.of_model(trained, options, modes.TRAINED_MINIMUM),
    )
    found["trained_deviations"] = modes.deviations(before, found["reference"])
    _say_modes(found["trained_deviations"])
    inputs = weights | {
        "along_modes": {k: v for k, v in along.items() if k != "seconds"},
        "steps": options.polish_steps,
        "seed": options.seed,
    }
    polished = stages.run(
        "polished", inputs, lambda: polish.polish(trained, options, trained.parent / "polished")
    )
    print(f"  forces {polished['forces']:.4f} kcal/mol/Å, energy {polished['energy']:.4f} kcal/mol")
    model = options.output / polished["file"]
    polished["forces_by_kind"] = selection.forces_by_kind(model, options.frames)
    found |= {"along_modes": along, "polished": polished}
    return model


def _sample(found: Result, stages: Stages, model: Path, options: Options, inputs: Result) -> None:
    """Dynamics with the model, and what the reference trajectory has sampled."""
    common = inputs | {"timestep": options.timestep, "seed": options.seed}
    classical = common | {"time": options.md_time, "replicas": options.replicas}

    def wanted(kelvin: float, work: Callable[[], Result]) -> Callable[[], Result]:
        return lambda: work() | {"wanted_K": kelvin}

    for name, kelvin in (("classical", options.temperature), ("trained_at", TRAINED_AT)):
        found[name] = stages.run(
            f"dynamics-{name}",
            classical | {"temperature": kelvin},
            wanted(kelvin, partial(sampling.run_classical, model, options, kelvin)),
        )
    asked = {"time": options.pimd_time, "beads": options.beads, "temperature": options.temperature}
    try:
        found["path_integrals"] = stages.run(
            "dynamics-path_integrals",
            common | asked,
            wanted(options.temperature, lambda: sampling.run_path_integrals(model, options)),
        )
    except ImportError as error:
        print(f"  left out: {error}")
        found["no_path_integrals"] = str(error)
    found["sampled"] = stages.run(
        "dynamics-reference",
        {"trajectory": inputs["trajectory"]},
        wanted(TRAINED_AT, lambda: sampling.of_trajectory(options)),
    ) | {
        "temperature_K": TRAINED_AT,
        "time_ps": found["trajectory"]["frames"] * EVERY / 1000,
    }


def _say_modes(off: Result) -> None:
    print(
        f"  {off['modes']} frequencies: off by {off['mean_percent']:.2f} % on average and by "
        f"{off['largest_percent']:.2f} % at most"
    )


def _write(found: Result, options: Options) -> Result:
    """Figures, the report, and the numbers of all stages in one file."""
    names = ("classical", "path_integrals", "trained_at")
    drawn = {name: found[name] for name in names if name in found}
    drawn["reference"] = found["sampled"]
    folder = options.output / "figures"
    pictures = {
        "modes": figures.draw_modes(found["deviations"], folder / "modes.png"),
        "distributions": figures.draw_distributions(
            drawn, found["model"], folder / "distributions.png"
        ),
    }
    files = report.write(words.TITLE, words.tell(found, pictures), options.output)
    numbers = _slim(found)
    write_text(options.output / "study.json", json.dumps(numbers, indent=1, ensure_ascii=False))
    print(f"Wrote {files[1]} and {files[0].name}")
    return numbers


def _slim(value: Any) -> Any:
    """Without what is only drawn."""
    if isinstance(value, dict):
        return {name: _slim(part) for name, part in value.items() if name not in _BULKY}
    if isinstance(value, list):
        return [round(x, 5) if isinstance(x, float) else _slim(x) for x in value]
    return value
