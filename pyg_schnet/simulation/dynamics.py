"""Molecular dynamics with a potential, at constant energy or temperature, that can be resumed."""

import csv
import hashlib
import io
import json
import math
import os
import time as clock
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import nn
from tqdm import tqdm

from pyg_schnet.simulation.relax import check_output, with_calculator
from pyg_schnet.simulation.stability import Point, at_rest
from pyg_schnet.units import BOLTZMANN, FEMTOSECOND

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

THERMOSTATS = ("none", "langevin", "nose-hoover")
COLUMNS = (
    "time_ps",
    "potential_energy_eV",
    "kinetic_energy_eV",
    "total_energy_eV",
    "temperature_K",
)

_FORMAT = 1  # of the state; another one cannot be gone on from
_SAVE_EVERY = 1.0  # seconds
_SKIN = 2.0  # Å; atoms move on here, and results do not depend on it
# Two to three eV for each atom: no molecule keeps its bonds there.
_HOTTEST = 20_000.0  # K


@dataclass(frozen=True)
class DynamicsSummary:
    """What :func:`run_md` did, over all frames, those of interrupted calls too.

    Attributes:
        steps: Of the whole trajectory.
        frames: Written, the start among them.
        time: ps.
        drift: Slope of a linear fit to the total energy, meV/atom per ps; NaN of fewer than three
            frames. Only at constant energy does it say how good the dynamics is.
        temperature: K, mean over the frames.
        steps_per_second: Of this call; NaN if it had nothing left to do.
        output: The trajectory.
        log: The CSV file.
    """

    steps: int
    frames: int
    time: float
    drift: float
    temperature: float
    steps_per_second: float
    output: Path
    log: Path

    def sentence(self) -> str:
        """The numbers in one line."""
        return (
            f"{self.time:g} ps in {self.steps:,} steps: total energy drifts by {self.drift:.3g} "
            f"meV/atom per ps, mean temperature {self.temperature:.0f} K, "
            f"{self.steps_per_second:,.0f} steps per second"
        )


