"""Photographs for predictions: planted squares, files with an EXIF orientation."""

import numpy as np

# what a camera stores so that the orientation shows the picture upright again
STORED = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, 1),
    7: lambda image: np.rot90(image, 1)[:, ::-1][::-1, ::-1],
    8: lambda image: np.rot90(image, -1),
}
