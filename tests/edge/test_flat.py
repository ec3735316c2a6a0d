"""Flat student files through the C interface: images are those of PyTorch; what is wrong is said in one line."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch

import cagc
from cagc.assets import sngan32
from cagc.common.errors import CagcError
from cagc.editing.directions import Directions
from cagc.export import export_flat, flat_bytes
from cagc_edge import EdgeError, Generator, random_z, version
from cagc_edge.library import library

from .conftest import make_generator


def expected_images(generator, z: np.ndarray, **options) -> np.ndarray:
    return generator.double()(torch.from_numpy(z).double(), **options).float().numpy()


def sealed(data: bytes) -> bytes:
    """``data`` with the length and checksum that its header should have."""
    data = data[:16] + struct.pack("<Q", len(data)) + data[24:]
    return data[:12] + struct.pack("<I", zlib.crc32(data[16:])) + data[16:]


@pytest.mark.parametrize("psi, cutoff", [(1, None), (0.5, None), (0.5, 3), (0.5, 0)])
def test_images_are_those_of_pytorch(generator, student, psi, cutoff):
    edge, z = Generator(student), random_z(1, 3, 12)
    images = edge.synthesis(edge.mapping(z, psi, cutoff))
    expected = expected_images(generator, z, truncation_psi=psi, truncation_cutoff=cutoff, noise_mode="const")
    np.testing.assert_allclose(images, expected, rtol=0, atol=3e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("options", [{"mapping_layers": 1}, {"conv_clamp": 0.7}, {"resample_filter": (1, 2, 4, 3)}])
def test_variants_of_the_network(options):
    generator = make_generator(16, **options)
    edge, z = Generator(flat_bytes(generator, storage="float32")), random_z(2, 1, 12)
    expected = expected_images(generator, z, noise_mode="none")
    images = edge.synthesis(edge.mapping(z), "none")
    np.testing.assert_allclose(images, expected, rtol=0, atol=3e-5 * max(1, np.abs(expected).max()))


def test_sizes_and_what_else_the_file_carries(generator):
    directions = Directions(torch.eye(12)[:2], torch.tensor([2.0, 3.0]), "w", "x")
    extras = {"directions": directions, "names": ["smile", "Höhe"], "licence": "MIT", "thumbnails": b"\x89PNG..."}
    edge = Generator(flat_bytes(generator, **extras))
    assert (edge.z_dim, edge.w_dim, edge.num_ws, edge.img_resolution) == (12, 12, generator.num_ws, 32)
    assert edge.licence == "MIT" and edge.thumbnails == b"\x89PNG..." and version() == cagc.__version__
    assert [(d.name, d.scale) for d in edge.directions] == [("smile", 2.0), ("Höhe", 3.0)]
    np.testing.assert_allclose(edge.w_avg, generator.w_avg.numpy(), rtol=1e-6)
    ws = edge.mapping(random_z(0, 2, 12))
    moved = directions.apply(torch.from_numpy(ws), 1, -0.5, layers=[1, 2])
    np.testing.assert_allclose(edge.edit(ws, 1, -0.5, 1, 3), moved.numpy(), atol=1e-6)


def test_a_file_without_mapping_network_and_noise(generator):
    edge = Generator(flat_bytes(generator, mapping=False, noise=False, storage="float32"))
    ws = np.broadcast_to(edge.w_avg, (1, edge.num_ws, 12))
    expected = generator.float().synthesis(torch.from_numpy(ws.copy()), noise_mode="none").numpy()
    np.testing.assert_allclose(edge.synthesis(ws), expected, rtol=0, atol=3e-5 * max(1, np.abs(expected).max()))
    with pytest.raises(EdgeError, match="mapping: got a file without"):
        edge.mapping(np.zeros((1, 12)))
    with pytest.raises(EdgeError, match="noise: got CAGC_NOISE_CONST.*no noise maps"):
        edge.synthesis(ws, "const")


def test_noise_of_a_seed(student):
    edge = Generator(student)
    ws = edge.mapping(random_z(5, 2, 12))
    first, again, other = (edge.synthesis(ws, "random", seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    ws[1] = ws[0]
    pair = edge.synthesis(ws, "random", 1)
    assert not np.array_equal(pair[0], pair[1])
    values = random_z(9, 1000, 50)
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02 and abs((values**4).mean() - 3) < 0.2


def test_pictures_threads_and_no_images(student):
    edge = Generator(student)
    ws = edge.mapping(random_z(5, 2, 12))
    images, pictures = edge.synthesis(ws), edge.pictures(ws)
    levels = (images.clip(-1, 1).transpose(0, 2, 3, 1) + 1) * 127.5
    assert (pictures[..., 3] == 255).all() and np.abs(pictures[..., :3] - levels).max() <= 0.501
    edge.threads = 3
    np.testing.assert_allclose(edge.synthesis(ws), images, atol=1e-5)
    assert edge.threads == 3 and len(edge.pictures(ws[:0])) == len(edge.mapping(ws[:0, 0])) == 0


@pytest.mark.parametrize("storage, most", [("float16", 2e-3), ("int8", 0.03)])
def test_how_far_storages_are_from_float32(storage, most):
    """Root mean square errors of the embedded student, whose colours span 2; docs/edge.md states these bounds."""
    student = cagc.load_generator("faces64-student")
    z = random_z(3, 4, student.z_dim)
    edges = [Generator(flat_bytes(student, storage=name)) for name in ("float32", storage)]
    reference, images = (edge.synthesis(edge.mapping(z)) for edge in edges)
    assert edges[1].memory < 0.7 * edges[0].memory
    assert 0 < np.sqrt(((images - reference) ** 2).mean()) < most


def damaged(data: bytes, offset: int, value: bytes) -> bytes:
    return sealed(data[:offset] + value + data[offset + len(value) :])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: b"", "file: got something else"),
        (lambda d: b"PK\x03\x04" + d, "file: got something else"),
        (lambda d: d[:40], "header of 64: truncated"),
        (lambda d: d[:-1], "expected .*: truncated"),
        (lambda d: d + b"\0", "expected .*: damaged"),
        (lambda d: d[:5000] + bytes([d[5000] ^ 1]) + d[5001:], "checksum.*damaged"),
        (lambda d: d[:8] + b"\2" + d[9:], "file version: got 2, expected 1: update the library"),
        (lambda d: d[:8] + b"\0" + d[9:], "file version: got 0, expected 1: export the student again"),
        (lambda d: damaged(d, 32, b"sngan\0"), "architecture: got 'sngan"),
        (lambda d: damaged(d, 24, b"\xff\xff"), "table: got 65535 arrays"),
        (lambda d: damaged(d, 64, b"sozes"), "sizes: got no such array"),
        (lambda d: damaged(d, 64 + 72, b"\xf0\xff\xff\xff\xff\xff\xff\xff"), "sizes: got an offset"),
        (lambda d: damaged(d, 64 + 56, b"\xff\xff\xff\x7f"), "sizes: got an axis"),
        (lambda d: damaged(d, 64 + 48, b"\x09"), "sizes: got type 9"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(student, damage, message):
    with pytest.raises(EdgeError, match=message):
        Generator(damage(student))


def test_other_wrong_arguments(student, tmp_path):
    with pytest.raises(EdgeError, match="no.cagc: No such file"):
        Generator(tmp_path / "no.cagc")
    with pytest.raises(EdgeError, match="threads: got 0, expected 1 to 64"):
        Generator(student, threads=0)
    edge = Generator(student)
    for call, message in [
        (lambda: edge.mapping(np.zeros((1, 11))), r"z: got shape \[1, 11\], expected \[N, 12\]"),
        (lambda: edge.synthesis(np.zeros((1, 2, 12))), r"ws: got shape \[1, 2, 12\]"),
        (lambda: edge.synthesis(np.zeros((1, edge.num_ws, 12)), "loud"), "noise_mode: got 'loud'"),
        (lambda: edge.edit(np.zeros((1, edge.num_ws, 12)), 0, 1), "index: got 0.*which has 0"),
        (lambda: setattr(edge, "threads", 65), "threads: got 65"),
    ]:
        with pytest.raises(EdgeError, match=message):
            call()


def test_workspaces_of_the_caller(student):
    edge, lib = Generator(student), library()
    size, handle = lib.workspace_bytes(edge._handle), edge._handle
    ws = edge.mapping(random_z(0, 1, 12))
    image = np.full((3, 32, 32), np.nan, np.float32)
    memory = np.full(size // 4 + 64, np.nan, np.float32)
    start = -memory.ctypes.data % 64

    def draw(address: int, size: int) -> int:
        floats = ws.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        return lib.synthesize(handle, floats, 1, 1, 0, 0, image.ctypes.data, address, size)

    assert draw(memory.ctypes.data + start, size - 1) == 1 and b"workspace_bytes: got" in lib.last_error()
    assert draw(memory.ctypes.data + start + 4, size) == 1 and b"multiple of 64" in lib.last_error()
    assert np.isnan(image).all() and np.isnan(memory).all()
    assert draw(memory.ctypes.data + start, size) == 0
    np.testing.assert_array_equal(image, edge.synthesis(ws)[0])
    assert np.isnan(memory[: start // 4]).all() and np.isnan(memory[start // 4 + size // 4 :]).all()


def test_no_memory(tmp_path):
    """Under a limit that the packed weights do not fit."""
    path = tmp_path / "student.cagc"
    export_flat(cagc.load_generator("faces64-student"), path)
    code = (
        "import resource, sys, cagc_edge\n"
        "cagc_edge.version()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (9 << 20),) * 2)\n"
        "try: cagc_edge.Generator(sys.argv[1])\n"
        "except cagc_edge.EdgeError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert "memory: got none" in run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize(
    "options, message",
    [
        ({"storage": "int4"}, "storage: got 'int4'"),
        ({"directions": Directions(torch.eye(5), torch.ones(5), "w", "x")}, "directions: got 5 of length 5"),
        ({"names": ["a"], "directions": Directions(torch.eye(12), torch.ones(12), "w", "x")}, "and 1 names"),
    ],
)
def test_what_cannot_be_written_is_refused(generator, options, message):
    with pytest.raises(CagcError, match=message):
        flat_bytes(generator, **options)


def test_generators_that_cannot_be_written_are_refused():
    for generator in (make_generator(8, c_dim=3), cagc.load_generator(sngan32() / "teacher.safetensors")):
        with pytest.raises(CagcError, match="export: got a generator that the C interface does not draw: "):
            flat_bytes(generator)
    edge = Generator(flat_bytes(make_generator(8, c_dim=3), mapping=False))
    assert not edge.has_mapping and edge.w_dim == 12


def test_weights_that_cannot_be_written_are_refused(tmp_path):
    generator = make_generator(8)
    with pytest.raises(CagcError, match="expected '.cagc'"):
        export_flat(generator, tmp_path / "a.bin")
    generator.synthesis.b8.conv0.weight[0, 0, 0, 0] = 1e8
    with pytest.raises(CagcError, match="float16 holds"):
        export_flat(generator, tmp_path / "a.cagc")
    generator.synthesis.b8.conv0.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(CagcError, match="not finite"):
        export_flat(generator, tmp_path / "a.cagc", storage="float32")
    assert not list(tmp_path.iterdir())
