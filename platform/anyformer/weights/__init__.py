"""Published weights as data: one table a family, read in both directions."""

from anyformer.weights.pretrained import from_pretrained, to_pretrained

__all__ = ["from_pretrained", "to_pretrained"]