def run_md(
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]",
    atoms: "Atoms",
    output: str | os.PathLike[str],
    time: float = 10.0,
    temperature: float = 300.0,
    timestep: float = 0.5,
    *,
    thermostat: str = "none",
    time_constant: float = 100.0,
    every: int = 20,
    seed: int = 0,
    keep_velocities: bool = False,
    progress: bool = True,
) -> DynamicsSummary:
    r"""Molecular dynamics with ASE's integrators; a trajectory, and a table of energies.

    =================  ========================================================================
    ``"none"``         constant energy: velocity Verlet (Swope et al., J. Chem. Phys. 76, 637
                       (1982))
    ``"langevin"``     friction and noise on all 3 N degrees of freedom (Vanden-Eijnden and
                       Ciccotti, Chem. Phys. Lett. 429, 310 (2006), equation 23)
    ``"nose-hoover"``  a chain of three (Martyna, Klein and Tuckerman, J. Chem. Phys. 97, 2635
                       (1992)) on the degrees of freedom that are left without drift and rotation
    =================  ========================================================================

    Velocities are drawn at the temperature. Those of the whole, drift and a molecule's rotation,
    are removed; not with friction, which acts on them too, nor with constraints. At constant energy
    a structure that was relaxed ends at half the temperature, as the potential energy takes its
    share: equilibrate with a thermostat first, and go on from its last frame with
    ``keep_velocities``. The temperature is :math:`2 E_\mathrm{kin} / (f k_\mathrm{B})` with the
    :math:`f` degrees of freedom left.

    Frames are extended XYZ: energy (eV), forces (eV/Å), and momenta in ASE's unit, from which
    ``Atoms.get_velocities`` makes velocities; the first is the start. The log, ``output`` with
    ``.csv``, has a line for each: time (ps), potential, kinetic and total energy (eV), and
    temperature (K).

    Interrupted, it saves positions, momenta, the thermostat and the state of the random numbers in
    ``output`` + ``".state.npz"``, and the same call goes on from its last frame, to the same
    numbers bit for bit on the same computer. A call with more ``time`` extends a finished
    trajectory. Until it is complete its frames are in ``output`` + ``".part"``.

    Args:
        potential: What :class:`Calculator` takes, or any calculator of ASE.
        atoms: The start, (N, 3) positions in Å. It is not changed; its constraints hold.
        output: File to write, .extxyz or .xyz.
        time: ps; cut to a whole number of frames.
        temperature: K.
        timestep: fs.
        thermostat: One of the table.
        time_constant: Of the thermostat, fs: the inverse friction, or the period of the chain.
        every: Steps from one frame to the next.
        seed: Of velocities and noise.
        keep_velocities: Begin with those that ``atoms`` have.
        progress: Show a bar, where there is a terminal.

    Raises:
        ValueError: If an argument is out of range or contradicts the files that are there, and as
            :meth:`Calculator.evaluator`.
        ImportError: If this ASE has no Nosé-Hoover chain.
        FloatingPointError: If the dynamics explodes: energy or forces are not finite, or the
            temperature is above 20,000 K (20 times ``temperature``, if that is more). The sentence
            names the step.

    Example:
        >>> import tempfile
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = run_md(EMT(), molecule("N2"), f"{folder}/n2.extxyz", time=0.05, every=10,
        ...                   progress=False)
        >>> done.steps, done.frames
        (100, 11)
    """
    output = check_output(output, None)
    _check(time, temperature, timestep, thermostat, time_constant, every, seed)
    if keep_velocities and not atoms.has("momenta"):
        raise ValueError(
            "keep_velocities is asked for, but the structure has no velocities; leave it out to "
            "have them drawn."
        )
    frames = 1 + int(1000 * time / timestep / every + 1e-6)
    if frames < 2:
        raise ValueError(
            f"time must be at least that of one frame, every={every} steps of {timestep} fs "
            f"({every * timestep / 1000:g} ps), got {time} ps."
        )
    for path in (output, output.with_suffix(".csv")):
        # An empty one is left by a run that ended before its first frame.
        if not _state_path(output).exists() and path.exists() and path.stat().st_size:
            raise ValueError(
                f"{path} exists and {_state_path(output).name} does not, so it cannot be extended; "
                "choose another output, or delete it."
            )
    moved = with_calculator(potential, atoms, _SKIN)
    settings = {
        "format": _FORMAT,
        "structure": _fingerprint(atoms, keep_velocities),
        "model": _model(moved.calc),
        "temperature": temperature,
        "timestep": timestep,
        "thermostat": thermostat,
        "time_constant": time_constant,
        "every": every,
        "seed": seed,
        "keep_velocities": keep_velocities,
    }
    return _Run(moved, output, settings).run(frames, progress)


class _Snapshot(NamedTuple):
    state: dict[str, Any]
    sizes: tuple[int, int]
    """Of the files of frames and of the log without ``texts``."""
    texts: tuple[tuple[str, str], ...]


