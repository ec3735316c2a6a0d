"""cagc.runtime draws the images of the generator with every program."""

from __future__ import annotations

import copy
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import cagc
from cagc import runtime
from cagc.assets import faces64
from cagc.metrics.macs import count_macs
from cagc.models import Generator, GeneratorConfig, SNGANConfig, SNGANGenerator
from cagc.runtime import graph, storage
from cagc.runtime.program import program
from cagc_kernels import backend, native, use_backend

needs_native = pytest.mark.skipif(native.REASON is not None, reason=str(native.REASON))


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    made = Generator(GeneratorConfig.uniform(16, 128, 12, style_dim=16, mapping_layers=2)).requires_grad_(False)
    made.w_avg.normal_()
    for layer in (made.synthesis.b4.conv1, made.synthesis.b8.conv0, made.synthesis.b16.conv1):
        layer.noise_strength.fill_(0.5)
    return made


def exactly(generator, **options) -> runtime.CompiledGenerator:
    """Compiled with the weights as they are."""
    return runtime.compile(generator, weights="float32", **options)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=5e-5)


@pytest.mark.parametrize("preferred", [None, "reference"])
@pytest.mark.parametrize("noise", ["const", "none", "random", "list"])
def test_same_images_as_the_generator(generator, preferred, noise):
    with use_backend(preferred):
        compiled = exactly(generator)
        for batch in (1, 3, 0):
            z = torch.randn(batch, 16)
            given = generator.make_noise(batch, seed=1) if noise == "list" else noise
            torch.manual_seed(7)
            images = compiled(z, truncation_psi=0.6, noise=given)
            torch.manual_seed(7)
            close(images, generator(z, truncation_psi=0.6, noise=given))


def test_style_mixing_and_ws(generator):
    compiled = exactly(generator)
    z, other = torch.randn(2, 2, 16)
    ws = generator.ws(z, other, 2, truncation=0.5)
    close(compiled.ws(z, other, 2, truncation=0.5), ws)
    close(compiled.synthesis(ws), generator.synthesis(ws, noise="const"))


@needs_native
def test_embedded_teacher():
    teacher = cagc.load_generator(faces64() / "teacher.safetensors").requires_grad_(False)
    compiled = exactly(teacher, batch=2)
    assert compiled.reason is None
    z = torch.randn(2, teacher.config.style_dim, generator=torch.Generator().manual_seed(0))
    expected = teacher.double()(z.double(), noise="const")
    assert (compiled(z) - expected).abs().max() < 1e-4


@needs_native
def test_weights_take_the_fewest_bytes_that_keep_the_images():
    student = cagc.load_generator(faces64() / "student.safetensors").requires_grad_(False)
    z = torch.randn(2, student.config.style_dim, generator=torch.Generator().manual_seed(5))
    expected, sizes, errors = student(z, noise="const"), {}, {}
    for weights in (None, "float32", "float16", "int8"):
        compiled = runtime.compile(student, weights=weights)
        assert weights is None or compiled.storage == {"mapping": weights, "styles": weights}
        sizes[weights], errors[weights] = compiled.memory, float((compiled(z) - expected).square().mean().sqrt())
        assert [row["layout"] for row in compiled.explain()[:2]] == [
            f"{stored} weights" for stored in compiled.storage.values()
        ]
        assert weights or compiled.storage == {"mapping": "float16", "styles": "float16"}
    assert sizes["int8"] < sizes["float16"] < sizes["float32"]
    assert errors["float32"] < 1e-5 and errors["float16"] < 1e-5  # the file holds float16
    assert errors[None] <= storage.BOUND < errors["int8"]
    student.mapping.fc0.weight.mul_(1 + 1e-4 * torch.rand_like(student.mapping.fc0.weight))
    student.synthesis.b8.conv0.affine.weight.mul_(1 + 1e-4 * torch.rand_like(student.synthesis.b8.conv0.affine.weight))
    assert runtime.compile(student).storage == {"mapping": "float32", "styles": "float32"}


