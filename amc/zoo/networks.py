"""The zoo's architectures, sized for 28 x 28 grey images.

``ResNet`` follows He et al. (arXiv:1512.03385), section 4.2, with two deviations: the stem has
stride 2, and shortcuts that change shape are 1x1 convolutions. ``MobileNet`` follows Howard et al.
(arXiv:1704.04861), table 1, with strides chosen for small images.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ``[N, c_in, H, W] -> [N, c_out, H/s, W/s]``."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and c_in == c_out
            else nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """CIFAR-style residual network of ``6 blocks + 2`` layers; returns logits ``[N, classes]``."""

    def __init__(self, blocks: int, width: int = 16, classes: int = 10, c_in: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        stages = []
        for stage in range(3):
            c_out = width << stage
            layers = []
            for block in range(blocks):
                layers.append(BasicBlock(channels, c_out, 2 if stage and not block else 1))
                channels = c_out
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class SeparableBlock(nn.Module):
    """Depthwise 3x3 then pointwise 1x1, each with BatchNorm and ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(c_in, c_in, 3, stride, 1, groups=c_in, bias=False)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(x)))


class MobileNet(nn.Module):
    """MobileNet-V1 for small images; returns logits ``[N, classes]``."""

    # Output channels at width 1.0, and stride, of the thirteen separable blocks.
    BLOCKS = (
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 1),
        (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
    )  # fmt: skip

    def __init__(self, width: float = 0.5, classes: int = 10, c_in: int = 1) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = nn.Conv2d(c_in, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        blocks = []
        for full, stride in self.BLOCKS:
            blocks.append(SeparableBlock(channels, int(full * width), stride))
            channels = int(full * width)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "resnet8": lambda: ResNet(1),
    "resnet20": lambda: ResNet(3),
    "mobilenet": lambda: MobileNet(0.5),
}
