"""Class-conditional StyleGAN2 through the whole pipeline: labels of seeds, of real images, of every command."""

from __future__ import annotations

import json
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from cagc import runtime
from cagc.checkpoints import Checkpoint, load_checkpoint, load_generator, save_checkpoint
from cagc.common.errors import CagcError
from cagc.common.seeds import inputs_of_seeds
from cagc.data.dataset import ImageDataset
from cagc.data.labels import parse_labels, read_labels
from cagc.data.stream import ImageStream
from cagc.distill import DistillConfig, LiveTeacher, Trainer, distill
from cagc.distill.draws import SampleStreams
from cagc.export import onnx
from cagc.models import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from cagc.models.labels import Labels
from cagc.pruning.scores import score_channels
from cagc_kernels import native

from .commands import refused, run

CLASSES = 4
ONNX = [name for name in (*onnx.PACKAGES, "onnxruntime") if find_spec(name) is None]


def labelled(resolution: int = 16, **options) -> Generator:
    torch.manual_seed(3)
    options = {"style_dim": 16, "mapping_layers": 2, "c_dim": CLASSES, "z_dim": 12, "embed_dim": 6} | options
    g = Generator(GeneratorConfig.uniform(resolution, 256, 16, **options)).requires_grad_(False)
    for name, parameter in g.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            parameter.add_(0.1 * torch.randn_like(parameter))
    g.estimate_w_avg(64)
    return g


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("labelled") / "teacher.safetensors"
    d = Discriminator(DiscriminatorConfig.uniform(16, 128, 12, c_dim=CLASSES, mapping_layers=2))
    save_checkpoint(path, Checkpoint(g_ema=labelled(), d=d))
    return path


@pytest.fixture(scope="module")
def images(small_images, tmp_path_factory) -> Path:
    """The small images, of class i % 3."""
    folder = tmp_path_factory.mktemp("labelled-images") / "images"
    shutil.copytree(small_images, folder)
    names = sorted(path.name for path in folder.glob("*.png"))
    (folder / "dataset.json").write_text(json.dumps({"labels": [[name, i % 3] for i, name in enumerate(names)]}))
    return folder


def test_a_label_moves_the_image_and_one_mean_w_serves_all():
    g = labelled()
    z, c = torch.randn(2, 12), torch.eye(CLASSES)[[1, 3]]
    whole = g(z, c, noise_mode="const")
    assert not torch.allclose(whole[:1], g(z[:1], c[1:], noise_mode="const"))
    at_the_mean = g(z, c, truncation_psi=0, noise_mode="const")
    torch.testing.assert_close(at_the_mean[0], at_the_mean[1])
    mixed = g.ws(z, torch.randn(2, 12), 2, c=c)
    torch.testing.assert_close(mixed[:, 0], g.mapping.w(z, c))


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda g: g(torch.randn(2, 12)), r"c: got None, expected labels \[2, 4\]: the network is class-conditional"),
        (lambda g: g(torch.randn(2, 12), torch.eye(3)[:2]), r"c: got shape \[2, 3\], expected labels \[2, 4\]"),
        (lambda g: setattr(g, "labels", Labels.uniform(3)), "labels: got labels of 3 numbers, expected labels of 4"),
        (lambda g: Labels(3, torch.tensor([0, 3]), ""), "labels: got class 3, expected 0 to 2"),
        (lambda g: read_labels("0,4", 4), "labels: got class 4, expected 0 to 3"),
        (lambda g: read_labels("3-1", 4), "labels: got '3-1', expected uniform, data, numbers such as"),
        (lambda g: read_labels("cats", 4), "labels: got 'cats', expected uniform"),
        (lambda g: read_labels("data", 4), "labels: got 'data', which needs --data"),
        (lambda g: read_labels("uniform", 0), "labels: got 'uniform', expected none: the generator takes no labels"),
        (lambda g: GeneratorConfig.uniform(8, c_dim=-1), "c_dim: got -1"),
        (lambda g: GeneratorConfig.uniform(8, c_dim=2, mapping_layers=0), "mapping_layers: got 0"),
        (lambda g: runtime.compile(g)(torch.randn(1, 12)), "c: got None"),
    ],
)
def test_bad_labels_are_named(call, message):
    with pytest.raises((ValueError, CagcError), match=message):
        call(labelled())


def test_labels_of_seeds():
    g = labelled()
    z, c = inputs_of_seeds(g, [0, 5, 6])
    assert z.shape == (3, 12) and c.argmax(dim=1).tolist() == [0, 1, 2]
    g.labels = read_labels("2,0-1", CLASSES)
    assert g.labels.take(range(4)).argmax(dim=1).tolist() == [2, 0, 1, 2]
    assert inputs_of_seeds(Generator(GeneratorConfig.uniform(8, 64, 8, style_dim=4)), [1])[1] is None


