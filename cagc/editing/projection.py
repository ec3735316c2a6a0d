"""Projection: optimises latents and noise so that a generator reproduces given images.

As in the paper's evaluation, it starts in W+ at the mean w, optimises noise maps too, and weights squared error and
perceptual distance equally. The paper's optimiser is full-batch L-BFGS; the default here is Adam: on the 64 px face
teacher 100 of its updates take as long as 60 of L-BFGS and reach a quarter of the loss. (Abdal et al.,
"Image2StyleGAN", ICCV 2019; Karras et al., CVPR 2020.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..common.callbacks import Progress
from ..common.checks import Count, CountOrZero, Positive, Weight, check_settings
from ..common.documents import read_tensors
from ..common.errors import CagcError
from ..common.files import atomic_write
from ..common.reading import reading
from ..distill.losses import PerceptualDistance, load_perceptual, perceptual_loss
from ..models import AnyGenerator

FORMAT = "cagc-projection-1"


@dataclass(frozen=True)
class ProjectionConfig:
    """Settings of a projection.

    Attributes:
        space: "w": one w for all layers; "w+": one for each.
        optimizer: "adam", or "lbfgs", full-batch as in the paper.
        steps: updates at most; the paper's evaluation has 800.
        learning_rate: None: 1 for L-BFGS, 0.05 for Adam.
        noise: also optimise the noise maps; they are kept at zero mean and unit variance.
        mse_weight: of the squared distance of pixels.
        perceptual_weight: of the perceptual distance.
        perceptual: features of that distance: "efficientnet-lite0", or "lpips-vgg" where lpips is installed.
        perceptual_size: side that images are resized to for it; None: not resized.
        patience: stop when the loss fell by less than the share `min_gain` over this many steps.
        min_gain: see `patience`.
        seed: seed of the initial noise maps.

    Raises:
        ValueError: naming the setting.
    """

    space: Literal["w", "w+"] = "w+"
    optimizer: Literal["adam", "lbfgs"] = "adam"
    steps: Count = 300
    learning_rate: Positive | None = None
    noise: bool = True
    mse_weight: Weight = 1.0
    perceptual_weight: Weight = 1.0
    perceptual: str = "efficientnet-lite0"
    perceptual_size: int | None = None
    patience: Count = 30
    min_gain: Weight = 0.01
    seed: CountOrZero = 0

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.mse_weight and not self.perceptual_weight:
            raise ValueError("mse_weight, perceptual_weight: got 0 for both, expected a distance to minimise")

    def load_perceptual(self, device: torch.device | str = "cpu") -> PerceptualDistance | None:
        """The perceptual distance; None if it has no weight. Raises CagcError if it cannot be loaded."""
        return load_perceptual(self.perceptual, device, self.perceptual_size) if self.perceptual_weight else None


@dataclass(frozen=True)
class Projection:
    """Result of a projection: the best latents and noise of every image over all steps.

    Attributes:
        ws: [N, num_ws, w_dim].
        noise: a map [N, 1, h, w] per convolution.
        losses: mean loss over the images, by step.
        stopped: "steps", "stalled" or "interrupted".
    """

    ws: Tensor
    noise: list[Tensor]
    losses: list[float]
    stopped: str

    def save(self, path: str | Path) -> None:
        """Write a ``.safetensors`` file, atomically."""
        tensors = {"ws": self.ws, "losses": torch.tensor(self.losses, dtype=torch.float64)}
        tensors |= {f"noise.{i:02d}": noise for i, noise in enumerate(self.noise)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, {"format": FORMAT, "stopped": self.stopped})

    @classmethod
    def load(cls, path: str | Path) -> Projection:
        """Read what :meth:`save` wrote.

        Raises:
            CagcError: the file is missing, damaged or of another kind.
        """
        header, tensors = read_tensors(path, "projection", FORMAT)
        noise = [tensors[name] for name in sorted(tensors) if name.startswith("noise.")]
        with reading("projection", path):
            for name, ndim in (("ws", 3), ("losses", 1)):
                if name not in tensors:
                    raise CagcError(f"has no {name!r}")
                if tensors[name].ndim != ndim or not tensors[name].is_floating_point() or not tensors[name].numel():
                    got = f"{list(tensors[name].shape)} {tensors[name].dtype}"
                    raise CagcError(f"{name} is {got}, expected {ndim} dimensions of floating point")
            images = len(tensors["ws"])
            if any(n.ndim != 4 or n.shape[:2] != (images, 1) or not n.is_floating_point() for n in noise):
                raise CagcError(f"expected noise maps [{images}, 1, h, w] of floating point")
            return cls(
                tensors["ws"].float(), [n.float() for n in noise], tensors["losses"].tolist(), header.get("stopped", "")
            )


def project(
    generator: AnyGenerator,
    targets: Tensor,
    config: ProjectionConfig | None = None,
    mask: Tensor | None = None,
    progress: Progress | None = None,
    perceptual: PerceptualDistance | None = None,
) -> Projection:
    """Find latents and noise that reproduce ``targets``, independently for each image.

    Ctrl-C stops early and returns the best so far (``stopped`` is "interrupted").

    Args:
        generator: frozen; runs on its device.
        targets: [N, img_channels, *img_size] in [-1, 1], as the generator draws.
        config: settings; None: the defaults.
        mask: content [N, 1, R, R] in {0, 1}: pixels outside do not count; None: all count.
        progress: called as progress(steps done, steps in all).
        perceptual: distance to use instead of the one that ``config`` names.

    Raises:
        ValueError: a shape is not as above.
        CagcError: the features cannot be loaded, or the loss is not finite.
    """
    config = config or ProjectionConfig()
    shape = (generator.img_channels, *generator.img_size)
    if targets.ndim != 4 or tuple(targets.shape[1:]) != shape or len(targets) == 0:
        raise ValueError(f"targets: got shape {list(targets.shape)}, expected [N, {', '.join(map(str, shape))}]")
    if mask is not None and tuple(mask.shape) != (len(targets), 1, *shape[1:]):
        raise ValueError(f"mask: got shape {list(mask.shape)}, expected {[len(targets), 1, *shape[1:]]}")
    perceptual = perceptual or config.load_perceptual(generator.w_avg.device)
    search = _Search(generator, targets.to(generator.w_avg), mask, config, perceptual)
    stopped = "steps"
    try:
        for step in range(1, config.steps + 1):
            search.step()
            if progress is not None:
                progress(step, config.steps)
            if search.stalled():
                stopped = "stalled"
                break
    except KeyboardInterrupt:
        stopped = "interrupted"
    return search.result(stopped)


class _Search:
    """Variables of a projection, their optimiser, and the best result of each image so far."""

    def __init__(self, generator, targets, mask, config: ProjectionConfig, perceptual) -> None:
        self.generator, self.targets, self.config, self.perceptual = generator, targets, config, perceptual
        self.mask = None if mask is None else mask.to(targets)
        mean = _mean_w(generator, config.seed)
        layers = generator.num_ws if config.space == "w+" else 1
        self.w = mean.expand(len(targets), layers, -1).clone().requires_grad_(True)
        rng = torch.Generator().manual_seed(config.seed)
        shapes = generator.synthesis.noise_shapes()
        start = [torch.randn(1, 1, h, w, generator=rng).to(targets) for h, w in shapes]
        self.maps = [m.repeat(len(targets), 1, 1, 1).requires_grad_(config.noise) for m in start]
        variables = [self.w, *(self.maps if config.noise else [])]
        if config.optimizer == "adam":
            self.optimizer = torch.optim.Adam(variables, lr=config.learning_rate or 0.05)
        else:
            # One iteration per step, so that progress is reported and an interruption keeps the best so far.
            self.optimizer = torch.optim.LBFGS(
                variables, lr=config.learning_rate or 1.0, max_iter=1, max_eval=25, line_search_fn="strong_wolfe"
            )
        self.losses: list[float] = []
        self.best = torch.full((len(targets),), math.inf, device=targets.device)
        self.best_w = self.w.detach().clone()
        self.best_noise = [noise.detach().clone() for noise in self.maps]

    def ws(self, w: Tensor) -> Tensor:
        return w.expand(-1, self.generator.num_ws, -1)

    def step(self) -> None:
        self.optimizer.step(self._closure)
        with torch.no_grad():
            loss = self._per_image()
        if not torch.isfinite(loss).all():
            raise CagcError(f"projection: the loss became {loss.tolist()} at step {len(self.losses) + 1}")
        self._keep(loss)
        self.losses.append(self.best.mean().item())

    def _closure(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._per_image().sum()
        loss.backward()
        return loss

    def _noise(self) -> list[Tensor]:
        # Noise maps are normalised to unit variance, so that noise cannot encode the image.
        return [(noise - noise.mean(dim=(2, 3), keepdim=True)) / _spread(noise) for noise in self.maps]

    def _per_image(self) -> Tensor:
        images, config = self.generator.synthesis(self.ws(self.w), self._noise()), self.config
        weight = torch.ones_like(images[:, :1]) if self.mask is None else self.mask
        area = weight.sum(dim=(1, 2, 3)).clamp_min(1) * images.shape[1]
        loss = config.mse_weight * ((images - self.targets).square() * weight).sum(dim=(1, 2, 3)) / area
        if config.perceptual_weight:
            one = [
                perceptual_loss(images[i : i + 1], self.targets[i : i + 1], self.perceptual, weight[i : i + 1])
                for i in range(len(images))
            ]
            loss = loss + config.perceptual_weight * torch.stack(one)
        return loss

    def _keep(self, loss: Tensor) -> None:
        better = loss < self.best
        self.best = torch.where(better, loss, self.best)
        self.best_w[better] = self.w.detach()[better]
        for kept, noise in zip(self.best_noise, self._noise()):
            kept[better] = noise.detach()[better]

    def stalled(self) -> bool:
        patience = self.config.patience
        if len(self.losses) <= patience:
            return False
        before = self.losses[-patience - 1]
        return before - self.losses[-1] < self.config.min_gain * before

    def result(self, stopped: str) -> Projection:
        return Projection(self.ws(self.best_w).clone(), self.best_noise, self.losses, stopped)


def _spread(noise: Tensor) -> Tensor:
    return noise.std(dim=(2, 3), keepdim=True, unbiased=False).clamp_min(1e-8)


@torch.no_grad()
def _mean_w(generator: AnyGenerator, seed: int, samples: int = 1000) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(samples, generator.z_dim, generator=rng).to(generator.w_avg)
    c = None if generator.labels is None else generator.labels.take(range(samples)).to(z)
    return generator.mapping.w(z, c).mean(dim=0)
