"""Molecular dynamics at a temperature that can be interrupted: steps, state, frames."""

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pyg_schnet.datasets.sources import in_brief
from pyg_schnet.datasets.thermostats import Langevin, NoseHooverChain, State
from pyg_schnet.units import FEMTOSECOND

if TYPE_CHECKING:
    from ase import Atoms

Potential = Callable[[np.ndarray], tuple[float, np.ndarray]]

_SAVE_EVERY = 1.0  # seconds
_ATTEMPTS = 500  # steps of the relaxation; the equilibration does the rest


class Point(NamedTuple):
    """Where the dynamics is."""

    positions: np.ndarray
    momenta: np.ndarray
    energy: float
    forces: np.ndarray


def advance(
    point: Point,
    masses: np.ndarray,
    duration: float,
    thermostat: NoseHooverChain | Langevin,
    potential: Potential,
) -> Point:
    """One step: velocity Verlet between two half steps of the thermostat.

    Args:
        point: Å, eV, and ASE's unit of momentum.
        masses: (N, 1) u.
        duration: The time step, in ASE's unit.
        thermostat: Its state is advanced too.
        potential: From positions to energy (eV) and forces (eV/Å).

    Raises:
        FloatingPointError: if energy or forces are not finite.
    """
    momenta = thermostat.half_step(point.momenta, duration / 2) + duration / 2 * point.forces
    positions = point.positions + duration * momenta / masses
    energy, forces = potential(positions)
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        raise FloatingPointError("energy or forces are not finite")
    momenta = thermostat.half_step(momenta + duration / 2 * forces, duration / 2)
    return Point(positions, momenta, energy, forces)


class _Snapshot(NamedTuple):
    state: State
    size: int
    """Of the file of frames without ``texts``."""
    texts: tuple[str, ...]


