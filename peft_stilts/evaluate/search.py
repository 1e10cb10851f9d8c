"""Exact nearest neighbours by cosine of two sets of vectors: both directions from one pass, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

BLOCK = 4096
"""vectors on each side of the similarities that are held at once"""

GROUP = 32
"""similarities of a row of a tile of which only the highest is compared at first"""

SPARE = 4
"""candidates kept beside the k highest float32 similarities"""

HASHED = 64
"""components of a vector that are hashed to find equal ones"""

SHORTEST = 1e-12
"""vectors shorter than this are divided by it, as torch's normalize does"""

LOWEST = torch.iinfo(torch.int64).min
"""a key below that of every similarity"""

INDEX_BITS = 32
"""low bits of a key, which hold the index"""


@torch.no_grad()
def nearest(queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """For each query (Q, H) the index (Q,) int64 of the candidate (N, H) with the highest cosine; the first of equals.

    Exact, as XTREME's L2 search over L2-normalised vectors; equal are cosines that are one float32 (`neighbours`).
    """
    with _float32_products():
        x, y = _Side(queries), _Side(candidates)
        across, _ = _candidates(x, y, 1, both=False)
        return _read(_settle(x, y, across, 1))[1][:, 0]


@torch.no_grad()
def neighbours(
    x: torch.Tensor, y: torch.Tensor, k: int = 4
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The nearest neighbours by cosine of every x (Nx, H) among y (Ny, H), and of every y among x.

    Returns cosines (Nx, min(k, Ny)) float32, falling, and indices int64 of the same shape, then both for y (Ny,
    min(k, Nx)); of equals the lower index comes first. The cosines are computed in float64 and rounded to float32, so
    that neither the tiles nor the device decide between vectors that are equally near. A vector with a NaN or an
    infinity counts as zero.

    One pass over tiles of BLOCK x BLOCK float32 similarities finds k + SPARE candidates of every vector in both
    directions, whose cosines alone are computed in float64. `error_bound` then proves that no other vector can be among
    the k nearest; where it cannot, that vector is compared with all in float64. Beside a few tiles the memory is
    (Nx + Ny) * (k + SPARE) candidates.
    """
    with _float32_products():
        x, y = _Side(x), _Side(y)
        across, down = _candidates(x, y, k, both=True)
        return *_read(_settle(x, y, across, k)), *_read(_settle(y, x, down, k))


def error_bound(width: int) -> float:
    """How far a float32 product of two unit vectors of `width` may be from their cosine, in any order of addition.

    A sum of n products is off by at most n u / (1 - n u) times the sum of their absolute values (Higham, Accuracy and
    Stability of Numerical Algorithms, section 3.1), which is at most 1 here; u = 2^-24. Rounding both vectors (scale
    and product) adds 4 u; four more cover terms of second order, float64's own error and underflow.
    """
    rounding = (width + 8) * 2.0**-24
    return rounding / (1 - rounding)


class _Side:
    """The D different vectors of one side; rows are theirs, in the order of their first occurrence.

    Equal vectors are searched for once, so that many of them cannot all be candidates. `first` (D,) int64: the index
    of each row's first occurrence; `classes` (N,) int64: the row of each vector; None where no two are equal.
    """

    def __init__(self, vectors: torch.Tensor):
        self.vectors, self.device, self.width = vectors, vectors.device, vectors.shape[1]
        self.step = max(1, (1 << (24 if vectors.is_cuda else 18)) // max(1, self.width))    # the CPU's: in its cache
        norms = torch.empty(len(vectors), dtype=torch.float64, device=self.device)
        for rows in _slices(len(vectors), self.step):
            norms[rows] = torch.linalg.vector_norm(vectors[rows].double(), dim=1)
        if not norms.isfinite().all():
            self.vectors = torch.where(norms.isfinite()[:, None], vectors, 0.0)
            norms = torch.where(norms.isfinite(), norms, 0.0)
        self.first, self.classes = self._distinct()
        self.scale = 1 / norms[self.whose(slice(None))].clamp(min=SHORTEST)
        # A scale that float32 cannot hold precisely is applied in float64.
        single = vectors.dtype != torch.float64 and bool((self.scale > 1e-37).all())
        self.work = torch.float32 if single else torch.float64

    def __len__(self) -> int:
        return len(self.scale)

    def whose(self, rows: slice | torch.Tensor) -> slice | torch.Tensor:
        """The indices, in all vectors, of some rows."""
        return rows if self.first is None else self.first[rows]

    def raw(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """Some rows as they were given."""
        return self.vectors[self.whose(rows)]

    def units(self, rows: slice | torch.Tensor, work: torch.dtype = torch.float64) -> torch.Tensor:
        """Unit vectors of some rows, computed in `work`."""
        return self.raw(rows).to(work) * self.scale[rows, None].to(work)

    def _distinct(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """`first` and `classes`: vectors of one hash are compared with the first of them."""
        count, size = len(self.vectors), self.vectors.element_size()
        whole = torch.int16 if size == 2 else torch.int32
        hashed = self.vectors[:, :HASHED]
        parts = hashed.shape[1] * size // whole.itemsize
        factors = torch.randint(-2**63, 2**63 - 1, (parts,), generator=torch.Generator().manual_seed(1)).to(self.device)
        codes = torch.empty(count, dtype=torch.int64, device=self.device)
        for rows in _slices(count, self.step):
            bits = (hashed[rows] + 0.0).contiguous().view(whole)                    # + 0.0: -0.0 becomes 0.0
            codes[rows] = bits.long().mul_(factors).sum(dim=1)
        different, inverse = codes.unique(return_inverse=True)
        if len(different) == count:
            return None, None
        own = torch.arange(count, device=self.device)
        first = torch.full_like(different, count).scatter_reduce_(0, inverse, own, "amin")[inverse]
        again = (first < own).nonzero()[:, 0]
        for part in _slices(len(again), self.step):
            some = again[part]
            unequal = some[(self.vectors[some] != self.vectors[first[some]]).any(dim=1)]
            first[unequal] = unequal                        # two vectors share a hash
        return (first == own).nonzero()[:, 0], ((first == own).cumsum(0) - 1)[first]


class _Best:
    """The `count` highest float32 similarities of each of `lines` vectors so far, falling, and whose they are."""

    def __init__(self, lines: int, count: int, device: torch.device):
        self.values = torch.full((lines, count), -torch.inf, device=device)
        self.places = torch.zeros(lines, count, dtype=torch.int64, device=device)

    def take(self, lines: slice, tile: torch.Tensor, maxima: torch.Tensor, start: int) -> None:
        """Take in similarities (lines, M, GROUP) with the vectors `start`, `start` + 1, ... (M * GROUP).

        `maxima` (lines, M): the highest of each group; only groups where it is high enough are read, because the
        `count` highest values of a line lie in the `count` groups of the highest maxima.
        """
        best, places = self.values[lines], self.places[lines]
        count = best.shape[1]
        floor = best[:, -1].nextafter(best.new_tensor(torch.inf))               # higher than the lowest kept
        high = maxima >= floor[:, None]
        if int(high.sum()) > high.shape[0] * count:                             # in the first tile
            top = maxima.topk(count, dim=1)
            floor = torch.maximum(floor, top.values[:, -1])
            high = torch.zeros_like(high).scatter_(1, top.indices, top.values >= floor[:, None])
        line, group = high.nonzero(as_tuple=True)
        values = tile[line, group]
        part, member = (values >= floor[line, None]).nonzero(as_tuple=True)
        line, found, values = line[part], start + group[part] * GROUP + member, values[part, member]
        counts = line.bincount(minlength=len(best))
        changed = counts.nonzero()[:, 0]
        if not len(changed):
            return
        slot = count + torch.arange(len(line), device=line.device) - (counts.cumsum(0) - counts)[line]
        row = ((counts > 0).cumsum(0) - 1)[line]
        wide = best.new_full((len(changed), count + int(counts.max())), -torch.inf)
        whose = places.new_zeros(wide.shape)
        wide[:, :count], whose[:, :count] = best[changed], places[changed]
        wide[row, slot], whose[row, slot] = values, found
        top = wide.topk(count, dim=1)
        best[changed], places[changed] = top.values, whose.gather(1, top.indices)


def _candidates(x: _Side, y: _Side, k: int, both: bool) -> tuple[_Best, _Best]:
    """The candidates of every x among y and, with `both`, of every y among x: one product of float32 unit vectors."""
    across = _Best(len(x), min(k + SPARE, len(y)), x.device)
    down = _Best(len(y) if both else 0, min(k + SPARE, len(x)), x.device)
    tile = torch.empty([_padded(min(BLOCK, len(side))) for side in (x, y)], device=x.device)
    for rows in _slices(len(x), BLOCK):
        left = x.units(rows, x.work).float()
        for columns in _slices(len(y), BLOCK):
            right = y.units(columns, y.work).float()
            r, c = len(left), len(right)
            tile[r:_padded(r)] = tile[:, c:_padded(c)] = -torch.inf             # groups are whole
            torch.mm(left, right.T, out=tile[:r, :c])
            whole = tile[:r, :_padded(c)].unflatten(1, (-1, GROUP))
            across.take(rows, whole, whole.amax(dim=2), columns.start)
            if both:
                whole = tile[:_padded(r), :c].unflatten(0, (-1, GROUP))
                down.take(columns, whole.permute(2, 0, 1), whole.amax(dim=1).T.contiguous(), rows.start)
    return across, down


def _settle(x: _Side, y: _Side, best: _Best, k: int) -> torch.Tensor:
    """Keys (Nx, min(k, Ny)) of the nearest neighbours, falling, from the candidates of each different x."""
    kept = min(k, len(y))
    values = best.values.double()
    cosines = torch.full_like(best.values, -torch.inf)
    cosines[:, :kept] = _cosines(x, y, None, best.places[:, :kept])
    # Where two values differ by more than twice the error and a float32's rounding, so do the cosines in their order.
    error = error_bound(x.width)
    close = (values[:, kept:] >= values[:, kept - 1:kept] - 2 * error - 2.0**-23).nonzero()
    lines, places = close[:, 0], close[:, 1] + kept
    cosines[lines, places] = _cosines(x, y, lines, best.places[lines, places, None])[:, 0]
    keys = _keys(cosines, best.places).topk(kept, dim=1).values
    if kept and values.shape[1] < len(y):
        highest = (values[:, -1] + error).float()           # what any other vector's cosine can be
        unsure = (_read(keys[:, -1])[0] <= highest).nonzero()[:, 0]
        for part in _slices(len(unsure), max(1, BLOCK // 4)):
            keys[unsure[part]] = _exhaustive(x, y, unsure[part], kept)
    return _unfolded(x, y, keys, k)


def _cosines(x: _Side, y: _Side, rows: torch.Tensor | None, places: torch.Tensor) -> torch.Tensor:
    """Cosines (n, w) float32 of x `rows` (n,), None for all, with y rows `places` (n, w), computed in float64."""
    found = torch.empty(places.shape, device=x.device)
    count, wide = places.shape
    step = max(1, min(count, x.step // max(1, wide)))
    picked = torch.empty(step * wide, y.width, dtype=y.vectors.dtype, device=y.device)
    products = torch.empty_like(picked, dtype=torch.float64)
    for part in _slices(count, step):
        some = part if rows is None else rows[part]
        left, size = x.raw(some).double(), places[part].numel()
        torch.index_select(y.vectors, 0, y.whose(places[part].flatten()), out=picked[:size])
        right = products[:size].copy_(picked[:size]).view(len(left), wide, y.width)
        scale = x.scale[some, None] * y.scale[places[part]]
        found[part] = right.mul_(left[:, None]).sum(dim=2) * scale
    return found


def _exhaustive(x: _Side, y: _Side, rows: torch.Tensor, k: int) -> torch.Tensor:
    """Keys (n, k) of the k nearest of all y of the x `rows` (n,), in float64."""
    left = x.units(rows)
    keys = torch.full((len(rows), k), LOWEST, device=x.device)
    for columns in _slices(len(y), BLOCK):
        tile = (left @ y.units(columns).T).float()
        own = _keys(tile, torch.arange(columns.start, columns.stop, device=x.device))
        keys = torch.cat([keys, own.topk(min(k, own.shape[1]), dim=1).values], dim=1).topk(k, dim=1).values
    return keys


def _unfolded(x: _Side, y: _Side, keys: torch.Tensor, k: int) -> torch.Tensor:
    """Keys of all vectors (Nx, min(k, Ny)) from those of the different ones (Dx, min(k, Dy)).

    The k nearest vectors are among the first k of each of the k nearest different ones: any other stands behind k first
    occurrences.
    """
    if y.classes is not None:
        order, sizes = y.classes.argsort(stable=True), y.classes.bincount()
        starts, nth = sizes.cumsum(0) - sizes, torch.arange(k, device=y.device)
        found = keys.new_empty(len(keys), min(k, len(order)))
        for part in _slices(len(keys), BLOCK):
            cosines, different = (read[:, :, None] for read in _read(keys[part]))
            places = order[(starts[different] + nth).clamp(max=len(order) - 1)]
            members = torch.where(nth < sizes[different], _keys(cosines, places), LOWEST)
            found[part] = members.flatten(1).topk(found.shape[1], dim=1).values
        keys = found
    return keys if x.classes is None else keys[x.classes]


def _keys(cosines: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """One int64 for each cosine float32 and place: it orders by cosine and, of equal ones, by lower place first."""
    bits = (cosines + 0.0).contiguous().view(torch.int32)               # + 0.0: -0.0 becomes 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()     # the bits of negative floats order backwards
    return (ordered << INDEX_BITS) | ((1 << INDEX_BITS) - 1 - places)


def _read(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cosines float32 and the places int64 that keys stand for."""
    ordered = (keys >> INDEX_BITS).int()
    lowest = (1 << INDEX_BITS) - 1
    return torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).view(torch.float32), lowest - (keys & lowest)


def _slices(count: int, step: int) -> Iterator[slice]:
    """The slices of `step` that cover `count`, the last one cut."""
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def _padded(count: int) -> int:
    """The next multiple of GROUP."""
    return -(-count // GROUP) * GROUP


@contextmanager
def _float32_products() -> Iterator[None]:
    """Products of float32 are float32's own, even where TF32 or bfloat16 were allowed for them (autocast does not touch
    products with `out`)."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):           # torch 2.9 and later
        backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
        before = [backend.fp32_precision for backend in backends]

        def allow(precisions: list[str]) -> None:
            for backend, precision in zip(backends, precisions):
                backend.fp32_precision = precision

        exact = ["ieee", "ieee"]
    else:
        before, exact, allow = torch.get_float32_matmul_precision(), "highest", torch.set_float32_matmul_precision
    allow(exact)
    try:
        yield
    finally:
        allow(before)
