"""The loops that copy batches together; compiled by Numba where they are used."""

TOUCHED = 64
"""Molecules whose cache lines are asked for before they are copied."""

CACHE_LINE = 64
"""Bytes."""


def measure(rows, table_ptr, edge_count, ptr):  # type: ignore[no-untyped-def]
    """Sum up atoms and edges of each batch; the place of a row that is not there, or -1."""
    for g in range(len(rows)):
        ptr[g, :, 0] = 0
        for k in range(rows.shape[1]):
            row = rows[g, k] if rows[g, k] >= 0 else rows[g, k] + len(edge_count)
            if row < 0 or row >= len(edge_count):
                return g * rows.shape[1] + k
            ptr[g, 0, k + 1] = ptr[g, 0, k] + table_ptr[row + 1] - table_ptr[row]
            ptr[g, 1, k + 1] = ptr[g, 1, k] + edge_count[row]
    return -1


def fill(rows, table_ptr, stored, table, ptr, begin, out):  # type: ignore[no-untyped-def]
    """Copy the atoms and edges of each row to their places; vectors and edges are flat.

    Forces are copied where there are any: a table without has an array of length zero.
    """
    edge_first, pairs, bits = stored
    z, pos, forces, y = table
    out_z, out_pos, out_forces, out_y, batch, edges = out
    size, has_forces = rows.shape[1], len(forces) > 0
    mask = (1 << bits) - 1
    felt, touched = 0.0, 0
    for n in range(rows.size):
        if n % TOUCHED == 0:
            # Memory answers to many requests at once, but copying would wait for one molecule
            # after the other. So each cache line is asked for first.
            for ahead in range(n, min(n + TOUCHED, rows.size)):
                g, k = ahead // size, ahead % size
                row = rows[g, k] if rows[g, k] >= 0 else rows[g, k] + len(edge_first)
                first = edge_first[row]
                last = first + ptr[g, 1, k + 1] - ptr[g, 1, k]
                for e in range(first, last, CACHE_LINE // pairs.itemsize):
                    touched |= pairs[e]
                first, last = table_ptr[row], table_ptr[row + 1]
                for i in range(first, last, CACHE_LINE // z.itemsize):
                    touched |= z[i]
                for i in range(3 * first, 3 * last, CACHE_LINE // pos.itemsize):
                    felt += pos[i]
                    if has_forces:
                        felt += forces[i]
                for t in range(0, y.shape[1], CACHE_LINE // y.itemsize):
                    felt += y[row, t]
        g, k = n // size, n % size
        row = rows[g, k] if rows[g, k] >= 0 else rows[g, k] + len(edge_first)
        for t in range(y.shape[1]):
            out_y[g, k, t] = y[row, t]
        # Slices, because indices that begin at 0 let the compiler copy several numbers at once.
        start, atoms = ptr[g, 0, k], ptr[g, 0, k + 1] - ptr[g, 0, k]
        first, place = table_ptr[row], begin[g, 0] + start
        element, out_element = z[first : first + atoms], out_z[place : place + atoms]
        graph = batch[place : place + atoms]
        for i in range(atoms):
            out_element[i] = element[i]
            graph[i] = k
        xyz = pos[3 * first : 3 * (first + atoms)]
        out_xyz = out_pos[3 * place : 3 * (place + atoms)]
        for i in range(3 * atoms):
            out_xyz[i] = xyz[i]
        if has_forces:
            xyz = forces[3 * first : 3 * (first + atoms)]
            out_xyz = out_forces[3 * place : 3 * (place + atoms)]
            for i in range(3 * atoms):
                out_xyz[i] = xyz[i]
        count = ptr[g, 1, k + 1] - ptr[g, 1, k]
        pair = pairs[edge_first[row] : edge_first[row] + count]
        place = 2 * begin[g, 1] + ptr[g, 1, k]
        source = edges[place : place + count]
        place += ptr[g, 1, size]
        target = edges[place : place + count]
        for e in range(count):
            source[e] = start + (pair[e] & mask)
            target[e] = start + (pair[e] >> bits)
    return felt + touched


def fill_shifts(rows, edge_first, shift, ptr, begin, out):  # type: ignore[no-untyped-def]
    """Copy the lattice shifts of the edges of each row to their places; both are flat."""
    size = rows.shape[1]
    for n in range(rows.size):
        g, k = n // size, n % size
        row = rows[g, k] if rows[g, k] >= 0 else rows[g, k] + len(edge_first)
        count = 3 * (ptr[g, 1, k + 1] - ptr[g, 1, k])
        here = shift[3 * edge_first[row] : 3 * edge_first[row] + count]
        place = 3 * (begin[g, 1] + ptr[g, 1, k])
        there = out[place : place + count]
        for e in range(count):
            there[e] = here[e]
