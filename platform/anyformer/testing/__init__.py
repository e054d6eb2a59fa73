"""The contracts as checks, for plugin authors: a breach is one sentence, nothing returned means it holds.

>>> from anyformer.testing import check_tokenizer, check_task
>>> check_tokenizer("sensor")      # doctest: +SKIP
>>> check_task("activities")       # doctest: +SKIP
"""

from anyformer.testing.task import check_task
from anyformer.testing.tokenizer import check_tokenizer

__all__ = ["check_task", "check_tokenizer"]
