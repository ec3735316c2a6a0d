"""The ways to run a generator that are compared, each as a function z → image with the stored noise maps."""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from cagc import runtime
from cagc.common.errors import CagcError
from cagc.export import export_onnx
from cagc.latency.work import layer_work
from cagc.models import AnyGenerator, Generator, GeneratorConfig
from cagc.pruning.budget import removed_channels
from cagc.runtime.graph import capture
from cagc_kernels import use_backend

from . import peers
from .grouped import grouped_synthesis
from .peers import Unavailable
from .rivals import MOBILE

Image = Callable[[torch.Tensor], torch.Tensor]

# Pruned widths: share kept of each layer, and the multiple that it is rounded up to. The paper removes int(0.7 C) of C.
WIDTHS = {"full": (1.0, 1), "0.3": (0.3, 1), "0.3 by 8": (0.3, 8)}
# Largest error of images against the reference's, relative to their largest value; wider for half precision.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}


def widths(resolution: int, keep: float, round_to: int = 1) -> dict[str, int]:
    """Return the published generator's widths with a share ``keep`` of every layer, rounded up to ``round_to``."""
    full = GeneratorConfig.uniform(resolution).channels
    kept = {name: c - removed_channels(c, round(1 - keep, 12)) for name, c in full.items()}
    return {name: min(full[name], -(-c // round_to) * round_to) for name, c in kept.items()}


def random_generator(config: GeneratorConfig, device: str, dtype: torch.dtype = torch.float32) -> Generator:
    """Create a generator with random weights, biases and noise strengths, which is as fast as a trained one."""
    torch.manual_seed(0)
    generator = Generator(config).eval().requires_grad_(False)
    for layer in (generator.get_submodule(spec.module) for spec in config.layers() if spec.kind != "const"):
        for parameter in (layer.bias, getattr(layer, "noise_strength", None)):
            if parameter is not None:
                parameter.normal_(std=0.1)
    return generator.to(device, dtype)


def work(generator: AnyGenerator, batch: int = 1) -> tuple[int, int]:
    """Return (MACs, bytes) of ``batch`` images: activations are read and written once, weights read once."""
    macs, moved = zip(*layer_work(generator, batch).values(), strict=True)
    return sum(macs), sum(moved)


def _eager(generator: Generator, batch: int, backend: str | None = None) -> Image:
    def draw(z: torch.Tensor) -> torch.Tensor:
        with use_backend(backend) if backend else nullcontext():
            return generator(z, noise="const")

    return draw


def _replayed(make: Callable[[Generator, int], Image], generator: Generator, batch: int) -> Image:
    """Capture ``make``'s function in a CUDA graph, whose input is copied into place before each replay."""
    if generator.w_avg.device.type != "cuda":
        raise Unavailable("CUDA graphs need a CUDA device")
    z = generator.w_avg.new_zeros(batch, generator.z_dim)
    try:
        (static,), replay, image = capture(make(generator, batch), [z])
    except RuntimeError as error:
        raise Unavailable(f"not captured: {str(error).splitlines()[0]}") from error

    def draw(new: torch.Tensor) -> torch.Tensor:
        static.copy_(new)
        replay()
        return image

    return draw


def _grouped(generator: Generator, batch: int) -> Image:
    return lambda z: grouped_synthesis(generator, generator.mapping(z))


def _runtime(generator: Generator, batch: int) -> Image:
    compiled = runtime.compile(generator, batch, generator.w_avg.dtype, generator.w_avg.device)
    return lambda z: compiled(z, noise="const")


def _compiled(generator: Generator, batch: int) -> Image:
    return torch.compile(_eager(generator, batch, "reference"), dynamic=False)


_EXPORTS: dict[tuple[int, int], tempfile.TemporaryDirectory] = {}


def _exported(generator: Generator, batch: int) -> Path:
    """Export ``generator`` to an ONNX file, which onnxruntime and OpenVINO share; the previous file is removed."""
    if generator.w_avg.device.type != "cpu":
        raise Unavailable("timed on the CPU only")
    key = id(generator), batch
    if key not in _EXPORTS:
        _EXPORTS.clear()
        folder = tempfile.TemporaryDirectory()
        try:
            export_onnx(generator, Path(folder.name) / "generator.onnx", batch)
        except CagcError as error:
            raise Unavailable(str(error)) from error
        _EXPORTS[key] = folder
    return Path(_EXPORTS[key].name) / "generator.onnx"


def _onnxruntime(generator: Generator, batch: int) -> Image:
    if find_spec("onnxruntime") is None:
        raise Unavailable("onnxruntime is not installed")
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    path = _exported(generator, batch)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda z: torch.from_numpy(session.run(None, {"z": z.numpy()})[0])


def openvino_model(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Compile a model file by OpenVINO, for single calls in float32 with PyTorch's number of threads."""
    if find_spec("openvino") is None:
        raise Unavailable("openvino is not installed")
    openvino = importlib.import_module("openvino")
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    core = openvino.Core()
    try:
        model = core.compile_model(core.read_model(str(path)), "CPU", settings)
    except RuntimeError as error:
        raise Unavailable(f"openvino does not read it: {' '.join(str(error).split())[:160]}") from error
    return lambda x: model([x])[0]


def _openvino(generator: Generator, batch: int) -> Image:
    model = openvino_model(_exported(generator, batch))
    return lambda z: torch.from_numpy(model(z.numpy()))


def openvino_work(path: Path) -> tuple[int, int]:
    """Return (MACs, bytes) of the matrix products and convolutions of a graph with static shapes.

    Operands are read once and results written once. Transposed convolutions are left out, because MobileStyleGAN's are
    the fixed filters of wavelets.
    """
    macs = moved = 0
    for op in importlib.import_module("openvino").Core().read_model(str(path)).get_ops():
        kind = op.get_type_name()
        if kind not in ("MatMul", "Convolution", "GroupConvolution"):
            continue
        x, weight, out = (tuple(port.shape) for port in (*op.input_values(), *op.outputs()))
        summands = x[-1] if kind == "MatMul" else math.prod(weight[1 if kind == "Convolution" else 2 :])
        macs += math.prod(out) * summands
        moved += 4 * sum(map(math.prod, (x, weight, out)))
    return macs, moved


def mobile_stylegan() -> tuple[Callable[[], object], int, tuple[int, int]]:
    """Return (call, resolution, (MACs, bytes)) of MobileStyleGAN at batch 1 under OpenVINO.

    Its networks are files of the ``random-face`` package, which is not imported: it needs OpenVINO 2021 and OpenCV.
    """
    spec = find_spec("random_face")
    if spec is None:
        raise Unavailable("the random-face package is not installed (pip install --no-deps random-face)")
    folder = Path(spec.origin).parent / "data"
    paths = [folder / f"{name}Network.xml" for name in ("Mapping", "Synthesis")]
    mapping, synthesis = map(openvino_model, paths)
    macs, moved = map(sum, zip(*map(openvino_work, paths), strict=True))
    z = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    return lambda: synthesis(mapping(z)), synthesis(mapping(z)).shape[-1], (macs, moved)


OURS: dict[str, Callable[[Generator, int], Image]] = {
    "grouped": _grouped,
    "reference": partial(_eager, backend="reference"),
    "native": _eager,
    "runtime": _runtime,
}
GRAPHS = {f"{name}+graph": partial(_replayed, make) for name, make in OURS.items() if name != "runtime"}
RIVALS = {"torch.compile": _compiled, "onnxruntime": _onnxruntime, "openvino": _openvino} | MOBILE


def build(name: str, generator: Generator, batch: int, folder: Path | None) -> Image:
    """Return the implementation ``name`` of ``generator``. Raises Unavailable with the reason if there is none."""
    if name in peers.NAMES:
        return peers.generator(folder, name, generator)
    return (OURS | GRAPHS | RIVALS)[name](generator, batch)


def check_images(image: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference of two image tensors over the largest value. Raises Unavailable if too large."""
    if image.shape != expected.shape:
        raise Unavailable(f"draws {list(image.shape)}, expected {list(expected.shape)}")
    error = ((image.float() - expected.float()).abs().max() / expected.float().abs().max()).item()
    if not error <= TOLERANCE[image.dtype]:
        raise Unavailable(f"its images differ from the reference's by {error:.2g} of their largest value")
    return error
