"""Base classes of all generators: mapping with truncation and labels, noise maps, and NVlabs' attributes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from cagc_kernels.profiling import layer_range

from .channels import ChannelGroup
from .labels import Labels, check_labels
from .protocol import NOISE_MODES, Config, Noise, Size, channel_groups, noise_shapes

# Options of NVlabs' synthesis networks that need nothing here: layers run in the dtype of their weights, kernels are
# chosen by cagc_kernels, and no running statistics are kept.
_NVLABS_OPTIONS = ("force_fp32", "fused_modconv", "update_emas")

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_latents(name: str, z: torch.Tensor, width: int) -> None:
    """Raise ValueError unless ``z`` is [N, ``width``]."""
    if z.ndim != 2 or z.shape[1] != width:
        raise ValueError(f"{name}: got shape {list(z.shape)}, expected [N, {width}]")


def has_hooks(*modules: nn.Module) -> bool:
    """Whether a forward or backward hook is registered globally or on one of ``modules``."""
    if any(getattr(torch_module, f"_global{kind}") for kind in _HOOKS):
        return True
    return any(getattr(module, kind) for module in modules for kind in _HOOKS)


class BaseMapping(nn.Module):
    """z [N, z_dim] → ws [N, num_ws, w_dim]. A subclass computes w from z; ``w_avg`` [w_dim] is the mean of w."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = config.z_dim, config.c_dim, config.w_dim, config.num_ws
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def w(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """One w [N, w_dim] for each ``z`` [N, z_dim], neither truncated nor repeated."""
        raise NotImplementedError

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None = None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """``ws`` [N, num_ws, w_dim] of ``z`` [N, z_dim].

        Args:
            z: standard normal latents, of any floating point dtype: they are converted to that of the weights.
            c: labels [N, c_dim], likewise; None where c_dim is 0.
            truncation_psi: ψ in ``w_avg + ψ (w - w_avg)``.
            truncation_cutoff: how many of the ws, from the first on, are truncated; None: all.
            update_emas: accepted for scripts written for NVlabs' networks, without effect: ``w_avg`` is not tracked.

        Raises:
            ValueError: a shape, ``truncation_psi`` or ``truncation_cutoff`` is not as above.
        """
        cutoff = self.check(z, c, truncation_psi, truncation_cutoff)
        with layer_range("mapping"):
            w = self.w(z.to(self.w_avg.dtype), None if c is None else c.to(self.w_avg.dtype))
        truncated = w if truncation_psi == 1 else self.truncated(w, truncation_psi)
        if cutoff >= self.num_ws or truncation_psi == 1:
            return truncated[:, None].expand(-1, self.num_ws, -1)
        rest = w[:, None].expand(-1, self.num_ws - cutoff, -1)
        return torch.cat([truncated[:, None].expand(-1, cutoff, -1), rest], dim=1)

    def check(
        self, z: torch.Tensor, c: torch.Tensor | None, truncation_psi: float, truncation_cutoff: int | None
    ) -> int:
        """How many ws are truncated. Raises as :meth:`forward`."""
        check_latents("z", z, self.z_dim)
        check_labels(c, len(z), self.c_dim)
        if not isinstance(truncation_psi, (int, float)) or not math.isfinite(truncation_psi):
            raise ValueError(f"truncation_psi: got {truncation_psi!r}, expected a finite number")
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        if isinstance(cutoff, bool) or not isinstance(cutoff, int) or cutoff < 0:
            raise ValueError(f"truncation_cutoff: got {cutoff!r}, expected None or an integer of at least 0")
        return cutoff

    def truncated(self, w: torch.Tensor, psi: float) -> torch.Tensor:
        """``w`` [N, w_dim] drawn towards ``w_avg``: ``w_avg + psi (w - w_avg)``."""
        return torch.lerp(self.w_avg.to(w.dtype).expand_as(w), w, psi)


class BaseSynthesis(nn.Module):
    """Base of synthesis networks, which checks their arguments against ``config``."""

    config: Config

    @property
    def num_ws(self) -> int:
        """w vectors that one image takes."""
        return self.config.num_ws

    def noise_shapes(self) -> list[Size]:
        """Height and width of the noise map of each noisy layer, in order."""
        return noise_shapes(self.config)

    def check_ws(self, ws: torch.Tensor) -> None:
        """Raise ValueError unless ``ws`` is [N, num_ws, w_dim]."""
        expected = (self.config.num_ws, self.config.w_dim)
        if ws.ndim != 3 or tuple(ws.shape[1:]) != expected:
            raise ValueError(f"ws: got shape {list(ws.shape)}, expected [N, {expected[0]}, {expected[1]}]")

    def check_noise(self, noise_mode: str, noise: Noise | None, batch: int) -> Sequence[str | torch.Tensor]:
        """Mode or map of each noisy layer, from the arguments of ``forward``.

        Raises ValueError unless these are a mode of :data:`NOISE_MODES` or a map [1 or ``batch``, 1, h, w] per layer.
        """
        return check_noise(self.config, noise_mode if noise is None else noise, batch)

    def check_options(self, options: dict[str, Any]) -> None:
        """Raise TypeError for an option that is not among those of NVlabs' synthesis networks that have no effect."""
        for name in options:
            if name not in _NVLABS_OPTIONS:
                raise TypeError(f"{name}: got an unknown option, expected those of {type(self).__name__}.forward")


def check_noise(config: Config, noise: Noise, batch: int) -> Sequence[str | torch.Tensor]:
    """See :meth:`BaseSynthesis.check_noise`."""
    shapes = noise_shapes(config)
    if noise is None or isinstance(noise, str):
        if noise not in NOISE_MODES:
            raise ValueError(f"noise: got {noise!r}, expected 'random', 'const', 'none' or {len(shapes)} tensors")
        return [noise] * len(shapes)
    if len(noise) != len(shapes):
        raise ValueError(f"noise: got {len(noise)} tensors, expected {len(shapes)}")
    for i, (tensor, (h, w)) in enumerate(zip(noise, shapes)):
        if tensor.ndim != 4 or tensor.shape[0] not in (1, batch) or tuple(tensor.shape[1:]) != (1, h, w):
            raise ValueError(f"noise[{i}]: got shape {list(tensor.shape)}, expected [1 or {batch}, 1, {h}, {w}]")
    return noise


def _of_config(name: str, doc: str) -> Any:
    """A property that reads ``name`` from ``config``."""
    return property(lambda self: getattr(self.config, name), doc=doc)


class GeneratorNames:
    """NVlabs' attributes, read from ``config``, labels of seeds, and style mixing by ``mapping``."""

    config: Config
    mapping: Any
    _labels: Labels | None = None

    @property
    def labels(self) -> Labels | None:
        """Labels that images are drawn with where none are given: every class equally often, unless they were set.

        None for a generator without labels. Setting labels of another length raises ValueError.
        """
        if self._labels is None and self.c_dim:
            return Labels.uniform(self.c_dim)
        return self._labels

    @labels.setter
    def labels(self, labels: Labels | None) -> None:
        if labels is not None and labels.c_dim != self.c_dim:
            expected = f"labels of {self.c_dim} numbers" if self.c_dim else "None: the generator takes no labels"
            raise ValueError(f"labels: got labels of {labels.c_dim} numbers, expected {expected}")
        self._labels = labels

    def ws(
        self,
        z: torch.Tensor,
        z_mix: torch.Tensor | None = None,
        mixing_index: int | None = None,
        truncation: float = 1.0,
        c: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``ws`` [N, num_ws, w_dim] of ``z`` [N, z_dim], mixed with those of ``z_mix`` (style mixing).

        Args:
            z: standard normal latents.
            z_mix: as many latents, whose w replaces that of ``z`` from layer ``mixing_index`` on.
            mixing_index: in 1 … num_ws - 1; required with ``z_mix``.
            truncation: ψ, see :meth:`BaseMapping.forward`.
            c: labels [N, c_dim] of both latents; None where c_dim is 0.

        Raises:
            ValueError: a shape, ``mixing_index`` or ``truncation`` is not as above.
        """
        if z_mix is None:
            return self.mapping(z, c, truncation_psi=truncation)
        if self.num_ws == 1:
            raise ValueError("z_mix: got one, expected None: this model has a single w")
        check_latents("z_mix", z_mix, self.z_dim)
        if len(z_mix) != len(z):
            raise ValueError(f"z_mix: got {len(z_mix)} latents, expected {len(z)} as z")
        if mixing_index is None or not 1 <= mixing_index < self.num_ws:
            raise ValueError(f"mixing_index: got {mixing_index}, expected 1 to {self.num_ws - 1} with z_mix")
        ws, mixed = (self.mapping(latents, c, truncation_psi=truncation) for latents in (z, z_mix))
        # All rows of mixed are the same w: expanding one row sums the gradient over the rows in use only.
        return torch.cat([ws[:, :mixing_index], mixed[:, :1].expand(-1, self.num_ws - mixing_index, -1)], dim=1)

    z_dim: int = _of_config("z_dim", "Length of z.")
    c_dim: int = _of_config("c_dim", "Length of a class label; 0 without labels.")
    w_dim: int = _of_config("w_dim", "Length of w.")
    num_ws: int = _of_config("num_ws", "Number of w vectors per image.")
    img_resolution: int = _of_config("img_resolution", "Longer side of an image in pixels.")
    img_size: Size = _of_config("img_size", "Height and width of an image in pixels.")
    img_channels: int = _of_config("img_channels", "Channels of an image.")


class BaseGenerator(GeneratorNames, nn.Module):
    """Base of generators; a subclass sets ``config``, ``mapping`` and ``synthesis``."""

    config: Config
    mapping: BaseMapping
    synthesis: BaseSynthesis

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None = None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        update_emas: bool = False,
        truncation: float | None = None,
        **synthesis_options: Any,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Image [N, img_channels, *img_size], nominally in [-1, 1], from ``z`` [N, z_dim].

        Args:
            z, c, truncation_psi, truncation_cutoff, update_emas: see :meth:`BaseMapping.forward`.
            truncation: another name of ``truncation_psi``, which it overrides.
            noise_mode, synthesis_options: see the ``forward`` of the synthesis network.
        """
        ws = self.mapping(z, c, truncation_psi if truncation is None else truncation, truncation_cutoff)
        return self.synthesis(ws, noise_mode=noise_mode, **synthesis_options)

    @torch.no_grad()
    def estimate_w_avg(self, samples: int = 10_000, seed: int = 0) -> None:
        """Set ``w_avg`` to the mean w of ``samples`` latents drawn from ``seed``, with :attr:`labels` in turn."""
        rng, total = torch.Generator().manual_seed(seed), torch.zeros_like(self.w_avg)
        # At the published width all samples fit in one part; a z_dim from an untrusted file must not fill the memory.
        for part in torch.arange(samples).split(max(1, 2**24 // max(self.z_dim, self.c_dim, 1))):
            z = torch.randn(len(part), self.z_dim, generator=rng)
            c = self.labels.take(part.tolist()).to(self.w_avg) if self.c_dim else None
            total += self.mapping.w(z.to(self.w_avg), c).sum(dim=0)
        self.w_avg.copy_(total / samples)

    def make_noise(
        self, batch: int = 1, seed: int | None = None, device: torch.device | str | None = None
    ) -> list[torch.Tensor]:
        """Standard normal noise [batch, 1, h, w] for each noisy layer, in the order of ``config.layers()``."""
        rng = None if seed is None else torch.Generator().manual_seed(seed)
        device = self.w_avg.device if device is None else device
        return [
            torch.randn(batch, 1, h, w, generator=rng).to(device, self.w_avg.dtype)
            for h, w in noise_shapes(self.config)
        ]

    def channel_groups(self) -> list[ChannelGroup]:
        """Channel groups in the order of ``config.channels``, see :func:`cagc.models.protocol.channel_groups`."""
        return channel_groups(self.config.layers())

    @property
    def w_avg(self) -> torch.Tensor:
        """Mean of w [w_dim], towards which truncation pulls."""
        return self.mapping.w_avg

    # The buffer belongs to the mapping network, but the key in checkpoint files is "w_avg".
    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """As :meth:`torch.nn.Module.state_dict`, with the mean of w under the name "w_avg"."""
        state = super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        state[f"{prefix}w_avg"] = state.pop(f"{prefix}mapping.w_avg")
        return state

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}w_avg" in state:
            state[f"{prefix}mapping.w_avg"] = state.pop(f"{prefix}w_avg")
        super()._load_from_state_dict(state, prefix, *rest)
