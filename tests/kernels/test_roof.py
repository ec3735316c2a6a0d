"""The roof model against figures worked out by hand and by an independent program."""

from __future__ import annotations

import pytest

from benchmarks import roof

MACHINE = roof.Machine()


@pytest.mark.parametrize("size,widths,batch,fused,launched,ideal,unfused", (
    (256, "full", 1, 156.6, 200.1, 125.6, 331.0), (256, "p70", 1, 27.6, 62.1, 16.8, 79.7),
    (256, "r8", 32, 22.4, 23.6, 14.1, 79.0), (1024, "p70", 32, 73.5, 75.0, 55.1, 343.5),
    (1024, "full", 1, 351.1, 405.1, 249.9, 1142.5),
))  # fmt: skip
def test_microseconds_of_an_image_on_an_h100(size, widths, batch, fused, launched, ideal, unfused):
    layers = roof.generator(size, widths, batch)
    got = [roof.microseconds(layers, way, MACHINE, batch) for way in ("fused", "ideal", "unfused")]
    got.insert(1, roof.microseconds(layers, "fused", MACHINE, batch, launches=True))
    assert got == pytest.approx([fused, launched, ideal, unfused], abs=0.06)


def test_macs_are_the_field_s():
    """The convolutions' part of the published 45,124,673,536, and of 1/11 of it."""
    for widths, expected in (("full", 45.12), ("p70", 4.12), ("r8", 4.42)):
        assert sum(layer.macs for layer in roof.generator(256, widths, 1)) / 1e9 == pytest.approx(expected, abs=0.01)


def test_one_kernel_by_hand():
    layer = roof.convolution("", 1, 40, 40, 256, 1)
    (kernel,) = layer.kernels("fused", MACHINE)
    assert kernel.macs == 9 * 256 * 256 * 40 * 40
    assert kernel.bytes == 2 * (2 * 256 * 256 * 40 + 256 * 256 + 9 * 40 * 40)
    assert kernel.seconds(MACHINE) == kernel.bytes / 3e12


def test_table_has_every_layer(capsys):
    assert roof.main(["--resolution", "64", "--widths", "p70", "--tflops", "300"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| up ") == 4 and printed.count("| rgb ") == 5 and "fused: " in printed
