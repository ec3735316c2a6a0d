"""BiSeNet for face parsing: the network of zllrunning/face-parsing.PyTorch, for inference.

The module names give the state-dict keys of its public checkpoint (`79999_iter.pth`), so a user's copy loads as it is.
The spatial path of the BiSeNet paper is replaced, as there, by the 1/8 features of the ResNet-18 context path.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cagc.common.errors import CagcError
from cagc.common.reading import printable, reading
from cagc.common.torch_files import open_document
from cagc.common.wrappings import Part, contents, parts

# CelebAMask-HQ, in the order of the checkpoint's output channels.
CLASSES = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip
WORKING_RESOLUTION = 512
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class BasicBlock(nn.Module):
    """ResNet-18's residual block; a strided block projects its shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + (x if self.downsample is None else self.downsample(x)))


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride), BasicBlock(out_channels, out_channels, 1))


class ResNet18(nn.Module):
    """images → features at 1/8 [N, 128], 1/16 [N, 256] and 1/32 [N, 512] of the input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 1)
        self.layer2 = _stage(64, 128, 2)
        self.layer3 = _stage(128, 256, 2)
        self.layer4 = _stage(256, 512, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        eighth = self.layer2(self.layer1(x))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class AttentionRefinement(nn.Module):
    """Features weighted per channel by a sigmoid gate of their spatial mean."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(in_channels, out_channels, 3)
        self.conv_atten = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True))))


class ContextPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16 = AttentionRefinement(256, 128)
        self.arm32 = AttentionRefinement(512, 128)
        self.conv_head32 = ConvNorm(128, 128, 3)
        self.conv_head16 = ConvNorm(128, 128, 3)
        self.conv_avg = ConvNorm(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """images → ResNet features and context features, both [N, 128] at 1/8 of the input's size."""
        eighth, sixteenth, thirtysecond = self.resnet(x)
        context = self.arm32(thirtysecond) + self.conv_avg(thirtysecond.mean((2, 3), keepdim=True))
        context = self.conv_head32(F.interpolate(context, sixteenth.shape[-2:], mode="nearest"))
        context = F.interpolate(self.arm16(sixteenth) + context, eighth.shape[-2:], mode="nearest")
        return eighth, self.conv_head16(context)


class FeatureFusion(nn.Module):
    """Joins two feature maps and adds a gated copy of the result to itself."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convblk = ConvNorm(in_channels, out_channels, 1)
        self.conv1 = nn.Conv2d(out_channels, out_channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(out_channels // 4, out_channels, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        x = self.convblk(torch.cat([spatial, context], dim=1))
        gate = torch.sigmoid(self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True)))))
        return x + x * gate


class Head(nn.Module):
    def __init__(self, in_channels: int, mid_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = ConvNorm(in_channels, mid_channels, 3)
        self.conv_out = nn.Conv2d(mid_channels, num_classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """normalised images [N, 3, H, W], sides multiples of 32 → logits [N, num_classes, H, W].

    The heads `conv_out16` and `conv_out32` are for the training loss only; they exist so that checkpoints load.
    """

    def __init__(self, num_classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion(256, 256)
        self.conv_out = Head(256, 256, num_classes)
        self.conv_out16 = Head(128, 64, num_classes)
        self.conv_out32 = Head(128, 64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv_out(self.ffm(*self.cp(x)))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=True)


def preprocess(images: Tensor, resolution: int = WORKING_RESOLUTION) -> Tensor:
    """images [N, 3, H, W] in [-1, 1] → [N, 3, resolution, resolution] normalised by ImageNet's mean and deviation."""
    x = ((images + 1) / 2).clamp(0, 1)
    x = F.interpolate(x, (resolution, resolution), mode="bilinear", align_corners=False, antialias=True)
    mean, std = x.new_tensor(IMAGENET_MEAN).view(3, 1, 1), x.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return (x - mean) / std


def _read_part(path: Path) -> Part:
    document = open_document(path)
    found = parts(document, ("cp.resnet.conv1.weight",))
    if len(found) != 1:
        labels = ", ".join(repr(part.label) for part in found)
        raise CagcError(f"{contents(document.root)}, expected the state dict of one BiSeNet, got {labels or 'none'}")
    if found[0].label:
        warnings.warn(f"content {printable(path)}: took the BiSeNet under {found[0].label!r}", stacklevel=4)
    return found[0]


def load_bisenet(path: str | Path) -> BiSeNet:
    """The 19-class network with the weights of `path`, in eval mode, on the CPU.

    `path` is a torch or safetensors file of any name; a state dict nested inside other containers is found.

    Raises:
        CagcError: the file is missing, damaged, holds more than tensors, or names or shapes are another network's.
    """
    with reading("content", path):
        part = _read_part(Path(path))
        state = {name: part.fetch(name) for name in part.tensors}
        return _filled(state)


def _filled(state: dict[str, Tensor]) -> BiSeNet:
    net = BiSeNet()
    expected = net.state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - state.keys() - counters)
    unexpected = sorted(state.keys() - expected.keys())
    misshapen = sorted(n for n in expected.keys() & state.keys() if expected[n].shape != state[n].shape)
    for names, problem in ((missing, "missing"), (unexpected, "unexpected"), (misshapen, "of another shape")):
        if names:
            detail = f"{len(names)} tensors {problem}, first {names[0]}"
            if names is misshapen:
                detail += f" {list(state[names[0]].shape)}, expected {list(expected[names[0]].shape)}"
            raise CagcError(f"not a {len(CLASSES)}-class BiSeNet face parser: {detail}")
    net.load_state_dict({**{name: expected[name] for name in counters}, **state})
    return net.eval().requires_grad_(False)