class Trajectory:
    """A trajectory under way, and its two files: frames, and the state to go on from.

    ``output.part`` has the frames until they are all there; then it becomes ``output``.
    ``output.state.npz`` has the state, and how long the file of frames is with it: what stands
    behind that is made again.

    Args:
        atoms: The molecule, with a calculator.
        output: File of frames.
        settings: As :func:`~pyg_schnet.datasets.generate.generate` makes them.
        potential: From positions to energy and forces.

    Raises:
        ValueError: if there is a state that is damaged, or of other settings.
    """

    def __init__(
        self, atoms: "Atoms", output: Path, settings: dict[str, Any], potential: Potential
    ) -> None:
        self.atoms = atoms
        self.output = output
        self.part = output.with_name(f"{output.name}.part")
        self.state_path = state_path(output)
        self.settings = settings
        self.potential = potential
        self.masses = atoms.get_masses()[:, None]
        temperature = settings["temperature"]
        constant = settings["time_constant"] * FEMTOSECOND
        self.thermostat: NoseHooverChain | Langevin
        if settings["thermostat"] == "langevin":
            self.thermostat = Langevin(self.masses, temperature, constant, settings["seed"])
        else:
            degrees = max(3 * len(atoms) - 6, 1)
            self.thermostat = NoseHooverChain(self.masses, temperature, constant, degrees)
        self.frames = self.step = self.size = self.pieces = 0
        self.point: Point | None = None
        if self.state_path.exists():
            self._load()

    def _load(self) -> None:
        state = read_state(self.output)
        theirs = json.loads(str(state["settings"]))
        for name, value in self.settings.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{self.output} was begun with {name}={theirs.get(name)} and {value} is asked "
                    f"for: choose another output, or delete it and {self.state_path.name}"
                )
        try:
            for name in ("frames", "step", "size", "pieces"):
                if state[name].shape != () or state[name].dtype.kind != "i" or state[name] < 0:
                    raise ValueError(f"{name} is no number of 0 or more")
                setattr(self, name, int(state[name]))
            arrays = [state[name] for name in ("positions", "momenta", "forces")]
            shape = self.atoms.positions.shape
            if any(a.shape != shape or not np.isfinite(a).all() for a in arrays):
                raise ValueError(f"positions, momenta and forces must be finite, shape {shape}")
            self.point = Point(arrays[0], arrays[1], float(state["energy"]), arrays[2])
            self.thermostat.state = state
        except (LookupError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self.state_path} is damaged ({in_brief(error)}): delete it and "
                f"{self.output.name}, and begin anew"
            ) from error

    def run(self, frames: int) -> None:
        """Goes on to the given number of frames, and moves the file of frames to its place.

        Raises:
            RuntimeError: if a calculation fails, or the molecule falls apart or explodes.
            ValueError: if the file of frames is not the one that the state belongs to.
        """
        self.output.parent.mkdir(parents=True, exist_ok=True)
        if self.output.exists():
            os.replace(self.output, self.part)
        self.part.touch()
        if self.part.stat().st_size < self.size:
            raise ValueError(
                f"{self.part} lacks frames that {self.state_path.name} counts: delete both, and "
                f"begin anew"
            )
        if self.point is None:
            self._begin()
        held = self._snapshot(self.size, ())
        clock = time.monotonic()
        label = f"{self.output.stem}, {self.settings['temperature']:g} K"
        try:
            with tqdm(
                desc=label, total=frames, initial=self.frames, unit=" frames", disable=None
            ) as bar:
                while self.frames < frames:
                    text = self._next()
                    bar.update(len(text))
                    # One assignment: an interrupt finds the state with the frames that it counts.
                    held = self._snapshot(held.size, held.texts + text)
                    if time.monotonic() - clock > _SAVE_EVERY:
                        held = self._save(held)
                        clock = time.monotonic()
        finally:
            self._save(held)
        os.replace(self.part, self.output)

    def _begin(self) -> None:
        """Relaxes the molecule and draws velocities."""
        from ase.optimize import BFGS

        rng = np.random.default_rng([self.settings["seed"], 0])
        # A symmetric cage would stay so, on a saddle.
        self.atoms.positions += rng.normal(0, 0.01, self.atoms.positions.shape)
        try:
            BFGS(self.atoms, logfile=None).run(fmax=0.02, steps=_ATTEMPTS)
            positions = self.atoms.positions - self.atoms.get_center_of_mass()
            energy, forces = self.potential(positions)
        except RuntimeError as error:
            raise RuntimeError(
                f"{self.output}: {self.settings['method']} failed for the structure to begin with "
                f"({error}): check its geometry, charge and multiplicity"
            ) from error
        self.pieces = count_pieces(self.atoms.numbers, positions)
        width = np.sqrt(self.masses * self.thermostat.kt)
        momenta = width * rng.standard_normal(positions.shape)
        if isinstance(self.thermostat, NoseHooverChain):
            momenta = without_drift_and_rotation(positions, momenta, self.masses)
        self.point = Point(positions, momenta, energy, forces)

    def _next(self) -> tuple[str, ...]:
        """Runs to the next frame and returns its text; of the equilibration, none."""
        settled = round(self.settings["equilibration"] / self.settings["timestep"])
        every = self.settings["every"]
        left = settled - self.step
        for _ in range(min(every, left) if left > 0 else every):
            self._advance()
        self._look()
        if left > 0:
            return ()
        self.frames += 1
        return (self._text(),)

    def _advance(self) -> None:
        assert self.point is not None
        duration = self.settings["timestep"] * FEMTOSECOND
        try:
            self.point = advance(self.point, self.masses, duration, self.thermostat, self.potential)
        except (RuntimeError, FloatingPointError) as error:
            raise RuntimeError(
                f"{self.output}, frame {self.frames}, step {self.step}: "
                f"{self.settings['method']} failed ({error}): try a shorter timestep, a lower "
                f"temperature or another seed; the frames before it are kept"
            ) from error
        self.step += 1

    def _look(self) -> None:
        """Refuses what no molecule at this temperature does."""
        assert self.point is not None
        thermostat = self.thermostat
        kinetic = float(np.sum(self.point.momenta**2 / self.masses)) / thermostat.kt
        # Twice the kinetic energy over kT follows chi-squared: this is 20 deviations off and more.
        limit = thermostat.degrees + 20 * np.sqrt(2 * thermostat.degrees) + 50
        kelvin = kinetic / thermostat.degrees * self.settings["temperature"]
        if kinetic > limit:
            what = f"the dynamics exploded, its temperature is {kelvin:.0f} K"
        elif count_pieces(self.atoms.numbers, self.point.positions) > max(self.pieces, 1):
            what = "the molecule fell apart"
        else:
            return
        raise RuntimeError(
            f"{self.output}, frame {self.frames}, step {self.step}: {what}: try a shorter "
            f"timestep, a lower temperature or another seed; the frames before it are kept"
        )

    def _text(self) -> str:
        import ase
        import ase.io
        from ase.calculators.singlepoint import SinglePointCalculator

        assert self.point is not None
        atoms = ase.Atoms(self.atoms.numbers, self.point.positions, masses=self.masses[:, 0])
        # With Langevin it wanders, and the digits of float32 with it.
        atoms.positions -= atoms.get_center_of_mass()
        bare = ase.Atoms(atoms.numbers, atoms.positions)
        bare.calc = SinglePointCalculator(bare, energy=self.point.energy, forces=self.point.forces)
        text = io.StringIO()
        ase.io.write(text, bare, format="extxyz")
        return text.getvalue()

    def _snapshot(self, size: int, texts: tuple[str, ...]) -> _Snapshot:
        assert self.point is not None
        state = {
            **{key: np.asarray(value) for key, value in self.point._asdict().items()},
            **self.thermostat.state,
            "frames": np.array(self.frames),
            "step": np.array(self.step),
            "pieces": np.array(self.pieces),
            "settings": np.array(json.dumps(self.settings)),
        }
        return _Snapshot(state, size, texts)

    def _save(self, held: _Snapshot) -> _Snapshot:
        """Writes frames, then the state that counts them."""
        with open(self.part, "r+b") as file:
            file.seek(held.size)
            file.truncate()
            file.write("".join(held.texts).encode())
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        aside = self.state_path.with_name(f"{self.state_path.name}.part")
        with open(aside, "wb") as file:
            np.savez(file, size=size, **held.state)
        os.replace(aside, self.state_path)
        return _Snapshot(held.state, size, ())


