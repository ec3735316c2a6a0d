"""MACs and bytes of memory traffic of a generator's layers, from its configuration, for roofline models."""

from __future__ import annotations

from ..models import AnyGenerator

Work = dict[str, tuple[int, int]]


def layer_work(generator: AnyGenerator, batch: int) -> Work:
    """Row → (MACs, bytes) for ``batch`` images; bytes: activations read and written once, weights read once.

    Rows are those of :class:`cagc.models.LayerSpec`, in the order of execution: a layer together with its affine
    layer, the up-sampling of the image with its toRGB, a normalisation with the layer that it follows, and the fully
    connected layers from z to w as one, "mapping".
    """
    size, work = generator.w_avg.element_size(), {}
    for spec in generator.config.layers():
        if spec.row is not None:
            macs, moved = work.get(spec.row, (0, 0))
            weights = spec.parameters + spec.affine_parameters
            macs += batch * (spec.macs + spec.affine_macs)
            work[spec.row] = macs, moved + size * (batch * spec.activations + weights)
    return work
