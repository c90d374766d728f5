"""MD17 from files in the published formats, made here, and from the real ones where they are."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_geometric.datasets
from torch.testing import assert_close
from torch_geometric.loader import DataLoader

from pyg_schnet.datasets import MD17, md17_files
from pyg_schnet.datasets.sources import checksum

KCAL = 0.04336410390059322  # eV, ase.units.kcal / ase.units.mol
REAL = Path(__file__).resolve().parents[2] / "../shared/data"
Z = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1], dtype=np.uint8)
ETHANOL = np.array(
    [
        [1.1879, -0.3829, 0.0],
        [0.0, 0.5526, 0.0],
        [-1.1867, -0.2472, 0.0],
        [-1.9237, 0.3850, 0.0],
        [2.0985, 0.2244, 0.0],
        [1.1184, -1.0093, 0.8869],
        [1.1184, -1.0093, -0.8869],
        [-0.0227, 1.1812, 0.8852],
        [-0.0227, 1.1812, -0.8852],
    ]
)


def frames(count=12, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "z": Z,
        "R": ETHANOL + rng.normal(0, 0.02, (count, 9, 3)),
        "E": -97195.0 + rng.normal(0, 4, (count, 1)),
        "F": rng.normal(0, 27, (count, 9, 3)),
    }


def sgdml(**changes):
    """As sGDML writes it: with names, units and md5."""
    arrays = frames() | {"name": "ethanol", "theory": "unknown", "type": "d"} | changes
    return arrays


def revised(count=12):
    arrays = frames(count)
    return {
        "nuclear_charges": arrays["z"],
        "coords": arrays["R"],
        "energies": arrays["E"][:, 0],
        "forces": arrays["F"],
        "old_indices": np.arange(count) * 10 + 3,
        "old_energies": arrays["E"][:, 0],
        "old_forces": arrays["F"],
    }


@pytest.fixture
def write(tmp_path):
    def write(arrays, name="md17_ethanol.npz"):
        path = tmp_path / "files" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        np.savez(path, **arrays)
        return path

    return write


@pytest.fixture
def offline(monkeypatch):
    nowhere = "http://127.0.0.1:9/{}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(md17_files, "SGDML_URLS", (nowhere,))
    monkeypatch.setattr(md17_files, "FIGSHARE_URL", nowhere)
    monkeypatch.setattr(md17_files, "RMD17_SPLITS_URL", nowhere)
    monkeypatch.setattr(md17_files, "RMD17_ARCHIVE_URLS", (nowhere,))


def check_frames(data, arrays, rows=None):
    assert_close(data.energy, torch.from_numpy(arrays["E"].reshape(-1) * KCAL), rtol=1e-15, atol=0)
    frame = data[5]
    assert frame.z.tolist() == Z.tolist()
    assert_close(frame.pos, torch.from_numpy(arrays["R"][5]).float())
    assert_close(frame.forces, torch.from_numpy(arrays["F"][5] * KCAL).float())
    assert (frame.energy.dtype, frame.energy.shape) == (torch.float64, (1,))
    assert (frame.z.dtype, frame.pos.dtype, frame.forces.dtype) == (
        torch.int64,
        torch.float32,
        torch.float32,
    )
    assert data.idx.tolist() == list(range(len(arrays["E"])))


@pytest.mark.parametrize("shape", [(12,), (12, 1)])
def test_frames_are_those_of_the_file_in_ev(tmp_path, write, shape):
    arrays = sgdml()
    arrays["E"] = arrays["E"].reshape(shape)
    data = MD17(tmp_path / "root", "ethanol", raw=write(arrays))
    assert len(data) == 12
    check_frames(data, arrays)
    assert [p.name for p in (tmp_path / "root" / "processed").iterdir()] == [
        "md17_ethanol.safetensors"
    ]
    check_frames(MD17(tmp_path / "root", raw=tmp_path / "files" / "md17_ethanol.npz"), arrays)


@pytest.mark.parametrize(
    ("units", "energy", "length"),
    [
        ({"e_unit": "kcal/mol", "r_unit": "Ang"}, 1.0, 1.0),
        ({"e_unit": b"eV", "r_unit": b"Bohr"}, KCAL, 1 / 0.5291772105638411),
        ({"e_unit": "hartree", "r_unit": "Angstrom"}, KCAL / 27.211386024367243, 1.0),
        ({"e_unit": "", "r_unit": "n/a"}, 1.0, 1.0),
    ],
)
def test_units_in_the_file_are_used(tmp_path, write, units, energy, length):
    arrays = sgdml()
    scaled = {
        **arrays,
        **units,
        "R": arrays["R"] * length,
        "E": arrays["E"] * energy,
        "F": arrays["F"] * energy / length,
    }
    data = MD17(tmp_path / "root", raw=write(scaled))
    assert_close(data.energy, torch.from_numpy(arrays["E"][:, 0] * KCAL), rtol=1e-12, atol=0)
    assert_close(data[5].pos, torch.from_numpy(arrays["R"][5]).float())
    assert_close(data[5].forces, torch.from_numpy(arrays["F"][5] * KCAL).float())


def test_batches_keep_energies_and_numbers(tmp_path, write):
    data = MD17(tmp_path / "root", revised=True, raw=write(revised(), "rmd17_ethanol.npz"))
    (batch,) = DataLoader(data, batch_size=12)
    assert batch.energy.dtype == torch.float64
    # Not offset, as PyG offsets what has "index" in its name.
    assert batch.old_idx.tolist() == [3 + 10 * k for k in range(12)]
    assert batch.idx.tolist() == list(range(12))
    assert batch.forces.shape == (108, 3)


def csv_files():
    rng = np.random.default_rng(1)
    rows = {name: rng.permutation(12)[:4] for name in md17_files.SPLITS}
    return rows, {f"index_{name}.csv": "\n".join(map(str, r)) + "\n" for name, r in rows.items()}


@pytest.mark.parametrize("place", [".", "splits", "../splits", "zip", "archive"])
def test_published_splits_are_found_and_named(tmp_path, write, place):
    path = write(revised(), "rmd17_ethanol.npz")
    rows, texts = csv_files()
    if place == "zip":
        with zipfile.ZipFile(path.with_name("rmd17_splits.zip"), "w") as archive:
            for name, text in texts.items():
                archive.writestr(f"splits/{name}", text)
    elif place == "archive":
        content = path.read_bytes()
        path = path.with_name("rmd17.tar.bz2")
        with tarfile.open(path, "w:bz2") as archive:
            members = {f"rmd17/splits/{name}": text.encode() for name, text in texts.items()}
            members |= {
                "rmd17/npz_data/rmd17_aspirin.npz": b"",
                "rmd17/npz_data/rmd17_ethanol.npz": content,
            }
            for name, entry in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(entry)
                archive.addfile(info, io.BytesIO(entry))
    else:
        folder = path.parent / place
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
    data = MD17(tmp_path / "root", revised=True, raw=path)
    assert data.split_names == md17_files.SPLITS
    for name, expected in rows.items():
        assert data.split(name).tolist() == sorted(expected.tolist())
    test = MD17(tmp_path / "root", revised=True, raw=path, split="test_03")
    assert [frame.idx.item() for frame in test] == sorted(rows["test_03"].tolist())
    assert "split_bits" not in test[0]
    with pytest.raises(ValueError, match="split='train_06' is not in this MD17; there are train_0"):
        MD17(tmp_path / "root", revised=True, raw=path, split="train_06")


def test_splits_of_another_file_are_left_out_and_bad_ones_told(tmp_path, write):
    path = write(revised(), "rmd17_ethanol.npz")
    file = path.with_name("index_train_01.csv")
    file.write_text("3\n12\n")
    with pytest.warns(UserWarning, match="counts row 12 and the file has 12: split train_01 is"):
        data = MD17(tmp_path / "root", revised=True, raw=path)
    with pytest.raises(ValueError, match="split='train_01' is not in this MD17; there are none"):
        data.split("train_01")
    for text in ("a\n", "", "-1\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"index_train_01.csv: .* a line is expected"):
            MD17(tmp_path / "other", revised=True, raw=path)


def coupled_cluster(path, names=("train", "test")):
    parts = {"train": frames(10, 1), "test": frames(4, 2)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._ethanol_ccsd_t-train.npz", b"")
        for name in names:
            content = io.BytesIO()
            np.savez(content, **parts[name])
            archive.writestr(f"ethanol_ccsd_t-{name}.npz", content.getvalue())
    return parts


@pytest.mark.parametrize("unpacked", [False, True])
def test_coupled_cluster_sets_come_with_their_split(tmp_path, unpacked):
    folder = tmp_path / "files"
    folder.mkdir()
    path = folder / "ethanol_ccsd_t.zip"
    parts = coupled_cluster(path)
    if unpacked:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        path.unlink()
    data = MD17(tmp_path / "root", level="CCSD(T)", raw=folder)
    assert data.split_names == ("train", "test")
    assert data.split("train").tolist() == list(range(10))
    test = data[data.split("test")]
    assert [frame.idx.item() for frame in test] == [10, 11, 12, 13]
    assert_close(test[0].energy, torch.from_numpy(parts["test"]["E"][0] * KCAL))


def test_damaged_zips_are_told(tmp_path):
    path = tmp_path / "ethanol_ccsd_t.zip"
    coupled_cluster(path, ["train"])
    with pytest.raises(ValueError, match="holds 0 files ...-test.npz and one is expected"):
        MD17(tmp_path / "root", level="ccsd(t)", raw=path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="no whole zip file; it is cut off or damaged"):
        MD17(tmp_path / "root", level="ccsd(t)", raw=path)


def test_a_damaged_archive_of_splits_is_told(tmp_path, write):
    path = write(revised(), "rmd17_ethanol.npz")
    path.with_name("rmd17_splits.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="rmd17_splits.zip is cut off or damaged .* get it anew"):
        MD17(tmp_path / "root", revised=True, raw=path)


def without(key):
    arrays = sgdml()
    del arrays[key]
    return arrays


def changed(key, where, value):
    arrays = sgdml()
    array = np.array(arrays[key])
    array[where] = value
    return arrays | {key: array}


def per_frame_z(change):
    z = np.tile(Z, (12, 1))
    z[7] = change
    return sgdml(z=z)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (lambda: without("F"), "has no forces: F or forces .* is expected among its keys"),
        (lambda: without("E"), "has no energy: E or energies"),
        (lambda: without("z"), "has no z: z or nuclear_charges"),
        (lambda: changed("F", (4, 2, 0), np.nan), ", frame 4: F is not finite: leave the frame"),
        (
            lambda: changed("R", ([4, 6], 0, 0), np.inf),
            r"frame 4 \(and 1 frames after it\): R is not",
        ),
        (lambda: changed("E", (11, 0), np.nan), "frame 11: E is not finite"),
        (
            lambda: per_frame_z(Z[::-1]),
            "frame 7: the atoms are in another order than in frame 0; .* into one order",
        ),
        (
            lambda: per_frame_z([6, 6, 6, 1, 1, 1, 1, 1, 1]),
            "frame 7: the composition is C3H6 and that of frame 0 C2H6O1: give each",
        ),
        (lambda: sgdml(z=Z[:8]), r"z has shape \(8,\) for 12 frames of 9 atoms"),
        (lambda: sgdml(z=np.array(list("CCOHHHHHH"))), "z must be atomic numbers"),
        (lambda: sgdml(z=Z * 0), "z must be atomic numbers, 1 to 118"),
        (lambda: sgdml(R=frames()["R"][:, :, :2]), r"R has shape \(12, 9, 2\) and \(frames, atoms"),
        (lambda: sgdml(F=frames()["F"][:11]), r"F has shape \(11, 9, 3\) and R \(12, 9, 3\)"),
        (lambda: sgdml(E=frames()["E"][:11]), r"E has shape \(11, 1\) for 12 frames"),
        (lambda: sgdml(F=np.full((12, 9, 3), "a")), "F is of type <U1 and numbers are expected"),
        (lambda: sgdml(e_unit="furlong"), "e_unit='furlong' is not a unit known here: use ev"),
        (lambda: sgdml(r_unit="ell"), "r_unit='ell' is not a unit known here: use å"),
        (lambda: sgdml(E=frames()["E"] * KCAL), r"look like eV, not kcal/mol\); set e_unit in"),
        (lambda: sgdml(E=frames()["E"] / 627.5095), "look like Hartree, not kcal/mol"),
        (lambda: sgdml(E=frames()["E"] * 4.184), "look like kJ/mol, not kcal/mol"),
        (lambda: sgdml(E=frames()["E"] + 97195.0), "where a total energy near -41.. eV is exp"),
        (lambda: sgdml(R=frames()["R"] / 0.529177), r"are usual \(Bohr\?\); set r_unit"),
        (lambda: sgdml(R=frames()["R"] / 10), "frame 0: the nearest atoms are 0.09"),
        (lambda: {k: v[:0] if k in "REF" else v for k, v in frames().items()}, "holds no frames"),
    ],
)
def test_a_file_that_is_not_right_is_told_with_the_mend(tmp_path, write, arrays, message):
    with pytest.raises(ValueError, match=rf"md17_ethanol.npz.*{message}"):
        MD17(tmp_path / "root", raw=write(arrays()))
    assert not list((tmp_path / "root").rglob("*.*"))


def test_another_molecule_is_told(tmp_path, write):
    with pytest.raises(ValueError, match="holds C2H6O1, and molecule='toluene' is C7H8: give the"):
        MD17(tmp_path / "root", "toluene", raw=write(sgdml()))


def test_forces_of_an_unusual_size_are_warned_of(tmp_path, write):
    with pytest.warns(UserWarning, match="mean square of the forces is 0.05.* eV/Å and about 1.2"):
        MD17(tmp_path / "root", raw=write(sgdml(F=frames()["F"] * KCAL)))


def test_the_md5_in_the_file_is_compared_as_sgdml_makes_it(tmp_path, write):
    arrays = sgdml()
    total = hashlib.md5()
    for key in ("z", "R", "E", "F"):
        total.update(hashlib.md5(arrays[key].ravel()).digest())
    MD17(tmp_path / "root", raw=write(arrays | {"md5": total.hexdigest().encode()}))
    with pytest.warns(UserWarning, match="they were changed after the file was made"):
        MD17(tmp_path / "other", raw=write(arrays | {"md5": "0" * 32}))


@pytest.mark.parametrize("length", [0, 100, 3000, -30])
def test_a_truncated_file_is_told(tmp_path, write, length):
    path = write(sgdml())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="no whole npz file; it is cut off or damaged"):
        MD17(tmp_path / "root", raw=path)


def test_a_damaged_file_is_told(tmp_path, write):
    path = write(sgdml())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cut off or damaged at F .*CRC"):
        MD17(tmp_path / "root", raw=path)


def test_what_is_no_archive_of_arrays_is_told(tmp_path, write):
    path = write(sgdml())
    np.save(path.with_suffix(".npy"), Z)
    path.write_bytes(path.with_suffix(".npy").read_bytes())
    with pytest.raises(ValueError, match="no whole npz file"):
        MD17(tmp_path / "root", raw=path)


def test_pickles_are_never_loaded(tmp_path, write):
    with pytest.raises(ValueError, match="R is a pickled object, which is never loaded"):
        MD17(tmp_path / "root", raw=write(sgdml(R=np.array([{}, []], dtype=object))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"molecule": "caffeine"}, "molecule='caffeine' is not in the DFT set of MD17; there are"),
        ({"molecule": "benzene 2018", "revised": True}, "is not in the revised MD17; there are"),
        ({"molecule": "aspirin", "level": "ccsd(t)"}, r"CCSD\(T\) set of MD17; there are benzene,"),
        ({"level": "ccsd"}, "CCSD set of MD17; there are aspirin$"),
        ({"level": "mp2"}, "level='mp2' must be 'dft', 'ccsd"),
        ({"level": "ccsd", "revised": True}, "choose one of the two"),
    ],
)
def test_unknown_sets_are_refused_before_anything_is_read(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        MD17(tmp_path / "root", **arguments)
    assert not (tmp_path / "root").exists()


def test_names_of_files_are_those_that_pyg_downloads():
    for name, file in torch_geometric.datasets.MD17.file_names.items():
        molecule, level = name.removeprefix("revised "), "dft"
        for suffix in (" CCSD(T)", " CCSD"):
            if molecule.endswith(suffix):
                molecule, level = molecule.removesuffix(suffix), suffix.strip().lower()
        assert md17_files.find_names(molecule, "revised" in name, level)[1][0] == file


def test_earlier_names_and_folders_below_are_found(tmp_path, write):
    write(sgdml(), "sub/ethanol_dft.npz")
    assert len(MD17(tmp_path / "root", raw=tmp_path)) == 12
    with pytest.raises(FileNotFoundError, match="holds no file md17_uracil.npz or uracil_dft.npz"):
        MD17(tmp_path / "root", "uracil", raw=tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist: give md17_uracil.npz or the f"):
        MD17(tmp_path / "root", "uracil", raw=tmp_path / "absent")


def test_a_file_in_root_raw_is_used(tmp_path, write, offline):
    raw = tmp_path / "root" / "raw"
    raw.mkdir(parents=True)
    write(sgdml()).rename(raw / "md17_ethanol.npz")
    assert len(MD17(tmp_path / "root")) == 12


@pytest.mark.parametrize("is_revised", [False, True])
def test_without_any_source_file_url_and_ways_are_told(tmp_path, offline, is_revised):
    with pytest.raises(
        FileNotFoundError,
        match=r"md17_ethanol.npz is not .* \(http://127.0.0.1:9/.*raw, or pass raw= .*, or connect",
    ):
        MD17(tmp_path / "root", revised=is_revised)


def test_the_second_server_is_asked_when_the_first_fails(tmp_path, write, offline, monkeypatch):
    path = write(sgdml())
    page = path.parent / "page" / path.name
    page.parent.mkdir()
    page.write_text("<html>moved</html>")
    urls = ("http://127.0.0.1:9/{}", f"{page.parent.as_uri()}/{{}}", f"{path.parent.as_uri()}/{{}}")
    monkeypatch.setattr(md17_files, "SGDML_URLS", urls)
    check_frames(MD17(tmp_path / "root"), sgdml())
    monkeypatch.setattr(md17_files, "SGDML_URLS", urls[:2])
    with pytest.raises(FileNotFoundError, match=r"127.0.0.1:9.*; file:.* gave no .npz file"):
        MD17(tmp_path / "other")
    assert not list((tmp_path / "other" / "raw").iterdir())


def test_the_revised_set_is_downloaded_with_its_splits(tmp_path, write, offline, monkeypatch):
    path = write(revised(), "rmd17_ethanol.npz")
    rows, texts = csv_files()
    with zipfile.ZipFile(path.parent / "splits.zip", "w") as archive:
        for name, text in texts.items():
            archive.writestr(f"splits/{name}", text)
    monkeypatch.setattr(md17_files, "RMD17_SPLITS_URL", (path.parent / "splits.zip").as_uri())
    monkeypatch.setattr(md17_files, "FIGSHARE_URL", path.as_uri())
    file = {"rmd17_ethanol.npz": (1, checksum(path, "md5"))}
    monkeypatch.setattr(md17_files, "RMD17_FILES", file)
    data = MD17(tmp_path / "root", revised=True)
    assert data.split("test_05").tolist() == sorted(rows["test_05"].tolist())
    # Another file than the one published is refused; the archive is the last resort.
    monkeypatch.setattr(md17_files, "RMD17_FILES", {"rmd17_ethanol.npz": (1, "md5:" + "0" * 32)})
    with pytest.raises(FileNotFoundError, match=r"has checksum md5:.*127.0.0.1:9.*could not be"):
        MD17(tmp_path / "other", revised=True)


def real(name):
    path = REAL / name
    return pytest.param(
        path, marks=pytest.mark.skipif(not path.exists(), reason=f"no real data here: {name}")
    )


@pytest.mark.parametrize("folder", [real("md17")])
@pytest.mark.parametrize("molecule", MD17.molecules[:8])
def test_the_real_files_are_read(tmp_path, folder, molecule):
    data = MD17(tmp_path, molecule, raw=folder)
    with np.load(folder / md17_files.find_names(molecule, False, "dft")[1][0]) as file:
        energy, pos, forces = file["E"], file["R"], file["F"]
    assert_close(data.energy, torch.from_numpy(energy[:, 0] * KCAL), rtol=1e-15, atol=0)
    assert_close(data.pos, torch.from_numpy(pos.reshape(-1, 3)).float())
    assert_close(data.forces, torch.from_numpy(forces.reshape(-1, 3) * KCAL).float())
    assert (data.slices["z"].diff() == pos.shape[1]).all()


@pytest.mark.parametrize("folder", [real("rmd17")])
def test_energies_of_real_steps_agree_with_their_forces(tmp_path, folder):
    """The trapezoidal rule over neighbouring frames: units and sign of all three fit together."""
    data = MD17(tmp_path, "ethanol", revised=True, raw=folder)
    order = data.old_idx.argsort()
    near = (data.old_idx[order].diff() == 1).nonzero().view(-1)
    a, b = order[near], order[near + 1]
    assert len(near) > 10
    pos, forces = (data._data[key].view(-1, 9, 3).double() for key in ("pos", "forces"))
    change = data.energy[b] - data.energy[a]
    work = 0.5 * ((forces[a] + forces[b]) * (pos[b] - pos[a])).sum((1, 2))
    assert (change + work).square().mean().sqrt() < 0.02 * change.square().mean().sqrt()


@pytest.mark.parametrize("folder", [real("rmd17")])
def test_the_real_revised_files_are_read(tmp_path, folder):
    data = MD17(tmp_path, "aspirin", revised=True, raw=folder / "rmd17_aspirin.npz")
    assert (len(data), data.split_names) == (2000, ())
    assert data.old_idx.min() >= 0
    with np.load(folder / "rmd17_aspirin.npz") as file:
        assert_close(data.energy, torch.from_numpy(file["energies"] * KCAL), rtol=1e-15, atol=0)
