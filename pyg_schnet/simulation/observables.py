"""What a trajectory tells: vibrations, distances, temperature and the energy that it keeps.

Functions of arrays alone. Frames are equally spaced; positions (S, N, 3) are in Å.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.units import BOLTZMANN, FEMTOSECOND, HBAR, INVERSE_CM

_BLOCKS = 20
# hbar * 2 pi in eV fs, by an eV of each reciprocal centimetre.
_WAVENUMBER = 2 * math.pi * HBAR / FEMTOSECOND / INVERSE_CM  # cm^-1 fs


class Distribution(NamedTuple):
    """A density over equal bins.

    Attributes:
        centers: Of the bins, (K,).
        density: (K,), what its function says.
    """

    centers: NDArray
    density: NDArray

    @property
    def mean(self) -> float:
        """The mean of the quantity, exact to the width of a bin."""
        return float(self.centers @ self.density / self.density.sum())


class Temperature(NamedTuple):
    """Temperatures of a trajectory beside those of the canonical distribution; K.

    Attributes:
        mean: Over the frames.
        error: Its standard error, from averages over blocks.
        deviation: Standard deviation.
        expected_deviation: That of the canonical distribution, T sqrt(2 / f).
    """

    mean: float
    error: float
    deviation: float
    expected_deviation: float


class Conservation(NamedTuple):
    """How well an energy is kept; meV/atom.

    Attributes:
        slope: Of a linear fit, for each 100 ps.
        error: Its standard error, from averages over blocks.
        fluctuation: Root mean square deviation from the line.
    """

    slope: float
    error: float
    fluctuation: float


def velocity_autocorrelation(
    velocities: NDArray, masses: NDArray | None = None, lags: int | None = None
) -> NDArray:
    r"""How long velocities remember themselves, 1 at lag 0.

    .. math::
        C(t) = \frac{\sum_i m_i \langle \mathbf v_i(0) \cdot \mathbf v_i(t) \rangle}
                    {\sum_i m_i \langle \mathbf v_i(0)^2 \rangle}

    Averaged over all times of origin (Allen and Tildesley, Computer Simulation of Liquids, section
    8.3), by Fourier transforms.

    Args:
        velocities: (S, N, 3), any unit.
        masses: (N,), weights of the atoms; None: all alike.
        lags: How many lags, lag 0 among them; all S if None.

    Returns:
        (lags,)

    Raises:
        ValueError: If shapes do not fit, or there are more lags than frames.

    Example:
        >>> wave = np.cos(np.arange(400) * 2 * np.pi / 20)[:, None, None]
        >>> c = velocity_autocorrelation(wave, lags=21)
        >>> [round(float(c[k]), 1) for k in (0, 10, 20)]
        [1.0, -1.0, 1.0]
    """
    v = np.asarray(velocities, dtype=np.float64)
    if v.ndim != 3 or len(v) < 2:
        raise ValueError(f"velocities must have shape (S, N, 3) with S > 1, got {v.shape}.")
    steps = len(v)
    lags = steps if lags is None else lags
    if not 1 <= lags <= steps:
        raise ValueError(f"lags must be between 1 and the {steps} frames, got {lags}.")
    weights = np.ones(v.shape[1]) if masses is None else np.asarray(masses, dtype=np.float64)
    if weights.shape != (v.shape[1],):
        raise ValueError(f"masses must be {v.shape[1]} numbers, got shape {weights.shape}.")
    total = np.zeros(lags)
    size = 1 << (2 * steps - 1).bit_length()
    for atom, weight in enumerate(weights):  # one after the other, as there may be many
        spectrum = np.fft.rfft(v[:, atom], size, axis=0)
        power = (spectrum.real**2 + spectrum.imag**2).sum(-1)
        total += weight * np.fft.irfft(power, size)[:lags]
    total /= np.arange(steps, steps - lags, -1)
    return total / total[0] if total[0] > 0 else total


def vibrational_spectrum(
    velocities: NDArray, interval: float, masses: NDArray | None = None, lags: int | None = None
) -> Distribution:
    r"""Vibrational density of states: the cosine transform of the velocity autocorrelation.

    .. math::
        D(\tilde\nu) \propto \int_0^\infty C(t) \cos(2 \pi c \tilde\nu t)\, w(t)\, dt

    with the Hann window w, which ends at the last lag (Dickey and Paskin, Phys. Rev. 188, 1407
    (1969)). The resolution is about the inverse of the time of the last lag: 1 ps is 33 cm⁻¹.

    Args:
        velocities: (S, N, 3), any unit.
        interval: Between frames, fs; vibrations faster than 16678 cm⁻¹ fs by ``interval`` are seen
            at the wrong place.
        masses: (N,) u; with them each normal mode has a peak of the same area at equipartition.
        lags: Of the correlation; half the frames if None, at most those of 4 ps.

    Returns:
        Wavenumbers, cm⁻¹, from 0 on, and the density, whose integral is 1.

    Raises:
        ValueError: As :func:`velocity_autocorrelation`, or if ``interval`` is not above 0.

    Example:
        >>> times = 0.5 * np.arange(8000)
        >>> wave = np.cos(2 * np.pi * 0.05 * times)[:, None, None]  # 0.05 / fs
        >>> found = vibrational_spectrum(wave, 0.5)
        >>> round(float(found.centers[found.density.argmax()]), -1)
        1670.0
    """
    if not interval > 0:
        raise ValueError(f"interval must be above 0 fs, got {interval}.")
    if lags is None:
        lags = max(2, min(len(velocities) // 2, int(4000 / interval)))
    correlation = velocity_autocorrelation(velocities, masses, lags)
    window = 0.5 * (1 + np.cos(np.pi * np.arange(lags) / lags))
    both = np.concatenate([correlation * window, np.zeros(3 * lags)])
    # Both sides of the even function: twice the real part, less the lag 0 that it counts twice.
    density = 2 * np.fft.rfft(both).real - correlation[0]
    centers = np.fft.rfftfreq(len(both), interval) * _WAVENUMBER
    density = np.maximum(density, 0.0)
    return Distribution(centers, density / (density.sum() * centers[1]))


def radial_distribution(
    positions: NDArray,
    largest: float,
    bins: int = 200,
    *,
    cell: NDArray | None = None,
    pbc: NDArray | None = None,
    numbers: NDArray | None = None,
    pair: tuple[int, int] | None = None,
) -> Distribution:
    r"""Distances between atoms: g(r) of a periodic structure, or their density in a molecule.

    .. math::
        g(r) = \frac{V}{N_a N_b\, 4 \pi r^2} \Big\langle \sum_{i \in a} \sum_{j \in b,\, j \ne i}
        \delta(r - r_{ij}) \Big\rangle, \qquad
        n(r) = \frac{1}{N_a} \Big\langle \sum_{i \in a} \sum_{j \in b,\, j \ne i}
        \delta(r - r_{ij}) \Big\rangle

    (Allen and Tildesley, Computer Simulation of Liquids, section 2.6). g is 1 where atoms know
    nothing of each other; a structure that is not periodic in three directions has no volume and
    gets n, 1/Å, whose integral is the number of atoms b around an atom a. The volume of each shell
    is that of its bin, not of its centre.

    Args:
        positions: (S, N, 3) Å.
        largest: Å; of a crystal it may be longer than the cell.
        bins: How many.
        cell: (3, 3) Å, rows are lattice vectors.
        pbc: (3,) booleans; periodic in all directions where a cell is given and this is not.
        numbers: (N,) atomic numbers, needed with ``pair``.
        pair: Atomic numbers a and b; None: all atoms.

    Raises:
        ValueError: If ``largest`` or ``bins`` is not above 0, or the pair is not there.

    Example:
        >>> line = np.array([[[0.0, 0, 0], [1.5, 0, 0], [3.0, 0, 0]]])
        >>> n = radial_distribution(line, 4.0, 4)
        >>> [float(x) for x in n.density.round(2)]
        [0.0, 1.33, 0.0, 0.67]
    """
    if not (largest > 0 and bins > 0):
        raise ValueError(f"largest and bins must be above 0, got {largest} Å and {bins}.")
    frames = np.ascontiguousarray(positions, dtype=np.float64)
    atoms = frames.shape[1]
    is_source, is_target = np.ones((2, atoms), dtype=bool)
    if pair is not None:
        if numbers is None:
            raise ValueError("pair needs numbers, the atomic numbers of the atoms.")
        is_target, is_source = (np.asarray(numbers) == z for z in pair)
        if not (is_source.any() and is_target.any()):
            raise ValueError(f"pair must name elements of the structure, got {pair}.")
    lattice = None if cell is None else torch.as_tensor(np.array(cell, dtype=np.float64))[None]
    periodic = None
    if lattice is not None:
        periodic = torch.as_tensor(np.ones(3, bool) if pbc is None else np.array(pbc))[None]
    counts = np.zeros(bins)
    for frame in frames:
        edges, shift = neighbor_edges(torch.from_numpy(frame), largest, cell=lattice, pbc=periodic)
        source, target = edges.numpy()
        vectors = frame[source] - frame[target]
        if lattice is not None:
            vectors = vectors + shift.double().numpy() @ lattice[0].numpy()
        wanted = is_source[source] & is_target[target]
        lengths = np.linalg.norm(vectors[wanted], axis=1)
        counts += np.histogram(lengths, bins, (0.0, largest))[0]
    bounds = np.linspace(0.0, largest, bins + 1)
    density = counts / (len(frames) * is_target.sum())
    if lattice is not None and periodic is not None and bool(periodic.all()):
        volume = abs(float(torch.linalg.det(lattice[0])))
        shells = 4 / 3 * np.pi * np.diff(bounds**3)
        density = density * volume / (is_source.sum() * shells)
    else:
        density = density / np.diff(bounds)
    return Distribution(0.5 * (bounds[1:] + bounds[:-1]), density)


def nearest_neighbor_distances(positions: NDArray) -> NDArray:
    """Distance of each atom of a molecule to its nearest neighbour, (S, N) Å.

    The first quantity of Fig. 8 of Schütt et al., J. Chem. Phys. 148, 241722 (2018).

    Args:
        positions: (S, N, 3) Å, of at least two atoms.

    Example:
        >>> line = np.array([[[0.0, 0, 0], [1.5, 0, 0], [4.0, 0, 0]]])
        >>> nearest_neighbor_distances(line).tolist()
        [[1.5, 1.5, 2.5]]
    """
    return _extreme(positions, nearest=True)


def diameters(positions: NDArray) -> NDArray:
    """The largest distance between two atoms of a molecule, (S,) Å.

    The second quantity of Fig. 8 of Schütt et al., J. Chem. Phys. 148, 241722 (2018).

    Args:
        positions: (S, N, 3) Å, of at least two atoms.

    Example:
        >>> diameters(np.array([[[0.0, 0, 0], [1.5, 0, 0], [4.0, 0, 0]]])).tolist()
        [4.0]
    """
    return _extreme(positions, nearest=False).max(1)


def distribution(values: NDArray, bins: int = 100) -> Distribution:
    """A histogram from the least to the greatest value, whose integral is 1.

    Example:
        >>> distribution(np.array([0.0, 1.0, 1.0, 2.0]), 2).density.tolist()
        [0.25, 0.75]
    """
    density, bounds = np.histogram(np.ravel(values), bins, density=True)
    return Distribution(0.5 * (bounds[1:] + bounds[:-1]), density)


def temperature_statistics(kinetic: NDArray, degrees: int) -> Temperature:
    r"""Temperatures :math:`2 E_\mathrm{kin} / (f k_\mathrm B)` and how much they fluctuate.

    In the canonical distribution :math:`2 E_\mathrm{kin} / k_\mathrm B T` has the chi-squared
    distribution of f degrees of freedom, so the standard deviation is :math:`T \sqrt{2 / f}`; at
    constant energy it is smaller.

    Args:
        kinetic: Kinetic energies (S,), eV.
        degrees: Degrees of freedom, f.
    """
    temperatures = 2 * np.asarray(kinetic, dtype=np.float64) / (degrees * BOLTZMANN)
    mean = float(temperatures.mean())
    return Temperature(
        mean=mean,
        error=_block_error(temperatures),
        deviation=float(temperatures.std()),
        expected_deviation=mean * math.sqrt(2 / degrees),
    )


def energy_conservation(times: NDArray, energies: NDArray, atoms: int) -> Conservation:
    """Slope of an energy that should be constant, with its error, and what is left beside it.

    Args:
        times: (S,) ps.
        energies: (S,) eV; at constant energy the total, else that less the heat of the thermostat.
        atoms: N.

    Raises:
        ValueError: If there are fewer than 40 frames.
    """
    from pyg_schnet.simulation.stability import linear_drift

    if len(times) < 2 * _BLOCKS:
        raise ValueError(f"A slope needs at least {2 * _BLOCKS} frames, got {len(times)}.")
    slope, error, fluctuation = linear_drift(np.asarray(times), np.asarray(energies))
    scale = 1000 / atoms
    return Conservation(100 * scale * slope, 100 * scale * error, scale * fluctuation)


def _block_error(values: NDArray) -> float:
    """Standard error of a mean, from averages over blocks; NaN of too few values."""
    size = len(values) // _BLOCKS
    if not size:
        return math.nan
    blocks = values[: size * _BLOCKS].reshape(_BLOCKS, size).mean(1)
    return float(blocks.std(ddof=1)) / math.sqrt(_BLOCKS)


def _extreme(positions: NDArray, nearest: bool) -> NDArray:
    """Of each atom, the squared distance to the nearest or farthest other one, as a length."""
    frames = np.asarray(positions, dtype=np.float64)
    if frames.ndim != 3 or frames.shape[1] < 2:
        raise ValueError(
            f"positions must have shape (S, N, 3) with at least two atoms, got {frames.shape}."
        )
    found = np.empty(frames.shape[:2])
    for atom in range(frames.shape[1]):
        squares = ((frames - frames[:, atom, None]) ** 2).sum(-1)
        if nearest:
            squares[:, atom] = np.inf
        found[:, atom] = squares.min(1) if nearest else squares.max(1)
    return np.sqrt(found)
