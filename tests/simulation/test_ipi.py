"""The driver against the calculator, i-PI's protocol by hand, and i-PI itself on known springs."""

import os
import socket
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from ase.units import Bohr, Hartree
from helpers import small_schnet

from pyg_schnet.simulation import Calculator
from pyg_schnet.simulation.ipi_driver import Bead, bead_evaluator, connect, serve, turned
from pyg_schnet.simulation.ipi_input import (
    Address,
    Ensemble,
    checkpoint_step,
    new_input,
    read_checkpoint,
    resumed_input,
    to_ipi,
)
from pyg_schnet.simulation.pimd_files import PimdFiles
from pyg_schnet.units import BOLTZMANN, HBAR


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def crystal():
    atoms = bulk("Si")
    atoms.rattle(0.05, seed=2)
    return atoms


def moved(atoms, count, seed=0):
    noise = np.random.default_rng(seed).normal(0, 0.05, (count, len(atoms), 3))
    return atoms.positions + noise


@pytest.mark.parametrize("potential", [small_schnet(), LennardJones(sigma=2.0, epsilon=0.1)])
@pytest.mark.parametrize("atoms", [molecule("CH3CH2OH"), crystal()], ids=["ethanol", "silicon"])
def test_beads_are_what_the_calculator_says_of_each(atoms, potential):
    positions = moved(atoms, 3)
    cells = np.stack([atoms.cell.array * scale for scale in (1.0, 1.01, 0.99)])
    evaluate = bead_evaluator(potential, atoms)
    for chosen in ([0, 1, 2], [1, 2], [2, 1, 0]):
        beads = evaluate(cells[chosen], positions[chosen])
        for k, which in enumerate(chosen):
            one = atoms.copy()
            one.set_cell(cells[which])
            one.positions = positions[which]
            one.calc = potential if isinstance(potential, LennardJones) else Calculator(potential)
            assert beads.energy[k] == pytest.approx(one.get_potential_energy(), abs=1e-9)
            np.testing.assert_allclose(beads.forces[k], one.get_forces(), atol=1e-9)
            if atoms.pbc.any():
                stress = one.get_stress(voigt=False)
                np.testing.assert_allclose(beads.virial[k], -one.get_volume() * stress, atol=1e-8)
            else:
                assert not beads.virial[k].any()


def test_the_virial_is_minus_the_derivative_by_strain():
    atoms = crystal()
    evaluate = bead_evaluator(small_schnet(), atoms)
    virial = evaluate(atoms.cell.array[None], atoms.positions[None]).virial[0]
    step = 1e-4
    for row, column in ((0, 0), (1, 2), (0, 1)):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[row, column] += sign * step / 2
            strain[column, row] += sign * step / 2
            energies.append(
                evaluate((atoms.cell.array @ strain)[None], (atoms.positions @ strain)[None]).energy
            )
        slope = float((energies[0] - energies[1])[0]) / (2 * step)
        assert virial[row, column] == pytest.approx(-slope, rel=1e-5, abs=1e-8)


class Server:
    """i-PI's side of a conversation, after its documentation."""

    def __init__(self, evaluate):
        self.socket, other = socket.socketpair()
        self.socket.settimeout(20)
        self.result = []
        self.thread = threading.Thread(target=self.serve, args=(evaluate, other))
        self.thread.start()

    def serve(self, evaluate, other):
        try:
            self.result.append(serve(evaluate, other))
        except Exception as error:  # for the test to look at
            self.result.append(error)

    def say(self, word, *parts):
        self.socket.sendall(word.ljust(12).encode() + b"".join(parts))

    def hear(self, size):
        data = b""
        while len(data) < size:
            data += self.socket.recv(size - len(data))
        return data

    def word(self):
        return self.hear(12).decode().strip()

    def status(self):
        self.say("STATUS")
        return self.word()

    def init(self, text):
        self.say("INIT", np.int32(0), np.int32(len(text)), text.encode())

    def end(self):
        self.socket.close()
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.result[0]


def cell_bytes(cell):
    """Lattice vectors are columns there, and lengths in bohr."""
    return (cell.T / Bohr).tobytes() + np.linalg.inv(cell.T / Bohr).tobytes()


