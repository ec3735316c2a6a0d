"""CUDA graphs of the networks of a generator, one per batch size and kind of noise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UP = 3  # calls outside the graph: lazy initialisation, autotuning

# static inputs, replay, static output
Captured = tuple[list[Tensor], Callable[[], None], Tensor]


def capture(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Captured:
    """Run ``function`` on copies of ``inputs`` on a side stream, then capture it in a graph; errors are passed on."""
    static = [tensor.clone() for tensor in inputs]
    side, current = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            function(*static)
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function(*static)
    return static, graph.replay, output


class Graphed:
    """Calls ``function(x)`` or ``function(x, noise=...)`` through one CUDA graph per input shapes and kind of noise.

    Outputs are copies of the graph's outputs. If capturing runs out of memory, a warning says so and calls with these
    shapes run eagerly.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self._graphs: dict[tuple[object, ...], Captured | None] = {}

    @property
    def memory(self) -> int:
        """Bytes of the graphs' inputs and outputs."""
        tensors = [t for graph in self._graphs.values() if graph for t in (*graph[0], graph[2])]
        return sum(t.numel() * t.element_size() for t in tensors)

    def __call__(self, x: Tensor, noise: str | Sequence[Tensor] | None = None) -> Tensor:
        maps = () if noise is None or isinstance(noise, str) else tuple(noise)
        inputs = (x, *maps)

        def eager(x: Tensor, *maps: Tensor) -> Tensor:
            return self.function(x) if noise is None else self.function(x, noise=maps or noise)

        key = (None if maps else noise, *(tensor.shape for tensor in inputs))
        if key not in self._graphs:
            self._graphs[key] = self._capture(eager, inputs)
        graph = self._graphs[key]
        if graph is None:
            return eager(*inputs)
        static, replay, output = graph
        for buffer, tensor in zip(static, inputs):
            buffer.copy_(tensor)
        replay()
        return output.clone()

    def _capture(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Captured | None:
        if len(inputs[0]) == 0:
            return None
        try:
            return capture(function, inputs)
        except torch.cuda.OutOfMemoryError as error:
            warnings.warn(f"no CUDA graph for batch {len(inputs[0])}, it runs eagerly: {error}", stacklevel=2)
        torch.cuda.empty_cache()
        return None
