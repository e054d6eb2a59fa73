"""A model of pictures at another resolution than the one that its table of positions was trained for."""

from __future__ import annotations

import math
from dataclasses import replace

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, cat

from anyformer.architecture import BackboneConfig
from anyformer.errors import WeightsError
from anyformer.model import Model
from anyformer.sublayers.positions import LearnedPositions


def at_grid(model: Model, rows: int, columns: int, leading: int = 1) -> Model:
    """The model for pictures of rows x columns patches: a copy, whose table of positions has been resized.

    leading: rows of the table that stand for no patch, the class token's. The others are a square grid, row by row.
    WeightsError for a model without such a table.
    """
    backbone = model.architecture.backbone
    table = getattr(model.backbone.positions, "tables", [None])[0]
    if not isinstance(backbone, BackboneConfig) or not isinstance(model.backbone.positions, LearnedPositions):
        raise WeightsError("Only a learned table of positions can be resized; the model has none.")
    side = math.isqrt(max(0, len(table) - leading))
    if len(model.backbone.positions.tables) != 1 or side**2 + leading != len(table) or not side:
        raise WeightsError(
            f"The model's table of {len(table)} positions, {leading} of them before the patches, is no square grid; "
            "expected that of a model of square pictures."
        )
    if min(rows, columns) < 1:
        raise WeightsError(f"A grid of {rows} x {columns} patches; expected at least one.")
    size = leading + rows * columns
    positions = {**backbone.positions, "size": size}
    made = Model.of(
        replace(model.architecture, backbone=replace(backbone, positions=positions), context=(size,)), model.tokenizers
    )
    resized = cat((table[:leading], interpolated(table[leading:], side, rows, columns)))
    made.load_state_dict({**model.state_dict(), "backbone.positions.tables.0": resized.detach()})
    made.origin = model.origin
    return made.train(model.training)


def interpolated(
    grid: Float[Tensor, "cells width"], side: int, rows: int, columns: int
) -> Float[Tensor, "new_cells width"]:
    """A square grid of vectors as one of rows x columns, by bicubic interpolation between the cells' centres (the 2-D
    interpolation of arXiv:2010.11929 §3.2, as DeiT's and transformers' code do it: without antialiasing)."""
    square = grid.float().unflatten(0, (side, side)).permute(2, 0, 1)[None]
    found = F.interpolate(square, (rows, columns), mode="bicubic", align_corners=False)
    return found[0].permute(1, 2, 0).flatten(0, 1).to(grid.dtype)
