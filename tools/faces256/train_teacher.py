"""Grow the embedded 64 px teacher to 256 px, by regression from w with critics of frozen features.

    python tools/faces256/train_teacher.py --images images-128 drawn --latents latents_labels.npz --out run

Stages run in the order of ``STAGES``, each from the averaged weights of the previous one; the same command resumes from
the last checkpoint in `run`. After each stage `run` holds STAGE.safetensors, figures on held-out seeds in log.jsonl,
and grids of recorded images, the generator that training began with, and ours. The discriminator in a checkpoint is
that of the embedded teacher, grown but not trained, for further training by tools/faces64/train_teacher.py.
"""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from examine import examine, save_grid
from faces import Faces
from growth import grow_discriminator, grow_generator, synthesise
from objective import FeatureCritics, feature_maps, map_distance, multiscale_l1
from torch import Tensor

from cagc.assets import faces64
from cagc.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from cagc.common.files import atomic_write
from cagc.metrics import features

WIDTHS = {128: 48, 256: 24}
DISCRIMINATOR_WIDTHS = {128: 32, 256: 16}


@dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Attributes:
        resolution: side of the images in pixels.
        train_from: blocks from this resolution on are trained; those below are frozen.
        steps, batch: generator updates, and images in each.
        rate, critic_rate: learning rates of Adam; ``rate`` falls to zero as a cosine.
        crop: side of the random window of the image that is computed; None for the whole image.
        size: side that images are resized to for the features.
        windows: steps alternate between images of half the resolution, of which there may be more, compared with the
            drawn ones area-averaged, and features of a random window of side ``size`` at full resolution.
        fine, perceptual, critics: weights of L1 at full resolution within the multi-scale L1, of the perceptual
            distance, and of the critics, which start after ``warm_up`` steps.
    """

    resolution: int
    train_from: int
    steps: int
    batch: int = 16
    rate: float = 0.004
    critic_rate: float = 0.002
    crop: int | None = None
    size: int = 128
    windows: bool = False
    fine: float = 0.3
    perceptual: float = 2.0
    critics: float = 0.05
    warm_up: int = 60


STAGES = {
    "base64": Stage(64, 4, 800, rate=0.003, size=96, fine=0.5, critics=0.1),
    "new128": Stage(128, 128, 150, batch=32, rate=0.006, crop=64, size=64, fine=0.1),
    "all128": Stage(128, 4, 1000, rate=0.002, critics=0.12),
    "new256": Stage(256, 256, 150, batch=32, rate=0.006, crop=96, size=96, fine=0.1),
    "all256": Stage(256, 4, 4000, batch=8, rate=0.0015, size=160, windows=True, critics=0.12),
}


@dataclass
class Options:
    """Options of the command.

    Attributes:
        images: zips, or folders of zips, of images named by seed, at 128 px for the first stages and 256 px.
        latents: .npz with `w` [n, 512]; row i belongs to image i.
        out: folder of the run.
        init: generator to begin with instead of the embedded teacher.
        stages: names of the stages to run, in this order.
        held_out: number of seeds, the last ones, that are not trained on.
        checkpoint_every, examine_every: steps between checkpoints, and between evaluations.
        set: changed settings of stages, such as new256.steps=2000.
    """

    images: list[Path]
    latents: Path
    out: Path
    init: Path | None = None
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    held_out: int = 500
    checkpoint_every: int = 50
    examine_every: int = 300
    set: list[str] = field(default_factory=list)


class Run:
    """The state and the steps of a training."""

    def __init__(self, options: Options) -> None:
        torch.set_num_threads(1)
        self.options, self.faces = options, Faces(options.images)
        with np.load(options.latents) as arrays:
            self.w = torch.from_numpy(arrays["w"]).float()
        self.first_held_out = len(self.w) - options.held_out
        self.extractor, self.critics = features.load(), FeatureCritics()
        self.small = load_checkpoint(faces64() / "teacher.safetensors")
        torch.manual_seed(0)
        self.start = load_checkpoint(options.init).g_ema if options.init else self.small.g_ema
        self.average = grow_generator(self.start, WIDTHS)
        self.begin(options.stages[0])
        if (options.out / "state.pt").exists():
            self.load(torch.load(options.out / "state.pt", weights_only=True))

    def begin(self, name: str) -> None:
        """Prepare the stage ``name`` from the averaged weights."""
        changed = dict(pair.split("=") for pair in self.options.set if pair.startswith(f"{name}."))
        values = vars(STAGES[name]) | {key.partition(".")[2]: json.loads(value) for key, value in changed.items()}
        self.name, self.stage, self.step = name, Stage(**values), 0
        self.generator = copy.deepcopy(self.average).requires_grad_(False)
        trained = []
        for key, parameter in self.generator.synthesis.named_parameters():
            side = int(key[1:].split(".")[0])
            if self.stage.train_from <= side <= self.stage.resolution and not key.endswith("noise_strength"):
                trained.append(parameter.requires_grad_(True))
        self.optimizer = torch.optim.Adam(trained, lr=self.stage.rate, betas=(0.9, 0.99))
        heads = self.critics.heads.parameters()
        self.critic_optimizer = torch.optim.Adam(heads, lr=self.stage.critic_rate, betas=(0.0, 0.99))
        self.scan()

    def scan(self) -> None:
        self.faces.scan()
        seeds = self.faces.seeds(self.stage.resolution)
        self.seeds = [seed for seed in seeds if seed < self.first_held_out]
        self.seeds_at_half = [s for s in self.faces.seeds(self.stage.resolution // 2) if s < self.first_held_out]
        self.unseen = [seed for seed in seeds if seed >= self.first_held_out]

    def networks(self) -> dict[str, torch.nn.Module | torch.optim.Optimizer]:
        return {
            "generator": self.generator,
            "average": self.average,
            "critics": self.critics,
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
        }

    def save(self) -> None:
        state = {name: network.state_dict() for name, network in self.networks().items()}
        with atomic_write(self.options.out / "state.pt") as temporary:
            torch.save(state | {"stage": self.name, "step": self.step}, temporary)

    def load(self, state: dict) -> None:
        self.begin(state["stage"])
        for name, network in self.networks().items():
            network.load_state_dict(state[name])
        self.step = state["step"]

    def draw(self) -> tuple[Tensor, Tensor, tuple[int, int, int] | None]:
        """Return w [N, 512] and images of step ``self.step``, and the window to compute."""
        stage, rng = self.stage, np.random.default_rng([self.step, *self.name.encode()])
        at_half = stage.windows and self.step % 2 == 0
        pool, resolution = (self.seeds_at_half, stage.resolution // 2) if at_half else (self.seeds, stage.resolution)
        seeds = [pool[i] for i in rng.integers(len(pool), size=stage.batch)]
        images, corner = self.faces.batch(seeds, resolution), None
        if stage.crop:
            top, left = (int(i) for i in rng.integers((stage.resolution - stage.crop) // 2 + 1, size=2))
            corner = (top, left, stage.crop // 2)
            images = images[..., 2 * top : 2 * top + stage.crop, 2 * left : 2 * left + stage.crop]
        return self.w[seeds], images.contiguous(), corner

    def window(self, *batches: Tensor) -> list[Tensor]:
        """Return the same random window, of side ``self.stage.size``, of batches that are larger."""
        size, side = self.stage.size, batches[0].shape[-1]
        if not self.stage.windows or side <= size:
            return list(batches)
        top, left = (int(i) for i in np.random.default_rng([self.step, 1]).integers(side - size + 1, size=2))
        return [batch[..., top : top + size, left : left + size].contiguous() for batch in batches]

    def update(self) -> dict[str, float]:
        """Update generator and critics on the same images, and return the unweighted losses."""
        stage = self.stage
        w, images, corner = self.draw()
        self.optimizer.param_groups[0]["lr"] = stage.rate * self.schedule()
        with torch.autocast("cpu", torch.bfloat16):
            drawn = synthesise(self.generator, w, stage.resolution, stage.train_from, corner)
        if images.shape[-1] < drawn.shape[-1]:
            drawn = F.avg_pool2d(drawn, 2)
        real_part, drawn_part = self.window(images, drawn)
        size = real_part.shape[-1] if stage.windows else stage.size
        with torch.no_grad():
            real = feature_maps(self.extractor, real_part, size)
        fake = feature_maps(self.extractor, drawn_part, size)
        losses = {"l1": multiscale_l1(drawn, images, stage.fine), "perceptual": map_distance(fake, real)}
        if self.step >= stage.warm_up:
            losses["critics"] = self.critics.praise(fake)
        weights = {"l1": 1.0, "perceptual": stage.perceptual, "critics": stage.critics}
        if self.step % 50 == 49:
            # Norm of the gradient of each weighted loss with respect to the image.
            pulls = {name: torch.autograd.grad(loss, drawn, retain_graph=True)[0] for name, loss in losses.items()}
            self.log({f"pull_{name}": weights[name] * pull.norm().item() for name, pull in pulls.items()})
        self.optimizer.zero_grad()
        sum(weights[name] * loss for name, loss in losses.items()).backward()
        self.optimizer.step()
        losses["critics_own"] = self.critics.loss(real, fake)
        self.critic_optimizer.zero_grad()
        losses["critics_own"].backward()
        self.critic_optimizer.step()
        self.step += 1
        self.move_average()
        return {name: loss.item() for name, loss in losses.items()}

    def schedule(self) -> float:
        warm = min(1.0, (self.step + 1) / 20)
        return warm * 0.5 * (1 + math.cos(math.pi * self.step / self.stage.steps))

    @torch.no_grad()
    def move_average(self) -> None:
        half_life = min(2000.0, 0.1 * self.step * self.stage.batch)
        decay = 0.5 ** (self.stage.batch / half_life)
        for average, parameter in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            if parameter.requires_grad:
                average.lerp_(parameter, 1 - decay)

    def examine(self, count: int) -> None:
        """Log figures on held-out seeds and draw the grid."""
        seeds = self.unseen[:count]
        figures = examine(self, seeds)
        self.log({"stage": self.name, "step": self.step, "held_out": len(seeds)} | figures)
        save_grid(self, seeds[:8], self.options.out / f"{self.name}-{self.step:05d}.png")

    def log(self, row: dict) -> None:
        row = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
        print(json.dumps(row), flush=True)
        with open(self.options.out / "log.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")

    def stage_to_end(self) -> None:
        sums, counted = {}, 0
        wall, cpu = time.monotonic(), time.process_time()
        while self.step < self.stage.steps:
            for name, loss in self.update().items():
                sums[name] = sums.get(name, 0.0) + loss
            counted += 1
            if self.step % self.options.checkpoint_every == 0 or self.step == self.stage.steps:
                images = counted * self.stage.batch
                wall, cpu = time.monotonic() - wall, time.process_time() - cpu
                spent = {"s_image": wall / images, "cpu_s_image": cpu / images}
                means = {name: value / counted for name, value in sums.items()}
                self.log({"stage": self.name, "step": self.step, "seeds": len(self.seeds)} | means | spent)
                self.save()
                self.scan()
                sums, counted = {}, 0
                wall, cpu = time.monotonic(), time.process_time()
            if self.step % self.options.examine_every == 0 and self.step < self.stage.steps:
                self.examine(100)
        discriminator = grow_discriminator(self.small.d, DISCRIMINATOR_WIDTHS)
        result = Checkpoint(self.average, d=discriminator, metadata={"stage": vars(self.stage)})
        save_checkpoint(self.options.out / f"{self.name}.safetensors", result, torch.float16)
        self.examine(500)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(options)
    for name in options.stages[options.stages.index(run.name) :]:
        if name != run.name:
            run.begin(name)
        if run.step == 0:
            run.examine(100)
        run.stage_to_end()


if __name__ == "__main__":
    main()
