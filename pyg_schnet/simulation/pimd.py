"""Path-integral molecular dynamics: i-PI and a driver, started, watched and resumed."""

import importlib.metadata
import importlib.util
import json
import math
import os
import time as clock
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from tqdm import tqdm

from pyg_schnet.simulation.dynamics import fingerprint, model_digest
from pyg_schnet.simulation.ipi_input import (
    Address,
    Ensemble,
    checkpoint_step,
    new_input,
    read_checkpoint,
    resumed_input,
)
from pyg_schnet.simulation.pimd_files import COLUMNS, Estimate, PimdFiles, blocked
from pyg_schnet.simulation.pimd_processes import LOOK_EVERY, SOCKETS, Processes, listening, locked
from pyg_schnet.simulation.relax import with_calculator
from pyg_schnet.units import BOLTZMANN

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

_FORMAT = 1  # of the settings; another one cannot be gone on from
_OLDEST = (3, 3)  # the first i-PI that sends beads in one message
_CHECKPOINT_EVERY = 100  # steps, about
_DISCARDED = 0.1  # of the frames, while the beads spread from where they all begin
_SKIN = 2.0  # Å
_PRUNE_EVERY = 1.0  # seconds


@dataclass(frozen=True)
class PathIntegralSummary:
    """What :func:`run_pimd` did, over all frames, those of interrupted calls too.

    Means are over the frames after the first tenth, errors are standard errors by blocking.

    Attributes:
        steps: Of the whole trajectory.
        frames: Written, the start among them.
        time: ps.
        beads: P.
        temperature: Of the ring polymers, K.
        potential_energy: Mean over the beads, eV.
        kinetic_energy: Quantum mechanical, by the centroid virial estimator, eV.
        total_energy: The sum of both, eV.
        classical_kinetic_energy: 3/2 N k T, eV.
        drift: Slope of a linear fit to the conserved quantity, meV/atom per ps.
        steps_per_second: Of this call; NaN if it had nothing left to do.
        share_of_forces: Of the time, for energies and forces, in this call; the rest is i-PI's.
        ipi_version: Of i-PI.
        trajectory: The beads, extended XYZ.
        centroids: Extended XYZ.
        report: These numbers, JSON.
    """

    steps: int
    frames: int
    time: float
    beads: int
    temperature: Estimate
    potential_energy: Estimate
    kinetic_energy: Estimate
    total_energy: Estimate
    classical_kinetic_energy: float
    drift: float
    steps_per_second: float
    share_of_forces: float
    ipi_version: str
    trajectory: Path
    centroids: Path
    report: Path

    def sentence(self) -> str:
        """The numbers in one line."""
        temperature, kinetic = self.temperature, self.kinetic_energy
        return (
            f"{self.time:g} ps of {self.beads} beads in {self.steps:,} steps: temperature "
            f"{temperature.mean:.1f} ± {temperature.error:.1f} K, quantum kinetic energy "
            f"{kinetic.mean:.3f} ± {kinetic.error:.3f} eV (classical "
            f"{self.classical_kinetic_energy:.3f} eV), the conserved quantity drifts by "
            f"{self.drift:.3g} meV/atom per ps, {self.steps_per_second:,.0f} steps per second"
        )


