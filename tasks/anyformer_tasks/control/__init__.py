"""Acting in gymnasium's environments, learned from recorded episodes."""

from anyformer_tasks.control.recording import Recording
from anyformer_tasks.control.task import Control

__all__ = ["Control", "Recording"]
