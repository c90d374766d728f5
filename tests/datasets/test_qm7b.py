"""QM7b from files in both published formats, made here of known molecules."""

import zipfile

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pyg_schnet.datasets import QM7b, qm7b, qm7b_raw

scipy_io = pytest.importorskip("scipy.io")

BOHR = 0.5291772105638411
# Some carry chirality, some are flat, one is linear, and one is a single atom.
SHAPES = {
    "methane": ("CHHHH", [[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], 0.63),
    "water": ("OHH", [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]], 1.0),
    "hydrogen cyanide": ("CNH", [[0, 0, 0], [0, 0, 1.157], [0, 0, -1.068]], 1.0),
    "chloromethanethiol": (
        ["C", "S", "Cl", "H", "H", "H"],
        [
            [0.0, 0.0, 0.0],
            [1.80, 0.05, 0.0],
            [-0.6, 1.66, 0.1],
            [-0.35, -0.5, 0.9],
            [-0.4, -0.5, -0.9],
            [2.1, 0.9, 1.0],
        ],
        1.0,
    ),
}
CHARGES = {"H": 1, "C": 6, "N": 7, "O": 8, "S": 16, "Cl": 17}
METHANE = [-420.9337343048892, 2.534576, 2.43222, -14.1341, -10.9488, -16.013, 1.087, 0.1323]
METHANE += [4.162, 15.72523, -3.98613, 36.7680730972, 39.6946262426, 0.621841405]
# Columns of qm7b.mat, by their places in the order of the readme.
MAT_COLUMNS = [0, 12, 13, 5, 8, 11, 9, 10, 4, 7, 3, 6, 1, 2]


def molecules():
    for symbols, pos, scale in SHAPES.values():
        yield np.array([CHARGES[s] for s in symbols]), scale * np.array(pos, dtype=float)


def coulomb(z, pos, size=23):
    """The definition, element by element."""
    matrix = np.zeros((size, size))
    for i in range(len(z)):
        for j in range(len(z)):
            r = np.linalg.norm(pos[i] - pos[j]) / BOHR
            matrix[i, j] = 0.5 * float(z[i]) ** 2.4 if i == j else z[i] * z[j] / r
    return matrix


def properties():
    change = np.random.default_rng(0).uniform(0.9, 1.1, (len(SHAPES) - 1, 14))
    return np.array([METHANE, *(change * METHANE)])


def write_mat(path, **changes):
    x = np.stack([coulomb(z, pos) for z, pos in molecules()]).astype(np.float32)
    names = np.array([list(qm7b.PROPERTIES)], dtype=object)
    scipy_io.savemat(path, {"X": x, "T": properties()[:, MAT_COLUMNS], "names": names} | changes)
    return path


def write_xyz(path, change=lambda text: text):
    symbols = {number: symbol for symbol, number in CHARGES.items()}
    text = []
    for (z, pos), values in zip(molecules(), properties(), strict=True):
        text.append(f"{len(z)}\n" + " ".join(map(repr, values.tolist())))
        text += [f"{symbols[int(n)]}\t" + "\t".join(map(str, r)) for n, r in zip(z, pos)]
        text.append("")
    path.write_text(change("\n".join(text)))
    return path


@pytest.fixture(autouse=True)
def _whole(monkeypatch):
    monkeypatch.setattr(qm7b, "NUM_MOLECULES", len(SHAPES))


def between(pos):
    return np.linalg.norm(pos[:, None] - pos[None], axis=-1)


def check(data, tolerance):
    assert len(data) == len(SHAPES)
    for k, ((z, pos), values) in enumerate(zip(molecules(), properties(), strict=True)):
        molecule = data[k]
        assert molecule.z.tolist() == z.tolist() and molecule.z.dtype == torch.int64
        assert molecule.pos.shape == (len(z), 3) and molecule.pos.dtype == torch.float32
        found = between(molecule.pos.double().numpy())
        assert np.abs(found - between(pos)).max() < tolerance
        assert int(molecule.idx) == k
        # The authors' own factor; float64 as in the file.
        assert float(molecule.ae_pbe0) == pytest.approx(values[0] / 23.045108, rel=1e-12)
        for name, value in list(zip(qm7b.PROPERTIES, values, strict=True))[1:]:
            assert molecule[name].dtype == torch.float64 and molecule[name].shape == (1,)
            assert float(molecule[name]) == pytest.approx(value, rel=1e-10)
        assert molecule.y.shape == (1, 14)
        assert_close(molecule.y[0, 1:], torch.from_numpy(values[1:]), rtol=1e-10, atol=0)


def test_positions_are_found_from_single_precision_coulomb_matrices(tmp_path):
    data = QM7b(tmp_path / "root", raw=write_mat(tmp_path / "qm7b.mat"))
    check(data, 2e-6)
    assert [p.name for p in (tmp_path / "root" / "processed").iterdir()] == ["qm7b.safetensors"]
    again = QM7b(tmp_path / "root", target=["homo_gw", "p_scs"])
    values = properties()
    assert_close(again[2].y, torch.tensor(values[2:3, [3, 2]], dtype=torch.float64))


def test_positions_of_the_xyz_file_are_taken_as_they_are(tmp_path):
    # Two numbers in Mathematica's notation, as the real file has them.
    path = write_xyz(tmp_path / "dsgdb7njp.xyz", lambda t: t.replace("\t0.0\t", "\t0.*^-6\t"))
    data = QM7b(tmp_path / "root", raw=path)
    check(data, 1e-6)
    want = list(molecules())[3][1]
    assert_close(data[3].pos, torch.from_numpy(want).float())
    archive = tmp_path / "gdb7-13.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, "dsgdb7njp.xyz")
        file.writestr("readme.txt", "Data set dsgdb7njp")
    check(QM7b(tmp_path / "zip", raw=archive), 1e-6)


