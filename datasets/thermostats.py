"""Thermostats of molecular dynamics, which say what to go on from when interrupted."""

import json
import math
from collections.abc import Mapping

import numpy as np

from pyg_schnet.units import BOLTZMANN

State = dict[str, np.ndarray]

# Fourth-order splitting: Yoshida, Phys. Lett. A 150, 262 (1990).
_CUBE = 2 ** (1 / 3)
_YOSHIDA = (1 / (2 - _CUBE), -_CUBE / (2 - _CUBE), 1 / (2 - _CUBE))


class NoseHooverChain:
    """Thermostat of three coupled variables; deterministic.

    Martyna, Klein and Tuckerman, J. Chem. Phys. 97, 2635 (1992).

    Args:
        masses: (N, 1) u.
        temperature: K.
        time_constant: In ASE's unit.
        degrees: Of freedom that the momenta have: 3 N - 6 without drift and rotation. With 3 N in
            its place a molecule of 9 atoms is 29 % too hot.
    """

    def __init__(
        self, masses: np.ndarray, temperature: float, time_constant: float, degrees: int
    ) -> None:
        self.masses = masses
        self.degrees = degrees
        self.kt = BOLTZMANN * temperature
        self._inertia = [self.kt * time_constant**2 * count for count in (degrees, 1.0, 1.0)]
        self.velocity = np.zeros(3)
        self.position = np.zeros(3)

    def half_step(self, momenta: np.ndarray, duration: float) -> np.ndarray:
        """Momenta (N, 3) after ``duration`` of the thermostat alone."""
        # Plain numbers: arrays of three would take longer than the energy of a small molecule.
        speed, place = self.velocity.tolist(), self.position.tolist()
        twice_kinetic = float(np.sum(momenta**2 / self.masses))
        scale = 1.0
        for weight in _YOSHIDA:
            h = weight * duration
            for j in (2, 1, 0):
                self._kick(j, speed, twice_kinetic, h)
            place = [x + h * v for x, v in zip(place, speed, strict=True)]
            slowed = math.exp(-h * speed[0])
            scale *= slowed
            twice_kinetic *= slowed**2
            for j in (0, 1, 2):
                self._kick(j, speed, twice_kinetic, h)
        self.velocity, self.position = np.array(speed), np.array(place)
        return scale * momenta

    def _kick(self, j: int, speed: list[float], twice_kinetic: float, h: float) -> None:
        if j == 0:
            surplus = twice_kinetic - self.degrees * self.kt
        else:
            surplus = self._inertia[j - 1] * speed[j - 1] ** 2 - self.kt
        drag = math.exp(-h / 4 * speed[j + 1]) if j < 2 else 1.0
        speed[j] = drag * (drag * speed[j] + h / 2 * surplus / self._inertia[j])

    def energy(self) -> float:
        """What is conserved together with kinetic and potential energy; eV."""
        work = self.kt * (self.degrees * self.position[0] + self.position[1:].sum())
        return float(work + 0.5 * np.sum(self._inertia * self.velocity**2))

    @property
    def state(self) -> State:
        """What it goes on from."""
        return {"chain_velocity": self.velocity.copy(), "chain_position": self.position.copy()}

    @state.setter
    def state(self, values: Mapping[str, np.ndarray]) -> None:
        for name in ("chain_velocity", "chain_position"):
            if values[name].shape != self.velocity.shape:
                raise ValueError(f"{name} has shape {values[name].shape}, not that of the chain")
        self.velocity = values["chain_velocity"].copy()
        self.position = values["chain_position"].copy()


class Langevin:
    """Thermostat of friction and noise, on drift and rotation too.

    Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007).

    Args:
        masses: (N, 1) u.
        temperature: K.
        time_constant: Inverse friction, in ASE's unit of time.
        seed: Of the noise.
    """

    def __init__(
        self, masses: np.ndarray, temperature: float, time_constant: float, seed: int
    ) -> None:
        self.degrees = 3 * len(masses)
        self.kt = BOLTZMANN * temperature
        self.time_constant = time_constant
        self.width = np.sqrt(masses * self.kt)
        self.rng = np.random.default_rng([seed, 1])

    def half_step(self, momenta: np.ndarray, duration: float) -> np.ndarray:
        """Momenta (N, 3) after ``duration`` of the thermostat alone."""
        kept = np.exp(-duration / self.time_constant)
        noise = self.rng.standard_normal(momenta.shape)
        return kept * momenta + np.sqrt(1 - kept**2) * self.width * noise

    @property
    def state(self) -> State:
        """What it goes on from."""
        return {"rng": np.array(json.dumps(self.rng.bit_generator.state))}

    @state.setter
    def state(self, values: Mapping[str, np.ndarray]) -> None:
        self.rng.bit_generator.state = json.loads(str(values["rng"]))
