import numpy as np
import pytest
import torch
from ase.data import atomic_numbers
from helpers import small_schnet

from pyg_schnet import DTNN, Potential, pretrained
from pyg_schnet.analysis.embeddings import (
    EmbeddingPCA,
    embedding_pca,
    group_of,
    order_along_groups,
    period_of,
    plot_embeddings,
)


@pytest.mark.parametrize("model", [small_schnet(), DTNN(8, 9, 1, seed=2)], ids=["schnet", "dtnn"])
def test_the_axes_are_those_of_scikit_learn(model):
    decomposition = pytest.importorskip("sklearn.decomposition")
    elements = [1, 3, 6, 7, 8, 9, 11, 17, 26, 55]
    found = embedding_pca(Potential(model), elements, components=4)
    rows = model.embedding.weight.detach().double().numpy()[elements]
    theirs = decomposition.PCA(4).fit(rows)
    sign = np.sign((found.axes * theirs.components_).sum(1))
    np.testing.assert_allclose(found.axes, theirs.components_ * sign[:, None], atol=1e-9)
    np.testing.assert_allclose(found.coordinates, theirs.transform(rows) * sign, atol=1e-9)
    np.testing.assert_allclose(found.explained, theirs.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(found.mean, theirs.mean_, rtol=1e-9)
    assert (found.axes.max(1) == np.abs(found.axes).max(1)).all()


def test_all_axes_together_are_the_embeddings():
    model, elements = small_schnet(), ["H", "C", "O", "S"]
    found = embedding_pca(model, elements, components=3)
    rows = model.embedding.weight.detach().numpy()[[1, 6, 8, 16]]
    np.testing.assert_allclose(found.mean + found.coordinates @ found.axes, rows, atol=1e-12)
    assert found.explained.sum() == pytest.approx(1.0)


def test_the_periodic_table_is_right():
    table = """
        1 H Li Na K Rb Cs Fr | 2 Be Mg Ca Sr Ba Ra | 3 Sc Y Lu Lr | 4 Ti Zr Hf Rf | 5 V Nb Ta Db
        6 Cr Mo W Sg | 7 Mn Tc Re Bh | 8 Fe Ru Os Hs | 9 Co Rh Ir Mt | 10 Ni Pd Pt Ds
        11 Cu Ag Au Rg | 12 Zn Cd Hg Cn | 13 B Al Ga In Tl Nh | 14 C Si Ge Sn Pb Fl
        15 N P As Sb Bi Mc | 16 O S Se Te Po Lv | 17 F Cl Br I At Ts | 18 He Ne Ar Kr Xe Rn Og
        0 La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No
    """
    seen = {}
    group = None
    for word in table.replace("|", " ").split():
        if word.isdigit():
            group = int(word)
        else:
            seen[atomic_numbers[word]] = group
    assert sorted(seen) == list(range(1, 119))
    assert {z: group_of(z) for z in seen} == seen
    assert [period_of(atomic_numbers[e]) for e in ("H", "Ne", "Na", "Kr", "La", "Og")] == [
        1,
        2,
        3,
        4,
        6,
        7,
    ]
    for wrong in (0, 119):
        with pytest.raises(ValueError, match="atomic number"):
            group_of(wrong)


def test_order_along_groups_is_that_of_kendall():
    stats = pytest.importorskip("scipy.stats")
    elements = np.array([1, 3, 4, 8, 9, 11, 16, 17, 19, 34, 35, 37])
    generator = np.random.default_rng(3)
    t = generator.normal(size=(len(elements), 3))
    found = EmbeddingPCA(elements, t, np.eye(3), np.ones(3) / 3, np.zeros(3))
    order = order_along_groups(found)
    assert list(order) == [1, 16, 17]
    for group, members in ((1, [3, 11, 19, 37]), (16, [8, 16, 34])):
        rows = t[np.isin(elements, members)]
        wanted = [stats.kendalltau(np.arange(len(rows)), rows[:, c]).statistic for c in range(3)]
        np.testing.assert_allclose(order[group], wanted)


def test_the_picture_is_drawn_and_what_cannot_be_is_named(tmp_path):
    found = embedding_pca(small_schnet(), list(range(1, 96)), components=5)
    assert plot_embeddings(found, tmp_path / "a.png").stat().st_size > 20_000
    assert embedding_pca(pretrained("md17-ethanol")).elements.tolist() == [1, 6, 8]
    one = embedding_pca(small_schnet(), [1, 6], components=1)
    assert one.explained == pytest.approx([1.0])
    with pytest.raises(ValueError, match="two axes"):
        plot_embeddings(one, tmp_path / "b.png")
    with pytest.raises(ValueError, match="give elements"):
        embedding_pca(small_schnet())
    with pytest.raises(ValueError, match="have 1 principal axes"):
        embedding_pca(small_schnet(), [1, "H", "C"])
    with pytest.raises(ValueError, match="no element"):
        embedding_pca(small_schnet(), [0, 1])


def test_float32_models_are_decomposed_in_float64():
    found = embedding_pca(small_schnet(torch.float32), [1, 6, 7, 8])
    assert found.coordinates.dtype == np.float64
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(2), atol=1e-12)
