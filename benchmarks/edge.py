"""Times students in a headless Chromium: our WebAssembly beside onnxruntime-web, and the native program.

    npm pack onnxruntime-web && tar xzf onnxruntime-web-*.tgz
    python -m benchmarks.edge --ort package/dist && python -m benchmarks.report

All candidates take turns, round by round. A time is that of one image from z, mapping network included. The page is
isolated from others, so that both runtimes may use threads. Also measured are the pages of ``cagc export --web``: their
sizes, and how long they take until they can draw.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cagc
from cagc.common.documents import write_json
from cagc.common.seeds import z_batch
from cagc.export import export_flat, export_onnx
from cagc.export.web import PageOptions, export_web
from cagc.export.web.parts import CODE, VARIANTS
from cagc.latency.measure import machine_info
from cagc.models import Generator, GeneratorConfig

from .browser import Browser, find_browser
from .generators import random_generator, widths
from .results import RESULTS, commit, device_folder, versions

PAGES = Path(__file__).parent / "edge_pages"
WEB = Path(cagc.__file__).parent / "export" / "web"
# Candidates in the browser: program, variant, threads.
CANDIDATES = {
    "SIMD": ("cagc", "simd", 1), "relaxed SIMD": ("cagc", "relaxed", 1),
    "relaxed SIMD, 2 threads": ("cagc", "threads", 2), "onnxruntime-web": ("ort", "", 1),
    "onnxruntime-web, 2 threads": ("ort", "", 2),
}  # fmt: skip
TOLERANCE = 2  # of 255, between any two candidates


def generators() -> dict[str, Generator]:
    """The generators that are timed, by name."""
    config = GeneratorConfig(256, widths(256, 0.3, 8))
    student = cagc.load_generator("faces64-student").eval().requires_grad_(False)
    return {"embedded student, 64 px": student, "256 px, widths 0.3 by 8": random_generator(config, "cpu")}


def write_models(models: dict[str, Generator], folder: Path) -> dict[str, str]:
    """Write the files of every generator into ``folder``; return the stem of each name."""
    stems = {name: f"model{i}" for i, name in enumerate(models)}
    for name, generator in models.items():
        stem = folder / stems[name]
        export_flat(generator, stem.with_suffix(".cagc"), storage="float32")
        export_onnx(generator, stem.with_suffix(".onnx"), plain=True)
        z_batch(range(4), generator.z_dim).numpy().tofile(stem.with_suffix(".z"))
        np.array([generator.z_dim], dtype=np.uint32).tofile(stem.with_suffix(".size"))
    return stems


def write_site(folder: Path, ort: Path | None) -> None:
    """Copy the pages, our runtime and onnxruntime-web's into ``folder``."""
    for path in [*PAGES.iterdir(), WEB / "page" / "cagc.js", *(WEB / "wasm").glob("*.wasm")]:
        (folder / path.name).write_bytes(path.read_bytes())
    if ort is not None:
        (folder / "ort").symlink_to(ort.resolve())


class _Isolated(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm",
    }  # fmt: skip

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve ``folder`` on this machine, isolated from other pages; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Isolated, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def native(generator: Generator, threads: int) -> Callable[[int], list[float]]:
    """A function that times ``count`` images of the native program."""
    compiled, z = cagc.runtime.compile(generator), z_batch([0], generator.z_dim)

    def run(count: int) -> list[float]:
        torch.set_num_threads(threads)
        compiled(z)
        times = []
        for _ in range(count):
            start = time.perf_counter()
            compiled(z)
            times.append(1e3 * (time.perf_counter() - start))
        return times

    return run


