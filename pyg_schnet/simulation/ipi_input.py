"""Input files of i-PI for path integrals at constant temperature, new or from a checkpoint."""

import math
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyg_schnet.units import BOHR

if TYPE_CHECKING:
    from ase import Atoms

THERMOSTATS = ("pile_g", "pile_l")
PROPERTIES = (
    "step",
    "time{picosecond}",
    "temperature{kelvin}",
    "potential",
    "kinetic_cv",
    "conserved",
)
"""Columns of the file of properties, before the potential energies of the beads.

Energies are in hartree, and lengths in bohr: i-PI's own eV and Å differ from ASE's in the eighth
digit.
"""

_VACUUM = 100.0  # Å; i-PI wants a cell, which a molecule does not feel
_EXACT = "%24.16e"  # all digits of a float64, so that a checkpoint loses nothing


@dataclass(frozen=True)
class Ensemble:
    """What to simulate.

    Attributes:
        beads: Of the ring polymer, P.
        temperature: K.
        timestep: fs.
        thermostat: Of the centroid, ``"pile_g"`` (global: stochastic velocity rescaling) or
            ``"pile_l"`` (Langevin, each atom by itself); the other modes of the ring polymer have
            Langevin thermostats of optimal friction in both (Ceriotti et al., J. Chem. Phys. 133,
            124104 (2010)).
        time_constant: Of the centroid's thermostat, fs.
        steps: To do, in all.
        every: Steps from one frame to the next.
        checkpoint_every: Steps between checkpoints; a multiple of ``every``.
        seed: Of velocities and noise.
        fix_center: Hold the centre of mass still.
    """

    beads: int = 8
    temperature: float = 300.0
    timestep: float = 0.5
    thermostat: str = "pile_g"
    time_constant: float = 100.0
    steps: int = 1000
    every: int = 10
    checkpoint_every: int = 100
    seed: int = 0
    fix_center: bool = True

    def __post_init__(self) -> None:
        if self.thermostat not in THERMOSTATS:
            raise ValueError(
                f"thermostat must be one of {', '.join(THERMOSTATS)}, got {self.thermostat!r}."
            )
        for name in ("temperature", "timestep", "time_constant"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and above 0, got {value}.")
        for name in ("beads", "steps", "every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.checkpoint_every % self.every:
            raise ValueError(
                f"checkpoint_every must be a multiple of every={self.every}, got "
                f"{self.checkpoint_every}; frames and checkpoints would not join."
            )
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be at least 0 and below 2^31, got {self.seed}.")


@dataclass(frozen=True)
class Address:
    """Where i-PI listens.

    Attributes:
        path: Of a Unix socket; empty for TCP on this computer.
        port: Of TCP.
    """

    path: str = ""
    port: int = 0

    def where(self) -> str | tuple[str, int]:
        """For :func:`~pyg_schnet.simulation.ipi_driver.connect`."""
        return self.path or ("127.0.0.1", self.port)


def to_ipi(atoms: "Atoms") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, cell and the rotation to i-PI's frame, where the cell is triangular.

    Args:
        atoms: A structure.

    Returns:
        Positions (N, 3), Å, in i-PI's frame; the cell (3, 3), Å, rows are lattice vectors, the
        first along x and the second in the xy plane; and the rotation Q (3, 3): a vector v of
        i-PI's frame is v @ Q in that of the structure.

    Raises:
        ValueError: If the structure is periodic and its cell has no volume.
    """
    if not atoms.pbc.any():
        return atoms.positions.copy(), np.eye(3) * _VACUUM, np.eye(3)
    if atoms.cell.rank < 3:
        raise ValueError(
            "i-PI needs three lattice vectors, but the structure is periodic in "
            f"{atoms.pbc.tolist()} with the cell {atoms.cell.array.tolist()}; give the others a "
            "length, such as that of a vacuum."
        )
    if np.linalg.det(atoms.cell.array) < 0:
        raise ValueError(
            "i-PI needs lattice vectors of a right-handed cell; exchange two of "
            f"{atoms.cell.array.tolist()}."
        )
    cell, rotation = atoms.cell.standard_form()
    return atoms.positions @ rotation.T, cell.array.copy(), rotation


def new_input(atoms: "Atoms", ensemble: Ensemble, address: Address) -> str:
    """The input of a simulation that begins: all beads on the atoms, velocities drawn.

    Its files are ``pimd.properties``, with the columns of :data:`PROPERTIES` and the potential
    energies of the beads (hartree); ``pimd.beads_*.bin``, positions (bohr); and
    ``pimd.checkpoint_*``.

    Args:
        atoms: The start, with its masses.
        ensemble: What to simulate.
        address: Where to listen.

    Returns:
        XML.

    Raises:
        ValueError: As :func:`to_ipi`.

    Example:
        >>> from ase.build import molecule
        >>> text = new_input(molecule("H2O"), Ensemble(beads=4), Address("/run/socket"))
        >>> ET.fromstring(text).find("system/initialize").get("nbeads")
        '4'
    """
    positions, cell, _ = to_ipi(atoms)
    # States between two frames are not needed, and saving one takes as long as a step.
    root = ET.Element(
        "simulation",
        verbosity="low",
        floatformat=_EXACT,
        safe_stride=str(ensemble.every),
        threading="false",
    )
    _outputs(root, ensemble)
    _text(root, "total_steps", ensemble.steps)
    _text(ET.SubElement(root, "prng"), "seed", ensemble.seed)
    # No latency: its sleep would be a good part of a step.
    socket = ET.SubElement(root, "ffsocket", name="driver", mode="unix", pbc="false")
    _text(socket, "latency", 1e-5)
    _text(socket, "exit_on_disconnect", "true")
    _text(socket, "batch_size", ensemble.beads)
    system = ET.SubElement(root, "system")
    start = ET.SubElement(system, "initialize", nbeads=str(ensemble.beads))
    everywhere = np.tile(positions.ravel() / BOHR, ensemble.beads)
    _array(start, "positions", everywhere, units="atomic_unit")
    # Columns are lattice vectors there.
    _array(start, "cell", cell.T.ravel() / BOHR, units="atomic_unit")
    _array(start, "masses", atoms.get_masses(), units="dalton")
    labels = ET.SubElement(start, "labels", mode="manual")
    labels.text = "[" + ", ".join(atoms.get_chemical_symbols()) + "]"
    _text(start, "velocities", ensemble.temperature, mode="thermal", units="kelvin")
    forces = ET.SubElement(system, "forces")
    ET.SubElement(forces, "force", forcefield="driver")
    kept = ET.SubElement(system, "ensemble")
    _text(kept, "temperature", ensemble.temperature, units="kelvin")
    motion = ET.SubElement(system, "motion", mode="dynamics")
    _text(motion, "fixcom", str(ensemble.fix_center).lower())
    dynamics = ET.SubElement(motion, "dynamics", mode="nvt")
    _text(dynamics, "timestep", ensemble.timestep, units="femtosecond")
    thermostat = ET.SubElement(dynamics, "thermostat", mode=ensemble.thermostat)
    _text(thermostat, "tau", ensemble.time_constant, units="femtosecond")
    _set_address(root, address)
    return _written(root)


def _outputs(root: ET.Element, ensemble: Ensemble) -> None:
    every = str(ensemble.every)
    output = ET.SubElement(root, "output", prefix="pimd")
    names = [*PROPERTIES, "bead_potentials"]
    table = ET.SubElement(output, "properties", stride=every, filename="properties")
    table.text = "[" + ", ".join(names) + "]"
    # Binary frames keep all digits and are on their way to the disk when written: no flush, which
    # would wait for the disk as long as steps take.
    frames = {"filename": "beads", "stride": every, "format": "bin", "flush": "0"}
    ET.SubElement(output, "trajectory", frames).text = "positions"
    # Each to a file of its own: one that is being written over when i-PI dies would be lost.
    often = {"filename": "checkpoint", "stride": str(ensemble.checkpoint_every)}
    ET.SubElement(output, "checkpoint", often, overwrite="false")


def read_checkpoint(path: str | os.PathLike[str]) -> ET.Element | None:
    """The content of a checkpoint of i-PI; None if it is not whole, or there is none."""
    try:
        text = Path(path).read_text()
        # Comments of i-PI are not those of XML: they hold rows of dashes.
        return ET.fromstring(re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    except (OSError, ET.ParseError, UnicodeDecodeError):
        return None


def checkpoint_step(root: ET.Element) -> int:
    """Steps done in a checkpoint."""
    return int((root.findtext("step") or "0").strip())


def resumed_input(checkpoint: ET.Element, steps: int, address: Address) -> str:
    """The input of a simulation that goes on from a checkpoint.

    Args:
        checkpoint: From :func:`read_checkpoint`; it is changed.
        steps: To do in all.
        address: Where to listen.

    Returns:
        XML.
    """
    _replace(checkpoint, "total_steps", str(steps))
    _set_address(checkpoint, address)
    return _written(checkpoint)


def _set_address(root: ET.Element, address: Address) -> None:
    socket = root.find("ffsocket")
    if socket is None:
        raise ValueError("The checkpoint is not of a simulation that was started here.")
    socket.set("mode", "unix" if address.path else "inet")
    folder, name = os.path.split(address.path)
    root.set("sockets_prefix", f"{folder}/")
    _replace(socket, "address", name or "127.0.0.1")
    if address.port:
        _replace(socket, "port", str(address.port))


def _replace(parent: ET.Element, name: str, value: str) -> None:
    element = parent.find(name)
    if element is None:
        element = ET.SubElement(parent, name)
    element.text = f" {value} "


def _text(parent: ET.Element, name: str, value: object, **attributes: str) -> None:
    ET.SubElement(parent, name, attributes).text = f" {value} "


def _array(parent: ET.Element, name: str, values: np.ndarray, units: str) -> None:
    element = ET.SubElement(parent, name, mode="manual", units=units)
    element.text = "[" + ", ".join(f"{value:.17g}" for value in values) + "]"


def _written(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
