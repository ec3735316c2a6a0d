from __future__ import annotations

import os
import signal
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from cagc.checkpoints import load_checkpoint, load_generator, save_generator
from cagc.common.errors import CagcError
from cagc.data.dataset import ImageDataset
from cagc.distill import DistillConfig, Interrupted, LiveTeacher, NonFiniteLoss, RecordedTeacher, RunFolder, distill
from cagc.metrics.fidelity import evaluate_pair
from cagc.models import Generator, GeneratorConfig

from .commands import stop_side_by_side
from .ranks import Means

CONFIG = DistillConfig(
    steps=7, batch_size=4, perceptual_weight=0, g_reg_every=2, d_reg_every=3, checkpoint_every=2, sample_every=3,
    samples=3, log_every=2, tensorboard=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def networks(small_teacher):
    checkpoint = load_checkpoint(small_teacher)
    torch.manual_seed(8)
    student = Generator(GeneratorConfig.uniform(16, 64, 8, style_dim=16, mapping_layers=2))
    student.mapping.load_state_dict(checkpoint.g_ema.mapping.state_dict())
    return student, checkpoint.g_ema, checkpoint.d


@pytest.fixture(scope="module")
def data(small_images):
    return ImageDataset(small_images, 16)


def run(networks, data, out, config=CONFIG, **options):
    return distill(*networks, data, config, out, **({"progress": False} | options))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread, like the processes that are started, because sums on several threads differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(networks, data, tmp_path_factory):
    """The folder and the result of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, run(networks, data, out)


def assert_same(a: Generator, b: Generator) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and ours.keys() == theirs.keys()


def stop_after(step):
    """A progress function that presses Ctrl-C during ``step``."""

    def progress(done, steps, losses):
        if done == step:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def test_folder_of_a_run(whole):
    out, average = whole
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoints", "config.json", "discriminator.safetensors", "metrics.jsonl", "samples", "student.safetensors",
    ]  # fmt: skip
    assert [p.name for p in RunFolder(out).checkpoints()] == ["step-000000006.pt", "step-000000007.pt"]
    assert sorted(p.name for p in (out / "samples").iterdir()) == [
        "step-000000003.png",
        "step-000000006.png",
        "step-000000007.png",
    ]
    records = RunFolder(out).metrics()
    assert [r["step"] for r in records] == [2, 4, 6, 7]
    assert {"rgb", "generator", "discriminator", "r1", "path", "learning_rate", "images_per_second"} <= set(records[0])
    assert all(np.isfinite(v) for r in records for v in r.values())
    assert_same(load_generator(out / "student.safetensors"), average)
    assert not any(p.requires_grad for p in average.parameters())
    assert load_checkpoint(out / "discriminator.safetensors").d is not None
    assert DistillConfig.from_dict(RunFolder(out).config()["settings"]) == CONFIG


def test_samples_show_the_teacher_beside_the_student(whole, networks):
    pixels = np.asarray(Image.open(whole[0] / "samples" / "step-000000007.png")).astype(float) / 127.5 - 1
    assert pixels.shape == (3 * 16, 2 * 16, 3)
    latents = LiveTeacher(networks[1]).sample_latents(3, "cpu")
    for column, g in ((0, networks[1]), (1, whole[1])):
        image = g(latents.z, noise="const").detach().clamp(-1, 1)[0].permute(1, 2, 0).numpy()
        assert np.abs(pixels[:16, column * 16 : column * 16 + 16] - image).max() < 1.01 / 127.5


def test_interrupted_run_goes_on_to_the_same_weights(networks, data, whole, tmp_path):
    out, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="stopped at step 3 of 7; go on with"):
        run(networks, data, out, progress=stop_after(3))
    assert RunFolder(out).checkpoints()[-1].name == "step-000000003.pt" and not (out / "student.safetensors").exists()
    assert_same(run(networks, data, out, resume=True), whole[1])
    assert losses_of(RunFolder(out).metrics()) == losses_of(RunFolder(whole[0]).metrics())
    assert signal.getsignal(signal.SIGINT) is before
    assert_same(run(networks, data, out, resume=True), whole[1])


def test_longer_run_goes_on_from_a_finished_one(networks, data, whole, tmp_path):
    run(networks, data, tmp_path / "run", replace(CONFIG, steps=4))
    assert_same(run(networks, data, tmp_path / "run", resume=True), whole[1])


def options_of(config: DistillConfig) -> list[object]:
    """Return the options of `cagc distill` for the settings of `config` that differ from the defaults."""
    words: list[object] = []
    for name, value in config.to_dict().items():
        if value != DistillConfig().to_dict()[name]:
            option = name.replace("_", "-")
            words += [f"--no-{option}"] if value is False else [f"--{option}", value]
    return words


@pytest.fixture(scope="module")
def stopped(networks, small_teacher, small_images, tmp_path_factory):
    """A config, and the folder, exit status and standard error of its runs that were stopped at step 10, by signal."""
    config = replace(CONFIG, steps=4000, checkpoint_every=5, sample_every=0)
    folder = tmp_path_factory.mktemp("stopped")
    save_generator(networks[0], folder / "student.safetensors")
    words = ["distill", "--student", folder / "student.safetensors", "--teacher", small_teacher]
    words += ["--data", small_images, "--content", "everything", *options_of(config), "--out"]
    outs = {how: folder / how.name for how in (signal.SIGKILL, signal.SIGTERM)}
    found = stop_side_by_side(
        {how: [*words, out] for how, out in outs.items()},
        lambda how: any(path.stem >= "step-000000010" for path in RunFolder(outs[how]).checkpoints()),
    )
    return config, {how: (outs[how], *said) for how, said in found.items()}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_process_goes_on_to_the_same_weights(networks, data, stopped, tmp_path, one_thread, number):
    config, (out, status, errors) = stopped[0], stopped[1][number]
    reached = int(RunFolder(out).checkpoints()[-1].stem.split("-")[1])
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert status == 128 + signal.SIGTERM and f"stopped at step {reached} of 4000; go on with" in errors
    short = replace(config, steps=reached + 8)
    resumed = run(networks, data, out, short, resume=True, parser="everything")
    assert_same(resumed, run(networks, data, tmp_path / "whole", short, parser="everything"))
    records, expected = RunFolder(out).metrics(), RunFolder(tmp_path / "whole").metrics()
    assert losses_of(records) == losses_of(expected)


def losses_of(records: list[dict]) -> list[dict]:
    """Return records without the entries that depend on the machine."""
    return [{k: v for k, v in r.items() if not k.startswith(("time_", "images_per", "peak_"))} for r in records]


def break_file(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how in ("truncated", "empty"):
        content = content[: len(content) // 2] if how == "truncated" else bytearray()
    else:
        largest = max(zipfile.ZipFile(path).infolist(), key=lambda entry: entry.file_size)  # elsewhere is padding
        content[largest.header_offset + 128 + largest.file_size // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["truncated", "empty", "one flipped bit"])
def test_damaged_checkpoint_falls_back_to_the_one_before(networks, data, whole, tmp_path, how):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(networks, data, out, progress=stop_after(4))
    last = RunFolder(out).checkpoints()[-1]
    break_file(last, how)
    with pytest.warns(UserWarning, match=f"{last.name} is damaged .*; trying the one before"):
        average = run(networks, data, out, resume=True)
    assert_same(average, whole[1])
    for path in RunFolder(out).checkpoints():
        break_file(path, how)
    with pytest.warns(UserWarning), pytest.raises(CagcError, match="all 2 checkpoints are damaged"):
        run(networks, data, out, resume=True)


def test_checkpoint_that_carries_code_is_refused(networks, data, tmp_path):
    out, witness = tmp_path / "run", tmp_path / "witness"
    run(networks, data, out, replace(CONFIG, steps=2))

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(witness),)

    for path in RunFolder(out).checkpoints():
        torch.save({"trainer": Payload()}, path)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CagcError, match="damaged"):
        run(networks, data, out, resume=True)
    assert not witness.exists()


def test_run_of_something_else_is_not_taken_up(networks, data, whole, small_images, tmp_path):
    student, teacher, d = networks
    out = whole[0]
    with pytest.raises(CagcError, match="rgb_weight = 3.0, this one has 2.0"):
        run(networks, data, out, replace(CONFIG, rgb_weight=2.0), resume=True)
    with pytest.raises(CagcError, match="the run in .* has student = '[0-9a-f]{16}'"):
        run((teacher, teacher, d), data, out, resume=True)
    with pytest.raises(CagcError, match="has teacher = "):
        run((student, student, d), data, out, resume=True)
    with pytest.raises(CagcError, match="has content = None, this one has 'everything'"):
        run(networks, data, out, resume=True, parser="everything")
    with pytest.raises(CagcError, match="has discriminator = "):
        run((student, teacher, None), data, out, resume=True)
    (tmp_path / "other").mkdir()
    for i in range(4):
        (tmp_path / "other" / f"{i}.png").write_bytes((small_images / f"{i:02d}.png").read_bytes())
    with pytest.raises(CagcError, match="has data = '24 images"):
        run(networks, ImageDataset(tmp_path / "other", 16), out, resume=True)
    with pytest.raises(CagcError, match="holds no run"):
        run(networks, data, tmp_path / "nothing", resume=True)


def test_folder_in_use_is_refused_and_overwriting_spares_what_is_not_ours(networks, data, tmp_path):
    out = tmp_path / "run"
    run(networks, data, out, replace(CONFIG, steps=2))
    (out / "notes.txt").write_text("mine")
    with pytest.raises(CagcError, match="is not empty; resume the run in it, or overwrite it"):
        run(networks, data, out)
    run(networks, data, out, replace(CONFIG, steps=1, gan_weight=0), overwrite=True)
    assert (out / "notes.txt").read_text() == "mine" and not (out / "discriminator.safetensors").exists()
    assert [r["step"] for r in RunFolder(out).metrics()] == [1]
    (tmp_path / "file").write_text("")
    with pytest.raises(CagcError, match="is a file, expected a folder"):
        run(networks, data, tmp_path / "file")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"style_dim": 8}, "student: got z_dim 8, expected the teacher's 16"),
        ({"resolution": 32}, r"student: got img_size \(32, 32\), expected the teacher's \(16, 16\)"),
        ({"mapping_layers": 3}, "student: got 3 mapping layers, expected the teacher's 2"),
    ],
)
def test_student_that_does_not_fit_is_refused_before_anything_is_written(networks, data, tmp_path, options, message):
    resolution = options.pop("resolution", 16)
    misfit = Generator(GeneratorConfig.uniform(resolution, 64, 8, **({"style_dim": 16, "mapping_layers": 2} | options)))
    with pytest.raises(CagcError, match=message):
        run((misfit, *networks[1:]), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_does_not_fit_is_refused(networks, data, small_images, tmp_path):
    with pytest.raises(CagcError, match="data: got None"):
        run(networks, None, tmp_path / "run")
    with pytest.raises(CagcError, match=r"data: got img_size \(32, 32\), expected the student's \(16, 16\)"):
        run(networks, ImageDataset(small_images, 32), tmp_path / "run")
    with pytest.raises(CagcError, match="24 usable images are fewer than the batch of 25"):
        run(networks, data, tmp_path / "run", replace(CONFIG, batch_size=25))
    assert not (tmp_path / "run").exists()


def test_nan_keeps_the_last_good_checkpoint(networks, data, tmp_path, monkeypatch):
    from cagc.distill import loop

    out, calls = tmp_path / "run", []

    class Poisoned(loop.Trainer):
        def draw(self):
            calls.append(self.step)
            draws = super().draw()
            if self.step == 3:
                draws.generator.noise[0].fill_(float("nan"))
            return draws

    monkeypatch.setattr(loop, "Trainer", Poisoned)
    with pytest.raises(NonFiniteLoss, match="the rgb loss became nan at step 3; the checkpoint of step 2 is kept"):
        run(networks, data, out)
    monkeypatch.undo()
    state = torch.load(RunFolder(out).checkpoints()[-1], weights_only=True)["trainer"]
    assert state["step"] == 2 and all(torch.isfinite(t).all() for t in state["g"].values())


def test_full_disk_keeps_the_last_checkpoint(networks, data, whole, tmp_path, monkeypatch):
    out, write = tmp_path / "run", torch.save

    def full(state, path):
        write(state, path)
        if state["trainer"]["step"] == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CagcError, match="No space left on device; the checkpoint of step 2 is kept in"):
        run(networks, data, out)
    monkeypatch.undo()
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-000000000.pt", "step-000000002.pt"]
    monkeypatch.setattr("cagc.checkpoints.native.save", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(CagcError, match="device: '.*safetensors'; the checkpoint of step 7 is kept in"):
        run(networks, data, out, resume=True)
    assert not (out / "student.safetensors").exists()
    monkeypatch.undo()
    assert_same(run(networks, data, out, resume=True), whole[1])


def test_evaluations_are_logged_and_never_stop_the_training(networks, data, whole, tmp_path, monkeypatch):
    from cagc.distill import evaluation

    monkeypatch.setattr(evaluation.features, "load", lambda name, device: Means())
    config = replace(CONFIG, evaluate_every=4, evaluation_samples=10, evaluation_features="means")
    assert_same(run(networks, data, tmp_path / "run", config), whole[1])
    found = [r for r in RunFolder(tmp_path / "run").metrics() if "content_l1" in r]
    assert [r["step"] for r in found] == [4, 7] and all(r["frechet_distance[means]"] > 0 for r in found)
    fidelity = evaluate_pair(whole[1], networks[1], lambda x, seeds: torch.ones_like(x[:, :1]), samples=2)
    assert found[-1]["content_l1"] == pytest.approx(fidelity["content_l1"], rel=1e-5)

    def broken(name, device):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(evaluation.features, "load", broken)
    with pytest.warns(UserWarning, match="evaluation at step 4 failed: out of luck"):
        assert_same(run(networks, data, tmp_path / "other", config), whole[1])


@pytest.mark.parametrize("precision, tolerance", [("bfloat16", 0.05), ("float16", 0.01)])
def test_half_precision_trains_about_alike(networks, data, tmp_path, precision, tolerance):
    config = replace(CONFIG, steps=4, precision=precision, log_every=1, sample_every=0, learning_rate=1e-4)
    run(networks, data, tmp_path / "half", config)
    run(networks, data, tmp_path / "full", replace(config, precision="float32"))
    half, full = (losses_of(RunFolder(tmp_path / name).metrics()) for name in ("half", "full"))
    for a, b in zip(half, full):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance) and a != b
    state = torch.load(RunFolder(tmp_path / "half").checkpoints()[-1], weights_only=True)["trainer"]
    assert all(tensor.dtype == torch.float32 for tensor in state["g"].values())
    assert (state["scaler"].get("scale", 1) > 1) == (precision == "float16")


def test_recorded_teacher_regresses_and_needs_no_data_without_gan(networks, tmp_path):
    student, teacher, _ = networks
    z = torch.randn(16, 16, generator=torch.Generator().manual_seed(2))
    images = teacher(z, noise="none").detach()
    pixels = images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    source = RecordedTeacher(teacher.mapping.w(z).detach(), pixels)
    config = replace(CONFIG, steps=60, gan_weight=0, path_weight=0, learning_rate=0.01, noise="none", sample_every=60,
                     log_every=10, checkpoint_every=60)  # fmt: skip
    average = distill(student, source, None, None, config, tmp_path / "run", progress=False)
    losses = [r["rgb"] for r in RunFolder(tmp_path / "run").metrics()]
    assert losses[-1] < 0.6 * losses[0]
    assert not (tmp_path / "run" / "discriminator.safetensors").exists()
    assert_same(Mapping(average), Mapping(student))
    with pytest.raises(CagcError, match="expected 'output' for recorded images"):
        distill(
            student, source, None, None, replace(config, kd_mode="intermediate"), tmp_path / "other", progress=False
        )


class Mapping(torch.nn.Module):
    def __init__(self, generator):
        super().__init__()
        self.layers = torch.nn.ParameterList(generator.mapping.parameters())


def test_new_discriminator_is_as_wide_as_the_teacher(networks, data, tmp_path):
    run((*networks[:2], None), data, tmp_path / "a", replace(CONFIG, steps=1))
    run((*networks[:2], None), data, tmp_path / "b", replace(CONFIG, steps=1))
    a, b = (load_checkpoint(tmp_path / name / "discriminator.safetensors").d for name in "ab")
    widths = networks[1].config.channels
    assert a.config.channels == {r: widths[f"b{r}.conv1"] for r in (16, 8, 4)}
    assert_same(a, b)


def test_plain_lines_and_tensorboard(networks, data, tmp_path, capsys, monkeypatch):
    from cagc.distill import progress

    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    run(networks, data, tmp_path / "run", replace(CONFIG, tensorboard=True, steps=3), progress=True)
    memory, *lines = capsys.readouterr().err.splitlines()
    assert memory.startswith("distill: memory: ") and len(lines) == 3
    assert lines[0].startswith("distill: step 1/3  rgb ") and lines[-1].endswith("0:00:00 left")
    assert "images/s" in lines[0] and "\x1b" not in "".join(lines)
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))


def test_perceptual_features_in_a_run(networks, data, tmp_path):
    config = replace(CONFIG, steps=1, perceptual_weight=3.0, perceptual_size=32)
    run(networks, data, tmp_path / "run", config, parser=lambda images: images[:, :1] > -2)
    assert 0 < RunFolder(tmp_path / "run").metrics()[0]["perceptual"] < 2
