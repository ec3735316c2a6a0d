"""Every reader of the package, with a small sound file of its format and the ways to damage it."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from cagc import ChannelPlan, ChannelScores, content, plan_channels, score_channels
from cagc.checkpoints import load_checkpoint, save_checkpoint, to_rosinality
from cagc.common.errors import CagcError
from cagc.common.fingerprint import fingerprint
from cagc.common.reading import reading
from cagc.data.dataset import ImageDataset, read_image
from cagc.data.files import read_file
from cagc.data.images import read_mask
from cagc.data.labels import read_labels
from cagc.distill.state import RunFolder, _read
from cagc.editing.directions import Directions
from cagc.editing.projection import Projection
from cagc.export import flat_bytes
from cagc.latency.table import LatencyTable
from cagc.metrics.frechet import FeatureStatistics
from cagc.models.face_parser import FaceParser
from cagc.report import training_curves
from cagc_edge import EdgeError, random_z
from cagc_edge import Generator as EdgeGenerator
from cagc_kernels import native
from cagc_kernels.triton.gemm import configs, winners
from tools.sngan.cifar_to_zip import read_images

from . import mutations
from .documents import basicsr, clean, generator, labelled_state, networks, snapshot, stylegan3_state, training_file

Damage = Callable[[bytes, Random], bytes]


@dataclass(frozen=True)
class Reader:
    """One format and what reads it.

    Attributes:
        suffix: of the file's name.
        sound: gives the bytes of a file that must be read without a refusal.
        read: reads the file at a path, fully.
        damage: ways to damage its bytes, drawn with equal chances.
        covers: the functions of the package that take the file's bytes, as "file:function".
    """

    suffix: str
    sound: Callable[[], bytes]
    read: Callable[[Path], Any]
    damage: tuple[Damage, ...]
    covers: tuple[str, ...]


def _written(write: Callable[[Path], Any], suffix: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{suffix}")
        write(path)
        return path.read_bytes()


def _saved(document: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(document, stream, **options)
    return stream.getvalue()


def _tree(document: Callable[[], Any]) -> Damage:
    return lambda data, rng: _saved(mutations.damaged_tree(document(), rng), pickle_protocol=rng.choice((2, 4)))


def _load_all(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    refused = None
    for name in ("g_ema", "g", "d"):
        try:
            network = getattr(checkpoint, name)
        except CagcError as error:
            refused = error
        else:
            if name != "d" and network is not None:
                network(torch.zeros(1, network.z_dim), torch.zeros(1, network.c_dim))
    if refused is not None:
        raise refused


def _draw_flat(path: Path) -> None:
    """Open a flat student file by the C library, and draw from it."""
    try:
        g = EdgeGenerator(path)
        if g.img_resolution <= 64:
            ws = g.mapping(random_z(0, 1, g.z_dim)) if g.has_mapping else np.zeros((1, g.num_ws, g.w_dim))
            g.pictures(ws), g.synthesis(ws, "random")
    except EdgeError as error:
        raise CagcError(f"student {path.name}: {error}" + ": more memory than there is" * ("memory:" in str(error)))


def _scores() -> ChannelScores:
    return score_channels(generator(), "random")


def _table() -> LatencyTable:
    full = {"a": 8, "b": 4}
    return LatencyTable("cpu", "eager", 1, full, {"a": [4, 8], "b": [2, 4]}, {"b": [[1.0, 2.0], [2.0, 3.0]]}, {}, 0.5)


def _picture(mode: str = "RGB", size: int = 16, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(stream, form)
    return stream.getvalue()


def _tiles() -> bytes:
    p = configs.Problem("float16", 1, 8, 8, 16, 16, 3)
    entry = {"config": configs.default(p)._asdict(), "ms": 0.5}
    return json.dumps({"environment": {"device": "GPU", "architecture": 90}, "winners": {p.key: entry}}).encode()


def _cifar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in (
            ("data_batch_1.bin", bytes(3073)),
            ("data_batch_2", pickle.dumps({"data": np.zeros((1, 3072), np.uint8)})),
        ):
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _zip(names: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _read_data(path: Path) -> None:
    data = ImageDataset(path, 16, convert=True)
    data.batch(range(len(data)))


def _read_alone(path: Path) -> None:
    read_image(path, 8, convert=True)
    read_mask(read_file(path))


def _read_masks(path: Path) -> None:
    content.load(path)(torch.zeros(1, 3, 8, 8), seeds=[7])


def _state() -> bytes:
    state = {"step": 3, "g": {"a": torch.zeros(3)}, "optimizer": {"state": {0: {"step": 1.0}}, "param_groups": []}}
    return _saved(state | {"checksum": fingerprint(state)})


def _read_state(path: Path) -> None:
    with reading("checkpoint", path):  # RunFolder.restore passes over what is damaged, whatever it raises
        _read(path)


def _run_config() -> bytes:
    return json.dumps({name: {"a": 1} for name in ("identity", "settings", "sources")}).encode()


def _read_run(path: Path) -> None:
    folder = path.parent / "run"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(path.read_bytes())
    try:
        RunFolder(folder).config()
    except CagcError as error:
        raise CagcError(f"{path.name}: {error}") from None


def _read_log(path: Path) -> None:
    folder = path.parent / "log"
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_bytes(path.read_bytes())
    RunFolder(folder).metrics()
    training_curves(folder / "metrics.jsonl")


_PARSER_WIDTHS = [4, 4]
_BYTES = mutations.damaged_bytes
_TENSORS = (_BYTES, mutations.damaged_safetensors, mutations.damaged_safetensors)
_JSON = (_BYTES, mutations.damaged_json, mutations.damaged_json, mutations.damaged_json)
_TORCH = (_BYTES, mutations.damaged_torch_zip)
_CHECKPOINTS = ("__init__.py:load_checkpoint",)

READERS: dict[str, Reader] = {
    "rosinality": Reader(
        ".pt", lambda: _saved(training_file()), _load_all, (*_TORCH, _tree(training_file), _tree(training_file)),
        (*_CHECKPOINTS, "torch_files.py:_read_zip", "torch_files.py:_unpickle",
         "torch_files.py:_member", "torch_files.py:open_zip", "torch_files.py:open_document",
         "file_kinds.py:file_kind"),
    ),
    "rosinality-legacy": Reader(
        ".pt", lambda: _saved(training_file(), _use_new_zipfile_serialization=False), _load_all,
        (_BYTES, mutations.damaged_bytes), ("torch_files.py:_read_legacy",),
    ),
    "gfpgan-clean": Reader(".pth", lambda: _saved(clean()), _load_all, (*_TORCH, _tree(clean)), _CHECKPOINTS),
    "nvlabs-labels": Reader(
        ".pt", lambda: _saved(labelled_state()), _load_all, (*_TORCH, _tree(labelled_state)), _CHECKPOINTS
    ),
    "basicsr": Reader(".pth", lambda: _saved(basicsr()), _load_all, (*_TORCH, _tree(basicsr)), _CHECKPOINTS),
    "stylegan3": Reader(
        ".pt", lambda: _saved(stylegan3_state()), _load_all, (*_TORCH, _tree(stylegan3_state)),
        (*_CHECKPOINTS, "stylegan3.py:generator_from_stylegan3"),
    ),
    **{
        f"nvlabs-protocol-{protocol}": Reader(
            ".pkl", lambda protocol=protocol: snapshot(protocol), _load_all,
            (_BYTES, mutations.damaged_pickle, mutations.damaged_pickle), _CHECKPOINTS,
        )
        for protocol in (2, 3, 4, 5)
    },
    "native": Reader(
        ".safetensors", lambda: _written(lambda path: save_checkpoint(path, networks()), ".safetensors"), _load_all,
        _TENSORS, ("native.py:native_networks", "documents.py:open_safetensors",
                   "reading.py:parse_json"),
    ),
    "safetensors": Reader(
        ".safetensors", lambda: save(to_rosinality(networks())["g_ema"]), _load_all, _TENSORS, _CHECKPOINTS
    ),
    "face-parser": Reader(
        ".safetensors",
        lambda: save(FaceParser(_PARSER_WIDTHS).state_dict(), {"format": "cagc-face-parser", "widths": "[4, 4]"}),
        content.load, _TENSORS, ("content.py:load_face_parser", "content.py:_is_face_parser"),
    ),
    "bisenet": Reader(
        ".pth", lambda: _saved({"state_dict": {"cp.resnet.conv1.weight": torch.zeros(64, 3, 7, 7)}}), content.load,
        (*_TORCH, _tree(lambda: {"cp.resnet.conv1.weight": torch.zeros(64, 3, 7, 7)})),
        ("bisenet.py:_read_part",),
    ),
    "plan": Reader(
        ".json", lambda: _written(plan_channels(generator(), _scores(), keep=0.5, round_to=1).save, ".json"),
        ChannelPlan.load, _JSON,
        ("plan.py:ChannelPlan.load", "documents.py:read_document", "reading.py:read_json"),
    ),
    "scores": Reader(
        ".json", lambda: _written(_scores().save, ".json"), ChannelScores.load, _JSON,
        ("document.py:ChannelScores.load",),
    ),
    "latency-table": Reader(
        ".json", lambda: _written(_table().save, ".json"), lambda path: LatencyTable.load(path).cost({"a": 5, "b": 3}),
        _JSON, ("table.py:LatencyTable.load",),
    ),
    "directions": Reader(
        ".safetensors",
        lambda: _written(Directions(torch.eye(4), torch.ones(4), "w", "0" * 16).save, ".safetensors"),
        Directions.load, _TENSORS, ("directions.py:Directions.load", "documents.py:read_tensors"),
    ),
    "projection": Reader(
        ".safetensors",
        lambda: _written(
            Projection(torch.zeros(1, 5, 8), [torch.zeros(1, 1, 4, 4)], [0.5, 0.25], "steps").save, ".safetensors"
        ),
        Projection.load, _TENSORS, ("projection.py:Projection.load",),
    ),
    "statistics": Reader(
        ".npz",
        lambda: _written(FeatureStatistics("x", 3, np.zeros(4), np.eye(4)).save, ".npz"),
        FeatureStatistics.load, (_BYTES, mutations.damaged_zip),
        ("frechet.py:FeatureStatistics.load", "frechet.py:_check_stored"),
    ),
    "image-zip": Reader(
        ".zip", lambda: _zip({f"{i}.png": _picture() for i in range(2)}), _read_data, (_BYTES, mutations.damaged_zip),
        ("files.py:ImageZip.__init__", "files.py:ImageZip.read", "files.py:read_file",
         "images.py:open_image"),
    ),
    "label-file": Reader(
        ".json", lambda: json.dumps({"labels": [["a.png", 1], ["b.png", 0]]}).encode(),
        lambda path: read_labels(str(path), 3), _JSON, ("files.py:label_bytes", "labels.py:parse_labels"),
    ),
    "labelled-zip": Reader(
        ".zip", lambda: _zip({"a.png": _picture(), "dataset.json": b'{"labels": [["a.png", 1]]}'}),
        lambda path: ImageDataset(path, 16, convert=True).labels(3), (_BYTES, mutations.damaged_zip),
        ("files.py:ImageZip._unpack",),
    ),
    **{
        f"image-{form.lower()}": Reader(
            f".{form.lower()}", lambda form=form: _picture(form=form), _read_alone, (_BYTES,), ("images.py:open_image",)
        )
        for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
    },
    "cifar": Reader(".tar.gz", _cifar, read_images, (_BYTES,), ()),
    "mask-zip": Reader(
        ".zip", lambda: _zip({"7.png": _picture("LA")}), _read_masks, (_BYTES, mutations.damaged_zip),
        ("content.py:_holds_masks",),
    ),
    "trainer-state": Reader(
        ".pt", _state, _read_state, _TORCH, ("state.py:_read", "torch_files.py:load_plain")
    ),
    "run-config": Reader(
        ".json", _run_config, _read_run, _JSON,
        ("state.py:RunFolder.config", "compress.py:resume_compress"),
    ),
    "run-log": Reader(
        ".jsonl", lambda: b'{"step": 1, "loss": 0.5}', _read_log, _JSON,
        ("state.py:_step_of", "state.py:RunFolder.metrics", "state.py:RunFolder._lines",
         "__init__.py:_records"),
    ),
    "tiles": Reader(".json", _tiles, winners.read, _JSON, ()),
    **({} if native.REASON else {
        "flat": Reader(
            ".cagc", lambda: flat_bytes(generator(), storage="int8", licence="MIT"), _draw_flat,
            (_BYTES, *(mutations.damaged_flat,) * 3), (),
        ),
    }),
}  # fmt: skip


EXEMPT = {
    "distributed.py:from_main": "bytes of another process of the same run",
    "features.py:_load_efficientnet_lite0": "weights of an installed package, known by their hash",
    "measure.py:_cpu_model": "/proc",
    "parts.py:compiled_runtime": "a file of this package",
    "parts.py:page_text": "a file of this package",
    "state.py:RunFolder.open": "a document that was made in this process",
}
"""Functions that read what no stranger hands over, and why."""
