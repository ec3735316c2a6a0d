"""The table of code bases, on small ones that are written here."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import cagc_kernels.compat as compat
from cagc_kernels.compat import __main__ as command
from cagc_kernels.compat import peers, trial

from .code_bases import PAIR, op_package

NETWORK = """
    import torch

    class Generator(torch.nn.Module):
        def __init__(self, size, style_dim, n_mlp):
            super().__init__()
"""
GENERATOR = """
    import torch
    from op import FusedLeakyReLU, upfirdn2d

    class Generator(torch.nn.Module):
        def __init__(self, size, style_dim, n_mlp):
            super().__init__()
            self.act = FusedLeakyReLU(1)

        def forward(self, styles, randomize_noise=True):
            x = self.act(styles[0].view(-1, 1, 8, 8) ** 2)
            return upfirdn2d(x, torch.ones(2, 2, dtype=x.dtype), pad=(1, 0)), None
"""


def test_the_table_of_code_bases(write, capsys):
    base = {f"base/{name}": text for name, text in {**op_package("op"), "model.py": GENERATOR}.items()}
    folder = write({**base, "other/model.py": "class Generator:\n    def __init__(self, depth):\n        pass\n"})
    out = folder / "rows.jsonl"
    assert command.main(["--peers", str(folder), "--out", str(out)]) == 0
    found, other = (json.loads(text) for text in out.read_text().splitlines())
    assert found["code_base"] == "base" and found["generator"] == "`model.py`" and found["with"] == "yes"
    assert "Error" in found["without"] and found["against"] == "our reference", "this copy has no functions for the CPU"
    assert all(float(found[key]) < 1e-12 for key in ("image", "gradient", "second"))
    assert other["generator"] == "none found"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == peers.line(peers.HEADINGS) and printed[2:] == [peers.line(found), peers.line(other)]
    assert command.main(["--peers", "absent"]) == 2


def test_a_code_base_that_takes_too_long_is_a_row(write):
    folder = write({"slow/model.py": GENERATOR})
    (row,) = peers.rows(folder, timeout=0.5)
    assert row["with"] == "more than 0 s" and row["code_base"] == "slow"


def test_the_speed_up_is_of_the_fastest_images_after_a_first_round():
    def images(*seconds):
        return SimpleNamespace(seconds=iter(seconds).__next__)

    assert peers._speed_up(images(1, 5, 2, 5, 5, 5), images(1, 9, 9, 9, 5, 9)) == "2.50"
    assert peers._speed_up(images(30, 10, 20), images(30, 25, 30)) == "2.50", "two rounds are enough if they take long"
    assert peers._speed_up(images(1, None), images(1, 1)) is None


@pytest.mark.parametrize("mode,error", (("own", None), ("kernels", None), ("kernels", "imports no op")))
def test_a_trial_draws_on_ours_or_on_theirs(write, capsys, monkeypatch, mode, error):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "stdin", ["\n"])
    body = "return torch.nn.functional.leaky_relu(input + bias[:, None, None], negative_slope) * scale"
    files = {**op_package("op", body=body), "model.py": GENERATOR if error is None else NETWORK}
    folder = write(files)
    (folder / "op" / "upfirdn2d.py").write_text(f"def upfirdn2d({PAIR}):\n    return input * 7\ndef helper(): pass\n")
    try:
        with pytest.raises(RuntimeError, match=error) if error else nullcontext():
            trial.main(str(folder), "model", "Generator", "size", mode, str(folder / "out"))
    finally:
        compat.uninstall()
    if error is None:
        _, ready, seconds = capsys.readouterr().out.splitlines()
        assert ready == "{}" and float(seconds) > 0
        torch.manual_seed(0)
        image, want = torch.load(folder / "out")[0], 7 * 2**0.5 * torch.randn(1, 64).double().view(1, 1, 8, 8) ** 2
        assert torch.allclose(image, want) == (mode == "own"), "theirs multiplies by 7"
