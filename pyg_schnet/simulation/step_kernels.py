"""Compiled steps of molecular dynamics: velocity Verlet, BAOAB, a Nosé-Hoover chain.

Rows of atoms of several replicas follow each other; replica r has those from ``first[r]`` to
``first[r + 1]``. No sum goes over replicas, so each moves as it would alone.
"""

import math

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from pyg_schnet.ops.backends.cpu.engine import STATUS

NONE, LANGEVIN, NOSE_HOOVER = 0, 1, 2
DONE, OUTDATED, EXPLODED = 0, 1, 2

# Fourth-order splitting: Yoshida, Phys. Lett. A 150, 262 (1990).
_CUBE = 2 ** (1 / 3)
_YOSHIDA = (1 / (2 - _CUBE), -_CUBE / (2 - _CUBE), 1 / (2 - _CUBE))


@intrinsic
def _call(typingctx, function, arguments):  # type: ignore[no-untyped-def]
    """Call the function at an address with one address."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [word])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _call_parallel(typingctx, parallel, function, arguments, threads):  # type: ignore[no-untyped-def]
    """Call the function at an address on some threads, by ``GOMP_parallel``."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        word, short = ir.IntType(64), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [word, word, short, short])
        count = builder.trunc(args[3], short)
        pointer = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(pointer, [args[1], args[2], count, ir.Constant(short, 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


@njit(cache=True)
def _kinetic(mom, mass, low, high):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(low, high):
        square = mom[i, 0] * mom[i, 0] + mom[i, 1] * mom[i, 1] + mom[i, 2] * mom[i, 2]
        total += square / mass[i]
    return 0.5 * total


@njit(cache=True)
def _kick_link(link, speed, inertia, twice_kinetic, degrees, kt, h):  # type: ignore[no-untyped-def]
    if link == 0:
        surplus = twice_kinetic - degrees * kt
    else:
        surplus = inertia[link - 1] * speed[link - 1] ** 2 - kt
    drag = math.exp(-h / 4 * speed[link + 1]) if link < 2 else 1.0
    speed[link] = drag * (drag * speed[link] + h / 2 * surplus / inertia[link])


@njit(cache=True)
def _chain(mom, mass, low, high, duration, degrees, kt, inertia, speed, place):  # type: ignore[no-untyped-def]
    """The chain alone for ``duration``; returns the heat that it gives."""
    before = _kinetic(mom, mass, low, high)
    twice_kinetic, scale = 2 * before, 1.0
    for weight in _YOSHIDA:
        h = weight * duration
        for link in (2, 1, 0):
            _kick_link(link, speed, inertia, twice_kinetic, degrees, kt, h)
        for link in range(3):
            place[link] += h * speed[link]
        slowed = math.exp(-h * speed[0])
        scale *= slowed
        twice_kinetic *= slowed**2
        for link in (0, 1, 2):
            _kick_link(link, speed, inertia, twice_kinetic, degrees, kt, h)
    for i in range(low, high):
        for k in range(3):
            mom[i, k] *= scale
    return before * (scale * scale - 1)


@njit(cache=True)
def begin_step(kind, duration, pos, mom, forces, mass, first, kt, kept, noise, heat, thermal):  # type: ignore[no-untyped-def]
    """Up to the new positions: ``mom``, ``pos``, ``heat`` and the chain change.

    ``kept`` is exp(-duration friction); ``noise`` (N, 3) standard normal numbers; ``thermal`` the
    degrees of freedom (R,), and inertia, velocity and position (R, 3) of the chains.
    """
    degrees, inertia, speed, place = thermal
    half = 0.5 * duration
    for r in range(len(first) - 1):
        low, high = first[r], first[r + 1]
        if kind == NOSE_HOOVER:
            heat[r] += _chain(
                mom, mass, low, high, half, degrees[r], kt, inertia[r], speed[r], place[r]
            )
        given = 0.0
        for i in range(low, high):
            width = math.sqrt((1.0 - kept * kept) * mass[i] * kt)
            for k in range(3):
                p = mom[i, k] + half * forces[i, k]
                if kind == LANGEVIN:
                    x = pos[i, k] + half * p / mass[i]
                    q = kept * p + width * noise[i, k]
                    given += (q * q - p * p) / mass[i]
                    mom[i, k] = q
                    pos[i, k] = x + half * q / mass[i]
                else:
                    mom[i, k] = p
                    pos[i, k] += duration * p / mass[i]
        if kind == LANGEVIN:
            heat[r] += 0.5 * given


@njit(cache=True)
def end_step(kind, duration, mom, forces, mass, first, kt, heat, thermal, kinetic):  # type: ignore[no-untyped-def]
    """From the new forces on; ``kinetic`` (R,) is filled in."""
    degrees, inertia, speed, place = thermal
    half = 0.5 * duration
    for r in range(len(first) - 1):
        low, high = first[r], first[r + 1]
        for i in range(low, high):
            for k in range(3):
                mom[i, k] += half * forces[i, k]
        if kind == NOSE_HOOVER:
            heat[r] += _chain(
                mom, mass, low, high, half, degrees[r], kt, inertia[r], speed[r], place[r]
            )
        kinetic[r] = _kinetic(mom, mass, low, high)


@njit(cache=True)
def sound(energy, kinetic, limit):  # type: ignore[no-untyped-def]
    """The first replica whose energy is no number or which is too hot; -1 if there is none."""
    for r in range(len(kinetic)):
        if not (math.isfinite(energy[r]) and kinetic[r] <= limit[r]):
            return r
    return -1


# fmt: off
@njit(cache=True)
def propagate(  # type: ignore[no-untyped-def]
    engine, parallel, threads, address, args, counters,
    inside, kind, duration, pos, mom, forces, energy, mass, first, kt, kept, noise, heat, thermal,
    limit, potential, kinetic,
):
    # fmt: on
    """Steps by a frozen potential, one for each row of ``potential`` (S, R) and ``kinetic``.

    Returns:
        Whole steps taken, and DONE; OUTDATED where the list of edges does not serve the positions
        of the next step, which the caller evaluates before going on with ``inside``; or EXPLODED.
    """
    for step in range(len(potential)):
        if not (inside and step == 0):
            begin_step(
                kind, duration, pos, mom, forces, mass, first, kt, kept, noise[step], heat, thermal
            )
            for k in range(len(counters)):
                counters[k] = 0
            args[STATUS] = 0
            if threads > 1:
                _call_parallel(parallel, engine, address, threads)
            else:
                _call(engine, address)
            if args[STATUS] != 0:
                return step, OUTDATED
        end_step(kind, duration, mom, forces, mass, first, kt, heat, thermal, kinetic[step])
        for r in range(len(energy)):
            potential[step, r] = energy[r]
        if sound(energy, kinetic[step], limit) >= 0:
            return step, EXPLODED
    return len(potential), DONE
