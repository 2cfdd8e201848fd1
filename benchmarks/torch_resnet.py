"""A plain ResNet in PyTorch with the usual names."""

import importlib
from typing import Any

torch: Any = importlib.import_module("torch")  # not in the requirements
nn: Any = torch.nn

MOMENTUM = 0.003  # share of a batch in the running statistics


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1, and a shortcut."""

    def __init__(self, features_in: int, width: int, stride: int) -> None:
        super().__init__()
        features = 4 * width
        self.conv1 = nn.Conv2d(features_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, momentum=MOMENTUM)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, momentum=MOMENTUM)
        self.conv3 = nn.Conv2d(width, features, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(features, momentum=MOMENTUM)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if features_in != features:
            self.downsample = nn.Sequential(
                nn.Conv2d(features_in, features, 1, stride, bias=False),
                nn.BatchNorm2d(features, momentum=MOMENTUM),
            )

    def forward(self, x: Any) -> Any:
        """Returns relu(x + f(x))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += shortcut
        return self.relu(y)


class ResNet(nn.Module):
    """Stem, stages of bottlenecks that halve the map in their first unit, mean, classifier."""

    def __init__(self, blocks: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64, momentum=MOMENTUM)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stages, features = [], 64
        for index, units in enumerate(blocks):
            width, stage = 64 << index, nn.Sequential()
            for unit in range(units):
                stage.append(Bottleneck(features, width, 2 if index and not unit else 1))
                features = 4 * width
            setattr(self, f"layer{index + 1}", stage)
            self.stages.append(f"layer{index + 1}")
        self.fc = nn.Linear(features, classes)

    def features(self, x: Any) -> Any:
        """Returns the last map."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return x

    def forward(self, x: Any) -> Any:
        """Returns the logits."""
        return self.fc(self.features(x).mean((2, 3)))
