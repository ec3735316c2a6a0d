"""Fast inference with a generator that is frozen for one batch size, dtype and device.

    compiled = cagc.runtime.compile(generator, batch=1)
    images = compiled(z, truncation_psi=0.7)                  # as generator(z, truncation_psi=0.7)

:meth:`CompiledGenerator.explain` says which of these runs it:

- CPU: the compiled program of StyleGAN2 (:mod:`cagc_kernels.native.synthesis`) or of SN-GAN
  (:mod:`cagc_kernels.native.sngan`), one call per image, or that of StyleGAN3 (:mod:`cagc_kernels.native.stylegan3`),
  layer by layer. It always computes in float32; with float16 and bfloat16 the latents and images are converted.
- CUDA: the Triton program (:mod:`cagc_kernels.triton.synthesis`), with one CUDA graph per batch size; it computes in
  the dtype that it was compiled for, sums and styles in float32.
- With labels, with z of another length than w, and for StyleGAN3, the mapping network runs as PyTorch's layers before
  the program.
- Otherwise (float64, another architecture or shape of image, no compiled module or no Triton): a frozen copy that runs
  eagerly, on CUDA under a CUDA graph; an SN-GAN has its batch normalisation folded into its convolutions.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from cagc_kernels import backend
from cagc_kernels.synthesis import GeneratorWeights, Part, Storage, SynthesisProgram

from ..models import AnyConfig, AnyGenerator, Noise
from ..models.base import BaseMapping, BaseSynthesis, GeneratorNames
from .choice import mapping_of, maps, program_of, weights_of
from .graph import Graphed
from .program import CompiledMapping, ProgramSynthesis, convolutions, eager_kernels, profile_rows
from .storage import Choice, check_name, choose

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def compile(
    generator: AnyGenerator,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    weights: str | None = None,
) -> CompiledGenerator:
    """Freeze ``generator`` for inference.

    The weights are copied: after training or editing the generator, compile it again.

    Args:
        generator: of any architecture of :mod:`cagc.models`, or a view of one (``cagc.at(generator, plan)``); it is not
            changed.
        batch: images per call for which kernels are chosen; other batch sizes work too.
        dtype: dtype of latents and images: float32, float64, float16 or bfloat16.
        device: "cpu" or "cuda", with or without an index.
        weights: how the compiled program of the CPU stores the weights of the mapping network and the affine layers,
            most of the memory that a small image reads: "float32", "float16" or "int8" (per row, with a float scale);
            None: the fewest bytes that change images no more than rounding does (:mod:`cagc.runtime.storage`).
            All compute in float32.

    Raises:
        TypeError: ``generator`` is not a generator, or ``dtype`` is not as above.
        ValueError: ``generator`` has weights on "meta", ``batch`` is below 1, ``device`` does not exist, or ``weights``
            is another name, cannot hold the weights (int8 those that are not finite), or no such program runs.
    """
    if not isinstance(generator, nn.Module) or not hasattr(generator, "synthesis"):
        raise TypeError(f"generator: got {type(generator).__name__}, expected a generator of cagc.models")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch: got {batch!r}, expected an integer of at least 1")
    if dtype not in DTYPES:
        raise TypeError(f"dtype: got {dtype!r}, expected one of {', '.join(map(str, DTYPES))}")
    check_name(weights)
    device = _device(device)
    if any(tensor.is_meta for tensor in (*generator.parameters(), *generator.buffers())):
        raise ValueError("generator: has weights on the meta device, expected them in memory")
    if hasattr(generator, "pruned"):
        generator = generator.pruned()  # copies only the weights that the plan keeps
    return CompiledGenerator(generator, batch, dtype, device, weights)


def _device(device: torch.device | str) -> torch.device:
    try:
        found = torch.device(device)
    except (TypeError, RuntimeError):
        raise ValueError(f"device: got {device!r}, expected 'cpu' or 'cuda'") from None
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device: got {device}, expected 'cpu' or 'cuda'")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: got {device}, but there are {torch.cuda.device_count()} CUDA devices")
    return found


class CompiledGenerator(GeneratorNames):
    """A frozen generator, made by :func:`compile`. It is thread-safe (a lock serialises calls) and cannot be pickled.

    It is a drop-in ``G`` for scripts that only draw: ``G.eval().requires_grad_(False).to(device)`` and
    ``copy.deepcopy(G)`` return it, since nothing in it changes. It computes no gradients: projection needs the
    generator itself.

    Attributes:
        config, batch, dtype, device: configuration of the generator, and the arguments of :func:`compile`.
        reason: why no compiled program runs it; None if one does.
    """

    @torch.no_grad()
    def __init__(
        self, generator: AnyGenerator, batch: int, dtype: torch.dtype, device: torch.device, weights: str | None
    ) -> None:
        self.config, self.batch, self.dtype, self.device = generator.config, batch, dtype, device
        self._lock = threading.Lock()
        self._program, self.reason = program_of(generator, batch, dtype, device)
        self._stored = self._store(generator, weights)
        frozen, self._folded, self._eager_map = None, False, False
        if self._program is not None:
            w_avg = generator.w_avg.to(self._program.device, self._program.dtype, copy=True)
            self._mapping = CompiledMapping(self.config, mapping_of(generator, self._program), w_avg)
            self._synthesis = ProgramSynthesis(generator, self._program)
            self._eager_map = not maps(generator)
        else:
            frozen = copy.deepcopy(generator).eval().requires_grad_(False)
            self._folded = hasattr(frozen.synthesis, "folded")
            if self._folded:
                frozen.synthesis = frozen.synthesis.folded()
            frozen.to(device, dtype)
            self._mapping, self._synthesis = frozen.mapping, frozen.synthesis
        self._eager = frozen
        self.labels = generator.labels
        self._held = [*self._mapping.state_dict().values(), *self._synthesis.state_dict().values()]
        self._draw: Any = self._synthesis
        self._whole: Graphed | None = None
        # From latents to images in one call, without ws between.
        self._generate = None if self._eager_map else getattr(self._program, "generate", None)
        if device.type == "cuda":
            mapping, self._draw, whole = graphed(self.config, self._mapping, self._synthesis)
            if not self.config.c_dim:  # a graph of the mapping network would need its labels as an input
                self._mapping, self._whole = mapping, whole

    def _store(self, generator: AnyGenerator, weights: str | None) -> Choice | None:
        """Store the weights of the program's mapping network and affine layers; None where a program cannot choose."""
        if not hasattr(self._program, "store"):
            if weights not in (None, "float32"):
                reason = self.reason or "the program of this device stores weights in its own dtype"
                raise ValueError(f"weights: got {weights!r}, expected None or 'float32': {reason}")
            return None
        if weights is None:
            return choose(self._program, weights_of(generator), generator)
        if weights != "float32":
            self._program.store(weights_of(generator), Storage(weights, weights))
        return Choice(Storage(weights, weights), "as asked")

    def __reduce_ex__(self, protocol: object):
        raise TypeError("a compiled generator cannot be copied or pickled: compile the generator again")

    @property
    def mapping(self) -> _Network:
        """(z, c=None, truncation_psi=1, truncation_cutoff=None) → ``ws`` [N, num_ws, w_dim]; see :meth:`_map`."""
        return _Network(self, self._map)

    @property
    def synthesis(self) -> _Network:
        """(ws, noise_mode="const", noise=None) → images [N, img_channels, *img_size]; see :meth:`_draw_images`."""
        return _Network(self, self._synthesize)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledGenerator:
        return self

    def eval(self) -> CompiledGenerator:
        """Itself: it is always in evaluation mode."""
        return self

    def train(self, mode: bool = True) -> CompiledGenerator:
        """Itself. Raises ValueError for training mode."""
        if mode:
            raise ValueError("train: got a compiled generator, which is frozen; train the generator itself")
        return self

    def requires_grad_(self, requires_grad: bool = True) -> CompiledGenerator:
        """Itself. Raises ValueError if gradients are asked for."""
        if requires_grad:
            raise ValueError("requires_grad_: got a compiled generator, which is frozen; use the generator itself")
        return self

    def to(self, device: torch.device | str) -> CompiledGenerator:
        """Itself. Raises ValueError for another device than it was compiled for."""
        if _device(device).type != self.device.type or _device(device).index not in (None, self.device.index or 0):
            raise ValueError(f"to: got {device}, but the generator was compiled for {self.device}: compile it again")
        return self

    @torch.inference_mode()
    def _map(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """``ws`` [N, num_ws, w_dim] of ``z`` [N, z_dim]; arguments as those of the generator's mapping network.

        Raises:
            TypeError, ValueError: the device differs from that of :func:`compile`, or as the generator raises.
        """
        z, c = self._latents("z", z), self._given_labels(c)
        with self._lock:
            return self._mapping(z, c, truncation_psi, truncation_cutoff).to(self.dtype)

    def _synthesize(self, ws: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if isinstance(ws, Tensor) and ws.requires_grad and torch.is_grad_enabled():
            raise ValueError("ws: requires a gradient, which a compiled generator does not compute: use the generator")
        return self._draw_images(ws, *arguments, **options)

    @torch.inference_mode()
    def _draw_images(self, ws: Tensor, noise_mode: str = "const", noise: Noise | None = None, **options: Any) -> Tensor:
        """Image [N, 3, R, R], a new tensor, from ``ws`` [N, num_ws, w_dim]; noise as in the generator's synthesis.

        Raises:
            TypeError, ValueError: dtype or device differ from those of :func:`compile`, or as the generator raises.
        """
        self._synthesis.check_options(options)
        ws, noise = self._given("ws", ws), self._given_noise(noise_mode, noise)
        with self._lock:
            return self._draw(ws, noise=noise).to(self.dtype)

    @torch.inference_mode()
    def __call__(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        noise: Noise | None = None,
        truncation: float | None = None,
        **options: Any,
    ) -> Tensor:
        """Image [N, 3, R, R] from ``z`` [N, z_dim], equal to the generator's up to rounding; arguments are the same.

        N may differ from ``batch``: buffers and graphs are then allocated for it.

        Raises:
            TypeError, ValueError: dtype or device differ from those of :func:`compile`, or as the generator raises.
        """
        self._synthesis.check_options(options)
        truncation_psi = truncation_psi if truncation is None else truncation
        z, noise = self._latents("z", z), self._given_noise(noise_mode, noise)
        c = self._given_labels(c)
        with self._lock:
            if self._generate is not None and c is None:
                cutoff = self._mapping.check(z, c, truncation_psi, truncation_cutoff)
                maps = self._synthesis.maps(len(z), noise)
                return self._generate(z, maps, truncation_psi, self._mapping.w_avg, cutoff).to(self.dtype)
            if self._whole is not None and truncation_psi == 1 and c is None:
                return self._whole(z, noise=noise).to(self.dtype)
            ws = self._mapping(z, c, truncation_psi, truncation_cutoff).to(self.dtype)
            return self._draw(self._given("ws", ws), noise=noise).to(self.dtype)

    @property
    def w_avg(self) -> Tensor:
        """Mean of w [w_dim], towards which truncation pulls."""
        return self._mapping.w_avg

    def _given_noise(self, noise_mode: str, noise: Noise | None) -> Noise:
        noise = noise_mode if noise is None else noise
        return noise if isinstance(noise, str) else [self._given(f"noise[{i}]", n) for i, n in enumerate(noise)]

    def _given_labels(self, c: Tensor | None) -> Tensor | None:
        """Labels of any dtype, in the dtype of the computation; their shape is checked by the mapping network."""
        if c is None:
            return None
        if not isinstance(c, Tensor):
            raise TypeError(f"c: got {type(c).__name__}, expected a tensor of labels")
        return self._latents("c", c)

    def _latents(self, name: str, tensor: Tensor) -> Tensor:
        """A floating point argument of any dtype, in the dtype of the computation; NVlabs' scripts pass float64."""
        convert = isinstance(tensor, Tensor) and (tensor.is_floating_point() or name == "c")
        return self._given(name, tensor.to(self.dtype) if convert else tensor)

    def _given(self, name: str, tensor: Tensor) -> Tensor:
        """Check the dtype and device of an argument, and convert it to the dtype of the computation."""
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: got {type(tensor).__name__}, expected a tensor of {self.dtype}")
        if tensor.dtype != self.dtype:
            raise TypeError(f"{name}: got {tensor.dtype}, but the generator was compiled for {self.dtype}")
        if tensor.device.type != self.device.type or self.device.index not in (None, tensor.device.index):
            raise ValueError(f"{name}: is on {tensor.device}, but the generator was compiled for {self.device}")
        return tensor if self._program is None else tensor.to(self._program.dtype)

    def _parts(self, z: Tensor, c: Tensor | None, maps: Sequence[Tensor | None]) -> list[Part]:
        if not self._eager_map:
            return self._program.profile(z, self._synthesis.num_ws, maps)
        start = time.perf_counter()
        w = self._mapping.w(z, c)
        spent = time.perf_counter() - start
        macs = len(z) * sum(spec.macs for spec in self.config.layers() if spec.kind == "mapping")
        # The program has no mapping network, so that its own first part takes no time.
        _, *parts = self._program.profile(w, self._synthesis.num_ws, maps)
        return [Part(spent, macs, 4 * macs // max(len(z), 1), "eager"), *parts]

    @property
    def storage(self) -> dict[str, str]:
        """Storage of the weights of "mapping" and "styles" where the compiled program of the CPU runs them."""
        stored = {} if self._stored is None else self._stored.storage._asdict()
        return {part: storage for part, storage in stored.items() if part != "mapping" or not self._eager_map}

    @property
    def memory(self) -> int:
        """Bytes in use: packed or copied weights, and the buffers of all calls so far."""
        owned = sum(tensor.numel() * tensor.element_size() for tensor in self._held)
        return owned + sum(getattr(holder, "memory", 0) for holder in self._holders())

    def _holders(self) -> list[Any]:
        return [self._program, self._draw, self._whole, getattr(self._mapping, "function", None)]

    def explain(self) -> list[dict[str, str]]:
        """Table of the convolutions in order: layer, kernel, layout and the reason for this choice.

        A program that stores the weights of the mapping network and the styles' affine layers has a row for each first.
        """
        names = [spec.name for spec in convolutions(self.config)]
        if self._program is None:
            layer, layout = ("folded layer", "NHWC") if self._folded else ("eager layer", "NCHW")
            kernel = f"CUDA graph of the {layer}" if self.device.type == "cuda" else layer
            parts = {} if self._folded else eager_kernels(self._eager, self.batch, self.device)
            return [
                {"layer": name, "kernel": " ".join([kernel, *parts.get(name, ())]), "layout": layout,
                 "why": str(self.reason)}
                for name in names
            ]  # fmt: skip
        stored = [] if self._stored is None else [
            {"layer": part, "kernel": "dense", "layout": f"{storage} weights", "why": self._stored.why}
            for part, storage in self.storage.items()
        ]  # fmt: skip
        return stored + [
            {"layer": name, "kernel": kernel, "layout": f"{layout}, {inputs} -> {outputs} channels", "why": why}
            for name, (kernel, why), layout, (inputs, outputs) in zip(
                names, self._program.describe(self.batch), self._program.layouts, self._program.widths
            )
        ]

    def profile(
        self, z: Tensor, noise: Noise = "const", repeats: int = 5, c: Tensor | None = None
    ) -> list[dict[str, Any]]:
        """Time of each part of an image: rows of name, ms, macs, multiplications, elementwise, bytes and kernel.

        The rows are "mapping", "styles" (affine layers and demodulation), and each convolution with its toRGB. ms: the
        minimum over ``repeats`` calls. macs: by the convention of :mod:`cagc.metrics.macs`; multiplications: the number
        that the kernel executes, padding included; elementwise: its other operations, of transforms, filter, epilogue
        and toRGB, where they are counted (StyleGAN2 on the CPU; else 0); bytes: activations read and written once,
        packed weights read once.
        A mapping network with labels runs as PyTorch's layers, and its row has their time.

        Raises:
            ValueError: no compiled program runs this generator, or ``c`` is not labels as it takes them.
        """
        if self._program is None:
            raise ValueError(f"profile: needs a program, but none runs this generator: {self.reason}")
        z, c, found = self._given("z", z), self._given_labels(c), []
        with self._lock:
            for _ in range(repeats):
                maps = self._synthesis.maps(len(z), self._given_noise("const", noise))
                found.append(self._parts(z, c, maps))
        least = [min(parts, key=lambda part: part.seconds) for parts in zip(*found, strict=True)]
        return profile_rows(self.config, least, len(z))


class _Network:
    """The mapping or synthesis of a compiled generator: a function with NVlabs' attributes."""

    def __init__(self, generator: CompiledGenerator, call: Callable[..., Tensor]) -> None:
        config = generator.config
        self._call, self.num_ws, self.w_dim = call, config.num_ws, config.w_dim
        self.z_dim, self.c_dim, self.w_avg = config.z_dim, config.c_dim, generator.w_avg
        self.img_resolution, self.img_channels = config.img_resolution, config.img_channels

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Nothing: a frozen generator has no buffers to be changed, such as noise maps."""
        return iter(())

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        return self._call(*arguments, **options)


def graphed(
    config: AnyConfig, mapping: BaseMapping, synthesis: BaseSynthesis
) -> tuple[CompiledMapping, Graphed, Graphed]:
    """CUDA graphs of w from z, of images from ws, and of images from z without truncation."""
    whole = Graphed(lambda z, noise: synthesis(mapping(z), noise=noise))
    return CompiledMapping(config, Graphed(mapping.w), mapping.w_avg), Graphed(synthesis), whole
