"""Square pictures as the released encoders want them: padded for VideoPrism, cropped for Synchformer.

Both follow the feature extraction of FunAudioLLM/ThinkSound, branch prismaudio:
data_utils/v2a_utils/thinksound_288_al.py.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

PADDED_SIZE = 288
CROPPED_SIZE = 224


def padded_square(frame: np.ndarray, size: int = PADDED_SIZE) -> np.ndarray:
    """(H, W, 3) uint8 to (size, size, 3): black bars around the whole picture, then bilinear without antialiasing.

    Where the padding is odd, the bottom or the right gets the extra pixel. Plain bilinear aliases when it shrinks a
    lot, but so did the features that the model was trained on.
    """
    height, width = frame.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    wide = np.pad(frame, ((0, 0), (left, side - width - left), (0, 0)))
    columns = _scaled(wide.transpose(1, 0, 2), size, 0, size, LINEAR).transpose(1, 0, 2)
    return _scaled(np.pad(columns, ((top, side - height - top), (0, 0), (0, 0))), size, 0, size, LINEAR)


def cropped_square(frame: np.ndarray, size: int = CROPPED_SIZE) -> np.ndarray:
    """(H, W, 3) uint8 to (size, size, 3): the shorter side scaled to `size` with antialiased bicubic, the middle kept.

    The longer side is rounded down and an odd rest halved to the even offset, as torchvision's Resize and CenterCrop
    do. The pixels are theirs to the bit, which neither OpenCV (no antialiasing) nor Pillow (other rounding) gives.
    """
    height, width = frame.shape[:2]
    short = min(height, width)
    tall, wide = int(size * height / short), int(size * width / short)
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    columns = _scaled(frame.transpose(1, 0, 2), wide, left, left + size, CUBIC)
    return _scaled(columns.transpose(1, 0, 2), tall, top, top + size, CUBIC)


class Kernel(NamedTuple):
    """An interpolation kernel, zero beyond `reach` pixels; antialiased: widened where the picture shrinks."""

    value: Callable[[np.ndarray], np.ndarray]
    reach: int
    antialiased: bool


def _keys(x: np.ndarray) -> np.ndarray:
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


LINEAR = Kernel(lambda x: np.maximum(1 - x, 0.0), 1, antialiased=False)
CUBIC = Kernel(_keys, 2, antialiased=True)


def _scaled(image: np.ndarray, size: int, start: int, stop: int, kernel: Kernel) -> np.ndarray:
    """Rows start:stop of (N, M, 3) uint8 scaled to `size` rows."""
    if len(image) == size:
        return image[start:stop]
    used, weights, precision = _weights(len(image), size, start, stop, kernel)
    sums = weights @ image[used].reshape(len(used), -1).astype(np.int32)
    pixels = (sums + (1 << precision - 1)) >> precision
    return pixels.clip(0, 255).astype(np.uint8).reshape(stop - start, *image.shape[1:])


@lru_cache(maxsize=16)
def _weights(length: int, size: int, start: int, stop: int, kernel: Kernel) -> tuple[np.ndarray, csr_array, int]:
    """The rows that count, their integer weights in each of start:stop, and the weights' binary digits.

    Fixed point as in ATen's uint8 kernel: 16 bits, as many of them behind the point as the largest weight allows.
    """
    scale = length / size
    stretch = max(scale, 1.0) if kernel.antialiased else 1.0
    centres = scale * (np.arange(size) + 0.5)
    first = np.maximum((centres - kernel.reach * stretch + 0.5).astype(int), 0)
    last = np.minimum((centres + kernel.reach * stretch + 0.5).astype(int), length)
    taps = first[:, None] + np.arange((last - first).max())
    values = kernel.value(np.abs((taps - centres[:, None] + 0.5) / stretch)) * (taps < last[:, None])
    values /= values.sum(axis=1, keepdims=True)
    precision = 0
    while precision < 22 and int(0.5 + values.max() * 2 ** (precision + 1)) < 2**15:
        precision += 1
    fixed = np.trunc(values * 2**precision + np.copysign(0.5, values)).astype(np.int32)[start:stop]
    rows, places = np.nonzero(fixed)
    used, columns = np.unique(taps[start:stop][rows, places], return_inverse=True)
    return used, csr_array((fixed[rows, places], (rows, columns)), shape=(stop - start, len(used))), precision
