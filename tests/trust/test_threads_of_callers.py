"""Several threads that call at once get what each would get alone."""

import copy
import pickle
import sys
import threading

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from helpers import randomize, small_schnet

from pyg_schnet import DTNN, Ensemble, Potential
from pyg_schnet.simulation import Calculator
from pyg_schnet.simulation.predict import atoms_to_data

NAMES = ["H2O", "CH3CH2OH", "NH3", "C6H6"]
ROUNDS = 15


@pytest.fixture(autouse=True)
def switching_often():
    kept = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(kept)


def at_once(*calls):
    """Run each in a thread of its own, all from one moment on; raise what any of them raises."""
    start, failed = threading.Barrier(len(calls)), []

    def run(call):
        start.wait()
        try:
            call()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def moved(name, k):
    atoms = molecule(name)
    atoms.rattle(0.02, seed=k)
    return atoms


def answers_of(calculator, name):
    found = []
    for k in range(ROUNDS):
        atoms = moved(name, k)
        atoms.calc = calculator
        energy = atoms.get_potential_energy()
        found.append((energy, atoms.get_forces(), calculator.get_property("energies", atoms)))
    return found


def check_calculators(calculators, make):
    found = {}

    def call(name, calculator):
        found[name] = answers_of(calculator, name)

    at_once(*(lambda n=n, c=c: call(n, c) for n, c in zip(NAMES, calculators)))
    for name in NAMES:
        for got, want in zip(found[name], answers_of(make(), name)):
            for one, other in zip(got, want):
                np.testing.assert_array_equal(one, other)


def dtnn():
    model = DTNN(8, 8, 1, 10, 5.0, seed=0)
    randomize(model)
    return model.eval()


MODELS = {
    "schnet": lambda: small_schnet(torch.float32),
    "double": lambda: small_schnet(torch.float64),
    "dtnn": dtnn,
    "ensemble": lambda: Ensemble([small_schnet(torch.float32, seed=k) for k in range(2)]),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_calculator_may_be_shared(kind):
    model = MODELS[kind]()
    calculator = Calculator(model)
    check_calculators([calculator] * len(NAMES), lambda: Calculator(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_of_a_calculator_run_beside_each_other(copied):
    model = MODELS["schnet"]()
    calculator = Calculator(model)
    molecule("H2O").calc = calculator
    check_calculators([copied(calculator) for _ in NAMES], lambda: Calculator(model))


def test_a_shared_calculator_has_a_stress_for_each_crystal():
    model = small_schnet(torch.float32)
    shared = Calculator(model)
    crystals = [bulk("NaCl", "rocksalt", a=a) for a in (5.4, 5.6)] + [molecule("H2O")]
    found = [[] for _ in crystals]

    def call(k):
        for _ in range(ROUNDS):
            atoms = crystals[k].copy()
            atoms.calc = shared
            found[k].append(atoms.get_stress() if k < 2 else atoms.get_forces())

    at_once(*(lambda k=k: call(k) for k in range(len(crystals))))
    for k, atoms in enumerate(crystals):
        atoms.calc = Calculator(model)
        want = atoms.get_stress() if k < 2 else atoms.get_forces()
        for got in found[k]:
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", ["schnet", "double", "dtnn"])
def test_an_evaluator_may_be_shared(kind):
    model = MODELS[kind]()
    evaluate = Calculator(model).evaluator(molecule("CH3CH2OH"))
    places = [moved("CH3CH2OH", k).positions for k in range(4)]
    want = [Calculator(model).evaluator(molecule("CH3CH2OH"))(place) for place in places]
    wrong = []

    def call(k):
        for _ in range(ROUNDS):
            energy, forces, _ = evaluate(places[k])
            if energy != want[k][0] or not np.array_equal(forces, want[k][1]):
                wrong.append(k)

    at_once(*(lambda k=k: call(k) for k in range(4)))
    assert not wrong


def check_potential(shared, fresh, inputs):
    want = [fresh()(data) for data in inputs]
    wrong = []

    def call(k):
        for _ in range(ROUNDS):
            got = shared(inputs[k])
            if not all(torch.equal(got[name], want[k][name]) for name in want[k]):
                wrong.append(k)

    at_once(*(lambda k=k: call(k) for k in range(len(inputs))))
    assert not wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_a_potential_and_a_frozen_one_may_be_shared(dtype):
    model = small_schnet(dtype)
    inputs = [atoms_to_data(molecule(name), dtype) for name in NAMES]
    check_potential(Potential(model).eval(), lambda: Potential(model).eval(), inputs)
    frozen = Potential(model).freeze()
    check_potential(frozen, lambda: Potential(model).freeze(), inputs)


def test_threads_that_come_after_new_weights_see_those_alone():
    """The compiled function is made anew by whoever comes first; nobody gets the old one."""
    model = small_schnet(torch.float32)
    shared = Potential(model).eval()
    inputs = [atoms_to_data(molecule(name)) for name in NAMES]
    for seed in range(3):
        randomize(model, seed)
        check_potential(shared, lambda: Potential(copy.deepcopy(model)).eval(), inputs)


def test_handles_of_one_frozen_potential_are_for_threads_of_their_own():
    model = small_schnet(torch.float32)
    frozen = Potential(model).freeze()
    inputs = [atoms_to_data(molecule(name)) for name in NAMES]
    handles = [frozen.structure(data) for data in inputs]
    places = [[moved(name, k).positions for k in range(ROUNDS)] for name in NAMES]
    found = {}

    def call(n):
        found[n] = [handles[n].evaluate(place) for place in places[n]]

    at_once(*(lambda n=n: call(n) for n in range(len(NAMES))))
    for n, data in enumerate(inputs):
        own = Potential(model).freeze().structure(data)
        for place, (energy, forces, _) in zip(places[n], found[n]):
            want = own.evaluate(place)
            np.testing.assert_array_equal(energy, want[0])
            np.testing.assert_array_equal(forces, want[1])
