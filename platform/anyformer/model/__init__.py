"""A model: embedders and heads around one backbone, the tokenizers it was trained with, and sessions with it."""

from anyformer.model.beam import Beams, Hypothesis
from anyformer.model.model import Model
from anyformer.model.network import ForwardPass, Network
from anyformer.model.session import GREEDY, Sampling, Session

__all__ = ["GREEDY", "Beams", "ForwardPass", "Hypothesis", "Model", "Network", "Sampling", "Session"]
