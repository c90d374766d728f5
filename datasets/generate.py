"""Trajectories made on this computer: molecular dynamics at a temperature, labelled with xTB."""

import contextlib
import difflib
import hashlib
import os
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyg_schnet.datasets.dynamics import Trajectory, state_path

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

NAMES = {
    "acetaldehyde": "CH3CHO",
    "acetic acid": "CH3COOH",
    "acetone": "CH3COCH3",
    "acetonitrile": "CH3CN",
    "ammonia": "NH3",
    "benzene": "C6H6",
    "dimethyl ether": "CH3OCH3",
    "ethane": "C2H6",
    "ethanol": "CH3CH2OH",
    "ethene": "C2H4",
    "ethyne": "C2H2",
    "formaldehyde": "H2CO",
    "formic acid": "HCOOH",
    "furan": "C4H4O",
    "glyoxal": "OCHCHO",
    "methane": "CH4",
    "methanol": "CH3OH",
    "propane": "C3H8",
    "pyridine": "C5H5N",
    "pyrrole": "C4H4NH",
    "thiophene": "C4H4S",
    "water": "H2O",
}
"""Usual names of molecules in the G2 set of ASE, which calls them by formulas."""

METHOD = "GFN2-xTB"
# Of tblite; at 1, its default, forces depend on where the self-consistent cycle starts by
# 0.7 meV/Å in C20, at 0.01 by 0.01 meV/Å, for 15 % more time.
ACCURACY = 0.01
THERMOSTATS = ("nose-hoover", "langevin")
_FORMAT = 1  # of the state; another one cannot be gone on from


def generate(
    molecule: "str | Path | Atoms",
    output: str | Path,
    frames: int = 2000,
    temperature: float = 500.0,
    *,
    every: int = 10,
    timestep: float = 1.0,
    equilibration: float = 2000.0,
    thermostat: str = "nose-hoover",
    time_constant: float = 50.0,
    seed: int = 0,
    charge: int = 0,
    multiplicity: int = 1,
    calculator: "Calculator | None" = None,
) -> Path:
    """Runs molecular dynamics of a molecule and writes frames with energies and forces.

    The molecule is relaxed, gets velocities of the temperature, is equilibrated, and then every
    so many steps a frame is written: extended XYZ, energies in eV, forces in eV/Å, the centre of
    mass at the origin. :class:`~pyg_schnet.datasets.Trajectories` reads it.

    Steps are velocity Verlet between two half steps of a thermostat: a Nosé-Hoover chain of three
    (Martyna, Klein and Tuckerman, J. Chem. Phys. 97, 2635 (1992)), which leaves the molecule
    without drift and rotation and counts its 3 N - 6 degrees of freedom; or Langevin friction and
    noise (Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007)) on all 3 N. Energies are those of
    GFN2-xTB (Bannwarth, Ehlert and Grimme, J. Chem. Theory Comput. 15, 1652 (2019)) from tblite,
    converged anew at every step so that they depend on positions alone.

    Interrupted, it saves where it is, in ``output`` + ``".state.npz"``, and the same call goes on
    from there, to the same frames bit for bit on the same computer. A call with more ``frames``
    extends a finished trajectory. Until it is complete the frames are in ``output`` + ``".part"``.

    tblite uses one thread, unless ``OMP_NUM_THREADS`` is set: more do not help below some fifty
    atoms.

    Args:
        molecule: A name (``"ethanol"``, ``"C20"``, ``"C60"``, any of :data:`NAMES`, any of ASE's G2
            set such as ``"CH3CH2OH"``), a structure file that ASE reads, or ASE's Atoms.
        output: File to write, .extxyz or .xyz.
        frames: Number of frames.
        temperature: K.
        every: Steps from one frame to the next.
        timestep: fs.
        equilibration: fs before the first frame counts.
        thermostat: ``"nose-hoover"`` or ``"langevin"``.
        time_constant: Of the thermostat, fs: the period it is coupled at, or the inverse friction.
        seed: Of the velocities, and of the noise.
        charge: Total charge, e.
        multiplicity: 1 + the number of unpaired electrons.
        calculator: One of ASE's, in place of xTB (energies in eV; ``charge`` and ``multiplicity``
            are then its own business).

    Returns:
        ``output``.

    Raises:
        ValueError: if an argument is out of range or contradicts the file that is there.
        ModuleNotFoundError: if tblite is not installed.
        RuntimeError: if a calculation fails, or the molecule falls apart or explodes; the message
            names the frame.

    >>> import tempfile
    >>> from ase.calculators.emt import EMT
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = f"{folder}/water.xyz"
    ...     path = generate("water", file, 2, every=1, equilibration=5, calculator=EMT())
    ...     lines = path.read_text().splitlines()
    >>> len(lines), lines[0], lines[2].split()[0]
    (10, '3', 'O')
    """
    output = Path(output)
    start = structure(molecule)
    _check(start, output, frames, temperature, every, timestep, equilibration, time_constant)
    if thermostat not in THERMOSTATS:
        raise ValueError(f"thermostat={thermostat!r} must be one of {', '.join(THERMOSTATS)}")
    if output.exists() and not state_path(output).exists():
        raise ValueError(
            f"{output} exists and {state_path(output).name} does not, so it cannot be extended: "
            f"choose another output, or delete it"
        )
    geometry = hashlib.sha256(start.numbers.tobytes() + start.positions.tobytes())
    settings = {
        "format": _FORMAT,
        "structure": f"{start.get_chemical_formula()} {geometry.hexdigest()[:8]}",
        "method": METHOD if calculator is None else type(calculator).__name__,
        "temperature": temperature,
        "every": every,
        "timestep": timestep,
        "equilibration": equilibration,
        "thermostat": thermostat,
        "time_constant": time_constant,
        "seed": seed,
        "charge": charge,
        "multiplicity": multiplicity,
    }

    def potential(positions: np.ndarray) -> tuple[float, np.ndarray]:
        start.positions = positions
        if calculator is None:
            # Nothing is left of the step before for the self-consistent cycle to start from.
            start.calc.reset()
        forces = start.get_forces()
        return float(start.get_potential_energy()), forces

    run = Trajectory(start, output, settings, potential)
    if run.frames > frames:
        raise ValueError(
            f"{output} has {run.frames} frames, more than frames={frames}: read the first of them, "
            f"or choose another output"
        )
    if run.frames < frames or not output.exists():
        start.calc = xtb(start, charge, multiplicity) if calculator is None else calculator
        run.run(frames)
    return output


