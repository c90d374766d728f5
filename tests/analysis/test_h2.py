import numpy as np
import pytest

from pyg_schnet.analysis.h2 import BOND_LENGTH, DEPTH, RawDistance, fit_h2, morse, plot_h2
from pyg_schnet.units import HBAR, INVERSE_CM


def test_the_morse_curve_has_the_frequency_and_the_well_of_h2():
    step = 1e-3
    low, bottom, high = morse(BOND_LENGTH + np.array([-step, 0.0, step]))
    stiffness = (low - 2 * bottom + high) / step**2
    reduced_mass = 1.00782503 / 2
    frequency = HBAR * np.sqrt(stiffness / reduced_mass) / INVERSE_CM
    assert frequency == pytest.approx(4401.2, rel=1e-3)
    assert bottom == -DEPTH and morse(np.array([30.0]))[0] == pytest.approx(0.0, abs=1e-12)


def test_gaussians_of_the_distance_are_learned_faster_than_the_distance(tmp_path):
    fits = [fit_h2(basis, steps=120) for basis in (True, False)]
    with_basis, without = fits
    assert with_basis.rmse < 0.15 < 0.4 < without.rmse
    assert with_basis.errors[0] > 1.0 and len(with_basis.errors) == 120
    np.testing.assert_allclose(with_basis.reference, morse(with_basis.distances))
    missing = with_basis.fitted - with_basis.reference
    assert with_basis.rmse == pytest.approx(np.sqrt((missing**2).mean()))
    assert plot_h2(fits, tmp_path / "a.png").stat().st_size > 5000


def test_a_fit_can_be_repeated_and_takes_other_curves():
    d, e = np.linspace(1.0, 2.0, 8), np.linspace(-1.0, 1.0, 8)
    one, two = (fit_h2(False, d, e, steps=5) for _ in range(2))
    np.testing.assert_array_equal(one.fitted, two.fitted)
    other = fit_h2(False, d, e, steps=5, seed=1)
    assert not np.allclose(one.fitted, other.fitted)
    assert str(RawDistance()) == "RawDistance()"


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="steps"):
        fit_h2(steps=0)
    with pytest.raises(ValueError, match="as many"):
        fit_h2(distances=np.ones(3), energies=np.ones(2))
    with pytest.raises(ValueError, match="empty"):
        plot_h2([], tmp_path / "a.png")
