"""Content parsers: the embedded one on real images, BiSeNet's file format, masks by seed, and what each refuses."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from cagc import assets, content
from cagc.common.errors import CagcError
from cagc.models import bisenet, face_parser


@cache
def faces(count: int = 16) -> torch.Tensor:
    """Every k-th embedded face image, [count, 3, 64, 64] in [-1, 1]."""
    with zipfile.ZipFile(assets.faces64() / "images.zip") as bundle:
        names = bundle.namelist()
        names = names[:: len(names) // count][:count]
        pixels = [np.asarray(Image.open(io.BytesIO(bundle.read(name))).convert("RGB")) for name in names]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture(scope="module")
def parser() -> content.FaceContent:
    return content.load("faces")


@pytest.fixture(scope="module")
def bisenet_file(tmp_path_factory):
    """Random weights in the public layout, batch statistics included."""
    torch.manual_seed(1)
    net = bisenet.BiSeNet()
    path = tmp_path_factory.mktemp("bisenet") / "weights.pth"
    torch.save(net.state_dict(), path)
    return path


def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a == b).double().mean())


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.bool() & b.bool()).sum() / (a.bool() | b.bool()).sum())


# The embedded face parser


def test_masks_of_the_embedded_faces_cover_the_middle_and_not_the_corners(parser):
    images = faces()
    mask = parser(images)
    assert mask.shape == (len(images), 1, 64, 64) and mask.dtype == torch.float32
    content.validate_mask(mask, images)
    area = mask.mean((1, 2, 3))
    assert 0.3 < area.min() and area.max() < 0.99 and 0.5 < area.mean() < 0.85
    assert mask[:, :, 28:44, 24:40].mean() > 0.98
    assert mask[:, :, :6, :6].mean() < 0.4


def test_labels_are_those_of_argmax():
    for logits in (torch.randn(2, 3, 9, 7), torch.randn(2, 3, 9, 7).round()):  # with ties too
        assert torch.equal(face_parser.largest(logits), logits.argmax(dim=1))


def test_the_face_lies_inside_the_person(parser):
    face = content.load("faces", classes="face")(faces())
    assert 0.12 < face.mean() < 0.45
    assert (face <= parser(faces())).all()
    assert face.sum() + content.load("faces", classes=["person"])(faces()).sum() == parser(faces()).sum()


def test_a_sample_has_the_same_mask_in_any_batch(parser, monkeypatch):
    whole = parser(faces())
    assert agreement(whole, torch.cat([parser(x[None]) for x in faces()])) > 0.9999
    monkeypatch.setattr(content.FaceContent, "images_per_pass", 5)
    assert agreement(whole, parser(faces())) > 0.9999
    assert parser(faces()[:0]).shape == (0, 1, 64, 64)


@pytest.mark.parametrize("size", [(32, 32), (128, 128), (96, 160), (256, 256)])
def test_the_mask_has_the_size_of_the_images(parser, size):
    images = torch.nn.functional.interpolate(faces(), size, mode="bilinear", antialias=True)
    mask = parser(images)
    assert mask.shape[-2:] == size
    assert iou(content.resize_mask(mask, 64), parser(faces())) > 0.9


def test_soft_and_noisy_images_keep_their_masks(parser):
    noisy = faces() + 0.1 * torch.randn(faces().shape, generator=torch.Generator().manual_seed(3))
    soft = torch.nn.functional.interpolate(faces(), 24, mode="bilinear", antialias=True)
    soft = torch.nn.functional.interpolate(soft, 64, mode="bilinear")
    assert iou(parser(noisy), parser(faces())) > 0.88
    assert iou(parser(soft), parser(faces())) > 0.88


def test_dtype_and_device_follow_the_images(parser):
    assert content.load("faces", device=torch.device("cpu")).device.type == "cpu"
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        mask = parser(faces(4).to(dtype))
        assert mask.dtype == dtype
        assert iou(mask, parser(faces(4))) > 0.97


def test_the_mask_can_weigh_a_loss(parser):
    images = faces(4).clone().requires_grad_()
    mask = parser(images)
    assert not mask.requires_grad
    content.apply_mask(images, mask).sum().backward()
    assert torch.equal(images.grad, mask.expand_as(images))


def test_embedded_parser_is_small_and_tells_how_good_it_is():
    path = assets.faces64() / "parser.safetensors"
    assert path.stat().st_size < 1_000_000
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    assert json.loads(facts["classes"]) == list(face_parser.CLASSES)
    assert json.loads(facts["iou"])["64px"]["mean"] > 0.8


def test_class_names():
    assert content.load("faces").name == "faces(person,face)"
    assert content.load("faces", classes="face, person").name == "faces(person,face)"
    with pytest.raises(CagcError, match="background, person, face; got hat"):
        content.load("faces", classes=["hat", "face"])
    with pytest.raises(CagcError, match="got none"):
        content.load("faces", classes=())
    with pytest.raises(CagcError, match="everything has none"):
        content.load("everything", classes="face")


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None])
def test_damaged_face_parser(tmp_path, damage):
    path = tmp_path / "parser.safetensors"
    data = (assets.faces64() / "parser.safetensors").read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage is None else damage)
    with pytest.raises(CagcError, match="parser.safetensors"):
        content.load(path)
    with pytest.raises(CagcError, match="face parser .*: "):
        content.load_face_parser(path)


def test_face_parser_of_another_layout(tmp_path):
    path = tmp_path / "parser.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"format": "cagc-face-parser", "widths": "[16, 32]"})
    with pytest.raises(CagcError, match="does not hold a face parser"):
        content.load(path)
    same = assets.faces64() / "parser.safetensors"
    assert torch.equal(content.load(same)(faces(2)), content.load("faces")(faces(2)))


# BiSeNet


def test_bisenet_has_the_tensors_of_the_public_checkpoint():
    """The digest is of the sorted [name, shape] pairs of zllrunning/face-parsing.PyTorch's own 19-class network."""
    layout = sorted((name, list(tensor.shape)) for name, tensor in bisenet.BiSeNet().state_dict().items())
    assert len(layout) == 191
    assert (
        hashlib.sha256(json.dumps(layout).encode()).hexdigest()
        == "658aa58a8a48c400a68e3d176698ba704d1f022261d887eb2b722123a09355f4"
    )


