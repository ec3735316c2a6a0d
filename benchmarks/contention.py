"""Times programs that share the machine: ``python -m benchmarks.contention && python -m benchmarks.report``.

Two processes draw images, each with as many threads as the machine has cores: first one alone, then both at once. A
team of threads whose barriers spin may lose far more than half of its speed then, because the thread that the others
wait for may not be running. Processes that are not timed are stopped. Writes contention.json of this machine's results.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from cagc.checkpoints import save_generator
from cagc.common.documents import write_json
from cagc.latency.measure import machine_info

from .edge import generators, write_models
from .results import RESULTS, ROOT, commit, device_folder, versions

TEAMS: dict[str, tuple[str, dict[str, str]]] = {
    "C library, std::thread": ("library", {}),
    "Python module, OpenMP": ("module", {}),
    "Python module, OpenMP that spins": ("module", {"OMP_WAIT_POLICY": "active"}),
    "onnxruntime": ("onnxruntime", {}),
}
"""Program and environment of each team of threads."""


def _library(stem: Path, threads: int) -> Callable[[], object]:
    import cagc_edge

    g = cagc_edge.Generator(stem.with_suffix(".cagc"), threads=threads)
    z = cagc_edge.random_z(0, 1, g.z_dim)
    return lambda: g.synthesis(g.mapping(z))


def _module(stem: Path, threads: int) -> Callable[[], object]:
    import torch

    import cagc

    torch.set_num_threads(threads)
    compiled = cagc.runtime.compile(cagc.load_generator(stem.with_suffix(".safetensors")).eval())
    z = torch.randn(1, compiled.z_dim)
    return lambda: compiled(z)


def _onnxruntime(stem: Path, threads: int) -> Callable[[], object]:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(stem.with_suffix(".onnx")), options, ["CPUExecutionProvider"])
    z = np.zeros([1, session.get_inputs()[0].shape[1]], np.float32) + 1
    return lambda: session.run(None, {"z": z})


PROGRAMS = {"library": _library, "module": _module, "onnxruntime": _onnxruntime}


def work(program: str, stem: Path, threads: int) -> None:
    """Draw for as many seconds as each line of the input says; print the milliseconds of an image.

    The first half of the seconds is not timed, because teams adapt to what else runs.
    """
    draw = PROGRAMS[program](stem, threads)
    draw()
    print("ready", flush=True)
    for line in sys.stdin:
        _draw_for(draw, float(line) / 2)
        print(_draw_for(draw, float(line) / 2), flush=True)


def _draw_for(draw: Callable[[], object], seconds: float) -> float:
    """Return the milliseconds of an image, drawn again and again for ``seconds``."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        draw()
        count += 1
    return 1e3 * (time.perf_counter() - start) / count


class Worker:
    """A process that draws images by one program; it is stopped while it has nothing to draw.

    Threads that wait for work by spinning would otherwise take time from the processes that are timed.
    """

    def __init__(self, team: str, stem: Path, threads: int) -> None:
        program, environment = TEAMS[team]
        unset = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")
        kept = {name: value for name, value in os.environ.items() if name not in unset}
        words = [sys.executable, "-m", "benchmarks.contention", "--work", program, str(stem), str(threads)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept | environment, cwd=ROOT
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n", f"{team}: did not start"
        self.process.send_signal(signal.SIGSTOP)

    def begin(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGCONT)
        print(seconds, file=self.process.stdin, flush=True)

    def result(self) -> float:
        taken = float(self.process.stdout.readline())
        self.process.send_signal(signal.SIGSTOP)
        return taken

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def _together(workers: Sequence[Worker], seconds: float) -> float:
    for worker in workers:
        worker.begin(seconds)
    return statistics.mean(worker.result() for worker in workers)


def measure(stem: Path, threads: int, rounds: int, seconds: float) -> list[dict]:
    """Return one row for each team: milliseconds of an image alone and beside another process, and their ratio."""
    with ExitStack() as stack:
        workers: dict[str, list[Worker]] = {}
        for team, (program, _) in TEAMS.items():
            if program == "onnxruntime" and find_spec(program) is None:
                continue
            workers[team] = [Worker(team, stem, threads) for _ in range(2)]
            for worker in workers[team]:
                stack.callback(worker.close)
        times: dict[str, list[tuple[float, float]]] = {team: [] for team in workers}
        for _ in range(rounds):
            for team, pair in workers.items():
                times[team].append((_together(pair[:1], seconds), _together(pair, seconds)))
    return [
        {
            "team": team,
            "alone_ms": statistics.median(alone for alone, _ in pairs),
            "beside_ms": statistics.median(beside for _, beside in pairs),
            "slower": statistics.median(beside / alone for alone, beside in pairs),
            "spread": [pick(beside / alone for alone, beside in pairs) for pick in (min, max)],
            "rounds": rounds,
        }
        for team, pairs in times.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each drawing lasts")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each process")
    parser.add_argument("--out", type=Path, default=RESULTS / device_folder("cpu") / "contention.json")
    parser.add_argument("--work", nargs=3, metavar=("PROGRAM", "STEM", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        program, stem, threads = options.work
        return work(program, Path(stem), int(threads))
    document: dict = {"threads": options.threads, "generators": {}}
    with tempfile.TemporaryDirectory() as name:
        models = generators()
        for label, stem in write_models(models, Path(name)).items():
            save_generator(models[label], Path(name) / f"{stem}.safetensors")
            rows = measure(Path(name) / stem, options.threads, options.rounds, options.seconds)
            document["generators"][label] = rows
            for row in rows:
                print(label, json.dumps(row), flush=True)
    document |= {"machine": machine_info(), "versions": versions(), "commit": commit()}
    write_json(options.out, document)
    print(options.out)


if __name__ == "__main__":
    main()
