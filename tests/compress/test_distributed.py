from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cagc.checkpoints import load_checkpoint, load_generator, save_generator
from cagc.distill import RunFolder, loop
from cagc.distill.draws import Layout, SampleStreams, keeps_groups, shard
from cagc.models import Generator, GeneratorConfig
from cagc.models.discriminator import append_minibatch_std

from . import ranks

ROOT = Path(__file__).resolve().parents[2]


def environment(**variables: object) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | {k: str(v) for k, v in variables.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def student(small_teacher, tmp_path_factory) -> Path:
    teacher = load_checkpoint(small_teacher).g_ema
    torch.manual_seed(8)
    g = Generator(GeneratorConfig.uniform(16, 64, 8, style_dim=16, mapping_layers=2))
    g.mapping.load_state_dict(teacher.mapping.state_dict())
    for name, parameter in g.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    save_generator(g, path)
    return path


@pytest.fixture(scope="module")
def inputs(small_teacher, student, small_images) -> ranks.Inputs:
    return ranks.Inputs(small_teacher, student, small_images)


@pytest.fixture(scope="module")
def both(inputs, small_teacher, student, small_images, tmp_path_factory):
    """A folder with the runs and results of two processes, and those of this process."""
    folder = tmp_path_factory.mktemp("ranks")
    patch = pytest.MonkeyPatch()
    patch.setattr(loop, "Augment", ranks.Augmented)
    inputs.distill(folder / "one")
    for name in ("alone", "taken over"):
        shutil.copytree(folder / "one", folder / name)
    port, command = free_port(), [sys.executable, "-m", "tests.compress.ranks"]
    arguments = [str(a) for a in (small_teacher, student, small_images, folder)]
    shared = {"CAGC_CACHE_DIR": folder / "cache", "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            command + arguments, env=environment(RANK=rank, LOCAL_RANK=rank, **shared), cwd=ROOT,
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        inputs.distill(folder / "passes", replace(ranks.CONFIG, micro_batch=4))
        inputs.distill(folder / "alone", replace(ranks.CONFIG, steps=7), resume=True)
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        patch.undo()
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)], errors


def assert_same_run(ours: Path, theirs: Path, tolerance: float) -> None:
    timing = ("time_", "images_per_second", "peak_memory_mb")
    a, b = RunFolder(ours).metrics(), RunFolder(theirs).metrics()
    assert len(a) == len(b) and any("r1" in r for r in a) and any("path" in r for r in a)
    for x, y in zip(a, b):
        x, y = ({k: v for k, v in r.items() if not k.startswith(timing)} for r in (x, y))
        assert x == pytest.approx(y, rel=tolerance, abs=tolerance)
    before, after = (load_generator(path / "student.safetensors").state_dict() for path in (ours, theirs))
    for name, tensor in before.items():
        torch.testing.assert_close(tensor, after[name], rtol=0, atol=tolerance)
    before, after = (load_checkpoint(path / "discriminator.safetensors").d.state_dict() for path in (ours, theirs))
    for name, tensor in before.items():
        torch.testing.assert_close(tensor, after[name], rtol=0, atol=tolerance)


def test_two_processes_train_as_one_with_the_whole_batch(both):
    assert_same_run(both[0] / "one", both[0] / "two", 1e-4)


def test_passes_add_up_to_the_whole_batch(both):
    assert_same_run(both[0] / "one", both[0] / "passes", 1e-4)


def test_run_of_one_process_goes_on_in_two(both):
    folder, _, errors = both
    assert "saved by 1 processes and goes on in 2" in errors[0] and "goes on" not in errors[1]
    assert_same_run(folder / "alone", folder / "taken over", 1e-4)


def test_scores_and_figures_of_two_processes_are_those_of_one(both, inputs):
    alone = ranks.measure(inputs)
    for found in both[1]:
        measured = found["measured"]
        for name in ranks.SCORES:
            assert measured.pop(f"{name} settings") == alone[f"{name} settings"]
            for group, values in measured.pop(name).items():
                np.testing.assert_allclose(values, alone[name][group], rtol=1e-5, err_msg=f"{name} {group}")
        assert measured.pop("fidelity") == pytest.approx(alone["fidelity"], rel=1e-6)
        assert measured.pop("frechet") == pytest.approx(alone["frechet"], rel=1e-5)
        np.testing.assert_allclose(measured.pop("vectors"), alone["vectors"], atol=1e-5)
        # A step of 1e-4 in single precision, drawn in batches of other sizes.
        assert measured.pop("path length") == pytest.approx(alone["path length"], rel=0.05)
        assert not measured


