"""VGG16's convolutions in PyTorch with torchvision's names."""

from typing import Any

from benchmarks.torch_resnet import nn

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions


class VGG16(nn.Module):
    """Blocks of 3x3 convolutions with a pool between two of them."""

    def __init__(self) -> None:
        super().__init__()
        layers, features_in = [], 3
        for index, (features, depth) in enumerate(BLOCKS):
            if index:
                layers.append(nn.MaxPool2d(2, 2))
            for _ in range(depth):
                layers += [nn.Conv2d(features_in, features, 3, padding=1), nn.ReLU(inplace=True)]
                features_in = features
        self.features = nn.Sequential(*layers)

    def forward(self, x: Any) -> Any:
        """Returns the last map."""
        return self.features(x)