def test_bisenet_round_trip(bisenet_file, tmp_path):
    parser = content.load(bisenet_file)
    mask = parser(faces(2))
    content.validate_mask(mask, faces(2))
    assert mask.shape == (2, 1, 64, 64)
    logits = parser.net(bisenet.preprocess(faces(2)))
    assert logits.shape == (2, 19, 512, 512)
    labels = logits.argmax(1)
    expected = content.resize_mask((labels != 0) & (labels != 16), 64)
    assert torch.equal(mask[:, 0].bool(), expected)
    assert "cloth" not in parser.classes and "hat" in parser.classes and len(parser.classes) == 17
    present = bisenet.CLASSES[int(labels.mode(-1).values.mode(-1).values[0])]
    only = content.load(bisenet_file, classes=[present])
    assert only.name == f"bisenet({present})" and 0 < only(faces(2)[:1]).mean() <= 1

    state = {k: v for k, v in torch.load(bisenet_file, weights_only=True).items() if not k.endswith("tracked")}
    save_file(state, tmp_path / "weights.safetensors")
    again = content.load(tmp_path / "weights.safetensors")(faces(2)[:1])
    assert agreement(again, mask[:1]) > 0.999
    with pytest.raises(CagcError, match="background, skin, .*hair, hat; got beard"):
        content.load(bisenet_file, classes="hair,beard")


def test_bisenet_of_other_shapes_or_names(bisenet_file, tmp_path):
    state = torch.load(bisenet_file, weights_only=True)
    path = tmp_path / "other.pt"
    torch.save({**state, "conv_out.conv_out.weight": torch.zeros(2, 256, 1, 1)}, path)
    with pytest.raises(CagcError, match=r"conv_out.conv_out.weight \[2, 256, 1, 1\], expected \[19, 256, 1, 1\]"):
        content.load(path)
    torch.save({k: v for k, v in state.items() if not k.startswith("ffm")}, path)
    with pytest.raises(CagcError, match="tensors missing, first ffm"):
        content.load(path)
    torch.save({**state, "sp.conv1.conv.weight": torch.zeros(1)}, path)
    with pytest.raises(CagcError, match="1 tensors unexpected, first sp.conv1"):
        content.load(path)
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(CagcError, match="expected the state dict of one BiSeNet, got none"):
        content.load(path)


