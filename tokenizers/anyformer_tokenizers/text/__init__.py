"""Text: pieces trained here, the vocabulary of a published checkpoint, or characters.

`trained` fits sentencepiece on your corpus. `pretrained` reads a directory in the hub's layout: `directory` takes
its files, `special` what they say of special tokens, `layouts` chooses who reads them, which are `library` (the
`tokenizers` library's own file), `legacy` (vocabularies that older checkpoints spell out) and `spm` (sentencepiece).
"""

from anyformer_tokenizers.text.characters import CharacterTokenizer
from anyformer_tokenizers.text.pretrained import PretrainedTextTokenizer
from anyformer_tokenizers.text.trained import MODEL_FILE, TextTokenizer

__all__ = ["MODEL_FILE", "CharacterTokenizer", "PretrainedTextTokenizer", "TextTokenizer"]
