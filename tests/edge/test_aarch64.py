"""The C library on AArch64, cross-compiled and emulated: the images of this machine."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from benchmarks.instructions import TARGETS, build, draw
from cagc.export import export_flat
from cagc_edge import Generator, random_z

from .conftest import make_generator


@pytest.mark.parametrize("target", [t for t in TARGETS if t.emulator == "qemu-aarch64"], ids=lambda t: t.name)
def test_images_are_those_of_this_machine(target, tmp_path):
    """At 128 px, where the last layers are in strips, by few optimisations: these take the compiler longest."""
    for program in (target.emulator, target.compiler[0], target.linker[0]):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")
    path = tmp_path / "student.cagc"
    export_flat(make_generator(128), path, storage="float32")
    images, printed = draw((target.emulator,), build(target, tmp_path, ("-O1",)), path, 2)
    assert printed.startswith("generic: 4 px") and "in strips" in printed
    g = Generator(path)
    expected = np.concatenate([g.synthesis(g.mapping(random_z(seed, 1, g.z_dim))) for seed in (0, 1)])
    np.testing.assert_allclose(images, expected, rtol=0, atol=3e-5 * max(1, np.abs(expected).max()))
