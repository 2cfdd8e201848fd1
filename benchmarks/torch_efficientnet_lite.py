"""EfficientNet-Lite in PyTorch with the names of its published files, written from their shapes."""

import importlib
from typing import Any

from benchmarks.torch_resnet import MOMENTUM, nn

functional: Any = importlib.import_module("torch.nn.functional")

EPS = 1e-3
BLOCKS = (  # side of the window, stride of the first block, factor of the channels
    (3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6),
)  # fmt: skip
NETWORKS = {  # blocks and channels of each row
    "efficientnet_lite0": ((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite1": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite2": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}


class PaddedConv(nn.Conv2d):
    """A convolution without bias; at stride 2 an even map gets more padding at its end."""

    def __init__(
        self, features_in: int, features: int, side: int, stride: int = 1, groups: int = 1
    ) -> None:
        padding = side // 2 if stride == 1 else 0
        super().__init__(features_in, features, side, stride, padding, groups=groups, bias=False)

    def forward(self, x: Any) -> Any:
        """Returns the convolution of the padded map."""
        if self.stride[0] > 1:
            edges = []
            for size in (x.shape[3], x.shape[2]):
                cells = -(-size // self.stride[0])
                total = max((cells - 1) * self.stride[0] + self.kernel_size[0] - size, 0)
                edges += [total // 2, total - total // 2]
            x = functional.pad(x, edges)
        return super().forward(x)


def _norm(features: int) -> Any:
    return nn.BatchNorm2d(features, eps=EPS, momentum=MOMENTUM)


class Block(nn.Module):
    """1x1, depthwise, 1x1, and the input if nothing changes its shape."""

    def __init__(
        self, features_in: int, features: int, side: int, stride: int, factor: int
    ) -> None:
        super().__init__()
        inner = factor * features_in
        self._expand_conv = None
        if factor > 1:
            self._expand_conv = PaddedConv(features_in, inner, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = PaddedConv(inner, inner, side, stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = PaddedConv(inner, features, 1)
        self._bn2 = _norm(features)
        self.relu = nn.ReLU6(inplace=True)
        self.is_residual = stride == 1 and features_in == features

    def forward(self, x: Any) -> Any:
        """Returns the linear sum."""
        y = x
        if self._expand_conv is not None:
            y = self.relu(self._bn0(self._expand_conv(y)))
        y = self.relu(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self.is_residual else y


class EfficientNetLite(nn.Module):
    """Stem, blocks, head, mean, classifier."""

    def __init__(self, name: str, classes: int, rows: int = len(BLOCKS)) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = PaddedConv(3, 32, 3, 2), _norm(32)
        self._blocks, features = nn.ModuleList(), 32
        table = list(zip(BLOCKS, *NETWORKS[name], strict=True))
        for (side, stride, factor), depth, width in table[:rows]:
            for index in range(depth):
                block = Block(features, width, side, 1 if index else stride, factor)
                self._blocks.append(block)
                features = width
        self._conv_head = None
        if rows == len(BLOCKS):
            self._conv_head, self._bn1 = PaddedConv(features, 1280, 1), _norm(1280)
            features = 1280
        self.relu = nn.ReLU6(inplace=True)
        self._fc = nn.Linear(features, classes)

    def features(self, x: Any) -> Any:
        """Returns the last map."""
        x = self.relu(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return x if self._conv_head is None else self.relu(self._bn1(self._conv_head(x)))

    def forward(self, x: Any) -> Any:
        """Returns the logits."""
        return self._fc(self.features(x).mean((2, 3)))
