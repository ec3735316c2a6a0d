"""Choice, tuning and compilation of the convolutions of Triton, without a GPU."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec

import pytest

if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from cagc_kernels.names import slug  # noqa: E402
from cagc_kernels.triton.gemm import configs, tuning  # noqa: E402
from cagc_kernels.triton.gemm.configs import PLAIN, POLYPHASE, TRANSPOSED, Config, Problem  # noqa: E402
from cagc_kernels.triton.gemm.layers import WIDTHS, problems  # noqa: E402

UP = (POLYPHASE, TRANSPOSED)


@pytest.mark.parametrize("ci,co,resolution,batch,expected", (
    (80, 40, 128, 32, POLYPHASE), (77, 39, 128, 1, POLYPHASE), (160, 160, 16, 1, POLYPHASE),
    (160, 160, 32, 32, TRANSPOSED), (512, 512, 32, 1, TRANSPOSED), (256, 128, 128, 32, TRANSPOSED),
))  # fmt: skip
def test_narrow_or_small_layers_are_polyphase(ci, co, resolution, batch, expected):
    assert configs.mode(Problem("float16", batch, resolution, resolution, ci, co, 3, UP)) == expected


def test_default_follows_the_width():
    def tile(ci, co, batch=32, dtype="float16"):
        config = configs.default(Problem(dtype, batch, 128, 128, ci, co, 3))
        return config.bm, config.bn + config.bn2, config.packed, config.split

    assert tile(512, 512) == (128, 256, False, 1)
    assert tile(128, 128) == (128, 128, False, 1)
    assert tile(160, 160) == (64, 160, False, 1)
    assert tile(80, 80) == (128, 80, True, 1)
    assert tile(40, 40) == (128, 48, True, 1)
    small = configs.default(Problem("float16", 1, 8, 8, 512, 512, 3))
    assert small.split == 16 and small.bn2 == 0


def test_every_candidate_is_a_kernel_that_exists():
    for size in (256, 1024):
        for widths in WIDTHS:
            for p in problems(size, widths, 1, "float16"):
                found = configs.candidates(p)
                assert found[0] == configs.default(p) and len(found) == len(set(found)) >= 5
                for config in found:
                    assert config.mode in p.modes and not (config.packed and config.mode == TRANSPOSED)
                    assert not (config.split > 1 and config.bn2), config


def test_winners_are_written_read_and_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "FOLDER", tmp_path)
    configs.winners.cache_clear()
    p = Problem("float16", 1, 64, 64, 160, 160, 3)
    out = tmp_path / f"{slug('Some GPU 80GB')}.json"
    assert out.name == "some-gpu-80gb.json"

    def time(p: Problem, config: Config) -> float:
        if config.stages == 4:
            raise RuntimeError("out of shared memory")
        return 0.5 if config.stages == 2 else 1.0

    compiled = []
    for expected in (1, 0):
        assert tuning.tune([p, p], "Some GPU 80GB", out, time, compiled.extend) == expected and compiled == [p]
    document = json.loads(out.read_text())
    assert document["device"] == "Some GPU 80GB" and document["winners"][p.key]["default_ms"] == 1.0
    chosen = configs.choose(p._replace(n=1, h=60), "Some GPU 80GB", None)
    assert chosen.stages == 2 and chosen != configs.default(p)
    assert configs.choose(p._replace(dtype="bfloat16"), "Some GPU 80GB", None) == chosen
    for other in (p._replace(ci=80), p._replace(dtype="tf32")):
        assert configs.choose(other, "Some GPU 80GB", None) == configs.default(other)
    configs.winners.cache_clear()


def test_autotuning_in_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "FOLDER", tmp_path)
    monkeypatch.setenv("CAGC_TRITON_AUTOTUNE", "1")
    configs.winners.cache_clear()
    p, calls = Problem("float16", 1, 64, 64, 160, 160, 3), []

    def time(config: Config) -> float:
        calls.append(config)
        return abs(config.stages - 1) + config.packed

    assert configs.choose(p, "GPU", time).stages == 1 and len(calls) == len(configs.candidates(p))
    assert configs.choose(p, "GPU", time).stages == 1 and len(calls) == len(configs.candidates(p))
    with pytest.raises(RuntimeError, match="the default config .* does not run"):
        configs.choose(p._replace(ci=80), "GPU", lambda config: 1 / 0)
    configs.winners.cache_clear()


class Sm90:
    """A driver that reports its architecture and cannot launch kernels."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return "no device"

    def get_current_stream(self, device):
        return None


def test_launches_compile_before_they_run(monkeypatch, tmp_path):
    """Kernels are compiled with the JIT's specialisations; failures are reported only when a candidate is timed."""
    from triton.runtime import driver

    from cagc_kernels.triton.gemm import kernel

    monkeypatch.setattr(driver, "_active", Sm90())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    good = Config(PLAIN, 16, 16, 0, 16, 4, 1)
    monkeypatch.setattr(configs, "candidates", lambda p: [good, good._replace(bm=24)])
    prepared = tuning.prepared
    monkeypatch.setattr(tuning, "prepared", lambda p, config: prepared(p, config, "cpu"))
    p = Problem("float16", 8, 64, 64, 16, 16, 1)
    tuning.compile_all([p, p._replace(n=1)])
    cache = kernel.styled_conv2d_kernel.device_caches.pop("no device")[0]
    assert [type(kernel).__name__ for kernel in cache.values()].count("CompiledKernel") == 1


def test_tuning_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert tuning.main([]) == 2 and "expected a CUDA device" in capsys.readouterr().err


def test_the_compile_check_takes_the_tiles_of_each_architecture():
    from cagc_kernels.triton import compile as check
    from cagc_kernels.triton.gemm import variants

    listed = {arch: [label for _, label, _, _ in check.variants(check.CONVOLUTIONS, arch)] for arch in (80, 90)}
    assert listed == {arch: [label for _, label, _, _ in variants.variants(arch)] for arch in (80, 90)}
    assert listed[80] != listed[90]


@pytest.mark.parametrize("p", (
    Problem("float16", 32, 128, 128, 80, 80, 3), Problem("float16", 1, 8, 8, 160, 160, 3, (TRANSPOSED,), True),
), ids=("packed", "blocks of a larger weight"))  # fmt: skip
def test_widths_of_eight_move_16_bytes_at_a_time(p):
    """Widths that are multiples of eight load 16 bytes at a time, and multiply by wgmma on sm_90."""
    import triton
    from triton.backends.compiler import GPUTarget

    from cagc_kernels.triton import compile as check
    from cagc_kernels.triton.gemm import variants

    config = configs.default(p)
    kernel, _, types, constants = variants.convolution(p, config, True if p.gather else None)
    options = {"num_warps": config.warps, "num_stages": config.stages}
    found = triton.compile(check.source(kernel, types, constants), target=GPUTarget("cuda", 90, 32), options=options)
    ptx = found.asm["ptx"]
    assert "wgmma.mma_async" in ptx
    # Of the smallest tiles a thread has less than 16 bytes to copy, and of the styles, a float32 vector, one value.
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^]]*\], \[[^]]*\], (\w+)", ptx)
    assert copies.count("0x10") >= 10 and set(copies) <= {"0x10", "0x8", "0x4"}, set(copies)
    assert copies.count("0x4") <= config.stages
    # A thread has one pixel of each colour of toRGB.
    stores = re.findall(r"st\.global\.(\S+)", ptx)
    assert set(stores) - {"b16"} == {"v4.b32"} and stores.count("b16") == (0 if p.gather else 3), stores
    assert check.usage(found.asm["cubin"])[1] == 0