def test_a_label_file_in_a_folder_and_in_a_zip(images, tmp_path):
    data = ImageDataset(images, 16)
    labels = data.labels(CLASSES)
    assert labels.take(range(5)).argmax(dim=1).tolist() == [0, 1, 2, 0, 1]
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in sorted(images.iterdir()):
            archive.write(path, path.name)
    packed = ImageDataset(tmp_path / "images.zip", 16).labels(CLASSES)
    assert packed.fingerprint() == labels.fingerprint()
    shuffled = read_labels("data", CLASSES, data)
    assert shuffled.rows.bincount().tolist() == [8, 8, 8] and not torch.equal(shuffled.rows, labels.rows)
    for path in (images / "dataset.json", images, tmp_path / "images.zip"):
        assert read_labels(str(path), CLASSES).fingerprint() == shuffled.fingerprint()
    found, drawn = ImageStream(data, 4, labels=labels).take()
    for image, label in zip(found, drawn):
        index = next(
            i for i in range(24) for flip in (0, 1) if torch.equal(data[i].flip(2) if flip else data[i], image)
        )
        assert label.argmax() == index % 3


@pytest.mark.parametrize(
    "content,message",
    [
        (None, "holds no dataset.json with the labels"),
        ("{", "dataset.json truncated or not JSON"),
        ("[]", "dataset.json holds no labels"),
        ('{"labels": [["00.png"]]}', '"labels" is not a list of pairs'),
        ('{"labels": [["other.png", 0]]}', "has no label for 24 of 24 images, such as 00.png"),
        (9, "the label of 00.png is 9, expected a class from 0 to 3"),
        ([1.0, 2.0], r"the label of 00.png is \[1.0, 2.0\], expected a class from 0 to 3, or 4 numbers"),
        ([1.0, 2.0, 0.0, float("nan")], "the label of 00.png is"),
        (True, "the label of 00.png is True"),
    ],
)
def test_label_files_that_do_not_match(small_images, tmp_path, content, message):
    folder = tmp_path / "images"
    shutil.copytree(small_images, folder)
    if content is not None:
        names = sorted(path.name for path in folder.glob("*.png"))
        document = content if isinstance(content, str) else json.dumps({"labels": [[n, content] for n in names]})
        (folder / "dataset.json").write_text(document)
    with pytest.raises(CagcError, match=message):
        ImageDataset(folder, 16).labels(CLASSES)


def test_numbers_as_labels():
    found = parse_labels(json.dumps({"labels": [["a", [0.5, -1, 2]], ["b", [1, 0, 0]]]}).encode())
    assert found == {"a": [0.5, -1, 2], "b": [1, 0, 0]}
    g = labelled(c_dim=25)
    g.labels = Labels(25, torch.randn(3, 25), "cameras")
    assert torch.equal(inputs_of_seeds(g, [4])[1][0], g.labels.rows[1])


def test_the_discriminator_projects_labels(teacher):
    d = load_checkpoint(teacher).d
    x, c = torch.randn(4, 3, 16, 16), torch.eye(CLASSES)
    logits = d(x, c)
    assert logits.shape == (4, 1) and not torch.allclose(logits, d(x, c.flip(0)))
    with pytest.raises(ValueError, match="c: got None, expected labels"):
        d(x)
    before = d.config
    assert DiscriminatorConfig(**json.loads(json.dumps(before.to_dict()))) == before


@pytest.mark.skipif(native.REASON is not None, reason=str(native.REASON))
@pytest.mark.parametrize("c_dim", [0, CLASSES])
def test_the_compiled_program(c_dim):
    g = labelled(c_dim=c_dim)  # z has another length than w in both
    compiled = runtime.compile(g, batch=2, weights="float32")
    assert compiled.reason is None and compiled.explain()[0]["kernel"] != "eager layer"
    z, c = torch.randn(2, 12), torch.eye(CLASSES)[[1, 2]] if c_dim else None
    for options in ({}, {"truncation_psi": 0.6, "truncation_cutoff": 2}):
        expected = g(z, c, noise_mode="const", **options)
        torch.testing.assert_close(compiled(z, c, **options), expected, rtol=0, atol=5e-5)
    rows = compiled.profile(z, repeats=1, c=c)
    assert rows[0]["name"] == "mapping" and rows[0]["kernel"] == "eager" and len(rows) == 2 + 5


@pytest.mark.skipif(bool(ONNX), reason=f"not installed: {', '.join(ONNX)}")
def test_the_graph_takes_labels(tmp_path):
    import onnxruntime

    g = labelled(8)
    onnx.export_onnx(g, tmp_path / "g.onnx", batch=2, truncation=0.7)
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"), providers=["CPUExecutionProvider"])
    z, c = inputs_of_seeds(g, [1, 2])
    (image,) = session.run(["image"], {"z": z.numpy(), "c": c.numpy()})
    torch.testing.assert_close(torch.from_numpy(image), g(z, c, 0.7, noise_mode="const"), rtol=1e-4, atol=1e-4)
    with pytest.raises(CagcError, match="plain: the compiled mapping network takes no labels"):
        onnx.export_onnx(g, tmp_path / "p.onnx", plain=True)


