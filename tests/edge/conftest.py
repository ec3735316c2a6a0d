"""A small generator, its flat file, and the C library; tests are skipped, with the reason, where there is none."""

from __future__ import annotations

import pytest
import torch

from cagc.export import flat_bytes
from cagc.models import Generator, GeneratorConfig
from cagc_edge.library import library


def make_generator(resolution: int = 32, **options) -> Generator:
    """Random weights, biases, noise strengths and w_avg."""
    torch.manual_seed(0)
    config = GeneratorConfig.uniform(resolution, 320, 20, **{"style_dim": 12, "mapping_layers": 2} | options)
    generator = Generator(config).requires_grad_(False).eval()
    for name, parameter in generator.named_parameters():
        if name.endswith(("bias", "noise_strength")):
            parameter += 0.3 * torch.randn_like(parameter)
    generator.w_avg.normal_()
    return generator


@pytest.fixture(scope="session", autouse=True)
def compiled_library() -> None:
    try:
        library()
    except OSError as error:
        pytest.skip(f"no C library: {error}")


@pytest.fixture(scope="session")
def generator() -> Generator:
    return make_generator()


@pytest.fixture(scope="session")
def student(generator) -> bytes:
    return flat_bytes(generator, storage="float32")