@needs_native
def test_weights_that_cannot_be_stored_so(generator):
    with pytest.raises(ValueError, match="weights: got 'int4', expected None or one of float32, float16, int8"):
        runtime.compile(generator, weights="int4")
    with pytest.raises(ValueError, match="weights: got 'int8', expected None or 'float32': .*float64"):
        runtime.compile(generator, dtype=torch.float64, weights="int8")
    generator.mapping.fc0.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="weights: got float16, but a weight of mapping is inf"):
        runtime.compile(generator, weights="float16")
    generator.synthesis.b8.conv0.affine.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weights: got int8, but a weight of styles is nan|of mapping is inf"):
        runtime.compile(generator, weights="int8")
    assert runtime.compile(generator).storage == {"mapping": "float32", "styles": "float32"}


@pytest.mark.parametrize("psi, cutoff", [(1, None), (0.5, None), (0.5, 2), (0.5, 0), (-1.5, 40)])
def test_truncation_in_the_one_call(generator, psi, cutoff):
    compiled, z = exactly(generator), torch.randn(2, 16)
    close(compiled(z, None, psi, cutoff), generator(z, None, psi, cutoff, noise="const"))


def test_noise_maps_may_change_between_calls(generator):
    compiled, z, noise = exactly(generator), torch.randn(1, 16), generator.make_noise(1, seed=1)
    for _ in range(2):
        close(compiled(z, noise=noise), generator(z, noise=noise))
        noise[0] = noise[0] + 1
        noise[1].mul_(2)
        noise[2] = torch.stack([noise[2], noise[2]], dim=-1)[..., 0]  # a copy is made of it


def test_images_do_not_alias(generator):
    compiled = exactly(generator)
    first = compiled(torch.randn(1, 16))
    kept = first.clone()
    compiled(torch.randn(1, 16))
    assert torch.equal(first, kept)


def test_calls_of_several_threads_wait_for_each_other(generator, monkeypatch):
    compiled, busy, most = exactly(generator), [], []
    holder, name = (compiled._synthesis, "forward") if compiled._generate is None else (compiled, "_generate")
    network = getattr(holder, name)

    def watched(*arguments, **options):
        busy.append(None)
        time.sleep(0.01)
        most.append(len(busy))
        busy.pop()
        return network(*arguments, **options)

    monkeypatch.setattr(holder, name, watched)
    z = torch.randn(4, 1, 16)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(compiled, z))
    assert most == [1] * 4


@needs_native
@pytest.mark.parametrize("copied", (copy.copy, pickle.dumps))
def test_it_is_neither_copied_nor_pickled(generator, copied):
    # Its weights are addresses of this process.
    with pytest.raises(TypeError, match="compile the generator again"):
        copied(exactly(generator))
    with pytest.raises(TypeError, match="cannot be copied"):
        copied(program(generator))


def test_what_scripts_do_to_a_network_before_they_draw(generator):
    """As NVlabs' scripts: a copy in evaluation mode, moved; z in float64; attributes of both networks."""
    compiled, z = exactly(generator), torch.randn(2, 16)
    copied = copy.deepcopy(compiled).eval().requires_grad_(False).train(False).to(torch.device("cpu"))
    assert copied is compiled and copied.mapping.num_ws == copied.synthesis.num_ws == generator.num_ws
    assert not hasattr(copied.synthesis, "input")  # of StyleGAN3
    expected = generator(z.double(), torch.zeros(2, 0), truncation_psi=0.7, noise_mode="const")
    close(copied(z.double(), torch.zeros(2, 0), truncation_psi=0.7, noise_mode="const"), expected)
    for call in (compiled.train, compiled.requires_grad_, lambda: compiled.to("cuda")):
        with pytest.raises(ValueError, match="compiled|CUDA devices"):
            call()


def test_weights_are_frozen_when_compiled(generator):
    compiled, z = exactly(generator), torch.randn(1, 16)
    before = compiled(z)
    for tensor in (*generator.parameters(), *generator.buffers()):
        tensor.zero_()
    assert torch.equal(compiled(z), before)


def test_float64_runs_eagerly_and_says_why(generator):
    compiled = runtime.compile(generator, dtype=torch.float64)
    z = torch.randn(2, 16, dtype=torch.float64)
    assert torch.equal(compiled(z), generator.double()(z, noise="const"))
    assert "float32" in compiled.reason and all(row["why"] == compiled.reason for row in compiled.explain())
    assert native.REASON or {row["kernel"] for row in compiled.explain()} == {"eager layer by native (fused)"}
    with use_backend("reference"):
        assert compiled.explain()[0]["kernel"] == "eager layer by reference (composed: plain PyTorch)"