def structure(molecule: "str | Path | Atoms") -> "Atoms":
    """The structure that a name or a file stands for.

    Args:
        molecule: As for :func:`generate`; of a file with several frames, the last.

    Raises:
        ValueError: if there is no such name or file, or the structure is periodic or one atom.

    >>> structure("ethanol").get_chemical_formula(), len(structure("C20"))
    ('C2H6O', 20)
    """
    import ase
    import ase.build
    import ase.io
    from ase.collections import g2

    if isinstance(molecule, ase.Atoms):
        atoms = molecule.copy()
    elif Path(molecule).is_file():
        try:
            atoms = ase.io.read(molecule)
        except Exception as error:  # its readers raise whatever they meet
            raise ValueError(f"{molecule} is no structure that ASE reads ({error})") from error
    else:
        name = str(molecule)
        formula = NAMES.get(name.lower(), name)
        if name.upper() == "C20":
            atoms = ase.Atoms("C20", dodecahedron(1.45))
        elif name.upper() == "C60" or formula in g2.names:
            atoms = ase.build.molecule("C60" if name.upper() == "C60" else formula)
        else:
            near = difflib.get_close_matches(name, [*NAMES, "C20", "C60", *g2.names], 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "name a structure file"
            raise ValueError(f"molecule={name!r} is neither a file nor a known name: {hint}")
    if atoms.pbc.any():
        raise ValueError(f"molecule={molecule} is periodic: generate() is for molecules alone")
    if len(atoms) < 2:
        raise ValueError(f"molecule={molecule} is a single atom, which has no dynamics")
    # Positions and masses alone: constraints, velocities and labels of a file are left behind.
    return ase.Atoms(atoms.numbers, atoms.positions, masses=atoms.get_masses())


def dodecahedron(bond: float) -> np.ndarray:
    """Corners of a regular dodecahedron: the cage of C20, before its Jahn-Teller distortion.

    Args:
        bond: Length of the edges, Å.

    Returns:
        (20, 3) positions, Å.

    >>> pos = dodecahedron(1.45)
    >>> distances = np.linalg.norm(pos[:, None] - pos, axis=-1)
    >>> int((abs(distances - 1.45) < 1e-9).sum()) // 2
    30
    """
    golden = (1 + 5**0.5) / 2
    corners = [*product((-1.0, 1.0), repeat=3)]
    for a, b in product((-1 / golden, 1 / golden), (-golden, golden)):
        corners += [(0.0, a, b), (a, b, 0.0), (b, 0.0, a)]
    return np.array(corners) * (bond * golden / 2)


def xtb(atoms: "Atoms", charge: int = 0, multiplicity: int = 1) -> "Calculator":
    """ASE's calculator for GFN2-xTB, from tblite.

    Args:
        atoms: For whose electrons the multiplicity is checked.
        charge: Total charge, e.
        multiplicity: 1 + the number of unpaired electrons.

    Raises:
        ModuleNotFoundError: if tblite is not installed.
        ValueError: if so many electrons cannot have that multiplicity.
    """
    electrons = int(atoms.numbers.sum()) - charge
    if multiplicity < 1 or (electrons - multiplicity) % 2 == 0:
        raise ValueError(
            f"multiplicity={multiplicity} is impossible with {electrons} electrons: pass "
            f"{1 + electrons % 2}, or another charge"
        )
    try:
        with _one_thread():
            from tblite.ase import TBLite
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "trajectories are labelled with GFN2-xTB of tblite, which is not installed: "
            "'pip install tblite', or pass calculator="
        ) from error
    return TBLite(
        method=METHOD,
        charge=charge,
        multiplicity=multiplicity,
        accuracy=ACCURACY,
        verbosity=0,
        cache_api=False,
    )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """While a library with OpenMP is loaded, as that is when it asks for the number of threads."""
    if "OMP_NUM_THREADS" in os.environ or "tblite" in sys.modules:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _check(
    start: "Atoms",
    output: Path,
    frames: int,
    temperature: float,
    every: int,
    timestep: float,
    equilibration: float,
    time_constant: float,
) -> None:
    if output.suffix not in (".extxyz", ".xyz"):
        raise ValueError(f"output={output} must end in .extxyz or .xyz")
    whole = {"frames": frames, "every": every}
    positive = {"temperature": temperature, "timestep": timestep, "time_constant": time_constant}
    for name, value in {**whole, **positive}.items():
        if not value > 0 or (name in whole and value != int(value)):
            kind = "a whole number above 0" if name in whole else "above 0"
            raise ValueError(f"{name}={value} must be {kind}")
    if equilibration < 0:
        raise ValueError(f"equilibration={equilibration} must not be negative")
