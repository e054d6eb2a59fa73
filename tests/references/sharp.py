"""The sharp regime: factors that make every norm see small values, so that its epsilon shows in the logits.

With variances around 1 an epsilon of 1e-5 instead of 1e-12 moves logits by 1e-6, where no test sees it. Yet logits keep
their size: what is taken away before a norm is given back behind the last one.
"""

from __future__ import annotations

from typing import Any

QUIET = 0.02
"""Factor of whatever is added to a pre-norm stream, and of inputs that are numbers."""

FAINT = 3e-3
"""Factor of norms' weights and of biases in a post-norm stream: variances fall below an epsilon of 1e-5."""

VECTORS = r"\d\..*(?:bias|(?i:norm)\w*\.weight|ln_\d\.weight)$"
"""1-D parameters inside numbered blocks."""


def pre_norm(writers: str, final: str | None = None) -> dict[str, float]:
    """`writers`: pattern of the embedding and of all maps that add to the stream; in between nothing changes.

    `final`: the norm before an output table that is tied to a quiet one.
    """
    return {writers: QUIET} | ({final: 1 / QUIET} if final else {})


def post_norm(last: str, first: str | None = None, lift: float = 1.0) -> dict[str, float]:
    """`first`: pattern of the embedding's norm; `last`: the norm that ends the last block, which stays as it was.

    `lift`: of the last norm, where a quiet table is behind it.
    """
    return {VECTORS: FAINT, last: lift / FAINT} | ({first: FAINT} if first else {})


def tied(model: Any) -> bool:
    """Whether pieces are read out by the table that embeds them."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight
