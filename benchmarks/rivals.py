"""Runtimes for phones and browsers, timed beside ours where they are installed: ncnn, MNN, LiteRT and ExecuTorch.

Each takes the graph of few, four-dimensional operators that ``cagc export --plain`` writes, in float32, and PyTorch's
number of threads.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cagc.common.errors import CagcError
from cagc.export import PlainGenerator, export_onnx
from cagc.models import AnyGenerator

from .peers import Unavailable

Image = Callable[[torch.Tensor], torch.Tensor]


def _installed(*modules: str) -> list[Any]:
    for module in modules:
        try:
            found = find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            raise Unavailable(f"{module} is not installed")
    return [importlib.import_module(module) for module in modules]


def _plain(generator: AnyGenerator, batch: int) -> tuple[PlainGenerator, torch.Tensor]:
    """Return the generator in plain operators, and latents to export it with."""
    if generator.w_avg.device.type != "cpu":
        raise Unavailable("timed on the CPU only")
    if batch > 1:
        raise Unavailable("timed at batch 1 only")
    try:
        return PlainGenerator(generator).eval(), torch.zeros(1, generator.z_dim)
    except CagcError as error:
        raise Unavailable(str(error)) from error


def ncnn(generator: AnyGenerator, batch: int) -> Image:
    """Draw by ncnn, whose model ``pnnx`` converts from ONNX; its 16-bit options are off."""
    module, _ = _installed("ncnn", "pnnx")
    _plain(generator, batch)
    net = module.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(generator, Path(folder) / "model.onnx", plain=True)
        convert = [sys.executable, "-c", "import sys, pnnx; sys.exit(pnnx.pnnx())", "model.onnx"]
        shape = [f"inputshape=[1,{generator.z_dim}]", "fp16=0"]
        run = subprocess.run([*convert, *shape], cwd=folder, capture_output=True, text=True)
        files = [Path(folder) / f"model.ncnn.{kind}" for kind in ("param", "bin")]
        if run.returncode or not all(file.exists() for file in files):
            raise Unavailable(f"pnnx does not convert it: {' '.join(run.stderr.split())[-160:]}")
        if net.load_param(str(files[0])) or net.load_model(str(files[1])):
            raise Unavailable("ncnn does not read what pnnx wrote")

    def draw(z: torch.Tensor) -> torch.Tensor:
        extractor = net.create_extractor()
        extractor.input("in0", module.Mat(z[0].numpy()))
        return torch.from_numpy(extractor.extract("out0")[1].numpy())[None]

    return draw


def mnn(generator: AnyGenerator, batch: int) -> Image:
    """Draw by MNN, whose converter reads ONNX; its module is loaded for float32 arithmetic.

    The compiled converter is called itself: the package ``MNN.tools`` around it installs others and reports its use.
    """
    module, _ = _installed("MNN", "_tools")
    _plain(generator, batch)
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(generator, Path(folder) / "model.onnx", plain=True)
        convert = [sys.executable, "-c", "import sys, _tools; _tools.mnnconvert(sys.argv)", "-f", "ONNX"]
        files = ["--modelFile", "model.onnx", "--MNNModel", "model.mnn", "--bizCode", "cagc"]
        run = subprocess.run([*convert, *files], cwd=folder, capture_output=True, text=True)
        model = Path(folder) / "model.mnn"
        if not model.exists():
            raise Unavailable(f"MNN does not convert it: {' '.join((run.stdout + run.stderr).split())[-160:]}")
        options = {"backend": "CPU", "precision": "high", "numThread": torch.get_num_threads()}
        manager = module.nn.create_runtime_manager((options,))
        net = module.nn.load_module_from_file(str(model), ["z"], ["image"], runtime_manager=manager)

    def draw(z: torch.Tensor) -> torch.Tensor:
        given = module.expr.placeholder(list(z.shape), module.expr.NCHW, module.expr.float)
        given.write(z.numpy())
        drawn = module.expr.convert(net.forward([given])[0], module.expr.NCHW)
        return torch.from_numpy(drawn.read().copy())

    return draw


def litert(generator: AnyGenerator, batch: int) -> Image:
    """Draw by LiteRT (TFLite) with its XNNPACK delegate."""
    interpreters, converter = _installed("ai_edge_litert.interpreter", "litert_torch")
    plain, z = _plain(generator, batch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        converter.convert(plain, (z,)).export(str(path))
        interpreter = interpreters.Interpreter(model_content=path.read_bytes(), num_threads=torch.get_num_threads())
    interpreter.allocate_tensors()
    given, drawn = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def draw(z: torch.Tensor) -> torch.Tensor:
        interpreter.set_tensor(given, z.numpy())
        interpreter.invoke()
        return torch.from_numpy(interpreter.get_tensor(drawn))

    return draw


def executorch(generator: AnyGenerator, batch: int) -> Image:
    """Draw by ExecuTorch with its XNNPACK backend, which takes all cores."""
    exir, partitioner, runtime = _installed(
        "executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch.runtime"
    )
    if torch.get_num_threads() != os.cpu_count():
        raise Unavailable("runs on all cores only")
    plain, z = _plain(generator, batch)
    lowered = exir.to_edge_transform_and_lower(
        torch.export.export(plain, (z,)), partitioner=[partitioner.XnnpackPartitioner()]
    )
    program = runtime.Runtime.get().load_program(lowered.to_executorch().buffer)
    method = program.load_method("forward")
    return lambda z: method.execute([z])[0]


MOBILE: dict[str, Callable[[AnyGenerator, int], Image]] = {
    "ncnn": ncnn,
    "mnn": mnn,
    "litert": litert,
    "executorch": executorch,
}
