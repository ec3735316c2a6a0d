"""Registration of an op with PyTorch, and the eager call that goes around the dispatcher."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .dispatch import is_plain

_library = torch.library.Library("cagc", "FRAGMENT")


def register(
    schema: str, run: Callable, fake: Callable, save: Callable, backward: Callable, eager: Callable | None = None
) -> Callable:
    """Define the op ``cagc::`` + ``schema``, whose tensors come first, and return the function that calls it.

    That function gives plain tensors straight to ``run`` or, where a gradient is wanted, to an ``autograd.Function``
    of the same parts: 6 µs of overhead instead of 14 (bias_act). All others take the registered op.

    Args:
        schema: in PyTorch's notation, ``name(Tensor x, Tensor? b, ...) -> ...``.
        run: computes on the CPU and on CUDA devices; takes the arguments of ``schema``, as all that follow.
        fake: uninitialised outputs with the shapes, strides and dtypes of ``run``'s.
        save: the ``setup_context`` of the backward pass.
        backward: gradients of all arguments; differentiable if what it calls is.
        eager: called instead of ``run`` on plain tensors that want no gradient.
    """
    name, _, parameters = schema.partition("(")
    count = parameters.partition("->")[0].count("Tensor")
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        _library.impl(name, run, key)
    torch.library.register_fake(f"cagc::{name}", fake, lib=_library)
    torch.library.register_autograd(f"cagc::{name}", backward, setup_context=save, lib=_library)
    op = getattr(torch.ops.cagc, name).default
    eager = eager or run

    # With a setup_context, a Function would look up the signature of its forward in every call.
    def forward(ctx, *arguments):
        output = run(*arguments)
        save(ctx, arguments, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function = type(name, (torch.autograd.Function,), methods)

    def call(*arguments):
        tensors = [t for t in arguments[:count] if t is not None]
        if not is_plain(tensors):
            return op(*arguments)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return function.apply(*arguments)
        return eager(*arguments)

    return call
