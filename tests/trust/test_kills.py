"""Work that is killed at random moments goes on, and ends as if it never had been."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "kill_rounds.json"
KINDS = ["download", "processing", "generation", "training", "dynamics"]


def rounds(folder, kinds, number):
    output = folder / "record.json"
    command = [sys.executable, "-W", "ignore", "-m", "pyg_schnet.benchmarks.trust.kill_rounds"]
    command += ["--kinds", *kinds, "--rounds", str(number), "--output", str(output)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(output.read_text())


def check(record, kinds, number):
    assert list(record["kinds"]) == kinds and record["rounds"] == len(kinds) * number
    assert record["lost"] == 0 and record["kills"] > 0
    for counts in record["kinds"].values():
        assert not counts["faults"]


def test_a_round_of_each_kind_loses_nothing(tmp_path):
    check(rounds(tmp_path, KINDS, 1), KINDS, 1)


@pytest.mark.long
@pytest.mark.slow
def test_path_integrals_survive_kills_of_the_whole_command(tmp_path):
    pytest.importorskip("ipi", reason="i-PI is not installed")
    check(rounds(tmp_path, ["path integrals"], 1), ["path integrals"], 1)


def test_the_record_is_of_fifty_rounds_without_a_loss():
    record = json.loads(RECORD.read_text())
    assert record["rounds"] == 50 and record["kills"] >= 100 and record["lost"] == 0
    assert set(record["kinds"]) == {*KINDS, "path integrals"}
