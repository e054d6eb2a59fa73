"""Sound: a clip of any length and rate becomes log-mel frames, which a small conformer reads into slots.

`clip` reads and checks raw sound, `tokenizer` makes frames of it and back, `conformer` is what learns.
"""

from anyformer_tokenizers.audio.tokenizer import AudioTokenizer

__all__ = ["AudioTokenizer"]
