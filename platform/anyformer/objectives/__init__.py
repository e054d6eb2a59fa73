"""What is predicted from what. Each objective is data code that acts on streams, whatever they carry."""

from anyformer.objectives.across import SequenceToSequence
from anyformer.objectives.alignment import ContrastivePairs
from anyformer.objectives.autoencoder import MaskedAutoencoder
from anyformer.objectives.causal import NextToken, Prefix, ReturnConditioned
from anyformer.objectives.classification import Classification, ExtractiveAnswer, TokenClassification, Traversal
from anyformer.objectives.comparing import Choice, Similarity
from anyformer.objectives.ctc import CTC
from anyformer.objectives.denoising import Denoising
from anyformer.objectives.dropping import TokenDropping
from anyformer.objectives.joint import CTCAndAttention
from anyformer.objectives.masked import Masked
from anyformer.objectives.pairs import NextSentence, Pretraining, SentenceOrder
from anyformer.objectives.quantised import Quantised
from anyformer.objectives.second import Distilled, Replaced
from anyformer.objectives.spans import Continuation, SpanCorruption
from anyformer.objectives.spec_augment import SpecAugment

__all__ = [
    "CTC",
    "CTCAndAttention",
    "Choice",
    "Classification",
    "Continuation",
    "ContrastivePairs",
    "Denoising",
    "Distilled",
    "ExtractiveAnswer",
    "Masked",
    "MaskedAutoencoder",
    "NextSentence",
    "NextToken",
    "Prefix",
    "Pretraining",
    "Quantised",
    "Replaced",
    "ReturnConditioned",
    "SentenceOrder",
    "SequenceToSequence",
    "Similarity",
    "SpanCorruption",
    "SpecAugment",
    "TokenClassification",
    "TokenDropping",
    "Traversal",
]