class _Run:
    """Dynamics under way and its files: frames, log, and the state that counts both.

    What stands in the files behind the sizes in the state is made again.
    """

    def __init__(self, atoms: "Atoms", output: Path, settings: dict[str, Any]) -> None:
        self.atoms, self.output, self.settings = atoms, output, settings
        self.part = output.with_name(f"{output.name}.part")
        self.log = output.with_suffix(".csv")
        self.rng = np.random.default_rng(settings["seed"])
        self.frames, self.sizes = 0, (0, 0)
        self.limit = max(_HOTTEST, 20 * settings["temperature"])
        self.degrees = _degrees(atoms, free=settings["thermostat"] == "langevin")
        state = _read_state(output, settings) if _state_path(output).exists() else None
        if state is None:
            self._begin()
        else:
            atoms.positions = state["positions"]
            atoms.set_momenta(state["momenta"], apply_constraint=False)
            self.frames = int(state["frames"])
            self.sizes = int(state["size"]), int(state["log_size"])
            self.rng.bit_generator.state = json.loads(str(state["rng"]))
        self.integrator = _integrator(atoms, settings, self.degrees, self.rng)
        if state is not None and settings["thermostat"] == "nose-hoover":
            chain = self.integrator._thermostat
            chain._eta, chain._p_eta = state["chain_position"], state["chain_momentum"]

    def run(self, frames: int, progress: bool) -> DynamicsSummary:
        """Go on to so many frames, and move them to their place."""
        if self.frames > frames:
            raise ValueError(
                f"{self.output} has {self.frames} frames already, more than the {frames} asked "
                "for; choose another output."
            )
        every = self.settings["every"]
        begun = max(self.frames, 1)
        began = clock.perf_counter()
        if self.frames < frames or not self.output.exists():
            self._prepare_files()
            self._go_on(frames, progress)
            os.replace(self.part, self.output)
        seconds = clock.perf_counter() - began
        done = (frames - begun) * every
        times, total, temperatures = self._read_log()
        drift = math.nan
        if len(times) > 2:
            drift = 1000 * float(np.polyfit(times, total - total[0], 1)[0]) / len(self.atoms)
        return DynamicsSummary(
            steps=(frames - 1) * every,
            frames=frames,
            time=(frames - 1) * every * self.settings["timestep"] / 1000,
            drift=drift,
            temperature=float(temperatures.mean()),
            steps_per_second=done / seconds if done else math.nan,
            output=self.output,
            log=self.log,
        )

    def _begin(self) -> None:
        """Velocities of the start."""
        atoms, masses = self.atoms, self.atoms.get_masses()[:, None]
        if self.settings["keep_velocities"]:
            momenta = atoms.get_momenta()
        else:
            width = np.sqrt(masses * BOLTZMANN * self.settings["temperature"])
            momenta = width * self.rng.standard_normal(atoms.positions.shape)
        if self.settings["thermostat"] != "langevin" and not atoms.constraints:
            point = Point(atoms.positions, momenta, 0.0, momenta)
            momenta = at_rest(point, masses, rotation=not atoms.pbc.any())
        atoms.set_momenta(momenta)

    def _prepare_files(self) -> None:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        if self.output.exists():
            os.replace(self.output, self.part)
        for path, size in zip((self.part, self.log), self.sizes, strict=True):
            path.touch()
            if path.stat().st_size < size:
                raise ValueError(
                    f"{path} lacks frames that {_state_path(self.output).name} counts; delete "
                    f"{self.part.name}, {self.log.name} and the state, and begin anew."
                )

    def _go_on(self, frames: int, progress: bool) -> None:
        every = self.settings["every"]
        held = None if self.frames == 0 else self._snapshot(self.sizes, ())
        last = clock.monotonic()
        try:
            with tqdm(
                desc=self.output.stem,
                total=(frames - 1) * every,
                initial=max(self.frames - 1, 0) * every,
                unit=" steps",
                disable=None if progress else True,
            ) as bar:
                if held is None:
                    held = self._first()
                while self.frames < frames:
                    for step in range((self.frames - 1) * every, self.frames * every):
                        self._step(step)
                    texts = self._texts(self.frames * every)
                    self.frames += 1
                    # One assignment: an interrupt finds the state with the frames it counts.
                    held = self._snapshot(held.sizes, (*held.texts, texts))
                    bar.set_postfix_str(f"{self._temperature():.0f} K", refresh=False)
                    bar.update(every)
                    if clock.monotonic() - last > _SAVE_EVERY:
                        held = self._save(held)
                        last = clock.monotonic()
        finally:
            if held is not None:
                self._save(held)

    def _first(self) -> _Snapshot:
        self.atoms.get_forces()
        head = io.StringIO()
        csv.writer(head, lineterminator="\n").writerow(COLUMNS)
        frame, row = self._texts(0)
        self.frames = 1
        return self._snapshot((0, 0), ((frame, head.getvalue() + row),))

    def _step(self, step: int) -> None:
        try:
            self.integrator.step()
            energy = self.atoms.get_potential_energy()
            temperature = self._temperature()
            # Positions, as the calculator would refuse them at the next step only.
            finite = math.isfinite(energy + self.atoms.positions.sum())
            if finite and temperature <= self.limit:
                return
            what = f"the energy is {energy:g} eV and the temperature {temperature:.3g} K"
            cause = None
        except (ValueError, ArithmeticError) as error:
            what, cause = str(error).rstrip("."), error
        raise FloatingPointError(
            f"The dynamics exploded in step {step + 1} "
            f"({(step + 1) * self.settings['timestep'] / 1000:g} ps): {what}. Try a shorter "
            f"timestep, a lower temperature or a relaxed start; the frames before it are in "
            f"{self.part}."
        ) from cause

    def _kinetic(self) -> float:
        momenta = self.atoms.arrays["momenta"]
        return 0.5 * float(np.vdot(momenta, momenta / self.integrator.masses))

    def _temperature(self) -> float:
        return 2 * self._kinetic() / (self.degrees * BOLTZMANN)

    def _texts(self, step: int) -> tuple[str, str]:
        """The frame, and the line of the log."""
        import ase
        import ase.io
        from ase.calculators.singlepoint import SinglePointCalculator

        now = self.atoms
        potential, kinetic = float(now.get_potential_energy()), self._kinetic()
        frame = ase.Atoms(
            now.numbers,
            now.positions,
            momenta=now.get_momenta(),
            masses=now.arrays.get("masses"),
            cell=now.cell,
            pbc=now.pbc,
        )
        forces = now.get_forces(apply_constraint=False)
        frame.calc = SinglePointCalculator(frame, energy=potential, forces=forces)
        time = step * self.settings["timestep"] / 1000
        frame.info["time_ps"] = time
        text, row = io.StringIO(), io.StringIO()
        ase.io.write(text, frame, format="extxyz")
        line = [f"{time:.6f}"]
        line += [f"{energy:.9f}" for energy in (potential, kinetic, potential + kinetic)]
        csv.writer(row, lineterminator="\n").writerow([*line, f"{self._temperature():.4f}"])
        return text.getvalue(), row.getvalue()

    def _snapshot(self, sizes: tuple[int, int], texts: tuple[tuple[str, str], ...]) -> _Snapshot:
        state = {
            "positions": self.atoms.positions.copy(),
            "momenta": self.atoms.get_momenta(),
            "frames": np.array(self.frames),
            "step": np.array((self.frames - 1) * self.settings["every"]),
            "rng": np.array(json.dumps(self.rng.bit_generator.state)),
            "settings": np.array(json.dumps(self.settings)),
        }
        if self.settings["thermostat"] == "nose-hoover":
            chain = self.integrator._thermostat
            state["chain_position"] = chain._eta.copy()
            state["chain_momentum"] = chain._p_eta.copy()
        return _Snapshot(state, sizes, texts)

    def _save(self, held: _Snapshot) -> _Snapshot:
        """Write frames and lines, then the state that counts them."""
        sizes = tuple(
            _append(path, size, "".join(text[column] for text in held.texts))
            for column, (path, size) in enumerate(
                zip((self.part, self.log), held.sizes, strict=True)
            )
        )
        path = _state_path(self.output)
        aside = path.with_name(f"{path.name}.part")
        with open(aside, "wb") as file:
            np.savez(file, size=sizes[0], log_size=sizes[1], **held.state)
        os.replace(aside, path)
        return _Snapshot(held.state, (sizes[0], sizes[1]), ())

    def _read_log(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Times, total energies and temperatures, (S,) each."""
        table = np.loadtxt(self.log, delimiter=",", skiprows=1, ndmin=2)
        return table[:, 0], table[:, 3], table[:, 4]


def _integrator(
    atoms: "Atoms", settings: dict[str, Any], degrees: int, rng: np.random.Generator
) -> Any:
    """ASE's, for the thermostat."""
    duration = settings["timestep"] * FEMTOSECOND
    period = settings["time_constant"] * FEMTOSECOND
    if settings["thermostat"] == "none":
        from ase.md.verlet import VelocityVerlet

        return VelocityVerlet(atoms, duration)
    if settings["thermostat"] == "langevin":
        from ase.md.langevin import Langevin

        return Langevin(
            atoms,
            duration,
            temperature_K=settings["temperature"],
            friction=1 / period,
            # It would change the distribution: ASE's own documentation.
            fixcm=False,
            rng=rng,
        )
    try:
        from ase.md.nose_hoover_chain import NoseHooverChainNVT, NoseHooverChainThermostat
    except ImportError as error:
        raise ImportError(
            "This ASE has no Nosé-Hoover chain; install a newer one, or take thermostat='langevin'."
        ) from error
    temperature = settings["temperature"]
    integrator = NoseHooverChainNVT(atoms, duration, temperature_K=temperature, tdamp=period)
    # Its own counts 3 N degrees of freedom: a molecule of 9 atoms at rest would be 29 % too hot.
    integrator._thermostat = NoseHooverChainThermostat(
        degrees / 3, integrator.masses, temperature_K=temperature, tdamp=period
    )
    return integrator


def _degrees(atoms: "Atoms", free: bool) -> int:
    """Degrees of freedom: all of them, or those without drift and, of molecules, rotation."""
    degrees = int(atoms.get_number_of_degrees_of_freedom())
    if not (free or atoms.constraints):
        degrees -= 3
        if not atoms.pbc.any():
            moments = atoms.get_moments_of_inertia()
            degrees -= int((moments > 1e-6 * max(moments.max(), 1e-12)).sum())
    return max(degrees, 1)


def _append(path: Path, size: int, text: str) -> int:
    """Put ``text`` behind the first ``size`` bytes of a file; its new size."""
    with open(path, "r+b") as file:
        file.seek(size)
        file.truncate()
        file.write(text.encode())
        end = file.tell()
        file.flush()
        os.fsync(file.fileno())
    return end


def _state_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.state.npz")


def _read_state(output: Path, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    path = _state_path(output)
    try:
        # Opened here: np.load leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            state = dict(arrays)
        theirs = json.loads(str(state["settings"]))
    except Exception as error:  # zip, zlib, EOF, value errors: whatever the bytes lead to
        raise ValueError(
            f"{path} is damaged ({error}); delete it and {output.name}, and begin anew."
        ) from error
    for name, value in settings.items():
        if theirs.get(name) != value:
            raise ValueError(
                f"{output} was begun with {name}={theirs.get(name)}, and {value} is asked for; "
                f"choose another output, or delete it and {path.name}."
            )
    return state


def _fingerprint(atoms: "Atoms", velocities: bool) -> str:
    digest = hashlib.sha256()
    arrays = [atoms.numbers, atoms.positions, atoms.get_masses(), atoms.cell.array, atoms.pbc]
    for array in [*arrays, atoms.get_momenta()] if velocities else arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"{atoms.get_chemical_formula()} {digest.hexdigest()[:8]}"


def _model(calculator: Any) -> str:
    """Says whether it is still the same: weights, or the class of another calculator."""
    model = getattr(calculator, "model", None)
    if not isinstance(model, nn.Module):
        return type(calculator).__name__
    digest = hashlib.sha256()
    for name, values in model.state_dict().items():
        digest.update(name.encode() + values.detach().cpu().numpy().tobytes())
    return f"{type(model).__name__} {digest.hexdigest()[:8]}"


def _check(
    time: float,
    temperature: float,
    timestep: float,
    thermostat: str,
    time_constant: float,
    every: int,
    seed: int,
) -> None:
    positive = {"time": time, "timestep": timestep, "time_constant": time_constant}
    if thermostat not in THERMOSTATS:
        raise ValueError(f"thermostat must be one of {', '.join(THERMOSTATS)}, got {thermostat!r}.")
    if thermostat != "none":
        positive["temperature"] = temperature
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and above 0, got {value}.")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be finite and at least 0 K, got {temperature}.")
    if every < 1:
        raise ValueError(f"every must be at least 1 step, got {every}.")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
