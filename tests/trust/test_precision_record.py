"""What float32 costs is what the record says, measured again on one molecule."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from pyg_schnet import pretrained
from pyg_schnet.benchmarks.trust import precision

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
# Relative errors of forces: rounding in 24 and 53 bits, and the tolerances of the tables.
BOUNDS = {
    "float64, tabulated": 1e-8,
    "float64, frozen": 1e-8,
    "float32, exact": 5e-5,
    "float32, frozen": 5e-5,
}


@pytest.fixture(scope="module")
def rows():
    network = pretrained("md17-ethanol").model
    case = precision.Case("ethanol", molecule("CH3CH2OH"), "trained", network, False)
    return {row["arithmetic"]: row for row in precision.compare(case)}


@pytest.mark.parametrize("arithmetic", BOUNDS)
def test_errors_are_those_of_rounding(rows, arithmetic):
    row = rows[arithmetic]
    assert 0 < row["force_error_relative"] < BOUNDS[arithmetic]
    # The constants, -4,200 eV, are added in float64: float32 would round the sum by 240 µeV.
    limit = 1e-4 if arithmetic.startswith("float64") else 2.0
    assert row["energy_error_ueV_per_atom"] < limit


def test_the_record_has_molecules_crystals_and_sizes_within_the_same_bounds():
    record = json.loads((RESULTS / "precision.json").read_text())["rows"]
    assert {row["arithmetic"] for row in record} == set(BOUNDS)
    assert len({row["model"] for row in record}) >= 5
    for row in record:
        assert row["force_error_relative"] < BOUNDS[row["arithmetic"]]
        assert row.get("stress_error_relative", 0.0) < BOUNDS[row["arithmetic"]]
        assert row.get("frequency_error_per_cm", 0.0) < 0.5
        assert np.isfinite(row["energy_error_ueV_per_atom"])
    assert sum("stress_error_relative" in row for row in record) >= 20
    assert sum("frequency_error_per_cm" in row for row in record) >= 15
