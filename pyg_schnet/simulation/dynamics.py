"""Molecular dynamics with a potential, at constant energy or temperature, that can be resumed."""

import hashlib
import json
import math
import os
import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from tqdm import tqdm

from pyg_schnet.simulation.integrator import THERMOSTATS, Exploded
from pyg_schnet.simulation.md_engines import ENGINES, Engine, make_engine
from pyg_schnet.simulation.md_report import write_report
from pyg_schnet.simulation.relax import as_calculator, check_output, check_structure
from pyg_schnet.simulation.trajectories import Files, Frame, FrameWriter, Snapshot, log_head

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

_FORMAT = 2  # of the state; another one cannot be gone on from
_SAVE_EVERY = 1.0  # seconds
_SKIN = 2.0  # Å; atoms move on here, and results do not depend on it
# Two to three eV for each atom: no molecule keeps its bonds there.
_HOTTEST = 20_000.0  # K


@dataclass(frozen=True)
class DynamicsSummary:
    """What :func:`run_md` did, over all frames, those of interrupted calls too.

    Attributes:
        steps: Of the whole trajectory.
        frames: Written for each replica, the start among them.
        time: ps.
        drift: Slope of a linear fit to the total energy, meV/atom per ps, mean over the replicas;
            NaN of fewer than three frames. Only at constant energy does it say how good the
            dynamics is.
        temperature: K, mean over the frames and replicas.
        steps_per_second: Of this call, all replicas moving at once; NaN if it had nothing left to
            do.
        output: The trajectory, of the first replica where there are several.
        log: The CSV file, likewise.
        outputs: The trajectories of all replicas.
        report: The JSON file, None where none was asked for.
        nanoseconds_per_day: Of this call, of each replica.
        stopped: Why it ended before its time, if it did.

    Example:
        >>> import tempfile
        >>> from ase.build import molecule
        >>> from ase.calculators.emt import EMT
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = run_md(EMT(), molecule("N2"), f"{folder}/n2.extxyz", 0.01, progress=False)
        >>> done.steps, done.stopped
        (20, None)
    """

    steps: int
    frames: int
    time: float
    drift: float
    temperature: float
    steps_per_second: float
    output: Path
    log: Path
    outputs: tuple[Path, ...] = ()
    report: Path | None = None
    nanoseconds_per_day: float = math.nan
    stopped: str | None = None

    def sentence(self) -> str:
        """The numbers in one line."""
        several = f"{len(self.outputs)} replicas, " if len(self.outputs) > 1 else ""
        return (
            f"{several}{self.time:g} ps in {self.steps:,} steps: total energy drifts by "
            f"{self.drift:.3g} meV/atom per ps, mean temperature {self.temperature:.0f} K, "
            f"{self.steps_per_second:,.0f} steps per second "
            f"({self.nanoseconds_per_day:.3g} ns/day)"
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
    replicas: int = 1,
    engine: str | None = None,
    report: bool = True,
    stop_on_uncertainty: float | None = None,
    progress: bool = True,
) -> DynamicsSummary:
    r"""Molecular dynamics of one or many replicas; trajectories, and tables of energies.

    =================  ========================================================================
    ``"none"``         constant energy: velocity Verlet (Swope et al., J. Chem. Phys. 76, 637
                       (1982))
    ``"langevin"``     friction and noise on all 3 N degrees of freedom: BAOAB (Leimkuhler and
                       Matthews, J. Chem. Phys. 138, 174102 (2013))
    ``"nose-hoover"``  a chain of three (Martyna, Klein and Tuckerman, J. Chem. Phys. 97, 2635
                       (1992)) on the degrees of freedom that are left without drift and rotation
    =================  ========================================================================

    The engine is the package's own (:class:`~.integrator.Integrator`), which evaluates all replicas
    in one call, or ASE's integrators (``engine="ase"``), which keep constraints, or torch-sim's
    where that is installed (``engine="torch-sim"``).

    Velocities are drawn at the temperature, by replica r with the seed ``seed + r``: it is the
    trajectory of a single run with that seed. Those of the whole, drift and a molecule's rotation,
    are removed; not with friction, which acts on them too, nor with constraints. At constant energy
    a structure that was relaxed ends at half the temperature, as the potential energy takes its
    share: equilibrate with a thermostat first, and go on from its last frame with
    ``keep_velocities``. The temperature is :math:`2 E_\mathrm{kin} / (f k_\mathrm{B})` with the
    :math:`f` degrees of freedom left.

    Frames are extended XYZ: energy (eV), forces (eV/Å), and momenta in ASE's unit, from which
    ``Atoms.get_velocities`` makes velocities; the first is the start. The log, ``output`` with
    ``.csv``, has a line for each: time (ps), potential, kinetic and total energy (eV), temperature
    (K), and the energy less the heat of the thermostat (eV), which good dynamics keeps. Of several
    replicas each has files of its own, with its number before the suffix. The report, ``output``
    with ``.json``, is that of :func:`~.md_report.write_report`.

    Interrupted, it saves positions, momenta, the thermostat and the state of the random numbers in
    ``output`` + ``".state.npz"``, and the same call goes on from its last frame, to the same
    numbers bit for bit on the same computer. A call with more ``time`` extends a finished
    trajectory. Until it is complete its frames are in ``output`` + ``".part"``.

    Args:
        potential: What :class:`Calculator` takes, or any calculator of ASE.
        atoms: The start, (N, 3) positions in Å. It is not changed.
        output: File to write, .extxyz or .xyz.
        time: ps; cut to a whole number of frames.
        temperature: K.
        timestep: fs.
        thermostat: One of the table.
        time_constant: Of the thermostat, fs: the inverse friction, or the period of the chain.
        every: Steps from one frame to the next.
        seed: Of velocities and noise.
        keep_velocities: Begin with those that ``atoms`` have.
        replicas: Trajectories, moved at once.
        engine: "own", "ase" or "torch-sim"; None: the own one, or ASE's for a structure with
            constraints.
        report: Write it at the end.
        stop_on_uncertainty: eV/Å. With an :class:`~pyg_schnet.Ensemble`: end at the first frame in
            which the members' forces on an atom differ by more than this, as the root of the summed
            variances of the three components. That frame is the last, and worth a reference
            calculation.
        progress: Show a bar, where there is a terminal.

    Raises:
        ValueError: If an argument is out of range or contradicts the files that are there, the
            engine cannot do what is asked for, and as :meth:`Calculator.evaluator`.
        ImportError: If this ASE has no Nosé-Hoover chain, or torch-sim is not installed.
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
    _check(time, temperature, timestep, thermostat, time_constant, every, seed, replicas, engine)
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
    files = Files(output, replicas)
    files.check_free()
    calculator = as_calculator(potential, _SKIN)
    check_structure(calculator, atoms)
    options = {
        "temperature": temperature,
        "timestep": timestep,
        "thermostat": thermostat,
        "time_constant": time_constant,
        "seed": seed,
        "keep_velocities": keep_velocities,
    }
    several = getattr(calculator, "is_ensemble", False)
    if stop_on_uncertainty is not None:
        _check_limit(stop_on_uncertainty, several)
    engine = engine or ("ase" if atoms.constraints or several else "own")
    settings = {
        "format": _FORMAT,
        "structure": fingerprint(atoms, keep_velocities),
        "model": model_digest(calculator),
        "engine": engine,
        "replicas": replicas,
        "every": every,
        **options,
    }
    state = files.read_state(settings)
    hottest = max(_HOTTEST, 20 * temperature)
    moving = make_engine(engine, calculator, [atoms] * replicas, hottest=hottest, **options)
    run = _Run(moving, FrameWriter(atoms), files, settings, state)
    if stop_on_uncertainty is not None:
        run.spread, run.limit = _spread_of_forces(calculator, atoms), stop_on_uncertainty
    seconds, done = run.run(frames, progress)
    frames = run.frames
    written = None
    if report:
        written = write_report(files, atoms, output.with_suffix(".json"), settings)
    speed = done / seconds if done else math.nan
    return DynamicsSummary(
        steps=(frames - 1) * every,
        frames=frames,
        time=(frames - 1) * every * timestep / 1000,
        **_means(files, len(atoms)),
        steps_per_second=speed,
        output=files.outputs[0],
        log=files.logs[0],
        outputs=tuple(files.outputs),
        report=written,
        nanoseconds_per_day=speed * timestep * 86_400e-6,
        stopped=run.stopped,
    )


class _Run:
    """Dynamics under way and its files."""

    def __init__(
        self,
        engine: Engine,
        writer: FrameWriter,
        files: Files,
        settings: dict[str, Any],
        state: dict[str, np.ndarray] | None,
    ) -> None:
        self.engine, self.writer, self.files, self.settings = engine, writer, files, settings
        self.frames, self.sizes = 0, np.zeros((settings["replicas"], 2), dtype=np.int64)
        self.spread: Callable[[np.ndarray], float] | None = None
        self.limit = math.inf
        self.stopped: str | None = None
        if state is not None:
            try:
                _check_state(state, {**engine.state, "sizes": self.sizes, "frames": np.array(0)})
                engine.state = state
                self.frames, self.sizes = int(state["frames"]), state["sizes"]
            except (LookupError, ValueError, TypeError, ArithmeticError) as error:
                what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                raise ValueError(
                    f"{files.state} is damaged ({what}); delete it and {files.outputs[0].name}, "
                    "and begin anew."
                ) from error

    def run(self, frames: int, progress: bool) -> tuple[float, int]:
        """Go on to so many frames, and move them to their place; seconds, and steps taken."""
        output = self.files.outputs[0]
        if self.frames > frames:
            raise ValueError(
                f"{output} has {self.frames} frames already, more than the {frames} asked "
                "for; choose another output."
            )
        begun = max(self.frames, 1)
        began = clock.perf_counter()
        if self.frames < frames or not all(path.exists() for path in self.files.outputs):
            self.files.open(self.sizes)
            self._go_on(frames, progress)
            self.files.close()
        return clock.perf_counter() - began, (self.frames - begun) * self.settings["every"]

    def _go_on(self, frames: int, progress: bool) -> None:
        every = self.settings["every"]
        held = self._first() if self.frames == 0 else self._snapshot(self.sizes, ())
        last = clock.monotonic()
        try:
            with tqdm(
                desc=self.files.outputs[0].stem,
                total=(frames - 1) * every,
                initial=(self.frames - 1) * every,
                unit=" steps",
                disable=None if progress else True,
            ) as bar:
                while self.frames < frames and not self._is_uncertain():
                    self._advance(every)
                    texts = self._texts(self.frames * every)
                    self.frames += 1
                    # One assignment: an interrupt finds the state with the frames it counts.
                    held = self._snapshot(held.sizes, (*held.texts, texts))
                    temperature = float(self.engine.temperatures.mean())
                    bar.set_postfix_str(f"{temperature:.0f} K", refresh=False)
                    bar.update(every)
                    if clock.monotonic() - last > _SAVE_EVERY:
                        held = self._save(held)
                        last = clock.monotonic()
        finally:
            self._save(held)

    def _first(self) -> Snapshot:
        texts = tuple((frame, log_head() + line) for frame, line in self._texts(0))
        self.frames = 1
        return self._snapshot(np.zeros_like(self.sizes), (texts,))

    def _is_uncertain(self) -> bool:
        """Whether the potentials disagree where the atoms are now."""
        if self.spread is None:
            return False
        found = self.spread(self.engine.positions)
        if found > self.limit:
            time = (self.frames - 1) * self.settings["every"] * self.settings["timestep"] / 1000
            self.stopped = (
                f"the forces on an atom differ by {found:.3g} eV/Å at {time:g} ps, more than "
                f"{self.limit:g}"
            )
        return self.stopped is not None

    def _advance(self, steps: int) -> None:
        try:
            self.engine.advance(steps)
        except Exploded as error:
            replica = f"Replica {error.replica}" if len(self.files.outputs) > 1 else "The dynamics"
            raise FloatingPointError(
                f"{replica} exploded in step {error.step + 1} "
                f"({(error.step + 1) * self.settings['timestep'] / 1000:g} ps): {error.why}. Try a "
                f"shorter timestep, a lower temperature or a relaxed start; the frames before it "
                f"are in {self.files.parts[error.replica]}."
            ) from error

    def _texts(self, step: int) -> tuple[tuple[str, str], ...]:
        """Frame and line of each replica."""
        now, time = self.engine, step * self.settings["timestep"] / 1000
        energies, kinetic, forces = now.energies, now.kinetic, now.forces
        temperatures, conserved = now.temperatures, now.conserved
        texts = []
        for r in range(len(energies)):
            own = slice(now.first[r], now.first[r + 1])
            frame = Frame(
                time, now.positions[own], now.momenta[own], forces[own], float(energies[r]),
                float(kinetic[r]), float(temperatures[r]), float(conserved[r]),
            )  # fmt: skip
            texts.append((self.writer.frame(frame), self.writer.line(frame)))
        return tuple(texts)

    def _snapshot(self, sizes: np.ndarray, texts: tuple[Any, ...]) -> Snapshot:
        state = {
            **self.engine.state,
            "frames": np.array(self.frames),
            "settings": np.array(json.dumps(self.settings)),
        }
        return Snapshot(state, sizes, texts)

    def _save(self, held: Snapshot) -> Snapshot:
        """Frames are held one after the other, and files are written replica by replica."""
        by_replica = tuple(zip(*held.texts, strict=True)) or ((),) * len(held.sizes)
        saved = self.files.save(held._replace(texts=by_replica))
        return saved._replace(texts=())


def _check_state(state: dict[str, np.ndarray], own: dict[str, np.ndarray]) -> None:
    """Refuse arrays of another shape or kind than the engine's own, and what is not finite."""
    for name, kept in own.items():
        found = state[name]
        if found.shape != kept.shape or found.dtype.kind != kept.dtype.kind:
            raise ValueError(f"{name} is {found.dtype} of shape {found.shape}")
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise ValueError(f"{name} is not finite")
        if found.dtype.kind == "i" and (found < 0).any():
            raise ValueError(f"{name} is negative")


