"""The benchmarked generators draw equal images, and the script for a machine with a GPU runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import generators, layers, peers, small_image, tables
from benchmarks.grouped import grouped_synthesis
from benchmarks.peers import Unavailable
from cagc.models import GeneratorConfig
from cagc_kernels import native

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def small():
    config = GeneratorConfig.uniform(32, channel_base=256, channel_max=16, style_dim=16, mapping_layers=2)
    return generators.random_generator(config, "cpu")


def test_widths_are_the_papers():
    assert list(generators.widths(1024, 0.3).values())[9:] == [154, 77, 77, 39, 39, 20, 20, 10, 10]
    assert sorted(set(generators.widths(256, 0.3, 8).values())) == [40, 80, 160]
    assert generators.widths(64, 1.0, 8) == GeneratorConfig.uniform(64).channels


def test_grouped_convolutions_draw_the_same_image(small):
    z = torch.randn(3, 16)
    with torch.no_grad():
        error = generators.check_images(grouped_synthesis(small, small.ws(z)), small(z, noise="const"))
    assert error < 1e-5


@pytest.mark.parametrize("name", ["reference", "native", "grouped", "runtime"])
def test_every_way_draws_the_same_image(small, name):
    try:
        image = generators.build(name, small, 2, None)
    except Unavailable as reason:
        pytest.skip(str(reason))
    z = torch.randn(2, 16)
    with torch.inference_mode():
        generators.check_images(image(z), small(z, noise="const"))


def test_other_images_are_not_timed(small):
    image = torch.rand(1, 3, 8, 8)
    with pytest.raises(Unavailable, match="differ from the reference's by"):
        generators.check_images(image * 1.01, image)
    with pytest.raises(Unavailable, match="draws"):
        generators.check_images(image[..., 1:], image)
    with pytest.raises(Unavailable, match="nan"):
        generators.check_images(image * float("nan"), image)
    with pytest.raises(Unavailable, match="CUDA"):
        generators.build("native+graph", small, 1, None)


def checkout(folder: Path, model: str) -> Path:
    """Make a folder that is recognised as the authors' code, with this model.py."""
    for name in ("op", "Util"):
        (folder / "theirs" / name).mkdir(parents=True)
    (folder / "theirs" / "Util" / "mask_util.py").touch()
    (folder / "theirs" / "op" / "__init__.py").write_text("from torch.utils.cpp_extension import load\nload('fused')")
    (folder / "theirs" / "model.py").write_text(model)
    return folder


WORKING = """
import torch, op
from cagc.checkpoints.rosinality import generator_from_rosinality, generator_to_rosinality

class Generator(torch.nn.Module):
    def __init__(self, size, style_dim, n_mlp, generator_net_shape):
        super().__init__()
        self.args = size, style_dim, n_mlp, list(generator_net_shape)
    def load_state_dict(self, state):
        self.ours = generator_from_rosinality(state)
    def state_dict(self):
        return generator_to_rosinality(self.ours)
    def forward(self, zs, randomize_noise):
        return self.ours(zs[0], noise="const")
"""


def test_a_peer_is_imported_from_its_checkout_and_leaves_nothing(small, tmp_path):
    mine = sys.modules["model"] = type(sys)("model")
    path, load = list(sys.path), torch.utils.cpp_extension.load
    try:
        image = peers.generator(checkout(tmp_path, WORKING), "authors", small)
        assert sys.modules.pop("model") is mine and "op" not in sys.modules
    finally:
        sys.modules.pop("model", None)
    assert sys.path == path and torch.utils.cpp_extension.load is load
    z = torch.randn(2, 16)
    with torch.no_grad():
        assert torch.equal(image(z), small(z, noise="const"))


@pytest.mark.parametrize(
    "model, reason",
    [
        ("raise OSError('no\\n compiler')", "OSError: no compiler"),
        ("import absent_package", "ModuleNotFoundError"),
        ("Generator = None", "TypeError"),
    ],
)
def test_a_peer_that_fails_is_named(small, tmp_path, model, reason):
    with pytest.raises(Unavailable, match=reason):
        peers.generator(checkout(tmp_path, model), "authors", small)
    assert "model" not in sys.modules


def test_an_absent_peer_is_named(small, tmp_path):
    with pytest.raises(Unavailable, match="no checkout in .*swagan.py"):
        peers.generator(tmp_path, "rosinality", small)
    with pytest.raises(Unavailable, match="needs --peers"):
        peers.ops(None, "stylegan3", "cpu")


