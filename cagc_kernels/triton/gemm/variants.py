"""The kernel variants that the compile check builds: default configs of real layers, and one of each rare path."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from ...arguments import Epilogue
from .. import styles, to_rgb
from . import demodulation, fir, launch
from .configs import PLAIN, POLYPHASE, TRANSPOSED, Config, Problem, default, holds_all
from .kernel import styled_conv2d_kernel
from .layers import problems
from .packing import PackedWeight

Variant = tuple[triton.JITFunction, str, dict[str, str], dict[str, object]]

CODES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "tf32": "fp32", "float64": "fp64"}
EPILOGUE = Epilogue(act="lrelu", alpha=0.2, gain=2**0.5, clamp=256.0)


def _pointers(code: str, wide: str, names: str) -> dict[str, str]:
    """Return the types of a kernel's pointers: data in ``code``, factors and sums in ``wide``."""
    special = {"scale": wide, "energy": wide, "peaks": wide, "normalised": wide, "partial": wide, "taps": wide}
    # The vectors of a frozen generator are float32 for all dtypes of activations.
    special |= dict.fromkeys(("styles", "bias", "next_styles", "rgb_weight", "rgb_styles", "rgb_bias"), wide)
    special |= {"f": "fp32", "counters": "i32", "in_index": "i64", "out_index": "i64"}
    return {name: f"*{special.get(name, code)}" for name in names.split()}


def _whole(kernel: triton.JITFunction, types: dict[str, str], constants: dict[str, object]) -> dict[str, object]:
    """Return ``constants`` with None added for the pointers that are left out."""
    options = ("num_warps", "num_stages")
    left_out = {name: None for name in kernel.arg_names if name not in types and name not in constants}
    return left_out | {k: v for k, v in constants.items() if k in kernel.arg_names or k in options}


