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

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import pytest
import torch

from cagc.common.seeds import z_batch
from cagc.models import AnyGenerator, GeneratorConfig

from . import generators, peers
from .generators import GRAPHS, OURS, RIVALS, WIDTHS, Unavailable
from .harness import default_device, memory, paired, peak_memory, ratio
from .session import Session

CUDA = default_device() == "cuda"
RESOLUTIONS = (64, 256, 1024)
BATCHES = (1, 8, 32) if CUDA else (1, 4)
DTYPES = (torch.float32, torch.float16, torch.bfloat16) if CUDA else (torch.float32,)
IMPLEMENTATIONS = (*OURS, *(GRAPHS if CUDA else ()), *peers.NAMES)
KEEPS = tuple(k / 10 for k in range(1, 11))
Makers = Mapping[str, Callable[[], AnyGenerator]]


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


def published(session: Session, resolution: int, dtype: torch.dtype, widths: Mapping[str, tuple]) -> Makers:
    """Return functions that create the published generator with random weights, by its width."""

    def make(width: tuple[float, int]) -> AnyGenerator:
        config = GeneratorConfig(resolution, generators.widths(resolution, *width))
        return generators.random_generator(config, session.device, dtype)

    return {name: partial(make, width) for name, width in widths.items()}


@torch.inference_mode()
def measure(session: Session, makers: Makers, batch: int, names: Iterable[str], rounds: int) -> Measured:
    """Create every implementation of ``names`` at every width of ``makers``, and compare their images."""
    measured = Measured(session.rounds(rounds), session.device)
    for width, create in makers.items():
        generator = create()
        measured.work[width] = generators.work(generator, batch)
        weights = sum(p.nbytes for p in generator.parameters())
        z = z_batch(range(batch), generator.z_dim).to(generator.w_avg)
        expected = generators.build("reference", generator, batch, None)(z)
        for name in filter(session.wants, names):
            make = lambda name=name, g=generator: generators.build(name, g, batch, session.peers)  # noqa: E731
            own = name in peers.NAMES or name in RIVALS
            _add(measured, label(name, width), make, z, expected, 0 if own else weights)
    return measured


def candidate(session: Session, measured: Measured, name: str, width: str) -> str:
    """Return the label of a candidate, or skip the test with the reason why it did not run."""
    this = label(name, width)
    if not session.wants(name):
        pytest.skip("--only")
    if this in measured.absent:
        pytest.skip(f"{this}: {measured.absent[this]}")
    return this


def publish(session, benchmark, measured, name, width, case, dtype=torch.float32, cache="warm", of="generators"):
    """Publish the row of a candidate of benchmark ``of``, or skip the test with the reason why it did not run."""
    this, full = candidate(session, measured, name, width), label(name, "full")
    batch, resolution, times = case["batch"], case["resolution"], measured.times(cache)
    macs, moved = measured.work[width]
    seconds = median(times[this])
    figures = {"ms per image": 1e3 * seconds / batch, "images/s": batch / seconds, "image error": measured.error[this]}
    figures["peak MB"] = None if measured.peak[this] is None else measured.peak[this] / 1e6
    cut = measured.work["full"][0] / macs
    if full in times:
        figures |= {"MACs cut": cut, "speed-up": ratio(times, full, this)}
        figures["realised share"] = figures["speed-up"] / cut
    session.publish(
        benchmark, of, name, case | {"widths": width}, times, of=this, dtype=dtype,
        shape=(batch, 3, resolution, resolution), bytes=moved, macs=macs, cache=cache, figures=figures,
    )  # fmt: skip


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
    makers = published(session, resolution, dtype, WIDTHS)
    measured = session.once(key, lambda: measure(session, makers, batch, IMPLEMENTATIONS, rounds))
    case = {"resolution": resolution, "batch": batch}
    publish(session, benchmark, measured, implementation, width, case, dtype, cache)


@pytest.mark.skipif(CUDA, reason="other runtimes are compared on the CPU")
@pytest.mark.parametrize("implementation", ("grouped", "runtime", *RIVALS))
@pytest.mark.parametrize("width", ("full", "0.3"))
def test_other_runtimes(benchmark, session, width, implementation):
    if session.quick:
        pytest.skip("--quick: compiling and exporting take minutes")
    names = ("grouped", "runtime", *RIVALS)
    makers = published(session, 256, torch.float32, {name: WIDTHS[name] for name in ("full", "0.3")})
    measured = session.once("other runtimes", lambda: measure(session, makers, 1, names, 10))
    case = {"resolution": 256, "batch": 1, "beside": "other runtimes"}
    publish(session, benchmark, measured, implementation, width, case)


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
    session.publish(benchmark, "generators", "mobile-stylegan", case, times, **about, figures=figures)


@pytest.mark.parametrize("implementation", ("grouped", "runtime"))
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("resolution", (64, 256))
def test_widths(benchmark, session, resolution, keep, implementation):
    """Time widths from 10 % to 100 %, rounded to multiples of 8."""
    if session.quick and (resolution, keep) not in ((64, 0.1), (64, 1.0)):
        pytest.skip("--quick: two widths at 64 px")
    keeps = KEEPS[:: len(KEEPS) - 1] if session.quick else KEEPS
    makers = published(session, resolution, torch.float32, {f"{share}": (share, 8) for share in keeps})
    measured = session.once(("widths", resolution), lambda: measure(session, makers, 1, ("grouped", "runtime"), 7))
    case, (macs, moved) = {"resolution": resolution, "batch": 1, "keep": keep}, measured.work[f"{keep}"]
    this = candidate(session, measured, implementation, f"{keep}")
    about = {"of": this, "shape": (1, 3, resolution, resolution)}
    session.publish(benchmark, "widths", implementation, case, measured.times("warm"), **about, bytes=moved, macs=macs)
