"""A whole file of each kind that is read, a few kilobytes long, and what reads it."""

import gzip
import io
import json
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ase
import ase.db
import ase.io
import numpy as np
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from small_crystals import CRYSTALS, cif, structure_dict
from small_frames import springs, write_md17
from small_qm9 import write_small_qm9

from pyg_schnet import Potential, SchNet, load, save
from pyg_schnet.datasets import ISO17, MD17, QM9, MaterialsProject, QM7b, Trajectories
from pyg_schnet.datasets.crystal_files import read_crystals
from pyg_schnet.datasets.materials_api import Query
from pyg_schnet.units import KCAL_PER_MOL


class Specimen(NamedTuple):
    """A kind of file.

    Attributes:
        write: Makes a whole one in a folder; returns its path.
        read: Reads the file at a path; the second argument is a folder for what is processed.
        is_text: Its numbers stand in it as words.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path, Path], object]
    is_text: bool = False


def _frames(count: int = 3) -> list[ase.Atoms]:
    z, pos, energy, forces = springs(count)
    found = []
    for k in range(count):
        atoms = ase.Atoms(z, pos[k])
        atoms.calc = SinglePointCalculator(atoms, energy=energy[k], forces=forces[k])
        found.append(atoms)
    return found


def _ase_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        if name.endswith(".db"):
            with ase.db.connect(path, append=False) as database:
                for atoms in _frames():
                    database.write(atoms)
        else:
            ase.io.write(path, _frames())
        return path

    return write


def _md17(folder: Path) -> Path:
    return write_md17(folder / "md17_ethanol.npz", 4)


def _md17_zip(folder: Path) -> Path:
    path = folder / "ethanol_ccsd_t.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in ("train", "test"):
            archive.write(_md17(folder), f"ethanol_ccsd_t-{part}.npz")
    (folder / "md17_ethanol.npz").unlink()
    return path


def _rmd17(folder: Path) -> Path:
    z, pos, energy, forces = springs(4)
    content = io.BytesIO()
    np.savez(
        content,
        nuclear_charges=z,
        coords=pos,
        energies=energy / KCAL_PER_MOL,
        forces=forces / KCAL_PER_MOL,
        old_indices=np.arange(4),
    )
    path = folder / "rmd17.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        for name, part in {
            "rmd17/npz_data/rmd17_ethanol.npz": content.getvalue(),
            "rmd17/splits/index_train_01.csv": b"0\n2\n",
            "rmd17/splits/index_test_01.csv": b"1\n3\n",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(part)
            archive.addfile(info, io.BytesIO(part))
    return path


def iso17_database(folder: Path) -> Path:
    """Three frames in the layout of the published databases."""
    path = folder / "test_other.db"
    rng = np.random.default_rng(0)
    forces = rng.normal(0, 1, (19, 3))
    with ase.db.connect(path, append=False) as database:
        for _ in range(3):
            atoms = ase.Atoms("C7O2H10", rng.normal(0, 2, (19, 3)), cell=np.eye(3))
            database.write(atoms, total_energy=-11_505.0, data={"atomic_forces": forces})
    with sqlite3.connect(path) as connection:
        text = json.dumps({"atomic_forces": forces.tolist()})
        connection.execute("UPDATE systems SET data=?", (text,))
        connection.execute("UPDATE information SET value='8' WHERE name='version'")
    connection.close()
    return path


def _iso17_archive(folder: Path) -> Path:
    database = iso17_database(folder)
    path = folder / "iso17.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(database, "iso17/test_other.db")
    database.unlink()
    return path


def _qm9_archive(folder: Path) -> Path:
    path = folder / "dsgdb9nsd.xyz.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        archive.add(write_small_qm9(folder / "xyz", 4), "")
    return path


def _qm9_file(folder: Path) -> Path:
    return write_small_qm9(folder / "xyz", 3) / "dsgdb9nsd_000002.xyz"


def _qm7b_xyz(folder: Path) -> Path:
    values = "-400 10 11 -9 -8 -10 1 1 0 9 1 5 8 0.1"
    geometry = "C 0 0 0\nH 1.09 0 0\nO 0 1.2 0"
    path = folder / "dsgdb7njp.xyz"
    path.write_text(f"3\n{values}\n{geometry}\n" * 2)
    return path


def _qm7b_mat(folder: Path) -> Path:
    from scipy.io import savemat

    positions = np.array([[0.0, 0, 0], [2.0, 0, 0], [0, 2.3, 0]])
    z = np.array([6.0, 1, 8])
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    matrix = np.outer(z, z) / np.where(distance, distance, 1)
    np.fill_diagonal(matrix, 0.5 * z**2.4)
    padded = np.zeros((2, 23, 23), dtype=np.float32)
    padded[:, :3, :3] = matrix
    values = [-400, 5, 0.1, -8, 1, 1, 9, 1, -9, 1, -10, 1, 10, 11]
    savemat(folder / "qm7b.mat", {"X": padded, "T": np.array([values] * 2, dtype=np.float32)})
    return folder / "qm7b.mat"


def _records() -> list[dict[str, object]]:
    return [
        {
            "material_id": f"mp-{k}",
            "structure": cif(name) if k % 2 else structure_dict(name),
            "formation_energy_per_atom": CRYSTALS[name][4],
        }
        for k, name in enumerate(CRYSTALS)
    ]


def _snapshot(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path, text = folder / name, json.dumps(_records())
        if "matbench" in name:
            rows = [[r["structure"], r["formation_energy_per_atom"]] for r in _records()]
            columns = ["structure", "e_form"]
            text = json.dumps({"index": list(range(4)), "columns": columns, "data": rows})
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        elif name.endswith(".zip"):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("mp.json", text)
        else:
            path.write_text(text)
        return path

    return write


def _crystal_csv(folder: Path) -> Path:
    path = folder / "table.csv"
    rows = "".join(f'{n},"{cif(n)}",{CRYSTALS[n][4]}\n' for n in CRYSTALS)
    path.write_text("material_id,cif,formation_energy_per_atom\n" + rows)
    return path


def _crystal_npz(folder: Path) -> Path:
    known = list(CRYSTALS.values())
    cells = np.stack([np.array(structure_dict(n)["lattice"]["matrix"]) for n in CRYSTALS])
    np.savez(
        folder / "table.npz",
        n_atoms=np.array([len(k[2]) for k in known]),
        numbers=np.concatenate([ase.Atoms(k[2]).numbers for k in known]),
        frac_coords=np.concatenate([np.array(k[3]) for k in known]),
        cell=cells,
        material_id=np.array(list(CRYSTALS)),
        formation_energy_per_atom=np.array([k[4] for k in known]),
    )
    return folder / "table.npz"


def _cif(folder: Path) -> Path:
    (folder / "NaCl.cif").write_text(cif("NaCl", formula="Na1 Cl1"))
    return folder / "NaCl.cif"


def _symmetric_cif(folder: Path) -> Path:
    bulk("NaCl", "rocksalt", a=5.6, cubic=True).write(folder / "rock.cif")
    text = (folder / "rock.cif").read_text().replace("'x, y, z'", "'x, y, z'\n  '-x, -y, -z'")
    (folder / "rock.cif").write_text(text)
    return folder / "rock.cif"


def _structure_json(folder: Path) -> Path:
    (folder / "ZrO2.json").write_text(json.dumps(structure_dict("ZrO2")))
    return folder / "ZrO2.json"


def _poscar(folder: Path) -> Path:
    bulk("Fe").write(folder / "POSCAR", format="vasp")
    return folder / "POSCAR"


def _answers(folder: Path) -> Path:
    """The folder of a question to the Materials Project that has been answered."""
    query = Query(folder)
    query.folder.mkdir(parents=True)
    ids = [f"mp-{k}" for k in range(4)]
    (query.folder / "request.json").write_text(json.dumps({"ids": ids, "database_version": "1"}))
    path = query.folder / "00000.json.gz"
    path.write_bytes(gzip.compress(json.dumps(_records()).encode()))
    return path


def _read_answers(path: Path, root: Path) -> object:
    query = Query(path.parents[1])
    query.fetch("no key is needed")
    return list(query.rows())


def _request(folder: Path) -> Path:
    return _answers(folder).with_name("request.json")


def _model(folder: Path) -> Path:
    network = SchNet(4, 4, 1, 5, 4.0, seed=0)
    save(Potential(network), folder / "model.safetensors", info={"unit": "eV"})
    return folder / "model.safetensors"


def _processed(folder: Path) -> Path:
    MD17(folder, raw=_md17(folder))
    return folder / "processed" / "md17_ethanol.safetensors"


def _read_processed(path: Path, root: Path) -> object:
    data = MD17(path.parents[1])
    return [data[k] for k in range(len(data))]


def _md17_read(path: Path, root: Path) -> object:
    return MD17(root, raw=path)


def _crystals(path: Path, root: Path) -> object:
    return MaterialsProject(root, raw=path)


def _single(path: Path, root: Path) -> object:
    return list(read_crystals(path))


def _trajectory(path: Path, root: Path) -> object:
    return Trajectories(path, root=root)


def _npz_trajectory(path: Path, root: Path) -> object:
    return Trajectories(path, root=root, energy_unit="kcal/mol")


SPECIMENS = {
    "md17.npz": Specimen(_md17, _md17_read),
    "md17 ccsd(t) zip": Specimen(_md17_zip, lambda p, r: MD17(r, level="ccsd(t)", raw=p)),
    "rmd17.tar.bz2": Specimen(_rmd17, lambda p, r: MD17(r, revised=True, raw=p)),
    "iso17.db": Specimen(iso17_database, lambda p, r: ISO17(r, "test_other", raw=p)),
    "iso17.tar.gz": Specimen(_iso17_archive, lambda p, r: ISO17(r, "test_other", raw=p)),
    "qm9.tar.bz2": Specimen(_qm9_archive, lambda p, r: QM9(r, raw=p)),
    "qm9.xyz": Specimen(_qm9_file, lambda p, r: QM9(r, raw=p.parent), True),
    "qm7b.mat": Specimen(_qm7b_mat, lambda p, r: QM7b(r, raw=p)),
    "qm7b.xyz": Specimen(_qm7b_xyz, lambda p, r: QM7b(r, raw=p), True),
    "trajectory.extxyz": Specimen(_ase_file("frames.extxyz"), _trajectory, True),
    "trajectory.extxyz.gz": Specimen(_ase_file("frames.extxyz.gz"), _trajectory),
    "trajectory.traj": Specimen(_ase_file("frames.traj"), _trajectory),
    "trajectory.db": Specimen(_ase_file("frames.db"), _trajectory),
    "trajectory.npz": Specimen(_md17, _npz_trajectory),
    "crystals.json": Specimen(_snapshot("mp.json"), _crystals, True),
    "crystals.json.zip": Specimen(_snapshot("mp.json.zip"), _crystals),
    "matbench.json.gz": Specimen(_snapshot("matbench.json.gz"), _crystals),
    "matbench.json": Specimen(_snapshot("matbench.json"), _crystals, True),
    "crystals.csv": Specimen(_crystal_csv, _crystals, True),
    "crystals.npz": Specimen(_crystal_npz, _crystals),
    "structure.cif": Specimen(_cif, _single, True),
    "symmetric.cif": Specimen(_symmetric_cif, _single, True),
    "structure.json": Specimen(_structure_json, _single, True),
    "POSCAR": Specimen(_poscar, _single, True),
    "materials project answers": Specimen(_answers, _read_answers),
    "materials project request": Specimen(_request, _read_answers, True),
    "model.safetensors": Specimen(_model, lambda p, r: load(p)),
    "processed.safetensors": Specimen(_processed, _read_processed),
}