def state_path(output: Path) -> Path:
    """The file of the state that belongs to a file of frames."""
    return output.with_name(f"{output.name}.state.npz")


def read_state(output: Path) -> State:
    """The state of a trajectory.

    Raises:
        ValueError: if it is damaged.
    """
    path = state_path(output)
    try:
        # Opened here: np.load leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            state = dict(arrays)
        if "settings" in state and not isinstance(json.loads(str(state["settings"])), dict):
            raise ValueError("it holds no settings")
        missing = {"settings", "frames", "size", "momenta"} - state.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except Exception as error:  # zip, zlib, EOF, value errors: whatever the bytes lead to
        raise ValueError(
            f"{path} is damaged ({error}): delete it and {output.name}, and begin anew"
        ) from error
    return state


def without_drift_and_rotation(
    positions: np.ndarray, momenta: np.ndarray, masses: np.ndarray
) -> np.ndarray:
    """Momenta (N, 3) less those of the motion as a whole; ``masses`` (N, 1)."""
    momenta = momenta - masses * momenta.sum(0) / masses.sum()
    arms = positions - (masses * positions).sum(0) / masses.sum()
    squares = masses * arms
    inertia = np.eye(3) * np.sum(squares * arms) - squares.T @ arms
    # The inverse but for the axis of a linear molecule, about which it has no inertia.
    spin = np.linalg.pinv(inertia, rcond=1e-8) @ np.cross(arms, momenta).sum(0)
    return momenta - masses * np.cross(spin, arms)


def count_pieces(numbers: np.ndarray, positions: np.ndarray) -> int:
    """Parts of a structure between which no two atoms come within two bond lengths.

    A bond length is the sum of the covalent radii; the (N,) ``numbers`` are atomic numbers.
    """
    from ase.data import covalent_radii

    radii = covalent_radii[numbers]
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    near = distances < 2 * (radii[:, None] + radii)
    left = np.ones(len(numbers), dtype=bool)
    pieces = 0
    while left.any():
        pieces += 1
        part = np.zeros_like(left)
        part[np.argmax(left)] = True
        while (grown := near[part].any(0)).sum() > part.sum():
            part = grown
        left &= ~part
    return pieces
