"""Looking inside a model, whatever it is made of and whatever it reads: all through the probe of its passes."""

from anyformer.inspection.ablation import Importance, ablate_heads, head_importance, without_heads
from anyformer.inspection.gather import Inspection, look_inside
from anyformer.inspection.lens import Lens, logit_lens
from anyformer.inspection.look import attention_maps, feed_forward_keys
from anyformer.inspection.memories import FeedForwardMemory, memories
from anyformer.inspection.page import render

__all__ = [
    "FeedForwardMemory",
    "Importance",
    "Inspection",
    "Lens",
    "ablate_heads",
    "attention_maps",
    "feed_forward_keys",
    "head_importance",
    "logit_lens",
    "look_inside",
    "memories",
    "render",
    "without_heads",
]