def _spread_of_forces(calculator: Any, atoms: "Atoms") -> Callable[[np.ndarray], float]:
    """The largest spread of the forces on an atom, eV/Å, as a function of positions."""
    evaluate = calculator.evaluator(atoms)

    def largest(positions: np.ndarray) -> float:
        evaluate(positions)
        return float(np.sqrt(np.square(evaluate.spread[1]).sum(1)).max())

    return largest


def _check_limit(limit: float, several: bool) -> None:
    if not limit > 0:
        raise ValueError(f"stop_on_uncertainty must be positive (eV/Å), got {limit}.")
    if not several:
        raise ValueError(
            "stop_on_uncertainty needs an ensemble, but the model is a single one; train one with "
            "pyg-schnet train ... --ensemble 4."
        )


def _means(files: Files, atoms: int) -> dict[str, float]:
    drifts, temperatures = [], []
    for replica in range(len(files.outputs)):
        log = files.read_log(replica)
        times, total = log["time_ps"], log["total_energy_eV"]
        temperatures.append(float(log["temperature_K"].mean()))
        slope = np.polyfit(times, total - total[0], 1)[0] if len(times) > 2 else math.nan
        drifts.append(1000 * float(slope) / atoms)
    return {"drift": float(np.mean(drifts)), "temperature": float(np.mean(temperatures))}


