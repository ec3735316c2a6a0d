"""Every command that writes, killed or out of disk at each of its file operations: a new start or --resume works."""

from __future__ import annotations

from pathlib import Path

import pytest

import cagc
from cagc import evaluation
from cagc.checkpoints import save_generator
from cagc.common import files
from cagc.latency.measure import LatencyResult
from cagc.models import Generator, GeneratorConfig

from .commands import run
from .faults import Killed, faults


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, small_images) -> dict[str, object]:
    """The files that the command lines below name."""
    folder = tmp_path_factory.mktemp("inputs")
    teacher = Generator(GeneratorConfig.uniform(8, 64, 4, style_dim=4, mapping_layers=1))
    save_generator(teacher, folder / "teacher.safetensors")
    scores = cagc.score_channels(teacher, "random", samples=1)
    scores.save(folder / "scores.json")
    save_generator(cagc.prune(teacher, cagc.plan_channels(teacher, scores, keep=0.5)), folder / "student.safetensors")
    return {"teacher": folder / "teacher.safetensors", "image": small_images / "00.png", "folder": folder}


TRAINING = "--batch-size 2 --perceptual-weight 0 --gan-weight 0 --path-weight 0 --sample-every 1 --no-tensorboard"
COMMANDS = {
    "score": ("score --teacher {teacher} --metric l1-out --samples 1 --out {out}/s.json", ["s.json"]),
    "prune": (
        "prune --teacher {teacher} --scores {folder}/scores.json --keep 0.5 --out {out}/p.safetensors",
        ["p.safetensors", "p.plan.json"],
    ),
    "generate": ("generate --generator {teacher} --seeds 0-1 --out {out}/i", ["i/00000.png", "i/00001.png"]),
    "convert": ("convert {teacher} {out}/c.pt", ["c.pt"]),
    "project": (
        "project {image} --teacher {teacher} --steps 1 --perceptual-weight 0 --out {out}/p",
        ["p/teacher.safetensors", "p/teacher-loss.csv", "p/comparison.png", "p/metrics.json"],
    ),
    "mix": ("mix --teacher {teacher} --seeds 0 --styles 1 --out {out}/m", ["m/teacher.png"]),
    "morph": ("morph --teacher {teacher} --steps 2 --out {out}/m.gif", ["m.gif"]),
    "edit": ("edit --teacher {teacher} --seeds 0 --out {out}/e", ["e/edit.png", "e/directions.safetensors"]),
    "evaluate": (
        "evaluate --teacher {teacher} --student {teacher} --content everything --pairs 1 --json {out}/e.json",
        ["e.json"],
    ),
    "distill": (
        "distill --student {folder}/student.safetensors --teacher {teacher} --content everything --steps 1 "
        + TRAINING
        + " --out {out}/r",
        ["r/config.json", "r/student.safetensors", "r/metrics.jsonl", "r/samples/step-000000001.png"],
    ),
    "compress": (
        "compress --teacher {teacher} --content everything --metric l1-out --samples 1 --keep 0.5 --steps 1 "
        "--evaluation-samples 2 --no-web --out {out}/c "
        + TRAINING.replace("--", "--distillation.").replace(".no-", ".no-"),
        ["c/student.safetensors", "c/report.html", "c/metrics.json", "c/plan.json", "c/distill/student.safetensors"],
    ),
}
# Of the later operations of commands that take long; each of them was tried once.
STRIDES = {"distill": 4, "compress": 12}


@pytest.fixture
def without_timing(monkeypatch):
    """Skip timed calls, which take most of the time of an evaluation."""
    result = LatencyResult(1.0, 1.0, 1.0, (1.0,), {"cpu": "none"})
    monkeypatch.setattr(
        evaluation, "measure_generators", lambda generators, *_, **__: dict.fromkeys(generators, result)
    )


def attempt(words: str) -> str:
    """Run a command and return its error line, or an empty string."""
    try:
        run(*words.split())
    except SystemExit as stop:
        assert stop.code == 2
        return attempt.errors().strip().splitlines()[-1]
    return ""


def recover(words: str, out: Path, expected: list[str]) -> None:
    """Start a command again as its user would, following the advice of its refusal."""
    said = attempt(words)
    for advice in ("--resume", "--overwrite"):
        if said and advice in said:
            said = attempt(f"{words} {advice}")
    assert not said
    assert all((out / name).is_file() for name in expected)
    assert not list(out.rglob(".cagc-*"))


@pytest.mark.parametrize("kind", ["kill", "full"])
@pytest.mark.parametrize("command", COMMANDS)
def test_interrupted_command_can_be_started_again(command, kind, inputs, tmp_path, capsys, without_timing):
    attempt.errors = lambda: capsys.readouterr().err
    text, expected = COMMANDS[command]
    at, fired = 0, True
    while fired:
        out = tmp_path / str(at)
        out.mkdir()
        words, fired = text.format(out=out, **inputs), False
        files._CLEANED.clear()
        with faults(out, kind, at):
            try:
                fired = "No space left on device" in attempt(words)
            except Killed:
                fired = True
        files._CLEANED.clear()
        recover(words, out, expected)
        at += 1 if at < 14 else STRIDES.get(command, 1) if kind == "kill" else 12
    assert at > 2