def test_scores_depend_on_the_labels_that_are_drawn():
    g = labelled()
    found = {}
    for spec in ("0", "1"):
        g.labels = read_labels(spec, CLASSES)
        found[spec] = score_channels(g, "l1-style", samples=8).scores["b8.conv0"]
    assert not torch.allclose(found["0"], found["1"])


def test_training_draws_labels_and_judges_with_them(teacher, images):
    networks = load_checkpoint(teacher)
    source = LiveTeacher(networks.g_ema)
    streams = SampleStreams(0, 0, "generator", range(64))
    latents = source.latents(streams, 0.9)
    assert latents.c.sum(dim=0).min() > 4 and torch.equal(latents[2:5].c, latents.c[2:5])
    seen: list[torch.Tensor] = []
    config = DistillConfig(steps=1, batch_size=4, perceptual_weight=0, g_reg_every=1, d_reg_every=1)
    trainer = Trainer(networks.g_ema, source, networks.d, config)
    trainer.d.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    draws = trainer.draw()
    real = torch.eye(CLASSES)
    trainer.iteration(torch.zeros(4, 3, 16, 16), draws, real)
    expected = [real, draws.discriminator.c, real, draws.generator.c]
    assert len(seen) == 4 and all(map(torch.equal, seen, expected))


def test_training_without_labels_of_the_images(teacher, small_images, tmp_path):
    networks = load_checkpoint(teacher)
    arguments = networks.g_ema, networks.g_ema, networks.d, ImageDataset(small_images, 16)
    config = DistillConfig(steps=1, batch_size=4, perceptual_weight=0, tensorboard=False)
    with pytest.raises(CagcError, match="holds no dataset.json with the labels that a class-conditional network needs"):
        distill(*arguments, config, tmp_path / "run", progress=False)
    plain = Discriminator(DiscriminatorConfig.uniform(16, 64, 8))
    distill(*arguments[:2], plain, arguments[3], config, tmp_path / "plain", progress=False)
    other = Discriminator(DiscriminatorConfig.uniform(16, 64, 8, c_dim=3))
    with pytest.raises(CagcError, match="discriminator: got c_dim 3, expected the student's 4, or 0"):
        distill(*arguments[:2], other, arguments[3], config, tmp_path / "other", progress=False)


def test_compress_and_every_other_command(teacher, images, tmp_path, capsys):
    out = tmp_path / "out"
    run(
        "compress", "--teacher", teacher, "--data", images, "--content", "everything", "--labels", "data", "--samples",
        4, "--macs", 0.5, "--steps", 2, "--evaluation-samples", 20, "--features", "efficientnet-lite0@32",
        "--evaluation-metrics", "psnr", "frechet", "separability", "ppl-wend", "--distillation.batch-size", 4,
        "--distillation.perceptual-weight", 0, "--distillation.gan-delay", 0, "--distillation.target-pool", 4,
        "--out", out,
    )  # fmt: skip
    student = load_generator(out / "student.safetensors")
    assert student.c_dim == CLASSES and student.z_dim == 12 and (out / "report.html").is_file()
    assert json.loads((out / "config.json").read_text())["labels"] == "data"
    page = (out / "report.html").read_text()
    assert "By label" in page and all(f"Student, {label}" in page for label in range(3)) and "Student, 3" not in page
    pair = "--teacher", teacher, "--student", out / "student.safetensors"
    run("evaluate", *pair, "--content", "everything", "--labels", 1, "--pairs", 2, "--metrics", "psnr")
    run("generate", "--generator", teacher, "--seeds", "0-3", "--labels", "0-3", "--out", tmp_path / "drawn")
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 4
    run("mix", *pair, "--seeds", 0, "--styles", 1, "--labels", 2, "--out", tmp_path / "mix")
    run("morph", *pair, "--labels", "0,3", "--steps", 3, "--out", tmp_path / "morph.png")
    run("edit", *pair, "--seeds", 0, "--labels", 2, "--out", tmp_path / "edit")
    run("project", images / "01.png", *pair, "--steps", 2, "--convert-images", "--out", tmp_path / "projection")
    capsys.readouterr()
    message = refused(capsys, "generate", "--generator", teacher, "--labels", "0,9", "--out", tmp_path / "no")
    assert message == "error: labels: got class 9, expected 0 to 3"
    assert "the generator takes no labels" in refused(capsys, "generate", "--labels", "0", "--out", tmp_path / "no")
    assert not (tmp_path / "no").exists()