@needs_native
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_float32(generator, dtype):
    compiled, single = exactly(generator, dtype=dtype), exactly(generator)
    z, noise = torch.randn(2, 16, dtype=dtype), [n.to(dtype) for n in generator.make_noise(2, seed=1)]
    ws = compiled.ws(z, truncation=0.5)
    assert compiled.reason is None and torch.equal(ws, single.ws(z.float(), truncation=0.5).to(dtype))
    expected = single.synthesis(ws.float(), noise=[n.float() for n in noise])
    assert torch.equal(compiled.synthesis(ws, noise), expected.to(dtype))
    assert compiled.profile(z, repeats=1)


@pytest.mark.parametrize("preferred", [None, "reference"])
def test_sngan(preferred):
    torch.manual_seed(0)
    generator = SNGANGenerator(SNGANConfig.uniform(8, 20)).eval()
    with use_backend(preferred):
        compiled, z = runtime.compile(generator), torch.randn(2, generator.z_dim)
        for psi, cutoff in ((1, None), (0.5, None), (0.5, 0)):
            close(compiled(z, None, psi, cutoff), generator(z, None, psi, cutoff).detach())
        close(compiled.synthesis(compiled.mapping(z)), generator(z).detach())
        kernel = compiled.explain()[0]["kernel"]
    assert compiled.memory > 0
    if compiled.reason is None:
        assert "nearest" in kernel
        rows = compiled.profile(z, repeats=1)
        assert [row["name"] for row in rows] == ["mapping", "styles", "b8.conv0", "b8.conv1"]
        assert sum(row["macs"] for row in rows) == 2 * sum(count_macs(generator).values())
    else:
        assert kernel == "folded layer" and preferred == "reference" or native.REASON


def test_filters_of_another_length_run_eagerly(generator):
    made = Generator(GeneratorConfig.uniform(8, 64, style_dim=16, mapping_layers=1, resample_filter=(1, 2, 1)))
    compiled, z = exactly(made), torch.randn(1, 16)
    close(compiled(z), made(z, noise="const").detach())
    if native.REASON is None:
        assert "4 taps" in compiled.reason


def test_without_the_compiled_module(generator, monkeypatch):
    monkeypatch.setattr(backend, "unavailable", lambda name: "not compiled")
    compiled, z = exactly(generator), torch.randn(1, 16)
    close(compiled(z), generator(z, noise="const"))
    assert compiled.reason == "not compiled"


@needs_native
def test_explain_profile_and_memory(generator):
    compiled = exactly(generator)
    layers = ["mapping", "styles", "b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"]
    assert [row["layer"] for row in compiled.explain()] == layers
    packed = compiled.memory
    rows = compiled.profile(torch.randn(2, 16), repeats=1)
    assert [row["name"] for row in rows] == layers
    assert all(row[key] > 0 for row in rows for key in ("ms", "macs", "multiplications", "bytes"))
    assert sum(row["macs"] for row in rows) == 2 * cagc.metrics.macs.total_macs(generator)
    assert compiled.memory > packed > 4 * sum(p.numel() for p in generator.parameters())


def test_profile_needs_the_program(generator):
    with pytest.raises(ValueError, match="profile: .*float64"):
        runtime.compile(generator, dtype=torch.float64).profile(torch.randn(1, 16, dtype=torch.float64))


