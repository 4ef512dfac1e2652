"""Numbers that tell a usable picture from a blank, dark, blurred or drawn one, over many images at a time."""

from __future__ import annotations

import numpy as np
from PIL import Image

# Rec. 601 luma, as in Pillow's conversion to grey.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# More colours than this are a photograph's; counting stops there.
MAX_COLORS = 1024

# One row an image. `spread` is the largest range of a channel over the thumbnail, 0 to 255; `texture` the standard
# deviation of the luma at full size, measured only where the thumbnail shows nothing; `detail` the variance of
# the Laplacian and `contrast` the standard deviation of the luma they were both taken from; `flat_share` the share of
# the most frequent colour, 0 where there are more than MAX_COLORS or the image is too small to judge by it.
MEASURES = np.dtype(
    [
        ("width", np.int32),
        ("height", np.int32),
        ("format", "U5"),
        ("color_mode", "U8"),
        ("is_animated", np.bool_),
        ("is_grey", np.bool_),
        ("brightness", np.float32),
        ("spread", np.uint8),
        ("texture", np.float32),
        ("contrast", np.float32),
        ("detail", np.float32),
        ("flat_share", np.float32),
    ]
)


def luma(images: np.ndarray) -> np.ndarray:
    """Return the grey of images uint8 `(N, C, H, W)` as float32 `(N, H, W)`, 0 to 255."""
    if images.shape[1] == 1:
        return images[:, 0].astype(np.float32)
    return np.tensordot(images.astype(np.float32), _LUMA, axes=([1], [0]))


def laplacian_variance(grey: np.ndarray) -> np.ndarray:
    """Return the variance of the Laplacian of each image `(N, H, W)`, float32 `(N,)`: little where nothing is sharp.

    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy", section 3: LAPV, here with the
    four-neighbour kernel, without the border.

    >>> laplacian_variance(np.zeros((1, 8, 8), np.float32)).tolist()
    [0.0]
    """
    if min(grey.shape[1:]) < 3:
        return np.zeros(len(grey), dtype=np.float32)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return (around - 4.0 * inner).var(axis=(1, 2)).astype(np.float32)


def measure_thumbnails(measures: np.ndarray, thumbnails: np.ndarray) -> None:
    """Fill in what is measured on the thumbnails uint8 `(N, C, S, S)`: greyness, brightness and spread."""
    low, high = thumbnails.min(axis=(2, 3)), thumbnails.max(axis=(2, 3))
    measures["spread"] = (high - low).max(axis=1)
    measures["is_grey"] = (thumbnails == thumbnails[:, :1]).all(axis=(1, 2, 3))
    measures["brightness"] = luma(thumbnails).mean(axis=(1, 2))


def measure_sharpness(measures: np.ndarray, grey: np.ndarray) -> None:
    """Fill in contrast and detail from grey pictures of one size, float32 `(N, H, W)`."""
    measures["contrast"] = grey.std(axis=(1, 2))
    measures["detail"] = laplacian_variance(grey)


def flat_share(image: Image.Image) -> float:
    """Return the share of the most frequent colour, or 0 where the image has more than MAX_COLORS.

    >>> flat_share(Image.new("RGB", (4, 4)))
    1.0
    """
    colors = image.getcolors(MAX_COLORS)
    return max(count for count, _ in colors) / (image.width * image.height) if colors else 0.0  # pyright: ignore
