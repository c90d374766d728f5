"""The reference method of the study: GFN2-xTB, or another calculator of ASE."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from pyg_schnet.benchmarks.c20.options import EVERY, TRAINED_AT, Options
from pyg_schnet.benchmarks.c20.stages import Result
from pyg_schnet.datasets.fullerene import C20
from pyg_schnet.datasets.generate import METHOD, generate, structure, xtb
from pyg_schnet.simulation import vibrations
from pyg_schnet.units import BOLTZMANN, HBAR, INVERSE_CM

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

# Of tblite: forces to some 1e-6 eV/Å wherever the self-consistent cycle starts, for a relaxation
# that ends there. The trajectory has the looser one of the data set.
_TIGHT = 1e-4

_LOWEST = 0.1  # K, of structures displaced along one mode

Reference = Callable[[], "Calculator"]


def trajectory_path(options: Options) -> Path:
    """File of the reference trajectory."""
    return C20.path(options.data, TRAINED_AT, EVERY)


def displaced_path(options: Options) -> Path:
    """File of the displaced structures."""
    return options.data / "raw" / "c20_displaced.extxyz"


def along_modes_path(options: Options) -> Path:
    """File of the structures displaced along one mode each."""
    return options.data / "raw" / "c20_along_modes.extxyz"


def gfn2_xtb() -> "Calculator":
    """GFN2-xTB for C20, converged for relaxations and normal modes.

    Raises:
        ModuleNotFoundError: If tblite is not installed.
    """
    calculator = xtb(structure("C20"))
    calculator.set(accuracy=_TIGHT)
    return calculator


def method_of(reference: Reference) -> str:
    """Its name."""
    return METHOD if reference is gfn2_xtb else type(reference()).__name__


def make_trajectory(options: Options, reference: Reference) -> Result:
    """The trajectory that models are trained on; one that is there is read, or gone on with.

    Args:
        options: Of the study.
        reference: What makes the calculator.

    Raises:
        ModuleNotFoundError: If it has to be made and tblite is not installed.
        ValueError: If there is a longer one, and as
            :func:`~pyg_schnet.datasets.generate.generate`.
    """
    path = trajectory_path(options)
    if not path.exists():
        given: dict[str, Any] = {} if reference is gfn2_xtb else {"calculator": reference()}
        generate(
            "C20",
            path,
            options.frames,
            TRAINED_AT,
            every=EVERY,
            equilibration=options.equilibration,
            **given,
        )
    data = C20(options.data, options.frames)
    if (there := len(data._data.idx)) > options.frames:
        raise ValueError(
            f"frames={options.frames} is less than the {there} of {path}, all of which are trained "
            f"on: ask for {there}, or choose another output."
        )
    energies = data.copy()._data.energy[: len(data)]
    forces = data[0].forces
    size = sum(float(frame.forces.abs().mean()) for frame in data) / len(data)
    return {
        "method": method_of(reference),
        "frames": len(data),
        "atoms": len(forces),
        "temperature_K": TRAINED_AT,
        "interval_fs": float(EVERY),
        "energy_spread_eV": float(energies.std()),
        "mean_force_component_eV_per_angstrom": size,
        "file": path.name,
    }


def make_displaced(options: Options, reference: Reference, minimum: "Atoms") -> Result:
    r"""Structures displaced along normal modes, with energies and forces of the reference.

    .. math::
        r = r_0 + \sum_k q_k e_k, \qquad q_k \sim \mathcal N(0, k_B T / \omega_k^2), \qquad
        T = u^2\, 500\,\mathrm K, \qquad u \sim \mathcal U(0, 1)

    with the classical distribution of the harmonic oscillator, whose width is even in u. Unlike
    frames of a trajectory they do not depend on each other, and a share of them is so close to the
    minimum that its curvature is known: the softest modes of C20 are twice as stiff at half their
    thermal width.

    Args:
        options: Of the study.
        reference: What makes the calculator.
        minimum: Of the reference.

    Raises:
        ArithmeticError: If it is no minimum.
    """
    rng = np.random.default_rng([options.seed, len(minimum)])

    def draw(number: int) -> tuple[float, np.ndarray]:
        return TRAINED_AT * rng.uniform() ** 2, rng.normal(size=number)

    return {
        "displaced": options.displaced,
        "highest_K": TRAINED_AT,
        **_displace(options.displaced, draw, displaced_path(options), reference, minimum),
    }


def make_along_modes(options: Options, reference: Reference, minimum: "Atoms") -> Result:
    r"""Structures displaced along a single normal mode each, with energies and forces.

    .. math::
        r = r_0 + q_k e_k, \qquad q_k \sim \mathcal N(0, k_B T / \omega_k^2), \qquad
        \ln T \sim \mathcal U(\ln 0.1\,\mathrm K, \ln 500\,\mathrm K)

    with a mode k drawn evenly for each. Where all modes are displaced together, the forces of soft
    ones are lost among those of the others: the softest pair of C20 makes up 1/1600 of the squares.
    Here each mode counts as much as any other, and each size of displacement does.

    Args:
        options: Of the study.
        reference: What makes the calculator.
        minimum: Of the reference.

    Raises:
        ArithmeticError: If it is no minimum.
    """
    rng = np.random.default_rng([options.seed, len(minimum), 1])

    def draw(number: int) -> tuple[float, np.ndarray]:
        kelvin = TRAINED_AT * (_LOWEST / TRAINED_AT) ** rng.uniform()
        amounts = np.zeros(number)
        amounts[rng.integers(number)] = rng.normal()
        return kelvin, amounts

    return {
        "along_modes": options.along_modes,
        "lowest_K": _LOWEST,
        "highest_K": TRAINED_AT,
        **_displace(options.along_modes, draw, along_modes_path(options), reference, minimum),
    }


def _displace(
    count: int,
    draw: Callable[[int], tuple[float, np.ndarray]],
    path: Path,
    reference: Reference,
    minimum: "Atoms",
) -> Result:
    """Write displaced structures.

    Args:
        count: How many.
        draw: Given the number of modes, a temperature (K) and the displacement along each mode in
            units of its harmonic width at that temperature.
        path: File to write.
        reference: What makes the calculator.
        minimum: What is displaced.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    calculator = reference()
    modes = vibrations(calculator, minimum)
    if modes.num_imaginary:
        raise ArithmeticError(f"Structures are displaced from a minimum only: {modes.sentence()}")
    spread = np.sqrt(BOLTZMANN) * HBAR / (modes.frequencies * INVERSE_CM)  # √(u/K) Å
    frames = []
    for _ in tqdm(range(count), desc="Displaced", disable=None):
        kelvin, drawn = draw(len(spread))
        amounts = np.sqrt(kelvin) * spread * drawn
        atoms = Atoms(
            minimum.numbers, minimum.positions + np.tensordot(amounts, modes.modes, axes=1)
        )
        # Nothing is left of the structure before for a self-consistent cycle to start from.
        calculator.reset()
        found = {name: calculator.get_property(name, atoms) for name in ("energy", "forces")}
        atoms.calc = SinglePointCalculator(atoms, **found)
        atoms.info["temperature_K"] = kelvin
        frames.append(atoms)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.stem}.part{path.suffix}")
    write(aside, frames, format="extxyz")
    aside.replace(path)
    energies = np.array([atoms.get_potential_energy() for atoms in frames])
    size = np.mean([np.abs(atoms.get_forces()).mean() for atoms in frames])
    return {
        "energy_spread_eV": float(energies.std()),
        "mean_force_component_eV_per_angstrom": float(size),
        "file": path.name,
    }
