"""Teachers: a generator that runs during training, or images that were recorded with their latents."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..checkpoints import generator_hash
from ..common.errors import CagcError
from ..common.seeds import z_batch
from ..models import AnyGenerator
from ..models.labels import Labels
from ..models.protocol import Size
from ..models.stylegan2_config import block_resolutions
from .draws import SampleStreams
from .latents import Latents, with_noise


class Teacher(Protocol):
    """Protocol of a source of targets. ``fingerprint`` identifies it in a run folder, ``img_size`` is (h, w).

    ``labels`` are those that images are drawn with; None where there are none.
    """

    img_size: Size
    z_dim: int
    fingerprint: str
    labels: Labels | None

    def latents(self, streams: SampleStreams, mixing_probability: float) -> Latents:
        """Draw latents, without noise."""
        ...

    def sample_latents(self, count: int, device: torch.device | str) -> Latents:
        """Fixed latents and noise for sample grids, the same in every call."""
        ...

    def rgbs(
        self,
        latents: Latents,
        intermediate: bool = False,
        truncation: float = 1.0,
        features: dict[str, Tensor] | None = None,
        offset: Tensor | None = None,
    ) -> list[Tensor]:
        """Target images [N, 3, r, r]: of every resolution, lowest first, if ``intermediate``, else only the last.

        ``features``: dict to fill, see ``SynthesisNetwork.forward``. ``offset`` [N, w_dim] is added to every w.
        """
        ...


class LiveTeacher:
    """A generator that runs on the student's latents.

    ``seeds``: draw only the latents of these seeds, without mixing, for parsers that have masks of these images only.
    """

    def __init__(self, generator: AnyGenerator, seeds: Sequence[int] | None = None) -> None:
        self.generator = generator
        self.seeds = None if seeds is None else list(seeds)
        self.img_size = generator.img_size
        self.z_dim = generator.z_dim
        self.labels = generator.labels
        self.fingerprint = generator_hash(generator)

    def latents(self, streams: SampleStreams, mixing_probability: float) -> Latents:
        """Draw z with labels, and with ``mixing_probability`` a second z with a layer index for the whole batch."""
        if self.seeds is not None:
            seeds = [self.seeds[i] for i in streams.integers("seed", len(self.seeds))]
            return self._of_seeds(seeds, streams.device)
        z, rng, c = streams.normal("z", self.z_dim), streams.batch("mixing"), None
        if self.labels is not None:
            c = self.labels.take(streams.integers("label", len(self.labels))).to(streams.device)
        if torch.rand([], generator=rng).item() >= mixing_probability or self.generator.num_ws < 2:
            return Latents(z=z, c=c)
        index = int(torch.randint(1, self.generator.num_ws, [], generator=rng))
        return Latents(z=z, c=c, z_mix=streams.normal("z_mix", self.z_dim), mixing_index=index)

    def sample_latents(self, count: int, device: torch.device | str) -> Latents:
        """See :class:`Teacher`: of seeds 0, 1, … or of the first of ``seeds``."""
        seeds = list(range(count)) if self.seeds is None else self.seeds[:count]
        return with_noise(self._of_seeds(seeds, device), "const", "const")

    def _of_seeds(self, seeds: list[int], device: torch.device | str) -> Latents:
        c = None if self.labels is None else self.labels.take(seeds).to(device)
        return Latents(z=z_batch(seeds, self.z_dim, device), c=c, seeds=seeds)

    @torch.no_grad()
    def rgbs(
        self,
        latents: Latents,
        intermediate: bool = False,
        truncation: float = 1.0,
        features: dict[str, Tensor] | None = None,
        offset: Tensor | None = None,
    ) -> list[Tensor]:
        """See :class:`Teacher`."""
        ws = latents.ws(self.generator, truncation)
        ws = ws if offset is None else ws + offset[:, None]
        out = self.generator.synthesis(ws, latents.teacher_noise, return_rgbs=intermediate, features=features)
        return out if intermediate else [out]


class RecordedTeacher:
    """Recorded images with the w that each was drawn from; the generator itself is not needed.

    It also serves as a set of real images (``len`` and ``batch``) for the discriminator.

    Args:
        ws: [n, w_dim] floating point.
        images: [n, 3, R, R] uint8, R a power of two from 4 on.
        device: device of the batches.

    Raises:
        CagcError: a shape or type is not as above, or the numbers of ws and images differ.
    """

    def __init__(self, ws: Tensor, images: Tensor, device: torch.device | str = "cpu") -> None:
        if ws.ndim != 2 or not ws.is_floating_point():
            raise CagcError(f"ws: got {ws.dtype} {list(ws.shape)}, expected floating point [n, w_dim]")
        if (
            images.ndim != 4
            or images.shape[1] != 3
            or images.shape[2] != images.shape[3]
            or images.dtype != torch.uint8
        ):
            raise CagcError(f"images: got {images.dtype} {list(images.shape)}, expected uint8 [n, 3, R, R]")
        if len(ws) != len(images) or len(ws) == 0:
            raise CagcError(f"images: got {len(images)} for {len(ws)} ws, expected one for each")
        block_resolutions(images.shape[2])
        self.device = torch.device(device)
        self.recorded_ws, self.images = ws.float(), images
        self.img_size, self.z_dim, self.labels = tuple(images.shape[2:]), ws.shape[1], None
        digest = hashlib.sha256(self.recorded_ws.contiguous().numpy())
        digest.update(images.contiguous().numpy())
        self.fingerprint = f"recorded-{digest.hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Images [N, 3, R, R] float32 in [-1, 1] at ``indices``."""
        pixels = self.images[torch.as_tensor(indices, dtype=torch.long, device="cpu")]
        return pixels.to(self.device).float().div_(127.5).sub_(1)

    def latents(self, streams: SampleStreams, mixing_probability: float) -> Latents:
        """Draw recorded samples; there is no image for mixed styles, so ``mixing_probability`` has no effect."""
        rows = torch.tensor(streams.integers("row", len(self)), dtype=torch.long)
        return Latents(w=self.recorded_ws[rows].to(self.device), rows=rows)

    def sample_latents(self, count: int, device: torch.device | str) -> Latents:
        """See :class:`Teacher`: the first recorded samples."""
        rows = torch.arange(min(count, len(self)))
        return Latents(w=self.recorded_ws[rows].to(device), rows=rows, noise="const")

    def rgbs(
        self,
        latents: Latents,
        intermediate: bool = False,
        truncation: float = 1.0,
        features: dict[str, Tensor] | None = None,
        offset: Tensor | None = None,
    ) -> list[Tensor]:
        """The recorded images.

        Raises:
            CagcError: ``intermediate``, ``features`` or ``offset`` is requested, but only images were recorded.
        """
        if intermediate:
            raise CagcError("kd_mode: got 'intermediate', expected 'output' for recorded images")
        if features is not None or offset is not None:
            raise CagcError("relation_weight: expected 0 for recorded images, which have no features")
        return [self.batch(latents.rows)]
