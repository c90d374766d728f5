"""What a step of dynamics costs: the model and the reference method, in turn."""

from pathlib import Path

import torch
from ase.io import read

from pyg_schnet.benchmarks.accuracy.results import facts
from pyg_schnet.benchmarks.c20.modes import MODEL_MINIMUM
from pyg_schnet.benchmarks.c20.options import Options
from pyg_schnet.benchmarks.c20.reference import Reference
from pyg_schnet.benchmarks.c20.stages import Result
from pyg_schnet.benchmarks.speed.timing import compare
from pyg_schnet.simulation import prepare_replicas

_STEPS = 25  # in a call that is timed


def measure(model: Path, options: Options, reference: Reference) -> Result:
    """Milliseconds of a step of the model, of all beads in one batch, and of the reference.

    The reference takes its energy and forces anew, as it does when it makes a trajectory.

    Args:
        model: Its file.
        options: Of the study.
        reference: What makes its calculator.
    """
    atoms = read(options.output / MODEL_MINIMUM)
    common = {"temperature": options.temperature, "timestep": options.timestep}
    one = prepare_replicas(str(model), [atoms], thermostat="langevin", **common)
    many = prepare_replicas(str(model), [atoms] * options.beads, thermostat="langevin", **common)
    known = atoms.copy()
    known.calc = reference()

    def single_point() -> None:
        known.calc.reset()
        known.get_forces()

    of_reference = compare(lambda: one.advance(_STEPS), single_point, options.cost_seconds)
    of_beads = compare(
        lambda: one.advance(_STEPS), lambda: many.advance(_STEPS), options.cost_seconds
    )
    step = of_reference.ours / _STEPS
    return {
        "model_ms": step,
        "reference_ms": of_reference.theirs,
        "times_faster": of_reference.theirs / step,
        "beads": options.beads,
        "beads_ms": of_beads.theirs / _STEPS,
        "beads_over_one": of_beads.ratio,
        "facts": facts(),
        "threads": torch.get_num_threads(),
    }
