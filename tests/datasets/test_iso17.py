"""ISO17 from miniature archives in its published layout, and the real equilibria where present.

The real file is no part of the repository; set PYG_SCHNET_DATA to a folder that holds iso17_eq.
"""

import gzip
import json
import os
import sqlite3
import tarfile
from pathlib import Path

import ase
import ase.db
import ase.io
import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch_geometric.loader import DataLoader

from pyg_schnet.datasets import iso17_raw, sources
from pyg_schnet.datasets.iso17 import ISO17
from pyg_schnet.datasets.iso17_raw import read_database

DATA = Path(os.environ.get("PYG_SCHNET_DATA", Path(__file__).parents[2] / "../shared/data"))
REAL = DATA / "iso17_eq"
ATOMS = np.array([6] * 7 + [8] * 2 + [1] * 10)
# Frames per database: six isomers, four of them to train on with 5 frames each, 2 more to test
# within, and 7 of each of the two others.
FRAMES = {
    "reference": [(isomer, 5) for isomer in range(4)],
    "test_within": [(isomer, 2) for isomer in range(4)],
    "test_other": [(4, 7), (5, 7)],
    "reference_eq": [(isomer, 1) for isomer in range(4)],
    "test_eq": [(4, 1), (5, 1)],
}


def frames_of(name: str) -> list[tuple[ase.Atoms, float, np.ndarray]]:
    """Atoms, energy and forces; each isomer has its own order of atoms."""
    rng = np.random.default_rng(list(FRAMES).index(name))
    found = []
    for isomer, count in FRAMES[name]:
        order = np.random.default_rng(isomer).permutation(19)
        for _ in range(count):
            atoms = ase.Atoms(ATOMS[order], rng.normal(0, 2, (19, 3)), cell=np.eye(3))
            found.append((atoms, -11_505.0 + rng.normal(), rng.normal(0, 1, (19, 3))))
    return found


