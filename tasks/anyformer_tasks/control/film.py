"""What an episode looked like, for a person."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

MOST_FRAMES, SIDE, MILLISECONDS = 60, 160, 60


def gif(frames: Sequence[np.ndarray]) -> bytes:
    """An animated GIF of at most 60 frames, evenly over the episode, 160 pixels high.

    frames: uint8[height, width, 3].
    """
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(MOST_FRAMES, len(frames))).round().astype(int)]
    pictures = [Image.fromarray(np.asarray(frame, dtype=np.uint8)) for frame in chosen]
    small = [one.resize((max(1, round(one.width * SIDE / one.height)), SIDE)) for one in pictures]
    file = io.BytesIO()
    small[0].save(file, "GIF", save_all=True, append_images=small[1:], duration=MILLISECONDS, loop=0, optimize=True)
    return file.getvalue()
