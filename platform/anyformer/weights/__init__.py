"""Published weights as data: one table a family, read in both directions."""

from anyformer.weights.pretrained import from_pretrained, to_pretrained
from anyformer.weights.resolution import at_grid

__all__ = ["at_grid", "from_pretrained", "to_pretrained"]
