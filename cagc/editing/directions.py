"""Directions of w along which images change most (Härkönen et al., "GANSpace", NeurIPS 2020).

A student inherits its teacher's mapping network, so directions found on the teacher mean the same to the student.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..common.callbacks import Progress
from ..common.documents import read_tensors
from ..common.errors import CagcError
from ..common.files import atomic_write
from ..common.reading import parse_json, reading
from ..common.seeds import inputs_of_seeds
from ..metrics.sampling import noise_for
from ..models import AnyGenerator
from ..moments import principal_components
from .layers import check_layers

FORMAT = "cagc-directions-1"


@dataclass(frozen=True)
class Directions:
    """Unit vectors in W with the spread of w along them.

    Attributes:
        vectors: [K, w_dim], most important first.
        spread: [K], the standard deviation that a strength of 1 stands for.
        source: where they were found: "w" or the name of a layer.
        mapping: hash of the mapping network that they belong to.
    """

    vectors: Tensor
    spread: Tensor
    source: str
    mapping: str

    def __len__(self) -> int:
        return len(self.vectors)

    def apply(self, ws: Tensor, index: int, strength: float | Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """``ws`` [N, num_ws, w_dim] moved along direction ``index``.

        Args:
            ws: w vectors to move.
            index: index of the direction.
            strength: in standard deviations, one number or [N].
            layers: layers whose w is moved; None: all.

        Raises:
            CagcError: no such direction or layer.
        """
        if not 0 <= index < len(self):
            raise CagcError(f"index: got {index}, expected 0 to {len(self) - 1}")
        chosen = check_layers(layers, ws.shape[1])
        step = (self.vectors[index] * self.spread[index]).to(ws)
        amount = torch.as_tensor(strength, device=ws.device, dtype=ws.dtype).reshape(-1, 1, 1)
        moved = ws.clone()
        moved[:, chosen] = ws[:, chosen] + amount * step
        return moved

    def check(self, generator: AnyGenerator) -> None:
        """Raise CagcError unless they were found with this generator's mapping network."""
        found = mapping_hash(generator)
        if self.mapping != found:
            raise CagcError(f"directions: found with mapping network {self.mapping}, this generator has {found}")

    def save(self, path: str | Path) -> None:
        """Write a ``.safetensors`` file, atomically."""
        header = {"format": FORMAT, "about": json.dumps({"source": self.source, "mapping": self.mapping})}
        tensors = {"vectors": self.vectors.cpu().contiguous(), "spread": self.spread.cpu().contiguous()}
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, header)

    @classmethod
    def load(cls, path: str | Path) -> Directions:
        """Read what :meth:`save` wrote.

        Raises:
            CagcError: the file is missing, damaged or of another kind.
        """
        header, tensors = read_tensors(path, "directions", FORMAT)
        with reading("directions", path):
            vectors, spread, about = (
                tensors.get("vectors"),
                tensors.get("spread"),
                parse_json(header.get("about", "{}")),
            )
            if vectors is None or spread is None or vectors.ndim != 2 or spread.shape != vectors.shape[:1]:
                raise CagcError("holds no directions, which are 'vectors' [K, D] and 'spread' [K]")
            if not (vectors.is_floating_point() and vectors.isfinite().all() and spread.isfinite().all()):
                raise CagcError("'vectors' or 'spread' hold something other than finite numbers")
            if not isinstance(about, dict) or not all(isinstance(about.get(n), str) for n in ("source", "mapping")):
                raise CagcError("does not say where its directions are from ('source', 'mapping')")
            return cls(vectors, spread.to(vectors), about["source"], about["mapping"])


def mapping_hash(generator: AnyGenerator) -> str:
    """SHA-256, 16 hexadecimal digits, of the mapping network's weights and the length of w."""
    digest = hashlib.sha256(str(generator.w_dim).encode())
    for name, tensor in sorted(generator.mapping.named_parameters()):
        digest.update(name.encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def find_directions(
    generator: AnyGenerator,
    count: int = 10,
    samples: int = 10_000,
    layer: str | None = None,
    seed: int = 0,
    batch: int = 50,
    progress: Progress | None = None,
) -> Directions:
    """Principal directions of w, or those of w that move the activations of ``layer`` along their principal components.

    Args:
        generator: a generator of any architecture.
        count: number of directions; fewer are returned if the samples or w do not allow as many.
        samples: number of latents; activations are computed for at most 1,000 of them.
        layer: name of a layer in ``generator.config.channels``; None: PCA of w itself or, without a mapping network, of
            the first layer's activations (w is then z, whose variance is the same in every direction).
        seed: seed of the latents.
        batch: images at a time, for activations.
        progress: called as progress(samples done, samples in all), for activations.

    Raises:
        CagcError: no such layer, no direction asked for, or fewer than two samples.
    """
    names = list(generator.config.channels)
    if layer is not None and layer not in names:
        raise CagcError(f"layer: got {layer!r}, expected one of {', '.join(names)}")
    if layer is None and not any(spec.kind == "mapping" for spec in generator.config.layers()):
        layer = names[0]
    samples = samples if layer is None else min(samples, 1000)
    if count < 1 or samples < 2:
        raise CagcError(f"count, samples: got {count} and {samples}, expected at least 1 and 2")
    count = min(count, samples - 1, generator.w_dim)
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(samples, generator.z_dim, generator=rng).to(generator.w_avg)
    c = None if generator.labels is None else generator.labels.take(range(samples)).to(z)
    w = generator.mapping.w(z, c).double()
    if layer is None:
        _, axes, variances = principal_components(w)
        vectors, spread = axes[:count], variances[:count].sqrt()
    else:
        activations = _activations(generator, w.to(generator.w_avg), layer, batch, progress)
        activations -= activations.mean(dim=0)
        # There are fewer samples than activations, so the left singular vectors come from the smaller Gram matrix.
        values, u = torch.linalg.eigh(activations @ activations.T)
        # Least squares from the principal coordinates (orthonormal columns of u) back to w: how w must move for a
        # standard deviation along each.
        steps = u[:, values.argsort(descending=True)[:count]].T @ (w - w.mean(dim=0)) / (samples - 1) ** 0.5
        spread = steps.norm(dim=1)
        vectors = steps / spread[:, None].clamp_min(1e-12)
    # The sign of an eigenvector is arbitrary; a fixed choice makes files reproducible.
    sign = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)).sign()
    return Directions((vectors * sign).float().cpu(), spread.float().cpu(), layer or "w", mapping_hash(generator))


def _activations(generator: AnyGenerator, w: Tensor, layer: str, batch: int, progress: Progress | None) -> Tensor:
    rows = []
    for part in w.split(batch):
        features: dict[str, Tensor] = {}
        generator.synthesis(part[:, None].expand(-1, generator.num_ws, -1), noise="none", features=features)
        rows.append(features[layer].flatten(1).double())
        if progress is not None:
            progress(sum(map(len, rows)), len(w))
    return torch.cat(rows)


@torch.inference_mode()
def edited_images(
    generators: Mapping[str, AnyGenerator],
    directions: Directions,
    seed: int,
    index: int,
    strengths: Sequence[float],
    layers: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Images [len(strengths), 3, R, R] of one seed by generator, each moved along direction ``index``."""
    images = {}
    z, c = inputs_of_seeds(next(iter(generators.values())), [seed])
    for label, generator in generators.items():
        ws = generator.ws(z, c=c).expand(len(strengths), -1, -1)
        moved = directions.apply(ws, index, torch.tensor(list(strengths)), layers)
        images[label] = generator.synthesis(moved, noise_for(generator, [seed], "const")).clamp(-1, 1)
    return images