def measure(browser: Browser, stem: str, generator: Generator, with_ort: bool, rounds: int, count: int) -> list[dict]:
    """Rows of one generator: the median of the candidates' medians by round, and paired ratios."""
    runs: dict[str, Callable[[int], list[float]]] = {}
    images: dict[str, np.ndarray] = {}
    memory: dict[str, int] = {}
    for name, (program, variant, threads) in CANDIDATES.items():
        if program == "ort" and not with_ort:
            continue
        request = json.dumps({"program": program, "variant": variant, "threads": threads, "model": stem})
        found = browser.evaluate(f"bench.start({json.dumps(name)}, {request})")
        images[name] = np.array(found["images"], dtype=np.int16)
        if found["memory"]:
            memory[name] = found["memory"]
        runs[name] = lambda n, name=name: browser.evaluate(f"bench.run({json.dumps(name)}, {n})")["times"]
    first, *others = images.values()
    worst = max((int(np.abs(first - other).max()) for other in others), default=0)
    if worst > TOLERANCE:
        raise SystemExit(f"{stem}: images differ by {worst} of 255, expected at most {TOLERANCE}")
    runs |= {f"native, {threads} threads": native(generator, threads) for threads in (1, 2)}
    medians: dict[str, list[float]] = {name: [] for name in runs}
    rng = random.Random(0)
    for run in runs.values():
        run(count)
    for _ in range(rounds):
        for name in rng.sample(list(runs), len(runs)):
            medians[name].append(statistics.median(runs[name](count)))
    browser.evaluate("bench.stop()")
    return [_row(name, medians) | ({"bytes": memory[name]} if name in memory else {}) for name in runs]


def _row(name: str, medians: dict[str, list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"program": name, "ms": statistics.median(medians[name]), "rounds": len(medians[name])}
    row["spread_ms"] = [min(medians[name]), max(medians[name])]
    rival = "onnxruntime-web, 2 threads" if "2 threads" in name else "onnxruntime-web"
    if rival in medians and name != rival:
        row["times_faster"] = statistics.median(b / a for a, b in zip(medians[name], medians[rival], strict=True))
    return row


def pages(browser: Browser, folder: Path) -> list[dict[str, Any]]:
    """Sizes of the pages of the embedded student, and the median time until they are ready."""
    student, teacher = (cagc.load_generator(name).eval() for name in ("faces64-student", "faces64"))
    ready = "document.getElementById('about').textContent.match(/after (\\d+) ms/)"
    waiting = f"new Promise(d => {{ const f = () => {ready} ? d(+{ready}[1]) : setTimeout(f, 5); f(); }})"
    kinds = {
        "student": (None, True), "student without its mapping network": (None, False),
        "student and teacher": (teacher, True),
    }  # fmt: skip
    rows = []
    for name, (beside, mapping) in kinds.items():
        page = export_web(student, folder / "page.html", beside, PageOptions(mapping=mapping))
        times = []
        for _ in range(5):
            browser.open(page.as_uri())
            times.append(browser.evaluate(waiting))
        rows.append({"page": name, "bytes": page.stat().st_size, "ready_ms": statistics.median(times)})
    return rows


def main() -> None:
    """Measure and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ort", type=Path, help="the folder dist of onnxruntime-web; without it our programs alone")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--images", type=int, nargs=2, default=(40, 4), help="a round, at 64 and at 256 px")
    parser.add_argument("--out", type=Path, default=RESULTS / device_folder("cpu") / "edge.json")
    options = parser.parse_args()
    if (binary := find_browser()) is None:
        raise SystemExit("edge: needs a Chromium; CAGC_CHROMIUM names one in an unusual place")
    models, result = generators(), {"generators": {}}
    with tempfile.TemporaryDirectory() as name, Browser(binary, timeout=600) as browser:
        folder = Path(name)
        write_site(folder, options.ort)
        stems = write_models(models, folder)
        with served(folder) as address:
            for (label, generator), count in zip(models.items(), options.images, strict=True):
                browser.open(address)
                browser.evaluate("new Promise(d => { const f = () => window.bench ? d() : setTimeout(f, 5); f(); })")
                rows = measure(browser, stems[label], generator, options.ort is not None, options.rounds, count)
                result["generators"][label] = rows
                for row in rows:
                    print(label, json.dumps(row))
        result["pages"] = pages(browser, folder)
        result["wasm_bytes"] = {variant: (WEB / "wasm" / f"{variant}.wasm").stat().st_size for variant in VARIANTS}
        result["code_bytes"] = sum((WEB / "page" / name).stat().st_size for name in CODE)
        browser_version = browser.call("Browser.getVersion")["product"]
    result |= {"machine": machine_info(), "versions": versions() | {"browser": browser_version}, "commit": commit()}
    if options.ort is not None:
        package = json.loads((options.ort.parent / "package.json").read_text())
        result["versions"]["onnxruntime-web"] = package["version"]
    write_json(options.out, result)
    print(options.out)


if __name__ == "__main__":
    main()