def test_the_protocol_one_structure_at_a_time():
    atoms = crystal()
    server = Server(bead_evaluator(small_schnet(), atoms))
    assert server.status() == "NEEDINIT"
    server.init(" ")
    assert server.status() == "READY"
    at = moved(atoms, 1)[0]
    server.say("POSDATA", cell_bytes(atoms.cell.array), np.int32(2), (at / Bohr).tobytes())
    assert server.status() == "HAVEDATA"
    server.say("GETFORCE")
    assert server.word() == "FORCEREADY"
    energy = np.frombuffer(server.hear(8))[0] * Hartree
    assert np.frombuffer(server.hear(4), np.int32)[0] == 2
    forces = np.frombuffer(server.hear(48)).reshape(2, 3) * Hartree / Bohr
    virial = np.frombuffer(server.hear(72)).reshape(3, 3) * Hartree
    assert np.frombuffer(server.hear(4), np.int32)[0] == 0
    assert server.status() == "READY"
    server.say("EXIT")
    assert server.end() == 1
    atoms.positions = at
    atoms.calc = Calculator(small_schnet())
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-7)
    stress = atoms.get_stress(voigt=False)
    np.testing.assert_allclose(virial, -atoms.get_volume() * stress, atol=1e-7)


def test_the_protocol_in_batches_evaluates_copies_once():
    atoms, sizes = molecule("CH3CH2OH"), []
    beads = bead_evaluator(small_schnet(), atoms)

    def counted(cells, positions):
        sizes.append(len(positions))
        return beads(cells, positions)

    server = Server(counted)
    server.init(" a : 1 , batch_size:4")
    at = moved(atoms, 4)
    at[3] = at[2]
    cells = 4 * cell_bytes(100 * np.eye(3))
    server.say("POSDATA", np.int32(9), cells, (at / Bohr).tobytes(), b"GETFORCE    ")
    assert server.word() == "FORCEREADY"
    energies = np.frombuffer(server.hear(32)) * Hartree
    assert np.frombuffer(server.hear(4), np.int32)[0] == 9
    forces = np.frombuffer(server.hear(4 * 9 * 24)).reshape(4, 9, 3) * Hartree / Bohr
    assert not np.frombuffer(server.hear(4 * 72)).any()
    assert not np.frombuffer(server.hear(16), np.int32).any()
    server.say("EXIT")
    assert server.end() == 3 and sizes == [3]
    want = beads(np.zeros((4, 3, 3)), at)
    np.testing.assert_allclose(energies, want.energy, rtol=1e-12)
    np.testing.assert_allclose(forces, want.forces, atol=1e-7)
    assert energies[3] == energies[2] != energies[1]


def test_a_server_that_is_gone_and_beads_that_explode_are_noticed():
    atoms = molecule("H2O")
    beads = bead_evaluator(small_schnet(), atoms)
    server = Server(beads)
    server.init(" ")
    ended = server.end()
    assert isinstance(ended, ConnectionError) and "without a word" in str(ended)
    server = Server(beads)
    server.say("HELLO")
    server.thread.join(20)
    ended = server.end()
    assert isinstance(ended, ConnectionError) and "HELLO" in str(ended)
    for at in (np.full((3, 3), np.nan), atoms.positions):

        def hollow(cells, positions):
            result = beads(cells, positions)
            return result._replace(energy=result.energy * np.inf)

        server = Server(hollow)
        server.say("POSDATA", cell_bytes(np.eye(3)), np.int32(3), (at / Bohr).tobytes())
        server.thread.join(20)
        ended = server.end()
        assert isinstance(ended, FloatingPointError) and "not finite" in str(ended)
    with pytest.raises(ConnectionError, match="No server of i-PI"):
        connect("nowhere", patience=0.05)


def test_cells_are_turned_to_the_frame_of_i_pi_and_back():
    atoms = crystal()
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)
    positions, cell, rotation = to_ipi(atoms)
    np.testing.assert_allclose(cell, np.tril(cell), atol=1e-12)
    np.testing.assert_allclose(cell @ rotation, atoms.cell.array, atol=1e-12)
    np.testing.assert_allclose(positions @ rotation, atoms.positions, atol=1e-12)
    evaluate = bead_evaluator(small_schnet(), atoms)
    here = evaluate(atoms.cell.array[None], atoms.positions[None])
    # The model is the same from all sides, and its tensors turn.
    there = evaluate(cell[None], positions[None])
    for ours, theirs in zip(turned(evaluate, rotation)(cell[None], positions[None]), there):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert np.abs(here.forces - there.forces).max() > 0.01 * np.abs(here.forces).max()
    assert np.abs(here.virial - there.virial).max() > 0.01 * np.abs(here.virial).max()
    root = ET.fromstring(new_input(atoms, Ensemble(beads=2), Address(port=4000)))
    numbers = [float(x) for x in root.findtext("system/initialize/cell").strip("[]").split(",")]
    np.testing.assert_allclose(np.reshape(numbers, (3, 3)).T * Bohr, cell, atol=1e-12)
    assert (root.find("ffsocket").get("mode"), root.findtext("ffsocket/port")) == ("inet", " 4000 ")
    slab = Atoms("H", cell=[3, 3, 0], pbc=[True, True, False])
    with pytest.raises(ValueError, match="three lattice vectors"):
        to_ipi(slab)
    with pytest.raises(ValueError, match="right-handed"):
        to_ipi(Atoms("H", cell=np.diag([3, 3, -3]), pbc=True))


