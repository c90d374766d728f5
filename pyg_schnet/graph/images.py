"""A loop over atoms and their images, compiled by Numba: for crystals with few atoms per cell.

No structure is set up per cell, and edges come out sorted, so that nothing is left to do
afterwards. The work grows with the square of the number of atoms in a cell.
"""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from pyg_schnet.graph.layout import Edges, Molecules
from pyg_schnet.graph.proposals import completed, padded

_MARGIN = 1e-9  # of the cutoff, far above float64's rounding: what it lets in is decided strictly


def image_edges(
    molecules: Molecules, cutoff: float, lattices: tuple[Tensor, Tensor], cell: Tensor
) -> Edges:
    r"""Edges closer than ``cutoff`` between atoms and images of atoms, on the CPU.

    With :math:`f_k = (r_j - r_i) \cdot b_k` the part of a pair's vector along lattice vector
    :math:`a_k`, where :math:`b_k \cdot a_l = \delta_{kl}`, an image :math:`s` can be within
    :math:`r_c` only if

    .. math::
        |f_k + s_k| \le r_c |b_k|, \qquad k = 1, 2, 3

    because :math:`1 / |b_k|` is the distance of the lattice's planes. The first two components
    of :math:`s` run through these ranges, the third through the part of its line that lies inside
    the sphere.

    Args:
        molecules: Atoms grouped by structure.
        cutoff: Å.
        lattices: Cells (B, 3, 3), float64, and pbc (B, 3), bool, on the CPU, one for every
            number in ``molecules.graphs``.
        cell: The caller's cell, (3, 3) or (B, 3, 3), in whose rounding the edges are decided.

    Returns:
        Sorted edges, on the device of the positions.
    """
    pos = molecules.pos.cpu().contiguous()
    graphs = molecules.graphs.cpu()
    repeats = lattices[1][graphs]
    cells = completed(lattices[0][graphs], repeats)
    rounded = cell.detach().to("cpu", pos.dtype)
    rounded = rounded.expand(len(graphs), 3, 3) if rounded.dim() == 2 else rounded[graphs]
    reach = padded(cutoff, pos) + _MARGIN * cutoff
    source, target, shift, squared = _search(
        pos.numpy(),
        molecules.counts.cpu().numpy(),
        cells.contiguous().numpy(),
        repeats.contiguous().numpy(),
        rounded.contiguous().numpy(),
        reach,
        pos.numpy().dtype.type(cutoff * cutoff),
    )
    device = molecules.pos.device
    return Edges(*(torch.from_numpy(a).to(device) for a in (source, target, squared, shift)))


@njit(cache=True)
def _cross(a, b, out):  # type: ignore[no-untyped-def]
    out[0] = a[1] * b[2] - a[2] * b[1]
    out[1] = a[2] * b[0] - a[0] * b[2]
    out[2] = a[0] * b[1] - a[1] * b[0]


@njit(cache=True)
def _dot(a, b):  # type: ignore[no-untyped-def]
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True)
def _grow(array):  # type: ignore[no-untyped-def]
    larger = np.empty(2 * len(array), array.dtype)
    larger[: len(array)] = array
    return larger


@njit(cache=True)
def _grow_rows(array):  # type: ignore[no-untyped-def]
    larger = np.empty((2 * len(array), 3), array.dtype)
    larger[: len(array)] = array
    return larger


