"""MACs and bytes of a generator's layers, from its configuration alone: what their roofs are made of."""

from __future__ import annotations

from functools import singledispatch

from ..models import AnyGenerator, GeneratorConfig, SNGANConfig
from .macs import count_macs, count_parameters

Work = dict[str, tuple[int, int]]


def layer_work(generator: AnyGenerator, batch: int) -> Work:
    """Layer → (MACs, bytes) of ``batch`` images: activations read and written once, weights read once.

    StyleGAN2 has "mapping", "b{r}.conv0", "b{r}.conv1" and "b{r}.to_rgb", affine layers and the up-sampling of the
    image included; SN-GAN the layers of :func:`~cagc.metrics.macs.count_macs`, where a convolution reads its input
    before it is up-sampled.
    """
    return _work(generator.config, batch, generator.w_avg.element_size())


@singledispatch
def _work(config: GeneratorConfig, batch: int, size: int) -> Work:
    macs, parameters, widths = count_macs(config), count_parameters(config), list(config.channels.items())
    work = {"mapping": (batch * macs["mapping"], size * parameters["mapping"])}
    for (_, below), (name, width) in zip(widths, widths[1:], strict=False):
        block = name.split(".")[0]
        side = int(block[1:])
        read = below * (side // 2 if name.endswith("conv0") else side) ** 2
        weights = parameters[name] + parameters[f"{name}.affine"]
        count = macs[name] + macs[f"{name}.affine"]
        work[name] = batch * count, size * (batch * (read + (width + 1) * side**2) + weights)
        if name.endswith("conv1"):
            rgb = f"{block}.to_rgb"
            moved = (width + 3 + 3 * (side > 4) / 4) * side**2
            weights = parameters[rgb] + parameters[f"{rgb}.affine"]
            work[rgb] = batch * (macs[rgb] + macs[f"{rgb}.affine"]), int(size * (batch * moved + weights))
    return work


@_work.register
def _(config: SNGANConfig, batch: int, size: int) -> Work:
    widths = config.channels
    moved, below = {"fc": config.z_dim + 16 * widths["b4"]}, widths["b4"]
    for hidden, out in zip(list(widths)[1::2], list(widths)[2::2]):
        block = out.split(".")[0]
        pixels = int(block[1:]) ** 2
        moved[hidden] = below * pixels // 4 + widths[hidden] * pixels
        moved[out] = widths[hidden] * pixels + widths[out] * pixels // 4 + widths[out] * pixels  # the shortcut is added
        moved[f"{block}.skip"] = (below + widths[out]) * pixels // 4
        below = widths[out]
    moved["to_rgb"] = (below + 3) * config.resolution**2
    macs, parameters = count_macs(config), count_parameters(config)
    weights = {name: parameters[name] + parameters.get(f"{name}.norm", 0) for name in moved}
    weights["fc"] += parameters["b4.norm"]
    return {name: (batch * macs[name], size * (batch * moved[name] + weights[name])) for name in moved}
