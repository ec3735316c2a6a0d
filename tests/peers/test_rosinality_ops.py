"""rosinality's ops and modules, written with our ops: values and gradients of inputs and parameters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from cagc_kernels import (
    bias_act,
    downsample2d,
    fused_leaky_relu,
    modulated_conv2d,
    setup_filter,
    styled_conv2d,
    upfirdn2d,
    upsample2d,
)

from .vectors import Case, cases

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5}


class Tensors(dict):
    """The parameters ``p:<name>`` of a case, by name relative to a prefix; absent ones are None."""

    def __missing__(self, name: str) -> None:
        return None

    def under(self, prefix: str) -> Tensors:
        return Tensors({k.removeprefix(prefix): v for k, v in self.items() if k.startswith(prefix)})


def close(name: str, got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> None:
    scale = max(want.abs().max().item(), 1e-6)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=TOLERANCE[dtype] * scale, msg=lambda m: f"{name}: {m}")


def blur(o: dict, x: torch.Tensor) -> torch.Tensor:
    x0, x1 = o["pad"]
    return upfirdn2d(x, setup_filter(o["kernel"]), padding=[x0, x1, x0, x1], gain=o.get("upsample_factor", 1) ** 2)


def equal_conv2d(o: dict, x: torch.Tensor, p: Tensors) -> torch.Tensor:
    weight = p["weight"] / p["weight"][0].numel() ** 0.5
    return F.conv2d(x, weight, p["bias"], o.get("stride", 1), o.get("padding", 0))


def equal_linear(o: dict, x: torch.Tensor, p: Tensors) -> torch.Tensor:
    lr_mul = o.get("lr_mul") or 1
    y = x @ (p["weight"] * (lr_mul / p["weight"].shape[1] ** 0.5)).t()
    bias = None if p["bias"] is None else p["bias"] * lr_mul
    return fused_leaky_relu(y, bias) if o.get("activation") else bias_act(y, bias)


def pixel_norm(o: dict, x: torch.Tensor) -> torch.Tensor:
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def _scaled(weight: torch.Tensor) -> torch.Tensor:
    return weight[0] / weight[0, 0].numel() ** 0.5


def _resample(o: dict) -> dict:
    up, down = 2 if o.get("upsample") else 1, 2 if o.get("downsample") else 1
    taps = setup_filter(o.get("blur_kernel", [1, 3, 3, 1])) if max(up, down) > 1 else None
    return {"up": up, "down": down, "resample_filter": taps, "flip_weight": up == 1}


def modulated(o: dict, x: torch.Tensor, style: torch.Tensor, p: Tensors) -> torch.Tensor:
    styles = equal_linear({}, style, p.under("modulation."))
    weight = _scaled(p["weight"])
    return modulated_conv2d(
        x, weight, styles, padding=weight.shape[-1] // 2, demodulate=o.get("demodulate", True), **_resample(o)
    )


def styled_conv(o: dict, x: torch.Tensor, style: torch.Tensor, p: Tensors, noise: torch.Tensor) -> torch.Tensor:
    options = _resample(o)
    return styled_conv2d(
        x, _scaled(p["conv.weight"]), equal_linear({}, style, p.under("conv.modulation.")), p["activate.bias"],
        noise * p["noise.weight"], options["up"], options["resample_filter"], o.get("demodulate", True),
    )  # fmt: skip


def to_rgb(o: dict, x: torch.Tensor, style: torch.Tensor, p: Tensors, skip: torch.Tensor | None = None) -> torch.Tensor:
    y = modulated({"demodulate": False}, x, style, p.under("conv.")) + p["bias"]
    return y if skip is None else y + upsample2d(skip, setup_filter(o.get("blur_kernel", [1, 3, 3, 1])))


def conv_layer(o: dict, x: torch.Tensor, p: Tensors) -> torch.Tensor:
    """Its parameters are numbered by position: the blur of a down-sampling layer moves them by one."""
    down, size = o.get("downsample", False), o["kernel_size"]
    if down:
        taps = setup_filter(o.get("blur_kernel", [1, 3, 3, 1]))
        total = len(taps) - 2 + size - 1
        before, after = (total + 1) // 2, total // 2
        x = upfirdn2d(x, taps, padding=[before, after, before, after])
    conv = p.under(f"{int(down)}.")
    y = equal_conv2d({"stride": 2 if down else 1, "padding": 0 if down else size // 2}, x, conv)
    return fused_leaky_relu(y, p[f"{int(down) + 1}.bias"]) if o.get("activate", True) else y


def res_block(o: dict, x: torch.Tensor, p: Tensors) -> torch.Tensor:
    y = conv_layer({"kernel_size": 3}, x, p.under("conv1."))
    y = conv_layer({"kernel_size": 3, "downsample": True}, y, p.under("conv2."))
    skip = conv_layer({"kernel_size": 1, "downsample": True, "activate": False}, x, p.under("skip."))
    return (y + skip) / 2**0.5


def upfirdn2d_native(o: dict, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    pad = [o["pad_x0"], o["pad_x1"], o["pad_y0"], o["pad_y1"]]
    return upfirdn2d(x, kernel.float(), [o["up_x"], o["up_y"]], [o["down_x"], o["down_y"]], pad)


MODULES: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "Blur": (blur, ("x",)),
    "Upsample": (lambda o, x: upsample2d(x, setup_filter(o["kernel"]), o.get("factor", 2)), ("x",)),
    "Downsample": (lambda o, x: downsample2d(x, setup_filter(o["kernel"]), o.get("factor", 2)), ("x",)),
    "EqualConv2d": (equal_conv2d, ("x", "p")),
    "EqualLinear": (equal_linear, ("x", "p")),
    "PixelNorm": (pixel_norm, ("x",)),
    "ModulatedConv2d": (modulated, ("x", "style", "p")),
    "StyledConv": (styled_conv, ("x", "style", "p", "noise")),
    "ToRGB": (to_rgb, ("x", "style", "p", "skip")),
    "ConvLayer": (conv_layer, ("x", "p")),
    "ResBlock": (res_block, ("x", "p")),
    "upfirdn2d_native": (upfirdn2d_native, ("x", "kernel")),
    "fused_leaky_relu": (lambda o, x, b: fused_leaky_relu(x, b, o["negative_slope"], o["scale"]), ("x", "b")),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@cases("3")
def test_rosinality(case: Case, dtype: torch.dtype):
    function, names = MODULES[case.op]
    inputs = {name: case[name].to(dtype).requires_grad_() for name in names if name in case}
    parameters = Tensors({k[2:]: case[k].to(dtype).requires_grad_() for k in case.keys if k.startswith("p:")})
    arguments = [parameters if name == "p" else inputs.get(name) for name in names]
    y = function(case.options, *arguments)
    close("y", y, case.f64("y"), dtype)

    leaves = {f"d{k}": v for k, v in inputs.items()} | {f"dp:{k}": v for k, v in parameters.items()}
    leaves = {name: leaf for name, leaf in leaves.items() if name in case}
    assert leaves or not any(key.startswith("d") and key != "dy" for key in case.keys)
    gradients = torch.autograd.grad(y, list(leaves.values()), case["dy"].to(dtype))
    for name, got in zip(leaves, gradients, strict=True):
        close(name, got, case.f64(name), dtype)
