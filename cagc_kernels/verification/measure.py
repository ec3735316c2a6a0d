"""Runs one case on one backend: its error against float64, and its time against the device's measured rates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import isfinite, log, nan

import torch
from torch import Tensor

from .. import layout
from ..arguments import HALF
from ..tolerances import TOLERANCES, Tolerance, deviation
from .cases import Case, bytes_of

ORDERS = ("forward", "gradient", "second")
# Number of roundings to the dtype between operands and result, each of which adds one tolerance. Convolutions round
# x · styles, the weights and the demodulated sum; gradients, which are computed from such results, round more often.
ROUNDINGS = {
    "forward": {
        "bias_act": 1,
        "upfirdn2d": 1,
        "epilogue": 3,
        "modulated_conv2d": 4,
        "sparse_channel_conv2d": 3,
        "filtered_lrelu": 2,
    },
    "gradient": {
        "bias_act": 1,
        "upfirdn2d": 1,
        "epilogue": 6,
        "modulated_conv2d": 8,
        "sparse_channel_conv2d": 4,
        "filtered_lrelu": 4,
    },
    "second": {
        "bias_act": 2,
        "upfirdn2d": 1,
        "epilogue": 12,
        "modulated_conv2d": 12,
        "sparse_channel_conv2d": 6,
        "filtered_lrelu": 4,
    },
}
# In half precision the reference rounds at each step, the kernels once.
REFERENCE_STEPS = 6
# The rounding error of a sum of n products grows with √n: one more tolerance for each 16 of √n. Half precision is
# summed in float32, whose errors are negligible beside the last rounding.
ROOT_OF_PRODUCTS = 16
# Of n sums of rounded products the largest error grows with √(log n). The limits of half precision for the gradients of
# convolutions are those of so many elements; single roundings are bounded, whatever their number.
ELEMENTS = 4096
# A gradient consists of two convolutions, with respect to x and to the weight; its gradient of four.
CONVOLUTIONS = {"forward": 1, "gradient": 2, "second": 4}


@dataclass(frozen=True)
class Check:
    """The result of one case for one order of derivative.

    Attributes:
        op, case, backend, dtype, order: what was checked; order is "forward", "gradient" or "second".
        error, limit: largest error of an element and its limit, relative to the element plus the mean absolute value.
        milliseconds: time of the fastest of a few calls; None if the call failed.
        roof: "copy" or "matrix", whichever takes longer at the measured rate.
        share: achieved share of that rate, in [0, 1] unless data stays in a cache.
        wrong: what is wrong, in one line; None if nothing is.
    """

    op: str
    case: str
    backend: str
    dtype: str
    order: str
    error: float
    limit: float
    milliseconds: float | None = None
    roof: str | None = None
    share: float | None = None
    wrong: str | None = None


@contextmanager
def exact() -> Iterator[None]:
    """Disable TF32 inside the block, because its rounding exceeds the tolerances of float32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill the outputs of kernels with NaN inside the block, so that elements a kernel does not write are detected."""
    before = layout.allocate, layout.allocate_images
    layout.allocate = lambda *given, **more: before[0](*given, **more).fill_(nan)
    layout.allocate_images = lambda *given, **more: before[1](*given, **more).fill_(nan)
    try:
        yield
    finally:
        layout.allocate, layout.allocate_images = before


def _best_seconds(call: Callable[[], object], device: torch.device, budget: float) -> float:
    """Return the time of the fastest of 2 to 20 calls, as many as fit into ``budget`` seconds."""
    best, spent, calls = float("inf"), 0.0, 0
    while calls < 2 or (spent < budget and calls < 20):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = time.perf_counter() - start
        best, spent, calls = min(best, took), spent + took, calls + 1
    return best


@cache
def roofs(device: torch.device, dtype: torch.dtype, quick: bool) -> dict[str, float]:
    """Measure rates: "copy", bytes read and written per second, and "matrix", multiplications per second."""
    size = (512 if quick else 1024) * (4 if device.type == "cuda" else 1)
    random = torch.Generator(device).manual_seed(0)  # leaves the user's random state unchanged
    source, target = torch.zeros(2, 2**25 if quick else 2**28, dtype=torch.uint8, device=device)
    a, b = torch.randn(2, size, size, device=device, generator=random).to(dtype)
    copy = _best_seconds(lambda: target.copy_(source), device, 0.1)
    matrix = _best_seconds(lambda: a @ b, device, 0.1)
    return {"copy": 2 * source.nbytes / copy, "matrix": size**3 / matrix}


def _leaves(case: Case, operands: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: operands[name].requires_grad_() for name in case.shapes}


def _vectors(like: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return normal numbers with the shapes and dtypes of ``like``, the same in every call."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=random).to(t.device, t.dtype) for t in like]


class Run:
    """Computes the three orders of a case on given operands, and offers the calls that are timed.

    ``vectors`` are those of the gradient and of the second gradient, in the dtypes of what they are multiplied with.
    """

    def __init__(self, case: Case, backend: str, forward: Mapping[str, Tensor], operands: Mapping[str, Tensor]) -> None:
        self.case, self.backend, self.inputs = case, backend, forward
        self.operands = dict(operands)
        self.g: Tensor | None = None
        self.vectors: list[Tensor] = []

    def forward(self) -> list[Tensor]:
        with torch.no_grad():
            return [self.case.call(self.inputs, self.backend)]

    def gradient(self, g: Tensor | None = None) -> list[Tensor]:
        """Return the gradients of Σ y · g with respect to every operand; ``g`` is drawn if it is None."""
        self.leaves = list(_leaves(self.case, self.operands).values())
        self.y = self.case.call(self.operands, self.backend)
        self.g = (_vectors([self.y], 1)[0] if g is None else g).requires_grad_()
        self.first = torch.autograd.grad(
            self.y, self.leaves, self.g, create_graph=True, allow_unused=True, materialize_grads=True
        )
        return list(self.first)

    def second(self, vectors: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return the gradients of Σ gradient · vector with respect to every operand and g; None draws ``vectors``."""
        self.vectors = _vectors(self.first, 2) if vectors is None else list(vectors)
        return list(self._again())

    def _again(self) -> tuple[Tensor, ...]:
        pairs = [(t, v) for t, v in zip(self.first, self.vectors, strict=True) if t.requires_grad]
        return torch.autograd.grad(
            [t for t, _ in pairs], [*self.leaves, self.g], [v for _, v in pairs], retain_graph=True,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip

    def timed(self, order: str) -> Callable[[], object]:
        """Return the call that is timed for ``order``, after it has run."""
        if order == "gradient":
            return lambda: torch.autograd.grad(self.y, self.leaves, self.g, retain_graph=True, allow_unused=True)
        return self.forward if order == "forward" else self._again

    def bytes(self, order: str, results: Sequence[Tensor]) -> int:
        """Return the least bytes that ``order`` has to move: everything that it reads and writes, once."""
        more = {"forward": [], "gradient": [self.g], "second": [self.g, *self.vectors]}[order]
        return bytes_of(*self.inputs.values(), *results, *more)


def oracle(case: Case, dtype: torch.dtype, device: torch.device) -> dict[str, list[Tensor]]:
    """Return the results of each order by the float64 reference, from operands and vectors rounded to ``dtype``."""

    def wide(operands: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.double() if name in case.shapes else t for name, t in operands.items()}

    given = case.operands(dtype, device, gradient=True)
    run = Run(case, "reference", wide(case.operands(dtype, device)), wide(given))
    results = {"forward": run.forward()}
    (g,) = _vectors([t.to(dtype) for t in results["forward"]], 1)
    results["gradient"] = run.gradient(g.double())
    rounded = [t.to(given[name].dtype) for name, t in zip(case.shapes, run.first, strict=True)]
    results["second"] = run.second([v.double() for v in _vectors(rounded, 2)])
    return results


def verify_case(
    case: Case, backend: str, dtype: torch.dtype, device: torch.device, expected: Mapping[str, list[Tensor]],
    quick: bool,
) -> Iterator[Check]:  # fmt: skip
    """Return a check for each order, up to the first one that raises."""
    name = str(dtype).removeprefix("torch.")
    run = Run(case, backend, case.operands(dtype, device), case.operands(dtype, device, gradient=True))
    for order in ORDERS:
        roundings = ROUNDINGS[order][case.op]
        roundings *= REFERENCE_STEPS if backend == "reference" and dtype in HALF else 1
        roundings *= 1.0 if dtype in HALF else 1 + _summed(case, order) ** 0.5 / ROOT_OF_PRODUCTS
        tolerance = TOLERANCES[dtype]
        if dtype in HALF and order != "forward" and _summed(case, order):
            tolerance = _widened(tolerance, max(want.numel() for want in expected[order]))
        limit = roundings * tolerance.relative
        check = {"op": case.op, "case": case.name, "backend": backend, "dtype": name, "order": order, "limit": limit}
        try:
            with poisoned():
                results = getattr(run, order)()
            error, wrong = compare(results, expected[order], tolerance, roundings)
            moved, work = run.bytes(order, results), CONVOLUTIONS[order] * case.multiplications
            took = timing(run.timed(order), device, dtype, quick, moved, work)
        except Exception as failure:  # compilers and drivers raise many types, and each is reported
            yield Check(**check, error=nan, wrong=one_line(failure))
            return
        yield Check(**check, error=error, wrong=wrong, **took)


def _widened(tolerance: Tolerance, elements: int) -> Tolerance:
    """Return the tolerance for the largest error of ``elements`` sums."""
    wider = max(1.0, log(max(elements, 1)) / log(ELEMENTS)) ** 0.5
    return tolerance._replace(relative=wider * tolerance.relative)


def _summed(case: Case, order: str) -> int:
    """Return the length of a convolution's longest sum: over a filter or, for the weight's gradient, over pixels."""
    if "weight" not in case.shapes:
        return 0
    (n, inputs, height, width), (outputs, *_, kh, kw) = case.shapes["x"], case.shapes["weight"]
    return kh * kw * inputs if order == "forward" else max(kh * kw * max(inputs, outputs), n * height * width)


def one_line(failure: Exception) -> str:
    """Return type and message of ``failure``, shortened to one line."""
    return f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"


def timing(
    call: Callable[[], object], device: torch.device, dtype: torch.dtype, quick: bool, moved: int, work: int
) -> dict[str, float | str]:
    """Return milliseconds, roof and share of a call that moves ``moved`` bytes and multiplies ``work`` times."""
    seconds, rates = _best_seconds(call, device, 0.01 if quick else 0.2), roofs(device, dtype, quick)
    times = {"copy": moved / rates["copy"], "matrix": work / rates["matrix"]}
    roof = max(times, key=times.__getitem__)
    return {"milliseconds": 1e3 * seconds, "roof": roof, "share": times[roof] / seconds}


def compare(
    results: Sequence[Tensor], expected: Sequence[Tensor], tolerance: Tolerance, roundings: float
) -> tuple[float, str | None]:
    """Return the largest error of an element over all results, and what is wrong with them or None."""
    worst, wrong = 0.0, None
    for index, (got, want) in enumerate(zip(results, expected, strict=True)):
        if got.shape != want.shape:
            return nan, f"result {index}: got shape {list(got.shape)}, expected {list(want.shape)}"
        # Elements that are zero in both, such as those outside the chosen channels, would lower the mean.
        told = (got != 0) | (want != 0)
        found = deviation(got[told], want[told])
        if not isfinite(found.relative):
            return nan, f"result {index}: holds NaN or infinity where the reference does not"
        worst = max(worst, found.relative)
        for what, value, allowed in zip(("an element", "the mean"), found, tolerance, strict=True):
            if value > roundings * allowed and wrong is None:
                wrong = f"result {index}: {what} is off by {value:.2g}, expected at most {roundings * allowed:.2g}"
    return worst, wrong
