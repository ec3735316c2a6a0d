"""Choice, tuning and compilation of the convolutions of Triton, without a GPU."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec

import pytest
import torch

if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from cagc_kernels.triton.gemm import configs, tuning, winners  # noqa: E402
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


@pytest.fixture
def users(tmp_path, monkeypatch):
    """The user's folder of winners, empty; what ships with the package is empty too."""
    monkeypatch.setenv("CAGC_TRITON_CONFIGS", str(tmp_path / "users"))
    monkeypatch.setattr(winners, "SHIPPED", tmp_path / "shipped")
    winners.forget()
    yield tmp_path / "users"
    winners.forget()


GPU = "Some GPU 80GB"
P = Problem("float16", 1, 64, 64, 160, 160, 3)
RIGHT = torch.linspace(-1, 1, 100, dtype=torch.float16)


def right(*_: object) -> torch.Tensor:
    return RIGHT


def other(p: Problem = P, **fields: int) -> Config:
    return configs.default(p)._replace(**{"stages": 1, **fields})


def write(folder, name: str, config: Config, p: Problem = P, **changed: object) -> None:
    """A file of winners of another environment."""
    folder.mkdir(exist_ok=True)
    entry = {"config": config._asdict(), "ms": 1.0}
    document = {"environment": {**winners.environment(GPU, 90), **changed}, "winners": {p.key: entry}}
    (folder / name).write_text(json.dumps(document))


def test_winners_are_written_read_and_chosen(users):
    out = winners.users_file(GPU, 90)
    assert out.parent == users and out.name.startswith("some-gpu-80gb-")

    def time(p: Problem, config: Config) -> float:
        if config.stages == 4:
            raise RuntimeError("out of shared memory")
        return 0.5 if config.stages == 2 else 1.0

    compiled = []
    for expected in (1, 0):
        assert tuning.tune([P, P], GPU, out, time, compiled.extend, right) == expected and compiled == [P]
    document = json.loads(out.read_text())
    assert document["environment"] == winners.environment(GPU, 90)
    assert document["environment"].keys() == {"device", "architecture", "driver", "torch", "triton", "cagc"}
    assert document["winners"][P.key]["default_ms"] == 1.0
    chosen = winners.choose(P._replace(n=1, h=60), GPU, None, None)
    assert chosen.stages == 2 and chosen != configs.default(P)
    assert winners.choose(P._replace(dtype="bfloat16"), GPU, None, None) == chosen
    for another in (P._replace(ci=80), P._replace(dtype="tf32")):
        assert winners.choose(another, GPU, None, None) == configs.default(another)


def test_the_nearest_environment_is_asked_first(users, monkeypatch):
    """Same environment, same device, same architecture; of equals the user's folder first."""
    wanted = [other(stages=n) for n in (1, 2, 4, 5)]
    shipped = winners.SHIPPED
    write(shipped, "a.json", wanted[3], device="Another GPU")
    write(shipped, "b.json", wanted[2], torch="1.0")
    write(users, "c.json", wanted[1], torch="2.0")
    write(shipped, "d.json", wanted[0])
    write(shipped, "e.json", other(stages=7), device="Another GPU", architecture=80)
    found = [table.of(P) for table in winners.tables(GPU, 90)]
    assert found == wanted
    assert winners.choose(P, GPU, None, right) == wanted[0]
    assert winners.winner(P, GPU) == wanted[0]


def test_a_winner_from_elsewhere_is_checked_and_then_kept(users):
    write(winners.SHIPPED, "a.json", other(), torch="1.0")
    asked = []

    def output(config: Config) -> torch.Tensor:
        asked.append(config)
        return RIGHT

    for _ in range(2):
        assert winners.choose(P, GPU, None, output) == other()
    assert asked == [other(), configs.default(P)], "once in a process"
    winners.forget()
    assert winners.choose(P, GPU, None, None) == other(), "the next process finds it checked"
    assert json.loads(winners.users_file(GPU, 90).read_text())["winners"][P.key]["from"] == "a.json"


@pytest.mark.parametrize("wrong,reason", (
    (RIGHT.flip(0), "off by"), (RIGHT * float("nan"), "NaN"), (RIGHT[:50], "NaN or"), (None, "ZeroDivisionError"),
))  # fmt: skip
def test_a_winner_that_is_wrong_is_not_believed(users, wrong, reason):
    write(users, "a.json", other(), torch="1.0")

    def output(config: Config) -> torch.Tensor:
        return RIGHT if config == configs.default(P) else 1 / 0 if wrong is None else wrong

    with pytest.warns(UserWarning, match=f"a.json is not used: .*{reason}"):
        assert winners.choose(P, GPU, None, output) == configs.default(P)
    assert winners.winner(P, GPU) is None and not winners.users_file(GPU, 90).exists()
    assert winners.choose(P, GPU, None, None) == configs.default(P), "settled for this process"

    def time(p: Problem, config: Config) -> float:
        return config.stages

    with pytest.warns(UserWarning, match="is not used"):
        tuning.tune([P], GPU, winners.users_file(GPU, 90), time, list, lambda p, config: output(config))
    entry = json.loads(winners.users_file(GPU, 90).read_text())["winners"][P.key]
    assert Config(**entry["config"]) == configs.default(P) and entry["wrong"] > 0


@pytest.mark.parametrize("text", ("", "{", "[]", '{"environment": {}, "winners": 3}', '{"winners": {}}'))
def test_damaged_files_count_as_none_and_are_made_anew(users, text):
    users.mkdir()
    out = winners.users_file(GPU, 90)
    out.write_text(text)
    (users / "huge.json").write_text(json.dumps({
        "environment": dict(winners.environment(GPU, 90)),
        "winners": {P.key: {"config": other(bm=2**40)._asdict()}},
    }))  # fmt: skip
    assert winners.choose(P, GPU, None, None) == configs.default(P)
    assert tuning.tune([P], GPU, out, lambda p, config: config.stages, list, right) == 1
    assert winners.choose(P, GPU, None, None).stages == 1


def test_autotuning_in_the_process_is_kept(users, monkeypatch):
    monkeypatch.setenv("CAGC_TRITON_AUTOTUNE", "1")
    calls = []

    def time(config: Config) -> float:
        calls.append(config)
        return abs(config.stages - 1) + config.packed

    for _ in range(2):
        assert winners.choose(P, GPU, time, right).stages == 1 and len(calls) == len(configs.candidates(P))
    winners.forget()
    assert winners.choose(P, GPU, time, right).stages == 1 and len(calls) == len(configs.candidates(P))
    with pytest.raises(RuntimeError, match="the default config .* does not run"):
        winners.choose(P._replace(ci=80), GPU, lambda config: 1 / 0, right)


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
