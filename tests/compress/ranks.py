"""One of the two processes of ``test_distributed``: it makes every check that needs both, so that they start once."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cagc import content
from cagc.checkpoints import load_checkpoint, load_generator
from cagc.common import distributed
from cagc.common.errors import CagcError
from cagc.distill import DistillConfig, ImageDataset, NonFiniteLoss, distill, loop
from cagc.distill.augment import Augment
from cagc.metrics.features import FeatureExtractor
from cagc.metrics.ppl import perceptual_path_length
from cagc.metrics.reference import reference_statistics
from cagc.metrics.shared import compare, drawn_statistics
from cagc.pruning.scores import score_channels

CONFIG = DistillConfig(
    steps=5, batch_size=16, perceptual_weight=0, g_reg_every=2, d_reg_every=3, normalize_by_area=True, augment="ada",
    checkpoint_every=2, sample_every=3, samples=3, log_every=1, tensorboard=False,
)  # fmt: skip
SCORES = {
    "per-sample": {"metric": "content-aware", "samples": 7, "batch_size": 3},
    "batch-sum": {"metric": "content-aware", "samples": 8, "batch_size": 2, "batch_rule": "batch-sum"},
    "diversity": {"metric": "diversity", "samples": 3, "directions": 3},
    "asv": {"metric": "asv", "samples": 7, "batch_size": 3},
}


def dark_half(images: Tensor, seeds: Any = None) -> Tensor:
    """Mask the pixels below zero, which is a different area in every image."""
    return (images.mean(dim=1, keepdim=True) < 0).to(images)


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).double().square().mean()


class Means(FeatureExtractor):
    """Mean colours of quarters as features [N, 12]."""

    name = "means"

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


class Inputs:
    def __init__(self, teacher: Path, student: Path, images: Path) -> None:
        checkpoint = load_checkpoint(teacher)
        self.teacher, self.d = checkpoint.g_ema, checkpoint.d
        self.student = load_generator(student)
        self.data = ImageDataset(images, 16)

    def distill(self, out: Path, config: DistillConfig = CONFIG, **options: Any) -> torch.nn.Module:
        options = {"parser": content.load(dark_half), "progress": False} | options
        return distill(self.student, self.teacher, self.d, self.data, config, out, **options)


def measure(inputs: Inputs) -> dict[str, Any]:
    """Scores and figures, as JSON containers; one process and two must get the same."""
    parser = content.load(dark_half)
    result: dict[str, Any] = {}
    for name, options in SCORES.items():
        scores = score_channels(inputs.teacher, parser=parser, **options)
        result[name] = {group: values.tolist() for group, values in scores.scores.items()}
        result[f"{name} settings"] = scores.settings
    result["fidelity"] = compare(inputs.student, inputs.teacher, parser, samples=5)
    real = reference_statistics(inputs.data, 9, Means())
    drawn = drawn_statistics(inputs.student, 11, 3, Means(), keep=True)
    result["vectors"] = drawn.vectors.tolist()
    result["path length"] = perceptual_path_length(inputs.student, mean_square, 7, batch=2)
    result["frechet"] = [real.count, drawn.count, drawn.distance(real)]
    return result


class Augmented(Augment):
    """Augmentation with an initial probability at which every kind of change occurs."""

    def __init__(self, target: float) -> None:
        super().__init__(target, p=0.7)


def refusal(function: Any) -> str:
    try:
        function()
    except CagcError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def refusals(inputs: Inputs, out: Path) -> dict[str, str]:
    """Return the errors of this process for faults in one of the two processes."""
    rank = distributed.rank()
    seeded = replace(CONFIG, seed=rank)
    found = {"config": refusal(lambda: inputs.distill(out / "disagreeing", seeded))}
    small = replace(CONFIG, batch_size=1)
    found["batch"] = refusal(lambda: inputs.distill(out / "small", small))

    class Poisoned(loop.Trainer):
        def draw(self):
            draws = super().draw()
            if self.step == 2 and rank == 1:
                draws.generator.noise[0].fill_(float("nan"))
            return draws

    def full(folder: Any, step: int, state: Any) -> None:
        if step:
            raise OSError(28, "No space left on device")
        save(folder, step, state)

    trainer, save = loop.Trainer, loop.RunFolder.save
    loop.Trainer = Poisoned
    found["nan"] = refusal(lambda: inputs.distill(out / "nan"))
    loop.Trainer, loop.RunFolder.save = trainer, full
    found["disk"] = refusal(lambda: inputs.distill(out / "disk"))
    loop.RunFolder.save = save
    assert NonFiniteLoss.__name__ in found["nan"]
    return found


def main(teacher: str, student: str, images: str, out: str) -> None:
    torch.set_num_threads(1)
    loop.Augment = Augmented
    inputs, folder = Inputs(Path(teacher), Path(student), Path(images)), Path(out)
    with distributed.process_group("cpu"):
        inputs.distill(folder / "two")
        inputs.distill(folder / "taken over", replace(CONFIG, steps=7), resume=True)
        result = {"measured": measure(inputs), "refusals": refusals(inputs, folder)}
        (folder / f"rank{distributed.rank()}.json").write_text(json.dumps(result))
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in names if "gloo" in name], "threads of the group outlive it, and may abort the process"


if __name__ == "__main__":
    main(*sys.argv[1:])