def fingerprint(atoms: "Atoms", velocities: bool) -> str:
    """Says whether it is still the same structure.

    Args:
        atoms: The structure.
        velocities: Whether they count.
    """
    digest = hashlib.sha256()
    arrays = [atoms.numbers, atoms.positions, atoms.get_masses(), atoms.cell.array, atoms.pbc]
    for array in [*arrays, atoms.get_momenta()] if velocities else arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"{atoms.get_chemical_formula()} {digest.hexdigest()[:8]}"


def model_digest(calculator: Any) -> str:
    """Says whether it is still the same: weights, or the class of another calculator.

    Args:
        calculator: Of ASE.
    """
    models = getattr(calculator, "models", None)
    if not models:
        return type(calculator).__name__
    digest = hashlib.sha256()
    for model in models:
        for name, values in model.state_dict().items():
            digest.update(name.encode() + values.detach().cpu().numpy().tobytes())
    several = f"{len(models)} x " if len(models) > 1 else ""
    return f"{several}{type(models[0]).__name__} {digest.hexdigest()[:8]}"


def _check(
    time: float,
    temperature: float,
    timestep: float,
    thermostat: str,
    time_constant: float,
    every: int,
    seed: int,
    replicas: int,
    engine: str | None,
) -> None:
    positive = {"time": time, "timestep": timestep, "time_constant": time_constant}
    if thermostat not in THERMOSTATS:
        raise ValueError(f"thermostat must be one of {', '.join(THERMOSTATS)}, got {thermostat!r}.")
    if engine is not None and engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}.")
    if thermostat != "none":
        positive["temperature"] = temperature
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and above 0, got {value}.")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be finite and at least 0 K, got {temperature}.")
    for name, count in {"every": every, "replicas": replicas}.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}.")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
