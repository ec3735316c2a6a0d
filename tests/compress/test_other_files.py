"""Files with unexpected names or formats: they are recognised by content, and limits apply before memory is used."""

from __future__ import annotations

import argparse
import os
import struct
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cagc import content
from cagc.checkpoints import Checkpoint, load_checkpoint, load_generator, save_checkpoint, to_rosinality
from cagc.common.errors import CagcError
from cagc.data.dataset import ImageDataset
from cagc.data.masks import MaskFolder
from cagc.editing.directions import Directions
from cagc.evaluation import _named
from cagc.metrics.frechet import FeatureStatistics
from cagc.metrics.sampling import finite
from cagc.models import Generator, GeneratorConfig


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(GeneratorConfig.uniform(8, 64, 4, style_dim=4, mapping_layers=1))


def test_settings_and_networks_in_lists_are_read(generator, tmp_path):
    state = to_rosinality(Checkpoint(g_ema=generator))["g_ema"]
    settings = types.SimpleNamespace(steps=range(3), more=argparse.Namespace(lr=np.float32(1)))
    quantized = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)
    torch.save((settings, quantized, state), tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="took rosinality's StyleGAN2 generator under '2'"):
        assert load_generator(tmp_path / "a.pt").config == generator.config


def test_paths_that_are_not_utf8(generator, tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(g_ema=generator))
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors"))
    (tmp_path / "a.safetensors").rename(path)
    assert load_generator(path).config == generator.config
    Directions(torch.eye(4), torch.ones(4), "w", "0" * 16).save(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(path)
    assert torch.equal(Directions.load(path).vectors, torch.eye(4))


def test_mask_zips_are_known_by_content(tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "7.png")
    with zipfile.ZipFile(tmp_path / "masks", "w") as archive:
        archive.write(tmp_path / "7.png", "7.png")
    assert isinstance(content.load(tmp_path / "masks"), MaskFolder)
    torch.save({"cp.resnet.conv1.weight": torch.zeros(1)}, tmp_path / "weights.zip")
    with pytest.raises(CagcError, match="BiSeNet"):
        content.load(tmp_path / "weights.zip")


@pytest.mark.parametrize("read", [load_checkpoint, content.load, FeatureStatistics.load, lambda p: ImageDataset(p, 8)])
def test_a_zip_that_claims_many_entries_is_refused_before_they_are_read(read, tmp_path):
    path = tmp_path / "a"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("7.png", b"")
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\x05\x06")
    count, size, place = 3_000_000, end, 0
    data[end:end] = (
        b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, place)
        + b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1)
    )  # fmt: skip
    data[-12:-4] = b"\xff" * 8
    data[-14:-10] = b"\xff" * 4
    path.write_bytes(data)
    with pytest.raises(CagcError, match="3,000,000 entries"):
        read(path)


@pytest.mark.parametrize(
    "start, said",
    [(b"<script>", "a web page"), (b"II*\0", "a TIFF image"), ("Quota".encode("utf-16"), "text in UTF-16")],
)
def test_other_files_are_told_by_name(start, said, tmp_path):
    (tmp_path / "a.pt").write_bytes(start + bytes(20))
    with pytest.raises(CagcError, match=said):
        load_checkpoint(tmp_path / "a.pt")


def test_errors_of_metrics_name_the_generator():
    with pytest.raises(CagcError, match="^Student: got NaN"), _named("Student"):
        finite(torch.full((1, 3, 2, 2), float("nan")), [7])