def test_checkpoints_are_read_and_continued_though_they_are_no_good_xml(tmp_path):
    text = new_input(molecule("H2O"), Ensemble(), Address("/somewhere/old"))
    text = text.replace("<total_steps>", "<step> 70 </step><total_steps>")
    whole, cut = tmp_path / "a", tmp_path / "b"
    whole.write_text("<!--\n ---- Simulation -- information ----\n-->\n" + text)
    cut.write_text(text[:-40])
    assert read_checkpoint(cut) is None and read_checkpoint(tmp_path / "c") is None
    root = read_checkpoint(whole)
    assert checkpoint_step(root) == 70
    again = ET.fromstring(resumed_input(root, 500, Address("/run/a&b/new")))
    assert again.findtext("total_steps").strip() == "500"
    assert again.get("sockets_prefix") == "/run/a&b/"
    assert again.findtext("ffsocket/address").strip() == "new"
    with pytest.raises(ValueError, match="not of a simulation"):
        resumed_input(ET.fromstring("<simulation/>"), 1, Address("/run/new"))


@pytest.mark.parametrize(
    ("option", "value"),
    [("thermostat", "nose"), ("temperature", 0.0), ("timestep", np.inf), ("time_constant", -1.0),
     ("beads", 0), ("steps", 0), ("checkpoint_every", 15), ("seed", -1)],
)  # fmt: skip
def test_bad_options_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be"):
        Ensemble(**{option: value})


def ring_polymer_energy(omega, beads, temperature):
    """Mean potential energy of a harmonic oscillator of so many beads; the kinetic is the same.

    The modes of the free ring have frequencies 2 omega_P sin(pi k / P).
    """
    omega_ring = 2 * beads * BOLTZMANN * temperature / HBAR
    modes = (omega_ring * np.sin(np.pi * np.arange(beads) / beads)) ** 2
    return 0.5 * BOLTZMANN * temperature * (omega**2 / (omega**2 + modes)).sum()


def test_i_pi_finds_the_quantum_energy_of_springs_over_tcp(tmp_path):
    """H atoms on springs of 2300 per cm: at 300 K nearly all of the energy is of the zero point."""
    pytest.importorskip("ipi", reason="i-PI is not installed")
    from pyg_schnet.simulation.pimd_processes import ipi_script, listening

    spring, count, beads = 20.0, 64, 8
    atoms = Atoms(f"H{count}", np.random.default_rng(1).uniform(0, 20, (count, 3)))
    sizes = []

    def springs(cells, positions):
        away = positions - atoms.positions
        sizes.append(len(positions))
        energy = 0.5 * spring * (away**2).sum((1, 2))
        return Bead(energy, -spring * away, np.zeros((len(positions), 3, 3)))

    ensemble = Ensemble(
        beads, timestep=0.25, thermostat="pile_l", time_constant=20.0, steps=1000, every=5, seed=3,
        fix_center=False,
    )  # fmt: skip
    with listening("tcp") as address, open(tmp_path / "log", "w") as log:
        (tmp_path / "input.xml").write_text(new_input(atoms, ensemble, address))
        server = subprocess.Popen(
            [sys.executable, ipi_script(), "input.xml"],
            cwd=tmp_path, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            served = serve(springs, connect(address.where()))
            assert server.wait(30) == 0, (tmp_path / "log").read_text()
        finally:
            server.kill()
            server.wait()
    # Beads that arrive in two parts would be no fault, but are rare.
    assert served >= 1000 * beads and sorted(sizes)[len(sizes) // 2] == beads
    files = PimdFiles(tmp_path, count)
    assert files.frames() == 201
    mean = files.table()[60:].mean(0)
    omega = np.sqrt(spring / atoms.get_masses()[0])
    want = 3 * count * ring_polymer_energy(omega, beads, 300.0)
    assert want > 3 * count * 1.5 * BOLTZMANN * 300  # the classical one is a half
    assert want < 3 * count * HBAR * omega / 4  # that of infinitely many
    assert mean[2] == pytest.approx(300.0, rel=0.05)
    assert mean[3] == pytest.approx(want, rel=0.05)
    assert mean[4] == pytest.approx(want, rel=0.05)
    conserved = files.table()[:, 5]
    assert np.ptp(conserved) < 0.01 * want
    spread = np.stack(list(files.positions()))[60:] - atoms.positions
    assert 0.5 * spring * (spread**2).sum((2, 3)).mean() == pytest.approx(mean[3], rel=1e-6)
