"""Default embedders and heads: a table or a linear map, and its mirror."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn


class TableEmbedding(nn.Module):
    """A trained vector per discrete value, times `scale`.

    With scale = √dim (arXiv:1706.03762 §3.4) a table that also serves as a head gives logits and embeddings of
    unit size, on a par with what continuous streams embed to.
    """

    def __init__(self, vocab_size: int, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, dim)
        self.scale = scale
        nn.init.normal_(self.table.weight, std=dim**-0.5)

    def forward(self, values: Int64[Tensor, " values"], items: Tensor) -> Float[Tensor, "values dim"]:
        embedded = self.table(values)
        return embedded if self.scale == 1 else embedded * self.scale


class LinearEmbedding(nn.Module):
    """A linear map of each continuous row."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, dim)
        nn.init.normal_(self.linear.weight, std=features**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, values: Float[Tensor, "values features"], items: Tensor) -> Float[Tensor, "values dim"]:
        return self.linear(values)


class TableHead(nn.Module):
    """Logits against a table of its own."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))
        nn.init.normal_(self.weight, std=dim**-0.5)

    def forward(self, hidden: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocab"]:
        return F.linear(hidden, self.weight)

    def tie(self, embedder: TableEmbedding) -> None:
        """Share the embedder's table (arXiv:1608.05859)."""
        self.weight = embedder.table.weight


class LinearHead(nn.Module):
    """Predicted features of a continuous stream."""

    def __init__(self, dim: int, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, features)

    def forward(self, hidden: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows features"]:
        return self.linear(hidden)
