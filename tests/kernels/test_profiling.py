"""NVTX ranges: names, nesting, balance under exceptions, nothing while off, nothing while compiling."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from cagc.checkpoints import save_generator
from cagc.models.stylegan2 import Generator, GeneratorConfig
from cagc_kernels import bias_act, modulated_conv2d, profiling, setup_filter, styled_conv2d, upfirdn2d, upsample2d
from cagc_kernels.profiling import nvtx_ranges


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """Record ranges instead of nvtx: "+name" where a range begins, "-" where it ends."""
    recorded: list[str] = []
    monkeypatch.setattr(profiling, "_push", lambda name: recorded.append(f"+{name}"))
    monkeypatch.setattr(profiling, "_pop", lambda: recorded.append("-"))
    return recorded


def test_nothing_while_off(events):
    bias_act(torch.zeros(1, 2, 4, 4))
    with profiling.layer_range("layer"):
        pass
    assert events == []


def test_names(events):
    x, w, f = torch.zeros(2, 3, 8, 8), torch.zeros(4, 3, 3, 3), setup_filter([1, 3, 3, 1])
    with nvtx_ranges():
        bias_act(x.half(), act="lrelu")
        upfirdn2d(x, f, up=2)
        upfirdn2d(x, f)
        modulated_conv2d(x, w, torch.ones(2, 3), padding=1)
    names = [event[1:] for event in events if event != "-"]
    assert names[0] == "bias_act lrelu [2,3,8,8] float16"
    assert "upfirdn2d up=2 down=1 [2,3,8,8] float32" in names and "upfirdn2d up=1 down=1 [2,3,8,8] float32" in names
    assert "modulated_conv2d up=1 down=1 [2,3,8,8] float32" in names


def test_ops_nest_in_a_layer(events):
    x, w = torch.zeros(1, 3, 8, 8), torch.zeros(4, 3, 3, 3)
    with nvtx_ranges():
        styled_conv2d(x, w, torch.ones(1, 3), torch.zeros(4))
        upsample2d(x, None)
    assert events[0] == "+styled_conv2d up=1 lrelu [1,3,8,8] float32"
    depth, inside = 0, []
    for event in events:
        if event != "-" and depth == 1:
            inside.append(event)
        depth += -1 if event == "-" else 1
    assert depth == 0 and inside[0].startswith(("+epilogue lrelu [1,4,8,8]", "+bias_act lrelu"))
    assert any(event.startswith("+upfirdn2d up=2") for event in events)


def test_layers_of_a_generator(events):
    generator = Generator(GeneratorConfig.uniform(16, channel_base=64, channel_max=8, style_dim=8, mapping_layers=1))
    with torch.no_grad(), nvtx_ranges():
        generator(torch.zeros(1, 8))
    layers = [event[1:] for event in events if event.startswith(("+synthesis", "+mapping"))]
    assert layers == ["mapping"] + [
        f"synthesis.{name}"
        for name in (
            "b4.conv1", "b4.to_rgb", "b8.conv0", "b8.conv1", "b8.to_rgb", "b16.conv0", "b16.conv1", "b16.to_rgb",
        )
    ]  # fmt: skip
    assert events.count("-") * 2 == len(events)


def test_a_range_ends_where_an_op_raises(events):
    with nvtx_ranges():
        with pytest.raises(ValueError, match="act: got 'gelu'"):
            bias_act(torch.zeros(1, 2), act="gelu")
        with pytest.raises(TypeError, match="x: got str"):
            bias_act("x")
    assert events == ["+bias_act gelu [1,2] float32", "-", "+bias_act linear", "-"]


def test_contexts_nest_over_threads(events):
    def work() -> None:
        bias_act(torch.zeros(1, 2))
        with nvtx_ranges():
            bias_act(torch.zeros(1, 2))

    with nvtx_ranges():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        bias_act(torch.zeros(1, 2))
    bias_act(torch.zeros(1, 2))
    assert len(events) == 6 and not profiling.active


def test_no_ranges_and_one_graph_under_compile(events):
    generator = Generator(GeneratorConfig.uniform(8, channel_base=32, channel_max=4, style_dim=4, mapping_layers=1))
    generator.requires_grad_(False)
    z = torch.randn(1, 4)
    compiled = torch.compile(lambda z: generator(z, noise="const"), fullgraph=True, backend="aot_eager")
    want = generator(z, noise="const")
    torch.testing.assert_close(compiled(z), want)
    with nvtx_ranges():
        torch.testing.assert_close(compiled(z), want)
    assert events == []


def calls(function, *arguments) -> int:
    """How many Python functions and builtins a call runs."""
    count = 0

    def hook(frame, event, argument) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(hook)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return count


def test_free_while_off():
    """While off, a call only reads a global and makes one call. (Counted instead of timed: about 60 ns.)"""
    arguments = (torch.zeros(1, 2), torch.zeros(2), 1, "lrelu", 0.2, 1.0, None, "reference")
    inner = sys.modules["cagc_kernels.ops.bias_act"]._bias_act
    calls(bias_act, *arguments)  # fills the caches
    assert calls(bias_act, *arguments) == calls(inner, *arguments) + 1


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


FAKE = """
import sys, types
fake = types.ModuleType("nvtx"); names = []
fake.push_range = names.append; fake.pop_range = lambda: None
sys.modules["nvtx"] = fake
import torch, cagc_kernels
cagc_kernels.bias_act(torch.zeros(1, 2))
print(names)
"""


@pytest.mark.parametrize("value,names", (("1", "['bias_act linear [1,2] float32']"), ("0", "[]")))
def test_environment_variable(value, names):
    run = python(FAKE, CAGC_NVTX=value)
    assert run.stdout.strip() == names, run.stderr


def test_without_nvtx_says_what_is_missing(monkeypatch):
    def refuse(name: str) -> None:
        raise RuntimeError("NVTX functions not installed")

    monkeypatch.setitem(sys.modules, "nvtx", None)
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", refuse)
    monkeypatch.setattr(profiling, "_push", None)
    with pytest.raises(RuntimeError, match="the nvtx package is missing.*pip install nvtx"), nvtx_ranges():
        pass
    assert not profiling.active


def test_with_the_real_library(monkeypatch):
    monkeypatch.setattr(profiling, "_push", None)
    with nvtx_ranges():
        assert profiling._push is sys.modules["nvtx"].push_range
        assert bias_act(torch.ones(1, 2)).sum() == 2


def test_the_script_of_the_docs(events, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).resolve().parents[2] / "docs" / "profiling.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    config = GeneratorConfig.uniform(8, channel_base=32, channel_max=4, style_dim=4, mapping_layers=1)
    save_generator(Generator(config), tmp_path / "generator.safetensors")
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "generator.safetensors"), "2"])
    exec(compile(script, "profile_generator.py", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith("2 images of 8 px on c")
    assert {"+mapping", "+synthesis.b8.conv0", "+synthesis.b8.to_rgb"} <= set(events)
    assert "+styled_conv2d up=2 lrelu [2,4,4,4] float32" in events
