"""The Triton program of a frozen generator against the generator in float64, and how many kernels it launches.

Small, because the interpreter takes milliseconds per block; tests/kernels/test_triton_interpreter.py runs it.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks import launches
from cagc import runtime
from cagc.models import Generator, GeneratorConfig
from cagc.models.stylegan2_config import layer_names
from cagc_kernels import use_backend
from cagc_kernels.tolerances import TOLERANCES

from .triton_device import DEVICE, INTERPRETED, MARKS

# isort: split
from cagc_kernels.triton import styles, synthesis
from cagc_kernels.triton.gemm import configs, tuning, winners
from cagc_kernels.triton.gemm.configs import PLAIN, POLYPHASE, TRANSPOSED, Problem
from cagc_kernels.triton.gemm.layers import problems

pytestmark = MARKS
WIDTHS = (5, 3, 7, 1, 9, 2)


@pytest.fixture(autouse=True)
def _few_blocks(monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr(styles, "OUTPUTS", 16)


def make(resolution: int, **options) -> Generator:
    channels = {name: WIDTHS[i % len(WIDTHS)] for i, name in enumerate(layer_names(resolution))}
    generator = Generator(GeneratorConfig(resolution, channels, 8, 1, **options)).requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith(("bias", "noise_strength")):
            parameter += 0.3 * torch.randn_like(parameter)
    return generator


def compiled(generator: Generator, batch: int, dtype: torch.dtype) -> runtime.CompiledGenerator:
    with use_backend("triton"):
        found = runtime.compile(generator, batch, dtype, DEVICE)
    assert isinstance(found._program, synthesis.Program) and found.reason is None
    for buffer in found._program.workspace(batch):
        for part in buffer if isinstance(buffer, tuple) else (buffer,):
            if part.is_floating_point():
                part.fill_(float("nan"))
    return found


def choose(monkeypatch, mode: int) -> None:
    """Choose up-sampling by ``mode``, and the packed variant, which takes the fewest steps."""

    def config(problem: Problem, *_: object) -> configs.Config:
        up = problem.modes != (configs.PLAIN,)
        packed = not (up and mode == TRANSPOSED)
        return configs.Config(mode if up else configs.PLAIN, 64, 64, 0, 128 if packed else 16, 4, 2, 1, packed)

    monkeypatch.setattr(synthesis, "choose", config)


def expect_close(image: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> None:
    assert image.dtype == dtype and image.shape == want.shape and image.is_contiguous()
    error = (image.double().cpu() - want).abs().max() / want.abs().max()
    assert error <= 2 * TOLERANCES[dtype].relative, error


@pytest.mark.parametrize("batch,mode,dtype", (
    (2, POLYPHASE, torch.float16), (1, TRANSPOSED, torch.float32), (1, TRANSPOSED, torch.bfloat16),
), ids=str)  # fmt: skip
def test_images_are_the_generators(monkeypatch, batch, mode, dtype):
    """The styles must be normalised in half precision; toRGB is in the epilogue or a kernel of its own."""
    choose(monkeypatch, mode)
    monkeypatch.setattr(synthesis, "holds_all", lambda config, channels: config.mode == PLAIN and mode == POLYPHASE)
    generator = make(8, conv_clamp=2.0)
    for name, parameter in generator.synthesis.named_parameters():
        if name.endswith("conv1.affine.bias"):
            parameter.fill_(2000.0)
    given = [noise.to(DEVICE, dtype) for noise in generator.make_noise(batch)]
    z = torch.randn(batch, 8).to(DEVICE, dtype)
    program = compiled(generator, batch, dtype)
    image = program(z, truncation_psi=0.7, noise=given)
    oracle = generator.double()
    # From the same w, so that rounding in the mapping network does not count.
    ws = program.ws(z, truncation=0.7)
    want = oracle.synthesis(ws.double().cpu(), noise=[noise.double().cpu() for noise in given])
    expect_close(image, want, dtype)
    expect_close(ws[:, :1], oracle.ws(z.double().cpu(), truncation=0.7)[:, :1], dtype)


@pytest.mark.skipif(not INTERPRETED, reason="counts in the interpreter")
@pytest.mark.parametrize("mode", (POLYPHASE, TRANSPOSED))
def test_launches_of_an_image(monkeypatch, mode):
    """An image takes one launch per layer, two for a filtered up-sampling layer, and PyTorch only for random noise."""
    choose(monkeypatch, mode)
    monkeypatch.setattr(synthesis, "holds_all", lambda config, channels: mode == POLYPHASE)
    generator, ws = make(32), torch.randn(3, 1, 8).half().expand(-1, 8, -1)
    with launches.counted():
        program = compiled(generator, 3, torch.float16)
    with launches.counted() as counts:
        program._mapping.w(ws[:, 0])
        program.synthesis(ws, noise="const")
        program.synthesis(ws, noise="random")
    more = {"fir_act_kernel": 6, "to_rgb_kernel": 8} if mode == TRANSPOSED else {}
    assert counts.launches == more | {
        "fully_connected_kernel": 3, "demodulations_kernel": 2, "styled_conv2d_kernel": 14, "aten::normal_": 1,
    }  # fmt: skip


@pytest.mark.skipif(not INTERPRETED, reason="counts in the interpreter")
def test_fewer_launches_and_bytes_than_eager():
    counts = {way: count(make(16), 2, torch.float16) for way, count in launches.WAYS.items()}
    eager, program = counts["eager layers"], counts["compiled program"]
    assert 8 * program.launches.total() < eager.launches.total()
    assert 2 * program.moved.total() < eager.moved.total()


@pytest.mark.skipif(not INTERPRETED, reason="counts in the interpreter")
def test_buffers_are_reused_and_other_batches_get_their_own():
    with launches.counted():
        check_buffers(compiled(make(16), 2, torch.float16))


def check_buffers(program: runtime.CompiledGenerator) -> None:
    held, ws = program.memory, torch.zeros(2, 6, 8).half()
    first, second = program.synthesis(ws), program.synthesis(ws)
    assert program.memory == held and first.data_ptr() != second.data_ptr()
    assert program.synthesis(ws[:0]).shape == (0, 3, 16, 16) and program.memory == held
    assert program.synthesis(ws[:1]).shape == (1, 3, 16, 16) and program.memory > held
    rows = program.explain()
    assert [row["layout"] for row in rows][:2] == ["NHWC, 5 -> 3 channels", "NHWC, 3 -> 7 channels"]
    assert "plain" in rows[0]["kernel"] and "polyphase" in rows[1]["kernel"] and "not timed" in rows[0]["why"]
    parts = program.profile(ws[:, 0], repeats=1)
    assert [part["name"] for part in parts] == ["mapping", "styles", *(row["layer"] for row in rows)]
    assert all(part["ms"] > 0 and part["multiplications"] >= part["macs"] > 0 for part in parts)


@pytest.mark.skipif(not INTERPRETED, reason="a GPU has winners of its own")
def test_what_was_tuned_is_what_runs(monkeypatch, tmp_path):
    """Tuned winners in a file are the configs that run at the published widths."""
    monkeypatch.setenv("CAGC_TRITON_CONFIGS", str(tmp_path))
    winners.forget()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    widths = {"b4": 160, "b8": 160, "b16": 160, "b32": 160, "b64": 160}
    channels = {name: widths[name.split(".")[0]] for name in layer_names(64)}
    generator = Generator(GeneratorConfig(64, channels, 8, 1)).requires_grad_(False)

    def time(p: Problem, config: configs.Config) -> float:
        return abs(config.mode - TRANSPOSED) + abs(config.stages - 2)

    for dtype, code in ((torch.float32, "tf32"), (torch.bfloat16, "float16")):
        found = list(problems(64, "r8", 4, code))
        out = winners.users_file("Some GPU", found[0].arch)
        tuning.tune(found, "Some GPU", out, time, list, lambda p, config: torch.ones(2))
        monkeypatch.setattr(synthesis, "device_name", lambda device: "Some GPU")
        with launches.counted():
            program = compiled(generator, 4, dtype)
        chosen = program._program.configs(4)
        assert [(c.mode == TRANSPOSED, c.stages) for c in chosen] == [(len(p.modes) > 1, 2) for p in found]
        assert {row["why"] for row in program.explain()} == {"the fastest that was timed on this card"}
        # Another batch keeps the kind of up-sampling, whose weights are packed.
        assert [c.mode for c in program._program.configs(1)] == [c.mode for c in chosen]
    winners.forget()