def test_bad_calls(generator):
    compiled, z = runtime.compile(generator), torch.randn(2, 16)
    with pytest.raises(TypeError, match="ws: got torch.float64.*float32"):
        compiled.synthesis(compiled.mapping(z).double())
    with pytest.raises(TypeError, match="z: got torch.int64.*float32"):
        compiled(z.long())
    with pytest.raises(ValueError, match="ws: requires a gradient, which a compiled generator does not compute"):
        compiled.synthesis(torch.zeros(1, generator.num_ws, 16, requires_grad=True))
    with pytest.raises(ValueError, match="z: is on meta"):
        compiled(z.to("meta"))
    with pytest.raises(TypeError, match="z: got list"):
        compiled([0.0])
    with pytest.raises(ValueError, match=r"z: got shape \[2, 15\]"):
        compiled(z[:, 1:])
    with pytest.raises(ValueError, match=r"ws: got shape \[2, 4, 16\]"):
        compiled.synthesis(z[:, None].expand(-1, 4, -1))
    with pytest.raises(ValueError, match="noise: got 'loud'"):
        compiled(z, noise="loud")
    noise = generator.make_noise(2)
    with pytest.raises(ValueError, match=r"noise\[1\]: got shape"):
        compiled(z, noise=[noise[0], noise[0], *noise[2:]])
    with pytest.raises(TypeError, match=r"noise\[0\]"):
        compiled(z, noise=[n.double() for n in noise])


def test_bad_arguments(generator):
    with pytest.raises(TypeError, match="generator: got Linear"):
        runtime.compile(torch.nn.Linear(1, 1))
    for batch in (0, True, 1.5):
        with pytest.raises(ValueError, match="batch"):
            runtime.compile(generator, batch=batch)
    with pytest.raises(TypeError, match="dtype: got torch.int32"):
        runtime.compile(generator, dtype=torch.int32)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device: got cuda, but there are 0"):
            runtime.compile(generator, device="cuda")
    for device in ("gpu", "meta", None):
        with pytest.raises(ValueError, match=f"device: got .?{device}"):
            runtime.compile(generator, device=device)
    with pytest.raises(ValueError, match="generator: .* meta"):
        runtime.compile(generator.to("meta"))


class Recorder:
    """Replaces CUDA graphs: `capture` runs eagerly into its own buffers and counts the captures."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def capture(self, function, inputs):
        static = [tensor.clone() for tensor in inputs]
        output = function(*static)
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            output.copy_(function(*static))

        return static, replay, output


def test_a_graph_for_each_batch_and_kind_of_noise(generator, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(graph, "capture", recorder.capture)
    graphed = graph.Graphed(generator.synthesis)
    for _ in range(2):
        for batch in (1, 2, 0):
            for noise in ("const", generator.make_noise(batch)):
                ws = torch.randn(batch, 6, 16)
                assert torch.equal(graphed(ws, noise=noise), generator.synthesis(ws, noise=noise))
    assert recorder.captured == 4 and recorder.replayed == 8
    assert graphed.memory > 0
    first = graphed(torch.randn(1, 6, 16), noise="const")
    kept = first.clone()
    graphed(torch.randn(1, 6, 16), noise="const")
    assert torch.equal(first, kept)


def test_one_graph_for_an_image(generator, monkeypatch):
    """An image uses one graph, or one per network if w is requested or truncated; all share the weights."""
    recorder = Recorder()
    monkeypatch.setattr(graph, "capture", recorder.capture)
    mapping, draw, whole = runtime.graphed(generator.config, generator.mapping, generator.synthesis)
    z, given = torch.randn(2, 16), generator.make_noise(2)
    for noise in ("const", given):
        assert torch.equal(whole(z, noise=noise), generator(z, noise=noise))
    assert recorder.captured == 2
    images = draw(mapping(z, truncation_psi=0.5), noise=given)
    assert torch.equal(images, generator(z, truncation_psi=0.5, noise=given))
    assert recorder.captured == 4 and mapping.w_avg is generator.w_avg
    with pytest.raises(ValueError, match=r"z: got shape \[2, 15\]"):
        whole(z[:, 1:], noise="const")
    assert generator(z[:0]).shape == whole(z[:0], noise="const").shape


def test_out_of_memory_while_capturing_leaves_eager(generator, monkeypatch):
    def refuse(function, inputs):
        raise torch.cuda.OutOfMemoryError("no memory for the graph")

    monkeypatch.setattr(graph, "capture", refuse)
    graphed, ws = graph.Graphed(generator.synthesis), torch.randn(1, 6, 16)
    with pytest.warns(UserWarning, match="no CUDA graph for batch 1.*no memory"):
        images = graphed(ws, noise="const")
    assert torch.equal(images, generator.synthesis(ws, noise="const"))
    assert torch.equal(graphed(ws, noise="const"), images)