def test_bisenet_in_wrappings(bisenet_file, tmp_path):
    state = torch.load(bisenet_file, weights_only=True)
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": t for name, t in state.items()}}, tmp_path / "w.bin")
    with pytest.warns(UserWarning, match="took the BiSeNet under 'state_dict/module.'"):
        wrapped = content.load(tmp_path / "w.bin").net.state_dict()
    plain = content.load(bisenet_file).net.state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in wrapped.items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_weights(bisenet_file, tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".safetensors":
        save_file(torch.load(bisenet_file, weights_only=True), path)
        path.write_bytes(path.read_bytes()[:100_000])
    else:
        path.write_bytes(bisenet_file.read_bytes()[:100_000])
    with pytest.raises(CagcError, match=f"content .*cut{suffix}: "):
        content.load(path)
    path.write_bytes(b"")
    with pytest.raises(CagcError, match="the file is empty"):
        content.load(path)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_payload_is_refused_and_not_run(tmp_path):
    torch.save({"conv": Payload(tmp_path / "ran")}, tmp_path / "evil.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    for name in ("evil.pth", "bare.pth"):
        with pytest.raises(CagcError, match=r"asks to run (builtins|io)\.open, which is refused"):
            content.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


# Masks drawn by hand, functions, everything


def write_mask(path, pixels) -> None:
    Image.fromarray(pixels).save(path)


def test_masks_by_seed(tmp_path):
    square = np.zeros((128, 128), np.uint8)
    square[32:96, :64] = 255
    write_mask(tmp_path / "00003.png", square)
    write_mask(tmp_path / "12.png", 255 - square)
    (tmp_path / "notes.txt").write_text("not a mask")
    parser = content.load(tmp_path)
    assert parser.seeds == [3, 12] and parser.name == f"masks:{tmp_path.name}"
    mask = parser(faces(3), seeds=[12, 3, 12])
    assert mask.shape == (3, 1, 64, 64)
    expected = torch.from_numpy(square > 0)[::2, ::2]
    assert torch.equal(mask[1, 0].bool(), expected) and torch.equal(mask[0, 0].bool(), ~expected)
    assert torch.equal(mask[0], mask[2])

    with zipfile.ZipFile(tmp_path / "masks.zip", "w") as bundle:
        bundle.write(tmp_path / "00003.png", "drawn/00003.png")
        bundle.write(tmp_path / "12.png", "drawn/12.png")
    assert torch.equal(content.load(tmp_path / "masks.zip")(faces(3), seeds=[12, 3, 12]), mask)

    with pytest.raises(CagcError, match="no mask for seeds .4. .it has 2 masks, seeds 3 to 12"):
        parser(faces(2), seeds=[3, 4])
    with pytest.raises(CagcError, match="needs the seeds"):
        parser(faces(2))
    with pytest.raises(ValueError, match="expected 2, one for each image, got 1"):
        parser(faces(2), seeds=[3])


def test_what_counts_as_content_in_a_mask_file(tmp_path):
    labels = np.zeros((8, 8), np.uint8)
    labels[2:5, 3:] = 1
    write_mask(tmp_path / "0.png", labels)
    write_mask(tmp_path / "1.png", labels.astype(bool))
    palette = Image.fromarray(labels).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(tmp_path / "2.png")
    write_mask(tmp_path / "3.png", np.stack([labels * 255] * 3, -1))
    write_mask(tmp_path / "4.png", labels.astype(np.uint16) * 65535)
    mask = content.load(tmp_path)(torch.zeros(5, 3, 8, 8), seeds=range(5))
    assert torch.equal(mask[:, 0], torch.from_numpy(labels).float().expand(5, 8, 8))


def test_mask_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(CagcError, match="no mask image"):
        content.load(tmp_path)
    write_mask(tmp_path / "7.png", np.zeros((4, 4), np.uint8))
    write_mask(tmp_path / "007.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(CagcError, match="two masks for seed 7"):
        content.load(tmp_path)
    (tmp_path / "007.png").unlink()
    (tmp_path / "7.png").write_bytes((tmp_path / "7.png").read_bytes()[:40])
    with pytest.raises(CagcError, match="cannot read mask '7.png'"):
        content.load(tmp_path)(torch.zeros(1, 3, 4, 4), seeds=[7])
    write_mask(tmp_path / "face.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(CagcError, match="'face.png' must be named by the seed"):
        content.load(tmp_path)
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CagcError, match="cannot read masks from .*broken.zip"):
        content.load(tmp_path / "broken.zip")
    with pytest.raises(CagcError, match="expected 'faces', 'everything'.*got 'nowhere'"):
        content.load("nowhere")
    with pytest.raises(TypeError, match="content: expected .*, got NoneType"):
        content.load(None)


def test_callables():
    def bright(images):
        return images.mean(1) > 0

    parser = content.load(bright)
    assert parser.name.endswith("bright")
    assert torch.equal(parser(faces(4))[:, 0], (faces(4).mean(1) > 0).float())

    def by_seed(images, seeds):
        return torch.tensor(list(seeds)).view(-1, 1, 1, 1) % 2 * torch.ones_like(images[:, :1])

    assert content.load(by_seed)(faces(2), seeds=[4, 5]).mean((1, 2, 3)).tolist() == [0, 1]
    everything = content.load("everything")
    assert content.load(everything) is everything
    assert torch.equal(everything(faces(4)), torch.ones(4, 1, 64, 64))


def test_masks_of_the_wrong_shape_or_values():
    images = faces(4)
    for function, message in (
        (lambda x: x[:, :1, ::2, ::2] * 0, r"expected a mask of shape \[4, 1, 64, 64\], got \[4, 1, 32, 32\]"),
        (lambda x: x[0, 0] * 0, r"got \[64, 64\]"),
        (lambda x: x[:, :1] * 0 + 0.5, "expected mask values 0 and 1, got 0.5"),
        (lambda x: x[:, :1] * float("nan"), "expected mask values 0 and 1, got nan"),
        (lambda x: "face", "expected a mask tensor .* got str"),
    ):
        with pytest.raises(CagcError, match=message):
            content.load(function)(images)


def test_parsers_refuse_what_is_not_a_batch_of_images(parser):
    for wrong in (torch.zeros(3, 64, 64), torch.zeros(1, 0, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)):
        for each in (parser, content.load("everything"), content.load(lambda x: x)):
            with pytest.raises(ValueError, match="images: expected"):
                each(wrong)


# Helpers


def test_resize_mask_samples_pixel_centres():
    mask = torch.rand(2, 512, 512, generator=torch.Generator().manual_seed(0)) > 0.5
    for size in (7, 32, 100, 512, 640):
        index = torch.tensor([int((i + 0.5) * 512 / size) for i in range(size)])
        assert torch.equal(content.resize_mask(mask, size), mask[:, index][:, :, index])
    assert content.resize_mask(mask[:, None].float(), (16, 24)).shape == (2, 1, 16, 24)


def test_resize_mask_bilinear_keeps_more_than_half():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :3] = 1
    assert torch.equal(content.resize_mask(mask, 4, "bilinear")[0, 0, 0], torch.tensor([1.0, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="got 'area'"):
        content.resize_mask(mask, 4, "area")


def test_coverage_is_an_error_only_when_every_mask_is_empty():
    coverage = content.ContentCoverage()
    coverage.check()
    coverage.add(torch.zeros(2, 1, 4, 4))
    with pytest.raises(CagcError, match="face finder: found no content in any of 2 images"):
        coverage.check("face finder")
    coverage.add(torch.ones(2, 1, 4, 4))
    coverage.check()
    assert (coverage.samples, coverage.empty, coverage.mean_area) == (4, 2, 0.5)


def test_apply_mask_wants_the_images_shape():
    with pytest.raises(ValueError, match=r"mask: expected \[4, 1, 64, 64\], got \[1, 1, 64, 64\]"):
        content.apply_mask(faces(4), torch.ones(1, 1, 64, 64))
