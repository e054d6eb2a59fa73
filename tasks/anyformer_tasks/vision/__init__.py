"""Published sets of pictures, and the tasks over them."""

from anyformer_tasks.vision.classification import ImageClassification

__all__ = ["ImageClassification"]
