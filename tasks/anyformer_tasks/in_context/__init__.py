"""Language models asked in words: continuations judged and written behind a prompt with none, one or a few examples."""

from anyformer_tasks.in_context.lambada import Lambada
from anyformer_tasks.in_context.multiple_choice import MultipleChoice
from anyformer_tasks.in_context.open_qa import OpenQA
from anyformer_tasks.in_context.perplexity import Perplexity

__all__ = ["Lambada", "MultipleChoice", "OpenQA", "Perplexity"]