def test_what_goes_wrong_in_one_process_stops_both(both):
    first, second = (found["refusals"] for found in both[1])
    assert first["config"] == second["config"]
    assert "the processes disagree on seed: rank 0 has 0, rank 1 has 1" in first["config"]
    assert "batch_size: got 1, expected at least one image for each of 2 processes" in first["batch"]
    assert first["nan"] == second["nan"] and "the rgb loss became nan at step 2; the checkpoint of" in first["nan"]
    assert "No space left on device; the checkpoint of step 0 is kept" in first["disk"]
    assert "rank 0: [Errno 28] No space left on device" in second["disk"]
    assert RunFolder(both[0] / "disk").checkpoints()[-1].stem == "step-000000000"
    assert not (both[0] / "disagreeing").exists() and not (both[0] / "small").exists()


def test_failed_worker_is_replaced_and_the_run_goes_on(small_teacher, student, small_images, inputs, tmp_path):
    out, steps = tmp_path / "run", 30
    config = replace(
        ranks.CONFIG, steps=steps, batch_size=8, normalize_by_area=False, augment="none", checkpoint_every=5,
        sample_every=0, log_every=10,
    )  # fmt: skip
    options = {
        "student": student, "teacher": small_teacher, "data": small_images, "out": out, "content": "everything",
        "steps": steps, "batch-size": 8, "perceptual-weight": 0, "g-reg-every": 2, "d-reg-every": 3, "augment": "none",
        "checkpoint-every": 5, "sample-every": 0, "log-every": 10, "samples": 3,
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    command += ["--monitor-interval", "0.1", "--master-port", str(free_port())]
    command += ["-m", "cagc", "distill", "--no-tensorboard"]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen(
        [str(c) for c in command],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: any(p.stem >= "step-000000010" for p in RunFolder(out).checkpoints()), process)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
        printed, errors = process.communicate(timeout=120)
    finally:
        process.terminate()
    assert process.returncode == 0, errors
    assert "another process of this job ended" in errors and "Traceback" not in errors
    assert printed.strip() == str(out / "student.safetensors")
    assert [r["step"] for r in RunFolder(out).metrics()] == [10, 20, 30]
    whole = inputs.distill(tmp_path / "whole", config, parser=None)
    found = load_generator(out / "student.safetensors").state_dict()
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-3)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


@pytest.mark.parametrize("batch, group, shards", [(16, 4, 2), (16, 4, 4), (12, 3, 2), (8, 4, 1), (6, 2, 3)])
def test_shards_find_the_groups_of_the_whole_batch(batch, group, shards):
    assert keeps_groups(batch, group, shards)
    x = torch.randn(batch, 3, 2, 2)
    whole = append_minibatch_std(x, group)
    seen = []
    for i in range(shards):
        numbers = shard(batch, group, shards, i)
        torch.testing.assert_close(append_minibatch_std(x[numbers], group), whole[numbers])
        seen += numbers
    assert sorted(seen) == list(range(batch))


@pytest.mark.parametrize("batch, shards", [(8, 4), (5, 2), (3, 4)])
def test_shards_that_tear_groups_still_cover_the_batch(batch, shards):
    assert not keeps_groups(batch, 4, shards)
    numbers = [number for i in range(shards) for number in shard(batch, 4, shards, i)]
    assert numbers == list(range(batch))


def test_passes_are_no_larger_than_asked():
    layout = Layout.of(16, 4, 3)
    assert [layout.numbers[part] for part in layout.passes][0] == (0, 1)
    assert sum(layout.share(part) for part in layout.passes) == 1
    assert max(part.stop - part.start for part in layout.passes) <= 3
    assert Layout.of(3, 1, 1).passes == (slice(0, 1), slice(1, 2), slice(2, 3))


def test_numbers_of_a_sample_depend_on_nothing_else():
    whole, part = SampleStreams(1, 2, "a", range(6)), SampleStreams(1, 2, "a", [4, 1])
    for draw in (
        lambda s: s.normal("z", 5),
        lambda s: s.uniform("u", 2, 3),
        lambda s: torch.tensor(s.integers("i", 9)),
    ):
        assert torch.equal(draw(whole)[[4, 1]], draw(part))
    maps = whole.noise("noise", [(4, 4), (8, 8)])
    assert [tuple(m.shape) for m in maps] == [(6, 1, 4, 4), (6, 1, 8, 8)]
    assert torch.equal(maps[1][4], part.noise("noise", [(4, 4), (8, 8)])[1][0])
    others = [SampleStreams(*key, range(6)) for key in ((2, 2, "a"), (1, 3, "a"), (1, 2, "b"))]
    assert all(not torch.equal(other.normal("z", 5), whole.normal("z", 5)) for other in others)
