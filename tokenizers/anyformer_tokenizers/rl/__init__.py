"""Control: episodes become return-to-go, state and action triples.

`tokenizer` lays out the triples, `space` turns observations and actions of gymnasium's kinds into rows.
"""

from anyformer.episode import Episode
from anyformer_tokenizers.rl.tokenizer import TrajectoryTokenizer

__all__ = ["Episode", "TrajectoryTokenizer"]