def convolution(p: Problem, config: Config, blocks: bool | None = None, act: str = "lrelu") -> Variant:
    """Return one variant of the implicit GEMM over channels_last memory.

    ``blocks``: whether gathered channels come in blocks of 8; None without gather. Where the tile allows it, it
    includes toRGB, as the generator's convolutions without up-sampling do.
    """
    code, wide = CODES[p.dtype], "fp64" if p.dtype == "float64" else "fp32"
    names = "x weight y styles scale" + " partial counters" * (config.split > 1)
    names += (
        " in_index out_index" if blocks is not None else "" if config.mode == TRANSPOSED else " noise bias next_styles"
    )
    rgb = blocks is None and p.k == 3 and p.dtype != "float64" and holds_all(config, p.co)
    names += " rgb_weight rgb_styles rgb_bias skip taps rgb" * rgb
    scalars = "n h w oh ow x_pixels y_pixels noise_n noise_h noise_w".split()
    types = _pointers(code, wide, names) | dict.fromkeys(scalars, "i32") | {"strength": "fp32"}
    taps, full = p.k * p.k, (512 if blocks is not None else p.ci)
    packed = PackedWeight(None, (p.co * taps * full, taps * full, full, 1), (p.ci, p.co), p.k, config.mode, None, None)
    dtype = torch.float32 if p.dtype == "tf32" else getattr(torch, p.dtype)
    margin = (0, 0) if config.mode == TRANSPOSED else (p.k // 2, p.k // 2)
    epilogue = Epilogue() if config.mode == TRANSPOSED or blocks is not None else EPILOGUE._replace(act=act)
    constants = launch.constants(config, dtype, packed, margin) | launch.activation(epilogue) | {
        "XP": p.ci, "YN": p.co, "YP": p.co, "YC": 1, "BLOCKS": bool(blocks), "SCATTER": False,
        "PRECISION": "tf32" if p.dtype == "tf32" else "ieee",
        "num_warps": config.warps, "num_stages": config.stages,
    }  # fmt: skip
    kind = ("plain", "polyphase", "transposed")[config.mode] + {None: "", True: " blocks", False: " gather"}[blocks]
    tile = f"{config.bm}x{config.bn}{f'+{config.bn2}' if config.bn2 else ''}x{config.bk}"
    label = f"conv {kind} {p.dtype} {p.ci}>{p.co} {tile}/{config.split}{' packed' * config.packed}{' rgb' * rgb}"
    return styled_conv2d_kernel, label, types, _whole(styled_conv2d_kernel, types, constants)


def layers(arch: int) -> Iterator[tuple[Problem, Config]]:
    """Yield the distinct convolutions of the 256 px generators, the most used first, and a few of other dtypes."""
    seen = set()
    for widths, batch in (("r8", 1), ("full", 32), ("r8", 32), ("full", 1)):
        for p in problems(256, widths, batch, "float16", arch):
            config = default(p)
            # The number of parts of a split reduction does not change the registers.
            kind = p.ci, p.co, config._replace(split=min(2, config.split))
            if kind not in seen and not (widths, batch) == ("full", 1) or config.split > 1 and kind not in seen:
                seen.add(kind)
                yield p, config
    up = (POLYPHASE, TRANSPOSED)
    for p in (
        Problem("float16", 32, 256, 256, 39, 39, 3), Problem("bfloat16", 32, 128, 128, 80, 80, 3),
        Problem("bfloat16", 32, 32, 32, 512, 512, 3, up), Problem("tf32", 1, 64, 64, 512, 512, 3),
        Problem("tf32", 4, 128, 128, 80, 40, 3, up), Problem("float32", 1, 64, 64, 160, 160, 3),
        Problem("float64", 1, 16, 16, 64, 64, 3), Problem("float64", 1, 16, 16, 39, 20, 3, (POLYPHASE,)),
    ):  # fmt: skip
        p = p._replace(arch=arch)
        yield p, default(p)


def _fir(code: str, co: int) -> Variant:
    wide = "fp64" if code == "fp64" else "fp32"
    types = _pointers(code, wide, "t y noise bias next_styles") | {"f": f"*{wide}"}
    types["strength"] = "fp32"
    types |= dict.fromkeys("ht wt oh ow y_pixels noise_n noise_h noise_w".split(), "i32")
    bq, bc = launch.fir_block(co)
    constants = {
        "CO": co,
        "YN": co,
        "YP": co,
        "YC": 1,
        "ACC": _type(wide),
        "BQ": bq,
        "BC": bc,
        **launch.activation(EPILOGUE),
    }
    return fir.fir_act_kernel, f"fir_act {code} {co}", types, _whole(fir.fir_act_kernel, types, constants)


def _rgb(code: str, ci: int) -> Variant:
    wide = "fp64" if code == "fp64" else "fp32"
    types = _pointers(code, wide, "x weight styles bias skip f y")
    types |= dict.fromkeys("h w x_pixels skip_n skip_c skip_h skip_w".split(), "i32")
    constants = {
        "CI": ci, "CO": 3, "XP": ci, "YP": 3, "YC": 1, "CLAMP": 256.0, "PRECISION": "ieee", "ACC": _type(wide),
        "BM": to_rgb.ROWS, "BK": to_rgb.block(ci), "num_warps": to_rgb.WARPS,
    }  # fmt: skip
    return to_rgb.to_rgb_kernel, f"to_rgb {code} {ci}", types, constants


def _factors(code: str) -> Iterator[Variant]:
    wide = "fp64" if code == "fp64" else "fp32"
    acc, kernel = _type(wide), demodulation.energy_kernel
    types = _pointers(code, wide, "weight energy")
    constants = {"CI": 160, "CO": 80, "WO": 1440, "WT": 160, "WI": 1, "TAPS": 9, "ACC": acc, "BO": 4, "BI": 64}
    yield kernel, f"energy {code}", types, _whole(kernel, types, constants)
    kernel = demodulation.demodulation_kernel
    types = _pointers(code, wide, "styles energy peaks scale normalised" if code == "fp16" else "styles energy scale")
    constants = {"CI": 160, "CO": 80, "ACC": acc, "BO": 16, "BI": 64}
    yield kernel, f"demodulation {code}", types, _whole(kernel, types, constants)


def _vectors(code: str) -> Iterator[Variant]:
    """Yield the kernels of a frozen generator's mapping network, affine layers and demodulation factors."""
    kernel, names = styles.fully_connected_kernel, "x weight bias y"
    for name, more in (("mapping", ""), ("affine", " table")):
        types = _pointers(code, "fp32", names + more) | dict.fromkeys(("n", "x_n", "x_w"), "i32")
        types |= {"table": "*i32", "y": "*fp32"} if more else {"x": "*fp32", "y": "*fp32"}
        constants = {
            "CI": 512, "CO": 512, "NORMALISE": not more, "LRELU": not more, "BO": styles.OUTPUTS, "BI": styles.INPUTS,
        }  # fmt: skip
        yield kernel, f"{name} {code}", types, _whole(kernel, types, constants)
    kernel, more = styles.demodulations_kernel, " peaks normalised" if code == "fp16" else ""
    types = _pointers("fp32", "fp32", "styles energy scale" + more) | {"table": "*i32", "n": "i32"}
    yield kernel, f"demodulations {code}", types, _whole(kernel, types, {"BO": styles.ALIGN, "BI": 64})


def _type(code: str) -> tl.dtype:
    return tl.float64 if code == "fp64" else tl.float32


def variants(arch: int) -> Iterator[Variant]:
    """Yield (kernel, label, argument types, constants with num_warps and num_stages) of every variant for ``arch``."""
    yield from (convolution(p, config) for p, config in layers(arch))
    yield convolution(Problem("float32", 1, 8, 8, 24, 24, 1), Config(PLAIN, 32, 32, 0, 32, 4, 2), act="softplus")
    for blocks in (True, False):
        for k, modes in ((3, (PLAIN,)), (3, (TRANSPOSED,)), (1, (PLAIN,))):
            p = Problem("float16", 1, 64, 64, 160, 160, k, modes, True, arch)
            yield convolution(p, default(p), blocks)
    for code in ("fp16", "fp32", "fp64"):
        yield _fir(code, 160)
        yield _rgb(code, 40)
        yield from _factors(code)
    yield _fir("bf16", 40)
    for code in ("fp16", "bf16", "fp32"):
        yield from _vectors(code)
