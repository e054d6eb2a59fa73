"""A model: embedders and heads around one backbone, the tokenizers it was trained with, and sessions with it."""

from anyformer.model.beam import Beams, Hypothesis
from anyformer.model.contrastive import Contrastive
from anyformer.model.model import Model
from anyformer.model.network import ForwardPass, Network
from anyformer.model.rules import Allowed, Banned, NoRepeat, RepetitionPenalty
from anyformer.model.sampling import GREEDY, Said, Sampling
from anyformer.model.session import Session
from anyformer.model.speculative import Speculative
from anyformer.model.spoken import spoken

__all__ = [
    "GREEDY",
    "Allowed",
    "Banned",
    "Beams",
    "Contrastive",
    "ForwardPass",
    "Hypothesis",
    "Model",
    "Network",
    "NoRepeat",
    "RepetitionPenalty",
    "Said",
    "Sampling",
    "Session",
    "Speculative",
    "spoken",
]