def test_both_files_tell_the_same_of_a_model(tmp_path):
    from pyg_schnet import DTNN

    by_matrix = QM7b(tmp_path / "a", raw=write_mat(tmp_path / "qm7b.mat"))
    by_positions = QM7b(tmp_path / "b", raw=write_xyz(tmp_path / "dsgdb7njp.xyz"))
    model = DTNN(cutoff=10.0, seed=0)
    for one, other in zip(by_matrix, by_positions, strict=True):
        assert_close(model(one.z, one.pos), model(other.z, other.pos), rtol=1e-4, atol=1e-5)


def test_order_and_place_of_padding_do_not_matter():
    rng = np.random.default_rng(1)
    z, pos = list(molecules())[3]
    order = rng.permutation(23)
    matrix = coulomb(z, pos)[np.ix_(order, order)]
    found, positions = qm7b_raw.atoms_of_coulomb_matrix(matrix)
    kept = order[order < len(z)]
    assert found.tolist() == z[kept].tolist()
    np.testing.assert_allclose(between(positions), between(pos[kept]), atol=1e-9)


def test_large_random_molecules_are_found_again():
    rng = np.random.default_rng(2)
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    for size in (1, 2, 4, 23):
        pos = 1.2 * grid[:size] + rng.normal(0, 0.1, (size, 3))
        z = rng.choice(list(CHARGES.values()), size)
        matrix = coulomb(z, pos, size).astype(np.float32)
        found, positions = qm7b_raw.atoms_of_coulomb_matrix(matrix)
        assert found.tolist() == z.tolist()
        np.testing.assert_allclose(between(positions), between(pos), atol=2e-6)


def damaged(kind):
    matrix = coulomb(*list(molecules())[3])
    if kind == "asymmetric":
        matrix[0, 1] *= 1.01
    elif kind == "noise":
        matrix[0, 1] = matrix[1, 0] = 1.05 * matrix[0, 1]
    elif kind == "diagonal":
        matrix[0, 0] = 40.0
    elif kind == "beside":
        matrix[0, 10] = 1.0
    elif kind == "unit":
        matrix[~np.eye(23, dtype=bool)] /= BOHR
    elif kind == "nan":
        matrix[0, 1] = np.nan
    return matrix


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("asymmetric", "not symmetric"),
        ("noise", "miss those of points in space by"),
        ("diagonal", "nuclear charges of"),
        ("beside", "beside its atoms"),
        ("unit", "distances must be in Bohr"),
        ("nan", "not finite"),
    ],
)
def test_matrices_that_are_none_of_molecules_are_refused(kind, sentence):
    with pytest.raises(ValueError, match=f"molecule 7.*{sentence}"):
        qm7b_raw.atoms_of_coulomb_matrix(damaged(kind), "molecule 7")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"T": np.zeros((4, 13))}, "T \\(4, 13\\), and \\(M, 23, 23\\) and \\(M, 14\\)"),
        ({"X": np.zeros((4, 23))}, "X must be an array of numbers with 3 dimensions, found float"),
        ({"T": np.full((4, 14), np.nan)}, "molecule 0: a property is not finite"),
        ({"T": properties()}, "the columns are not in the order expected"),
    ],
)
def test_other_mat_files_are_refused(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        QM7b(tmp_path / "root", raw=write_mat(tmp_path / "qm7b.mat", **changes))


def test_files_that_are_cut_off_are_refused(tmp_path):
    path = write_mat(tmp_path / "qm7b.mat")
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match="no whole mat file"):
        QM7b(tmp_path / "root", raw=path)
    path = write_xyz(tmp_path / "dsgdb7njp.xyz", lambda text: text[:-60])
    with pytest.raises(ValueError, match="molecule 3, line 21: cut off or malformed"):
        QM7b(tmp_path / "root", raw=path)
    path = write_xyz(tmp_path / "dsgdb7njp.xyz", lambda text: text.replace("Cl", "Xx"))
    with pytest.raises(ValueError, match="molecule 3, line 21: cut off or malformed.*'Xx'"):
        QM7b(tmp_path / "root", raw=path)


def test_sources_are_named_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(qm7b, "FILE_URL", "http://127.0.0.1:9/qm7b.mat")
    with pytest.raises(FileNotFoundError, match="put qm7b.mat or dsgdb7njp.xyz into"):
        QM7b(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        QM7b(tmp_path, raw=tmp_path / "nowhere.mat")
    with pytest.raises(FileNotFoundError, match="There is neither qm7b.mat nor"):
        QM7b(tmp_path, raw=tmp_path / "raw")
    write_mat(tmp_path / "raw" / "qm7b.mat")
    check(QM7b(tmp_path), 2e-6)


def test_unknown_targets_are_refused_and_missing_molecules_warned_of(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="target 'homo' is not in QM7b; there are ae_pbe0, p_pbe0"):
        QM7b(tmp_path, target="homo")
    monkeypatch.setattr(qm7b, "NUM_MOLECULES", 7211)
    with pytest.warns(UserWarning, match="holds 4 of the 7211 molecules of QM7b"):
        QM7b(tmp_path, raw=write_mat(tmp_path / "qm7b.mat"))
