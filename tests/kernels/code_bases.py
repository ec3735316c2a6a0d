"""Files of small code bases with copies of the ops, as in public ones."""

from __future__ import annotations

# The extension cannot be compiled, so each of these fails on import, or when called, without ours.
FUSED_ACT = """
    import torch
    from torch.utils.cpp_extension import load
    fused = load("fused", sources=["fused.cu"])

    class FusedLeakyReLU(torch.nn.Module):
        def __init__(self, channel, negative_slope=0.2, scale=2 ** 0.5):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(channel))
            self.negative_slope = negative_slope
            self.scale = scale

        def forward(self, input):
            return {forward}

    def fused_leaky_relu(input, bias, negative_slope=0.2, scale=2 ** 0.5):
        {body}
"""
CALLS, KERNEL = "fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)", "return fused.run(input)"
UPFIRDN = """
    from torch.utils import cpp_extension
    module = cpp_extension.load(name="upfirdn2d", sources=["upfirdn2d.cu"])
    def upfirdn2d({signature}):
        return module.run()
    def helper():
        return "theirs"
"""
PAIR = "input, kernel, up=1, down=1, pad=(0, 0)"
EXPORTS = "from .fused_act import *\nfrom .upfirdn2d import upfirdn2d, helper"


def op_package(folder, forward=CALLS, body=KERNEL, signature=PAIR):
    return {
        f"{folder}/__init__.py": EXPORTS,
        f"{folder}/fused_act.py": FUSED_ACT.format(forward=forward, body=body),
        f"{folder}/upfirdn2d.py": UPFIRDN.format(signature=signature),
    }