def write_database(path: Path, frames, layout: str = "8") -> Path:
    """A database in the layout of ISO17 (JSON text, format version 8), or another.

    "8 ndarray": arrays as ASE writes them in JSON; "9": in binary; "schnetpack": its rewriting.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ase.db.connect(path, append=False) as database:
        for atoms, energy, forces in frames:
            data = {"atomic_forces": forces}
            if layout == "schnetpack":
                database.write(atoms, data=data | {"total_energy": np.array([energy])})
            else:
                database.write(atoms, total_energy=energy, data=data)
    if layout.startswith("8"):
        with sqlite3.connect(path) as connection:
            for k, (_, _, forces) in enumerate(frames):
                values = forces.tolist()
                if layout == "8 ndarray":
                    values = {"__ndarray__": [[19, 3], "float64", forces.ravel().tolist()]}
                set_cell(connection, k + 1, "data", json.dumps({"atomic_forces": values}))
            connection.execute("UPDATE information SET value='8' WHERE name='version'")
        connection.close()
    return path


def set_cell(connection: sqlite3.Connection, row: int, column: str, value) -> None:
    connection.execute(f"UPDATE systems SET {column}=? WHERE id=?", (value, row))


def change(path: Path, row: int, column: str, value) -> Path:
    with sqlite3.connect(path) as connection:
        set_cell(connection, row, column, value)
    connection.close()
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "iso17"
    for name in FRAMES:
        write_database(folder / f"{name}.db", frames_of(name))
    ids = np.random.default_rng(0).permutation(20) + 1
    (folder / "train_ids.txt").write_text("".join(f"{i}\n" for i in ids[:16]))
    (folder / "validation_ids.txt").write_text("".join(f"{i}\n" for i in ids[16:]))
    return folder


@pytest.fixture(scope="session")
def archive(folder) -> Path:
    path = folder.parent / "iso17.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, "iso17")
    return path


@pytest.fixture
def reference(tmp_path) -> Path:
    return write_database(tmp_path / "reference.db", frames_of("reference"))


def read_all(path: Path) -> dict[str, np.ndarray]:
    chunks = list(read_database(path))
    return {key: np.concatenate([c.columns[key] for c in chunks]) for key in chunks[0].columns}


@pytest.mark.parametrize("layout", ["8", "8 ndarray", "9"])
def test_frames_are_those_that_ase_reads(tmp_path, layout, monkeypatch):
    monkeypatch.setattr(iso17_raw, "_CHUNK", 3)
    path = write_database(tmp_path / "reference.db", frames_of("reference"), layout)
    found = read_all(path)
    with ase.db.connect(path) as database:
        rows = list(database.select())
    assert iso17_raw.count_frames(path) == len(rows) == 20
    np.testing.assert_array_equal(found["z"].reshape(-1, 19), [row.numbers for row in rows])
    np.testing.assert_array_equal(found["pos"].reshape(-1, 19, 3), [r.positions for r in rows])
    forces = [np.array(row.data["atomic_forces"]) for row in rows]
    np.testing.assert_array_equal(found["forces"].reshape(-1, 19, 3), forces)
    np.testing.assert_array_equal(found["energy"], [row.total_energy for row in rows])
    np.testing.assert_array_equal(found["idx"], [row.id - 1 for row in rows])


def test_energies_beside_the_forces_are_found(tmp_path):
    """As SchNetPack rewrites the archive."""
    frames = frames_of("test_eq")
    path = write_database(tmp_path / "test_eq.db", frames, "schnetpack")
    assert read_all(path)["energy"].tolist() == [energy for _, energy, _ in frames]


@pytest.mark.parametrize("name", FRAMES)
def test_every_database_of_the_archive_is_a_split(tmp_path, archive, name):
    data = ISO17(tmp_path, name, raw=archive)
    frames = frames_of(name)
    assert len(data) == len(frames) and name in ISO17.splits
    for k, (structure, (atoms, energy, forces)) in enumerate(zip(data, frames)):
        assert structure.z.tolist() == atoms.numbers.tolist()
        assert_close(structure.pos, torch.tensor(atoms.positions, dtype=torch.float32))
        assert_close(structure.forces, torch.tensor(forces, dtype=torch.float32))
        assert structure.energy.tolist() == [energy] and structure.idx.tolist() == [k]
    assert data[0].z.dtype == torch.int64 and data[0].energy.dtype == torch.float64
    assert set(data[0].keys()) == {"z", "pos", "energy", "forces", "idx"}


def test_both_scenarios_have_their_splits(tmp_path, archive, folder):
    """Validation and training of both are frames of reference.db, the test is not."""
    ids = {
        split: sorted(int(i) - 1 for i in (folder / file).read_text().split())
        for split, file in iso17_raw.IDS.items()
    }
    for name, test in {"within": 8, "other": 14}.items():
        parts = ISO17.scenario(name, tmp_path, archive)
        assert {key: len(part) for key, part in parts.items()} == {
            "train": 16,
            "validation": 4,
            "test": test,
        }
        for split in ("train", "validation"):
            assert [structure.idx.item() for structure in parts[split]] == ids[split]
        assert parts["train"]._data is parts["validation"]._data
        assert ISO17.scenarios[name] == ("train", "validation", f"test_{name}")
    other = ISO17(tmp_path, "test_other")
    seen = {tuple(structure.z.tolist()) for structure in ISO17(tmp_path)}
    assert not seen & {tuple(structure.z.tolist()) for structure in other}
    train = ISO17(tmp_path, "train")
    assert [structure.idx.item() for structure in train] == ids["train"]
    with pytest.raises(ValueError, match="scenario 'both' is not in ISO17; there are within, oth"):
        ISO17.scenario("both", tmp_path)


def test_a_batch_has_all_atoms(tmp_path, archive):
    batch = next(iter(DataLoader(ISO17(tmp_path, raw=archive), batch_size=5)))
    assert batch.z.shape == (95,) and batch.forces.shape == (95, 3) and batch.energy.shape == (5,)


@pytest.mark.parametrize("form", ["folder", "folder above", "plain tar", "in root", "one database"])
def test_the_source_may_be(form, tmp_path, folder, archive):
    root, raw = tmp_path / "root", None
    if form == "folder":
        raw = folder
    elif form == "folder above":
        raw = folder.parent
    elif form == "plain tar":
        raw = tmp_path / "iso17.tar"
        raw.write_bytes(gzip.decompress(archive.read_bytes()))
    elif form == "one database":
        raw = folder / "reference.db"
    else:
        (root / "raw").mkdir(parents=True)
        (root / "raw" / "iso17.tar.gz").write_bytes(archive.read_bytes())
    assert len(ISO17(root, raw=raw)) == 20


def test_the_archive_is_unpacked_once(tmp_path, archive, monkeypatch):
    ISO17(tmp_path, raw=archive)
    monkeypatch.setattr(tarfile, "open", None)
    assert len(ISO17(tmp_path, "test_other", raw=archive)) == 14


def test_a_downloaded_archive_is_used_and_a_damaged_one_thrown_away(tmp_path, archive, monkeypatch):
    content = archive.read_bytes()
    monkeypatch.setattr(sources, "_transfer", lambda url, part: part.write_bytes(content))
    assert len(ISO17(tmp_path)) == 20
    broken = bytearray(content)
    broken[-6] ^= 1  # of the checksum
    monkeypatch.setattr(sources, "_transfer", lambda url, part: part.write_bytes(broken))
    with pytest.raises(ValueError, match="is cut off or damaged .*CRC"):
        ISO17(tmp_path / "other")
    assert not any((tmp_path / "other" / "raw").iterdir())


def test_without_internet_the_message_says_what_to_do(tmp_path, monkeypatch):
    def offline(url, part):
        raise ConnectionError("no route")

    monkeypatch.setattr(sources, "_transfer", offline)
    with pytest.raises(FileNotFoundError, match=r"no route.*get http.*iso17.tar.gz, and pass raw="):
        ISO17(tmp_path)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_a_truncated_archive_is_refused_and_leaves_nothing(tmp_path, archive, size):
    content = archive.read_bytes()
    part = tmp_path / "iso17.tar.gz"
    part.write_bytes(content[: len(content) * size // 10])
    with pytest.raises(
        ValueError, match="iso17.tar.gz is cut off or damaged .*get the archive anew"
    ):
        ISO17(tmp_path / "root", raw=part)
    assert not any((tmp_path / "root" / "raw").iterdir())


def test_an_archive_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(__file__, "test.py")
    with pytest.raises(ValueError, match="other.tar.gz has none of reference.db, "):
        ISO17(tmp_path, raw=path)
    (tmp_path / "text.tar.gz").write_text("nothing")
    with pytest.raises(ValueError, match="text.tar.gz is cut off or damaged at its start"):
        ISO17(tmp_path, raw=tmp_path / "text.tar.gz")


def test_a_missing_member_is_named(tmp_path, folder):
    path = tmp_path / "iso17.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder / "reference.db", "iso17/reference.db")
    with pytest.raises(FileNotFoundError, match="has no test_other.db"):
        ISO17(tmp_path, "test_other", raw=path)
    with pytest.warns(UserWarning, match="lacks train_ids.txt or validation_ids.txt"):
        data = ISO17(tmp_path, raw=path)
    assert len(data) == 20
    with pytest.raises(ValueError, match="split='train' is not in this ISO17"):
        ISO17(tmp_path, "train", raw=path)
    with pytest.raises(FileNotFoundError, match="nowhere.tar.gz does not exist"):
        ISO17(tmp_path, "test_eq", raw=tmp_path / "nowhere.tar.gz")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="split='test' is not in ISO17; there are reference, "):
        ISO17(tmp_path, "test")


FORCES = np.zeros((19, 3)).tolist()
NAN = [*FORCES[:-1], [0.0, float("nan"), 0.0]]
BROKEN = {
    "no forces": ("data", "{}", "lacks 'total_energy' .* or 'atomic_forces' in its data"),
    "no data": ("data", None, "or 'atomic_forces' in its data"),
    "no dictionary": ("data", "[1]", "or one of them is malformed"),
    "no energy": ("key_value_pairs", "{}", "lacks 'total_energy' among its key-value pairs"),
    "broken text": ("data", '{"atomic_', "or one of them is malformed"),
    "one atom less": ("data", json.dumps({"atomic_forces": FORCES[1:]}), r"has shape \(18, 3\)"),
    "flat forces": ("data", json.dumps({"atomic_forces": [0.0] * 57}), r"has shape \(57,\)"),
    "NaN force": ("data", json.dumps({"atomic_forces": NAN}), "a force is not finite"),
    "NaN energy": ("key_value_pairs", '{"total_energy": NaN}', "the energy is not finite"),
    "Hartree": ("key_value_pairs", '{"total_energy": -422.83}', "=-422.83 is in Hartree"),
    "kcal/mol": ("key_value_pairs", '{"total_energy": -265330.0}', "is in kcal/mol, and ISO17 in"),
    "other atoms": ("numbers", np.full(19, 6, "<i4").tobytes(), "are not those of C7O2H10"),
    "half a position": ("positions", b"1234", "numbers and positions do not fit"),
    "no atoms": ("numbers", None, "numbers and positions do not fit"),
    "infinite": ("positions", np.full(57, np.inf).tobytes(), "a position is not finite"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_frame_that_is_wrong_is_named(tmp_path, reference, what):
    column, value, message = BROKEN[what]
    change(reference, 7, column, value)
    with pytest.raises(ValueError, match=rf"reference\.db, frame 7.*: .*{message}"):
        ISO17(tmp_path / "root", raw=reference)
    assert not list((tmp_path / "root" / "processed").glob("*"))


def test_another_number_of_atoms_is_refused(tmp_path):
    frames = frames_of("test_eq")
    frames.append((ase.Atoms("CO"), -3000.0, np.zeros((2, 3))))
    path = write_database(tmp_path / "test_eq.db", frames, "9")
    with pytest.raises(ValueError, match="frame 3: it has 2 atoms, and C7O2H10 has 19"):
        read_all(path)


def test_atoms_and_forces_stay_together_whatever_their_order(tmp_path):
    """Between frames too: nothing is taken from the frame before."""
    atoms, energy, forces = frames_of("test_eq")[0]
    order = np.random.default_rng(3).permutation(19)
    frames = [(atoms, energy, forces), (atoms[order], energy, forces[order])]
    data = ISO17(tmp_path, raw=write_database(tmp_path / "a.db", frames), split="test_eq")
    for key in ("z", "pos", "forces"):
        assert torch.equal(data[0][key][torch.from_numpy(order)], data[1][key])


def test_a_damaged_database_is_refused(tmp_path, reference):
    content = reference.read_bytes()
    for name, part in {"half": content[: len(content) // 2], "text": b"nothing", "no": b""}.items():
        path = tmp_path / f"{name}.db"
        path.write_bytes(part)
        with pytest.raises(ValueError, match=f"{name}.db is no database of ASE, or damaged"):
            ISO17(tmp_path / "root", raw=path)
    with sqlite3.connect(reference) as connection:
        connection.execute("UPDATE information SET value='10' WHERE name='version'")
    connection.close()
    with pytest.raises(ValueError, match="format version 10 of ASE's databases and 5 to 9 are"):
        ISO17(tmp_path / "root", raw=reference)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("1\n21\n", "train_ids.txt names frame 21, which reference.db does not have"),
        ("0\n", "train_ids.txt names frame 0, which"),
        ("1\n20\n", "have ids in common"),
        ("one\n", "train_ids.txt must hold ids, whole numbers"),
    ],
)
def test_lists_that_do_not_fit_the_database_are_refused(tmp_path, reference, train, message):
    (tmp_path / "train_ids.txt").write_text(train)
    (tmp_path / "validation_ids.txt").write_text("20\n")
    with pytest.raises(ValueError, match=message):
        ISO17(tmp_path / "root", "train", raw=reference)


@pytest.mark.skipif(
    not (REAL / "test_iso.db").is_file(),
    reason="no real ISO17 data; PYG_SCHNET_DATA may name the folder that holds iso17_eq",
)
def test_the_real_equilibria_are_read(tmp_path):
    data = ISO17(tmp_path, "reference_eq", raw=REAL / "test_iso.db")
    expected = ase.io.read(REAL / "iso17_eq_40.extxyz", ":")
    assert len(data) == len(expected) == 40
    for structure, atoms in zip(data, expected):
        assert structure.z.tolist() == atoms.numbers.tolist()
        assert_close(structure.pos, torch.tensor(atoms.positions, dtype=torch.float32))
        assert not structure.forces.any()
    energies = torch.cat([structure.energy for structure in data])
    assert energies.min().item() == pytest.approx(-11_507.51, abs=0.01)
    assert energies.max().item() == pytest.approx(-11_503.40, abs=0.01)
    assert energies[0].item() == -11505.647279852