def run_pimd(
    potential: "nn.Module | BaseCalculator | str | os.PathLike[str]",
    atoms: "Atoms",
    output: str | os.PathLike[str],
    time: float = 10.0,
    temperature: float = 300.0,
    timestep: float = 0.5,
    *,
    beads: int = 8,
    thermostat: str = "pile_g",
    time_constant: float = 100.0,
    every: int = 20,
    seed: int = 0,
    transport: str = "unix",
    progress: bool = True,
) -> PathIntegralSummary:
    r"""Path-integral molecular dynamics at constant temperature, with i-PI.

    Each atom is a ring of P beads,

    .. math::
        H_P = \sum_{k=1}^{P} \left( \sum_i \frac{\mathbf p_{ik}^2}{2 m_i}
        + \frac{m_i \omega_P^2}{2} (\mathbf r_{ik} - \mathbf r_{i,k+1})^2
        + V(\mathbf r_{1k}, \dots, \mathbf r_{Nk}) \right), \qquad
        \omega_P = \frac{P k_\mathrm{B} T}{\hbar}

    sampled at P times the temperature. The quantum kinetic energy is that of the centroid virial
    estimator,

    .. math::
        K = \frac{3 N k_\mathrm{B} T}{2}
        - \frac{1}{2 P} \sum_{ik} (\mathbf r_{ik} - \bar{\mathbf r}_i) \cdot \mathbf F_{ik}

    i-PI moves the beads, in a process of its own; another process evaluates all beads of a step in
    one batch. If either of them is killed, the other one is ended, and a sentence says so. The
    same call goes on from i-PI's newest checkpoint, whole frames and the table joined to it; so it
    does after Ctrl-C. A call with more ``time`` extends a finished simulation.

    In the folder ``output`` are at the end ``beads.extxyz``, ``centroids.extxyz``,
    ``energies.csv`` and ``report.json``; ``pimd.log``, with i-PI's words; and what is needed to go
    on.

    i-PI: Litman et al., J. Chem. Phys. 161, 062504 (2024). Thermostats: Ceriotti, Parrinello,
    Markland and Manolopoulos, J. Chem. Phys. 133, 124104 (2010).

    Args:
        potential: What :class:`Calculator` takes, or any calculator of ASE that can be pickled.
        atoms: The start of all beads, with the masses. It is not changed. A periodic structure
            keeps its cell.
        output: Folder.
        time: ps; cut to a whole number of frames.
        temperature: K.
        timestep: fs.
        beads: P.
        thermostat: ``"pile_g"`` (global, of the centroid) or ``"pile_l"`` (Langevin).
        time_constant: Of the centroid's thermostat, fs.
        every: Steps from one frame to the next.
        seed: Of velocities and noise.
        transport: ``"unix"``, or ``"tcp"`` on this computer alone.
        progress: Show a bar, where there is a terminal.

    Raises:
        ValueError: If an argument is out of range or contradicts what is in the folder, another
            call works in it, the structure has constraints, the potential cannot be pickled, and as
            :meth:`Calculator.evaluator`.
        ImportError: If i-PI is missing or older than 3.3.
        ChildProcessError: If i-PI or the driver is killed or fails.
        FloatingPointError: If the dynamics explodes.
    """
    folder = Path(output)
    version = _ipi_version()
    frames = 1 + int(1000 * time / timestep / every + 1e-6) if timestep > 0 and every > 0 else 2
    if not (math.isfinite(time) and frames >= 2):
        raise ValueError(
            f"time must be finite and at least that of one frame, every={every} steps of "
            f"{timestep} fs ({every * timestep / 1000:g} ps), got {time} ps."
        )
    ensemble = Ensemble(
        beads=beads,
        temperature=temperature,
        timestep=timestep,
        thermostat=thermostat,
        time_constant=time_constant,
        steps=(frames - 1) * every,
        every=every,
        checkpoint_every=every * max(1, round(_CHECKPOINT_EVERY / max(every, 1))),
        seed=seed,
    )
    if transport not in SOCKETS:
        raise ValueError(f"transport must be one of {', '.join(SOCKETS)}, got {transport!r}.")
    if atoms.constraints:
        raise ValueError(
            "Path integrals with constraints are not supported; remove them with "
            "atoms.set_constraint()."
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output must be a folder, but {folder} is a file.")
    moved = with_calculator(potential, atoms, _SKIN)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as lock:
        return _Run(moved, folder, ensemble, version, transport, lock).run(progress)


class _Run:
    """A simulation and its folder."""

    def __init__(
        self,
        atoms: "Atoms",
        folder: Path,
        ensemble: Ensemble,
        version: str,
        transport: str,
        lock: int,
    ) -> None:
        self.atoms, self.folder, self.ensemble = atoms, folder, ensemble
        self.version, self.transport, self.lock = version, transport, lock
        self.files = PimdFiles(folder, len(atoms))
        self.input = folder / "pimd.xml"
        self.settings = {
            "format": _FORMAT,
            "structure": fingerprint(atoms, velocities=False),
            "model": model_digest(atoms.calc),
            # More steps extend a simulation.
            **{name: value for name, value in asdict(ensemble).items() if name != "steps"},
        }
        self.speed = math.nan, math.nan

    def run(self, progress: bool) -> PathIntegralSummary:
        self._check_settings()
        steps = self.ensemble.steps
        done, checkpoint = self._newest()
        if done > steps:
            raise ValueError(
                f"{self.folder} holds {done} steps already, more than the {steps} asked for; "
                "choose another output."
            )
        if done < steps:
            with listening(self.transport) as address:
                self._prepare(done, checkpoint, address)
                self._go_on(done, address, progress)
        return self._summary()

    def _check_settings(self) -> None:
        path = self.folder / "settings.json"
        if not path.exists():
            strange = [p.name for p in (self.files.properties, self.input) if p.exists()]
            if strange:
                raise ValueError(
                    f"{self.folder} has {strange[0]} but no settings.json, so it cannot be gone on "
                    "with; choose another output."
                )
            aside = path.with_name("settings.json.part")
            aside.write_text(json.dumps(self.settings, indent=1) + "\n")
            os.replace(aside, path)
            return
        try:
            theirs = json.loads(path.read_text())
            if not isinstance(theirs, dict):
                raise ValueError("it holds no settings")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error}); choose another output.") from error
        for name, value in self.settings.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{self.folder} was begun with {name}={theirs.get(name)}, and {value} is asked "
                    "for; choose another output, or delete it."
                )

    def _newest(self) -> tuple[int, Any]:
        """Steps done in the newest checkpoint that frames lead up to, and its content."""
        paths = [self.folder / "RESTART", self.input, *self.files.checkpoints()]
        found = [(_steps_in(r), r) for r in map(read_checkpoint, paths) if r is not None]
        reach = (self.files.frames() - 1) * self.ensemble.every
        usable = [(s, r) for s, r in found if 0 < s <= reach and s % self.ensemble.every == 0]
        return max(usable, key=lambda one: one[0], default=(0, None))

    def _prepare(self, done: int, checkpoint: Any, address: Address) -> None:
        """The input, and the files of i-PI without what lies behind the checkpoint."""
        if done:
            text = resumed_input(checkpoint, self.ensemble.steps, address)
            # Before the checkpoints go: it is one, too.
            _replace(self.input, text)
            self.files.cut(1 + done // self.ensemble.every)
            self.files.forget_checkpoints()
        else:
            self.files.remove()
            _replace(self.input, new_input(self.atoms, self.ensemble, address))

    def _go_on(self, done: int, address: Address, progress: bool) -> None:
        with (
            Processes(self.files, self.input.name, self.atoms, address, self.lock) as running,
            tqdm(
                desc=self.folder.name,
                total=self.ensemble.steps,
                initial=done,
                unit=" steps",
                disable=None if progress else True,
            ) as bar,
        ):
            pruned, reached = clock.monotonic(), done
            while running.alive():
                for said in running.hear(LOOK_EVERY):
                    running.said |= said
                    reached = done + running.said.get("structures", 0) // self.ensemble.beads
                    bar.update(min(reached, self.ensemble.steps) - bar.n)
                if clock.monotonic() - pruned > _PRUNE_EVERY:
                    pruned = clock.monotonic()
                    self.files.prune()
            now = self._newest()[0]
            if now == self.ensemble.steps:
                bar.update(now - bar.n)
        self.files.prune()
        now = self._newest()[0]
        if now < self.ensemble.steps:
            self._explain(running, reached, now)
        wall = running.said.get("wall", 0.0)
        if wall:
            told = running.said["structures"] / self.ensemble.beads
            self.speed = told / wall, running.said["seconds"] / wall

    def _explain(self, running: "Processes", reached: int, now: int) -> None:
        """Raise what says why it ended early."""
        said = running.said
        if "error" in said:
            kind = {"FloatingPointError": FloatingPointError, "ValueError": ValueError}
            raise kind.get(said.get("kind", ""), ChildProcessError)(said["error"])
        what = running.cause or "i-PI ended before its last step"
        reached = max(reached, now)  # what the driver told last may be older
        again = f"goes on from step {now:,}" if now else "begins anew"
        raise ChildProcessError(
            f"{what} after about {reached:,} of {self.ensemble.steps:,} steps; the same command "
            f"{again}. Its words are in {self.folder / 'pimd.log'}."
        )

    def _summary(self) -> PathIntegralSummary:
        trajectory, centroids = self.folder / "beads.extxyz", self.folder / "centroids.extxyz"
        table = self.files.table()
        self.files.write_table(self.folder / "energies.csv")
        frames = self.files.convert(self.atoms, trajectory, centroids)
        series = dict(zip(COLUMNS, table[:frames].T, strict=False))
        kept = slice(max(1, math.ceil(_DISCARDED * frames)), None)
        times, conserved = series["time"][kept], series["conserved"][kept]
        drift = math.nan
        if len(times) > 2:
            slope = np.polyfit(times, conserved - conserved[0], 1)[0]
            drift = 1000 * float(slope) / len(self.atoms)
        total = series["potential"] + series["kinetic_cv"]
        summary = PathIntegralSummary(
            steps=self.ensemble.steps,
            frames=frames,
            time=self.ensemble.steps * self.ensemble.timestep / 1000,
            beads=self.ensemble.beads,
            temperature=blocked(series["temperature"][kept]),
            potential_energy=blocked(series["potential"][kept]),
            kinetic_energy=blocked(series["kinetic_cv"][kept]),
            total_energy=blocked(total[kept]),
            classical_kinetic_energy=1.5 * len(self.atoms) * BOLTZMANN * self.ensemble.temperature,
            drift=drift,
            steps_per_second=self.speed[0],
            share_of_forces=self.speed[1],
            ipi_version=self.version,
            trajectory=trajectory,
            centroids=centroids,
            report=self.folder / "report.json",
        )
        _replace(summary.report, _as_json(summary, self.settings))
        return summary


def _steps_in(checkpoint: Any) -> int:
    """Steps done in a checkpoint; 0 of one that is damaged."""
    try:
        return checkpoint_step(checkpoint)
    except ValueError:
        return 0


def _ipi_version() -> str:
    try:
        version = importlib.metadata.version("ipi")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    if not version or importlib.util.find_spec("ipi") is None:
        raise ImportError(
            "Path integrals need i-PI; install it with pip install 'pyg_schnet[pimd]'.", name="ipi"
        )
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        raise ImportError(
            f"Path integrals need i-PI 3.3 or newer, not {version}; update it with "
            "pip install --upgrade ipi.",
            name="ipi",
        )
    return version


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.part")
    aside.write_text(text)
    os.replace(aside, path)


def _as_json(summary: PathIntegralSummary, settings: dict[str, Any]) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return value.name
        if isinstance(value, tuple):
            return {"mean": plain(value[0]), "error": plain(value[1])}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    # Not asdict: it would take the estimates apart.
    numbers = {name: plain(getattr(summary, name)) for name in summary.__dataclass_fields__}
    units = {"energies": "eV", "temperature": "K", "time": "ps", "drift": "meV/atom per ps"}
    return json.dumps({**numbers, "units": units, "settings": settings}, indent=1) + "\n"