@njit(cache=True, nogil=True)
def _search(pos, counts, cells, repeats, rounded, reach, limit):  # type: ignore[no-untyped-def]
    """Sorted edges: source, target, shift, squared distance.

    ``rounded`` are the cells in the dtype of ``pos``, ``limit`` the squared cutoff in that dtype;
    the squared distance is computed in it in the order of ``layout.squared_distance``.
    """
    room = 64 * len(pos) + 64
    source = np.empty(room, np.int64)
    target = np.empty(room, np.int64)
    shift = np.empty((room, 3), np.int64)
    squared = np.empty(room, pos.dtype)
    reciprocal = np.empty((3, 3))
    extent = np.empty(3)
    edges, first = 0, 0
    for graph in range(len(counts)):
        lattice = cells[graph]
        for k in range(3):
            _cross(lattice[(k + 1) % 3], lattice[(k + 2) % 3], reciprocal[k])
            # Divided by the volume with its sign: left-handed cells are no special case.
            reciprocal[k] /= _dot(reciprocal[k], lattice[k])
            extent[k] = reach * math.sqrt(_dot(reciprocal[k], reciprocal[k]))
        ax, ay, az = lattice[0, 0], lattice[0, 1], lattice[0, 2]
        bx, by, bz = lattice[1, 0], lattice[1, 1], lattice[1, 2]
        cx, cy, cz = lattice[2, 0], lattice[2, 1], lattice[2, 2]
        cc = cx * cx + cy * cy + cz * cz
        own = rounded[graph]
        along_a, along_b, along_c = repeats[graph, 0], repeats[graph, 1], repeats[graph, 2]
        for i in range(first, first + counts[graph]):
            for j in range(first, first + counts[graph]):
                dx = np.float64(pos[j, 0]) - np.float64(pos[i, 0])
                dy = np.float64(pos[j, 1]) - np.float64(pos[i, 1])
                dz = np.float64(pos[j, 2]) - np.float64(pos[i, 2])
                fa = dx * reciprocal[0, 0] + dy * reciprocal[0, 1] + dz * reciprocal[0, 2]
                fb = dx * reciprocal[1, 0] + dy * reciprocal[1, 1] + dz * reciprocal[1, 2]
                fc = dx * reciprocal[2, 0] + dy * reciprocal[2, 1] + dz * reciprocal[2, 2]
                # From here on relative to a near image, so that nothing is lost where atoms have
                # drifted far away.
                na = -np.floor(fa + 0.5) if along_a else 0.0
                nb = -np.floor(fb + 0.5) if along_b else 0.0
                nc = -np.floor(fc + 0.5) if along_c else 0.0
                dx += na * ax + nb * bx + nc * cx
                dy += na * ay + nb * by + nc * cy
                dz += na * az + nb * bz + nc * cz
                fa += na
                fb += nb
                fc += nc
                low_a, high_a = math.ceil(-fa - extent[0]), math.floor(-fa + extent[0])
                low_b, high_b = math.ceil(-fb - extent[1]), math.floor(-fb + extent[1])
                if not along_a:
                    low_a, high_a = max(low_a, 0), min(high_a, 0)
                if not along_b:
                    low_b, high_b = max(low_b, 0), min(high_b, 0)
                for sa in range(low_a, high_a + 1):
                    for sb in range(low_b, high_b + 1):
                        x = dx + sa * ax + sb * bx
                        y = dy + sa * ay + sb * by
                        z = dz + sa * az + sb * bz
                        middle = x * cx + y * cy + z * cz
                        inside = middle * middle - cc * (x * x + y * y + z * z - reach * reach)
                        if inside < 0.0:
                            continue
                        root = math.sqrt(inside)
                        low_c = math.ceil((-middle - root) / cc - _MARGIN)
                        high_c = math.floor((-middle + root) / cc + _MARGIN)
                        if not along_c:
                            low_c, high_c = max(low_c, 0), min(high_c, 0)
                        for sc in range(low_c, high_c + 1):
                            ta, tb, tc = na + sa, nb + sb, nc + sc
                            if i == j and ta == 0 and tb == 0 and tc == 0:
                                continue
                            ra, rb, rc = pos.dtype.type(ta), pos.dtype.type(tb), pos.dtype.type(tc)
                            ex = pos[j, 0] - pos[i, 0]
                            ey = pos[j, 1] - pos[i, 1]
                            ez = pos[j, 2] - pos[i, 2]
                            ex += ra * own[0, 0] + rb * own[1, 0] + rc * own[2, 0]
                            ey += ra * own[0, 1] + rb * own[1, 1] + rc * own[2, 1]
                            ez += ra * own[0, 2] + rb * own[1, 2] + rc * own[2, 2]
                            length = ex * ex + ey * ey + ez * ez
                            if not length < limit:
                                continue
                            if edges == len(source):
                                source, target = _grow(source), _grow(target)
                                shift, squared = _grow_rows(shift), _grow(squared)
                            source[edges] = j
                            target[edges] = i
                            shift[edges, 0] = np.int64(ta)
                            shift[edges, 1] = np.int64(tb)
                            shift[edges, 2] = np.int64(tc)
                            squared[edges] = length
                            edges += 1
        first += counts[graph]
    return source[:edges], target[:edges], shift[:edges], squared[:edges]