def test_layers_are_held_against_their_roofs(small):
    measured = {"copy_gbs": 10.0, "matrix_gflops": 100.0}
    rows = [
        {"name": "a", "kernel": "k", "macs": 10**9, "bytes": 10**6, "ms": 40.0},
        {"name": "b", "kernel": "k", "macs": 10**6, "bytes": 10**8, "ms": 10.0},
    ]
    assert tables.roof_ms(rows[0], measured) == (20.0, "arithmetic")
    assert tables.roof_ms(rows[1], measured) == (10.0, "memory")
    assert tables.roof_ms(rows[0] | {"multiplications": 10**9 // 4}, measured) == (5.0, "arithmetic")
    rows[0]["elementwise"] = 5 * 10**8
    assert tables.roof_ms(rows[0], measured) == (20.0, "arithmetic")
    assert tables.roof_ms(rows[0], measured, elementwise=True) == (30.0, "arithmetic")
    lines = tables.layer_table(rows, measured).splitlines()
    assert "| 80% | 20.00 | 50% | 30.00 | 75% | arithmetic | 10.00 |" in lines[2]
    assert "| 50.00 | 100% | 30.00 | 60% | 40.00 | 80% | | 10.00 |" in lines[4]


def test_shares_of_layers_stand_beside_those_that_the_roofs_allow():
    roofs, made = {"copy_gbs": 1e9, "matrix_gflops": 2.0}, []
    for width, macs, elementwise, ms in (("full", 8 * 10**6, 0, 10.0), ("0.3", 10**6, 10**6, 2.5)):
        made.append({
            "benchmark": "layers", "implementation": "runtime", "macs": macs, "bytes": 1, "ms": {"median": ms},
            "case": {"resolution": 64, "widths": width, "batch": 1, "layer": "b4.conv1"}, "roofs": roofs,
            "figures": {"kernel": "k", "multiplications": macs, "elementwise": elementwise},
        })  # fmt: skip
    full, narrow = tables.layer_sums(made).splitlines()[2:4]
    assert "| 10.0 | 8.0 | 80% | 8.0 | 80% | – | – |" in full
    assert "| 2.5 | 1.0 | 40% | 2.0 | 80% | 0.50 | 0.50 |" in narrow


def test_rows_of_layers_hold_their_shapes(small):
    rows = [{"name": n, "kernel": "k", "macs": 1, "bytes": 1, "ms": 1.0} for n in ("mapping", "b8.conv0", "b8.to_rgb")]
    made = layers.as_rows(rows, {"batch": 2}, small.config, "runtime", "cpu")
    assert [row["shape"] for row in made] == [[2, 16], [2, 16, 8, 8], [2, 3, 8, 8]]


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "benchmarks" / "gpu_runs.sh"), *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_gpu_script_walks_its_road_on_the_cpu(tmp_path):
    run = run_script(str(tmp_path / "out"), "--dry", "--only", "build")
    assert run.returncode == 0, run.stderr
    assert "== build:" in run.stdout and "== tests:" not in run.stdout
    assert "reference" in (tmp_path / "out" / "build.log").read_text()


@pytest.mark.parametrize("arguments", [(), ("a", "b"), ("a", "--only", "build all"), ("a", "--wet")])
def test_the_gpu_script_refuses_other_options(arguments, tmp_path):
    assert run_script(*(str(tmp_path / a) if a in "ab" else a for a in arguments)).returncode == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_gpu_script_asks_for_a_gpu(tmp_path):
    run = run_script(str(tmp_path / "out"), "--only", "ops")
    assert run.returncode == 1 and "sees no CUDA device; --dry" in run.stderr


@pytest.mark.skipif(native.REASON is not None, reason=str(native.REASON))
def test_parts_of_a_small_image(capsys):
    before = torch.get_num_threads()
    try:
        small_image.main(["faces64-student", "--rounds", "2", "--threads", "1", "--weights", "default", "int8"])
    finally:
        torch.set_num_threads(before)
    header, rule, *rows = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[3:])
    assert header == list(small_image.COLUMNS) and len(rows) == 2
    assert rows[0][1].startswith("default (") and rows[1][1] == "int8"
    for row in rows:
        assert all(float(cell) > 0 for cell in row[2:6]) and float(row[7]) > float(row[2])
        assert float(row[-1]) == 1  # the first generator's own
