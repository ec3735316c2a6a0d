"""Times whole images of full and pruned generators.

``pytest benchmarks/bench_generators.py`` draws with the published generators (random weights) at full width, with the
paper's 0.3 of every layer, and with that rounded up to multiples of 8. The ways to run them are ``grouped`` (modulated
weights and grouped convolutions, as in the public code bases), ``reference`` (plain PyTorch), ``native`` (eager),
``runtime`` (compiled), each eager way under a CUDA graph on a GPU, torch.compile, onnxruntime and OpenVINO, and, with
``--peers DIR``, the public code itself. All candidates of a resolution and batch are timed in turns in the same rounds.
Before that, each must draw the reference's image to 1e-4 of its largest value. A timed image follows an untimed one of
the same generator ("warm"). Single images are also timed with caches flushed before each ("cold"), as after other work.

The **realised share** of a row is its speed-up over the full generator, run the same way in the same rounds, divided by
the MAC cut; the "ratios" of a row hold its speed-up over every other candidate of those rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import pytest
import torch

from cagc.common.seeds import z_batch
from cagc.models import GeneratorConfig

from . import generators, peers
from .generators import GRAPHS, OURS, RIVALS, WIDTHS, Unavailable
from .harness import default_device, memory, paired, peak_memory, ratio
from .results import make_row
from .session import Session

CUDA = default_device() == "cuda"
RESOLUTIONS = (64, 256, 1024)
BATCHES = (1, 8, 32) if CUDA else (1, 4)
DTYPES = (torch.float32, torch.float16, torch.bfloat16) if CUDA else (torch.float32,)
IMPLEMENTATIONS = (*OURS, *(GRAPHS if CUDA else ()), *peers.NAMES)
KEEPS = tuple(k / 10 for k in range(1, 11))


@dataclass
class Measured:
    """The candidates of one resolution, batch and dtype, by "implementation, widths".

    Attributes:
        rounds: timed rounds.
        device: device of the candidates.
        calls: functions that draw the images.
        peak: peak memory in bytes, None if unknown.
        error: largest difference from the reference's image, relative to its largest value.
        work: (MACs, bytes) by widths.
        absent: reasons why other candidates do not run.
    """

    rounds: int
    device: str
    calls: dict[str, Callable[[], object]] = field(default_factory=dict)
    peak: dict[str, int | None] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)
    work: dict[str, tuple[int, int]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    _times: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    @torch.inference_mode()
    def times(self, cache: str) -> dict[str, list[float]]:
        """Return the seconds of each candidate, timed in turns, with "warm" or "cold" caches; measured once."""
        if cache not in self._times:
            cold = cache == "cold"
            self._times[cache] = paired(self.calls, self.rounds, 1, cold, self.device, steady=not cold)
        return self._times[cache]


def label(implementation: str, width: str) -> str:
    return f"{implementation}, {width}"


def _add(measured: Measured, name: str, make: Callable, z: torch.Tensor, expected: torch.Tensor, shared: int) -> None:
    """Create a candidate, compare its image, and measure its peak memory, plus ``shared`` bytes of shared weights."""
    try:
        before = memory(z.device.type)
        image = make()
        measured.error[name] = generators.check_images(image(z), expected)
        peak = peak_memory(lambda: image(z), z.device.type)
        measured.peak[name] = None if peak is None else max(0, peak - before) + shared
        measured.calls[name] = lambda: image(z)
    except Unavailable as reason:
        measured.absent[name] = str(reason)
    except torch.OutOfMemoryError:
        measured.absent[name] = "out of memory"
        torch.cuda.empty_cache()


@torch.inference_mode()
def measure(
    session: Session,
    resolution: int,
    batch: int,
    dtype: torch.dtype,
    names: tuple[str, ...],
    rounds: int,
    widths: tuple[str, ...] = tuple(WIDTHS),
) -> Measured:
    """Create every implementation of ``names`` at every width, and compare their images."""
    measured = Measured(session.rounds(rounds), session.device)
    for width in widths:
        config = GeneratorConfig(resolution, generators.widths(resolution, *WIDTHS[width]))
        generator = generators.random_generator(config, session.device, dtype)
        measured.work[width] = generators.work(generator, batch)
        weights = sum(p.nbytes for p in generator.parameters())
        z = z_batch(range(batch), config.z_dim).to(session.device, dtype)
        expected = generators.build("reference", generator, batch, None)(z)
        for name in filter(session.wants, names):
            make = lambda name=name, g=generator: generators.build(name, g, batch, session.peers)  # noqa: E731
            own = name in peers.NAMES or name in RIVALS
            _add(measured, label(name, width), make, z, expected, 0 if own else weights)
    return measured


def publish(session, benchmark, measured: Measured, name: str, width: str, case: dict, dtype, cache="warm") -> None:
    """Publish the row of a candidate, or skip the test with the reason why it did not run."""
    this, full = label(name, width), label(name, "full")
    if not session.wants(name):
        pytest.skip("--only")
    if this in measured.absent:
        pytest.skip(f"{this}: {measured.absent[this]}")
    batch, resolution, times = case["batch"], case["resolution"], measured.times(cache)
    macs, moved = measured.work[width]
    seconds = median(times[this])
    figures = {"ms per image": 1e3 * seconds / batch, "images/s": batch / seconds, "image error": measured.error[this]}
    figures["peak MB"] = None if measured.peak[this] is None else measured.peak[this] / 1e6
    cut = measured.work["full"][0] / macs
    if full in times:
        figures |= {"MACs cut": cut, "speed-up": ratio(times, full, this)}
        figures["realised share"] = figures["speed-up"] / cut
    row = make_row(
        "generators", name, case | {"widths": width}, times, session.device, of=this, dtype=dtype,
        shape=(batch, 3, resolution, resolution), bytes=moved, macs=macs, cache=cache, figures=figures,
    )  # fmt: skip
    session.publish(benchmark, row, times[this])


def rounds_for(resolution: int, batch: int) -> int:
    """Return the number of rounds that fits into a few minutes on two cores; more on a GPU."""
    return 30 if CUDA else {64: 20, 256: 10, 1024: 5}[resolution] // (1 if batch == 1 else 2)


# The upper parameters vary first, so that the cases of one measurement follow each other.
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("cache", ("warm", "cold"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_generator(benchmark, session, resolution, batch, cache, width, implementation, dtype):
    if session.quick and (resolution, batch) != (64, 1):
        pytest.skip("--quick: 64 px, batch 1")
    if cache == "cold" and (batch > 1 or resolution > 256):
        pytest.skip("cold caches: single images, up to 256 px")
    rounds = rounds_for(resolution, batch)
    key = ("generators", resolution, batch, dtype)
    measured = session.once(key, lambda: measure(session, resolution, batch, dtype, IMPLEMENTATIONS, rounds))
    case = {"resolution": resolution, "batch": batch}
    publish(session, benchmark, measured, implementation, width, case, dtype, cache)


@pytest.mark.skipif(CUDA, reason="other runtimes are compared on the CPU")
@pytest.mark.parametrize("implementation", ("grouped", "runtime", *RIVALS))
@pytest.mark.parametrize("width", ("full", "0.3"))
def test_other_runtimes(benchmark, session, width, implementation):
    if session.quick:
        pytest.skip("--quick: compiling and exporting take minutes")
    names = ("grouped", "runtime", *RIVALS)
    measure_all = lambda: measure(session, 256, 1, torch.float32, names, 10, ("full", "0.3"))  # noqa: E731
    measured = session.once("other runtimes", measure_all)
    case = {"resolution": 256, "batch": 1, "beside": "other runtimes"}
    publish(session, benchmark, measured, implementation, width, case, torch.float32)


@pytest.mark.skipif(CUDA, reason="OpenVINO is timed on the CPU")
def test_mobile_stylegan(benchmark, session):
    """Time MobileStyleGAN at 1024 px beside our student of the same resolution."""
    if session.quick:
        pytest.skip("--quick: 64 px only")
    try:
        call, resolution, (macs, moved) = generators.mobile_stylegan()
    except Unavailable as reason:
        pytest.skip(str(reason))
    config = GeneratorConfig(resolution, generators.widths(resolution, *WIDTHS["0.3 by 8"]))
    student, z = generators.random_generator(config, "cpu"), z_batch(range(1), config.z_dim)
    image = generators.build("runtime", student, 1, None)
    calls = {"mobile-stylegan": call, label("runtime", "0.3 by 8"): lambda: image(z)}
    with torch.inference_mode():
        times = paired(calls, session.rounds(10), warmup=1, steady=True)
    case = {"resolution": resolution, "batch": 1, "widths": "its own"}
    figures = {"ms per image": 1e3 * median(times["mobile-stylegan"])}
    about = {"shape": (1, 3, resolution, resolution), "bytes": moved, "macs": macs}
    row = make_row("generators", "mobile-stylegan", case, times, "cpu", **about, figures=figures)
    session.publish(benchmark, row, times["mobile-stylegan"])


@torch.inference_mode()
def sweep(session: Session, resolution: int, rounds: int) -> tuple[dict[str, list[float]], dict[float, tuple]]:
    """Return the times of each width from 10 % to 100 %, and the (MACs, bytes) of each."""
    calls, work = {}, {}
    for keep in KEEPS[:: len(KEEPS) - 1] if session.quick else KEEPS:
        config = GeneratorConfig(resolution, generators.widths(resolution, keep, 8))
        generator = generators.random_generator(config, session.device)
        z = z_batch(range(1), config.z_dim).to(session.device)
        work[keep] = generators.work(generator)
        for name in ("grouped", "runtime"):
            image = generators.build(name, generator, 1, None)
            calls[label(name, f"{keep}")] = lambda image=image, z=z: image(z)
    return paired(calls, session.rounds(rounds), warmup=1, device=session.device, steady=True), work


@pytest.mark.parametrize("implementation", ("grouped", "runtime"))
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("resolution", (64, 256))
def test_widths(benchmark, session, resolution, keep, implementation):
    """Time widths from 10 % to 100 %, rounded to multiples of 8."""
    if session.quick and (resolution, keep) not in ((64, 0.1), (64, 1.0)):
        pytest.skip("--quick: two widths at 64 px")
    times, work = session.once(("widths", resolution), lambda: sweep(session, resolution, 7))
    name = label(implementation, f"{keep}")
    case = {"resolution": resolution, "batch": 1, "keep": keep}
    (macs, moved), shape = work[keep], (1, 3, resolution, resolution)
    row = make_row("widths", implementation, case, times, session.device, of=name, shape=shape, bytes=moved, macs=macs)
    session.publish(benchmark, row, times[name])
