"""Heat over a picture: colours that anybody can tell apart by their lightness, blended, and encoded for a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

# Every sixteenth colour of "magma", which rises evenly in lightness, so that it reads the same in grey and to people
# who see few colours; in between, straight lines err by at most 3 of 255. Source: Smith and van der Walt 2015, "A
# Better Default Colormap for Matplotlib" (https://bids.github.io/colormap; released under CC0).
_MAGMA = (
    "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 fea772 fec488 fde2a3 "
    "fcfdbf"
)
_TABLE = np.array([list(bytes.fromhex(colour)) for colour in _MAGMA.split()], dtype=np.float64)
# How much of the colour covers the picture: little where it is cold, so that one sees what is there.
_COLD_OPACITY, _HOT_OPACITY = 0.5, 0.72
# Luma of ITU-R 601-2, as Pillow's "L": the picture below the heat is grey, so that all colour is heat.
_LUMA = np.array([0.299, 0.587, 0.114])
_QUALITY = 80


def colours(heat: np.ndarray) -> np.ndarray:
    """Return the colour of each heat in [0, 1]: uint8 `(..., 3)`.

    >>> colours(np.array([0.0, 1.0])).tolist()
    [[0, 0, 4], [252, 253, 191]]
    """
    places = np.clip(heat, 0.0, 1.0)
    stops = np.linspace(0.0, 1.0, len(_TABLE))
    mixed = np.stack([np.interp(places, stops, _TABLE[:, channel]) for channel in range(3)], axis=-1)
    return np.rint(mixed).astype(np.uint8)


def css_gradient() -> str:
    """Return the colours from cold to hot as CSS's `linear-gradient`, for a legend."""
    return f"linear-gradient(to right, {', '.join(f'#{colour}' for colour in _MAGMA.split())})"


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return heat in colour over a grey picture: uint8 `(H, W, 3)`.

    Args:
        picture: uint8 `(H, W, 3)`.
        heat: `(H, W)` in [0, 1].
    """
    grey = (picture.astype(np.float64) @ _LUMA)[..., None]
    opacity = (_COLD_OPACITY + (_HOT_OPACITY - _COLD_OPACITY) * np.clip(heat, 0.0, 1.0))[..., None]
    return np.rint((1.0 - opacity) * grey + opacity * colours(heat)).astype(np.uint8)


def as_rows(pixels: np.ndarray) -> np.ndarray:
    """Return pixels uint8 `(C, H, W)` of one or three channels as uint8 `(H, W, 3)`."""
    rows = pixels.transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(rows, (*rows.shape[:2], 3)))


def resized(picture: np.ndarray, side_px: int) -> np.ndarray:
    """Return a square picture near that side: a larger one smoothly smaller, a small one with whole, larger pixels."""
    side = picture.shape[0]
    if side < side_px:
        factor = max(1, side_px // side)
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.asarray(Image.fromarray(picture).resize((side_px, side_px), Image.Resampling.LANCZOS))


class PageImages:
    """Encodes pictures as `data:` addresses until a budget of bytes is spent.

    Args:
        max_bytes: of all pictures, before base64 makes them a third longer.
    """

    def __init__(self, max_bytes: int) -> None:
        self.left_bytes = max_bytes

    def uri(self, picture: np.ndarray | None) -> str:
        """Return a picture, uint8 `(H, W, 3)`, as an address; "" for none, or when the budget is spent."""
        if picture is None or self.left_bytes <= 0:
            return ""
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, "WEBP", quality=_QUALITY, method=2)
        self.left_bytes -= len(encoded.getvalue())
        return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()
