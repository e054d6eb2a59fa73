"""Which files make a vocabulary, the most specific first, and who reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anyformer.errors import TokenizerError
from anyformer_tokenizers.text import legacy, library, spm
from anyformer_tokenizers.text.directory import ANEW, Files
from anyformer_tokenizers.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Layout:
    """needs: the files that must all be there. read: makes the vocabulary; it is given the side, "source" or
    "target", which matters where each has its own."""

    needs: tuple[str, ...]
    read: Callable[[Files, str], Vocabulary]


LAYOUTS = (
    Layout((library.FILE,), library.from_json),
    Layout((spm.SOURCE, spm.TARGET, spm.VOCAB), spm.two_sided),
    Layout((spm.T5,), spm.t5_numbered),
    Layout((spm.FAIRSEQ,), spm.fairseq_numbered),
    Layout((spm.LLAMA,), spm.own_numbered),
    Layout((legacy.VOCAB, legacy.MERGES), legacy.byte_pairs),
    Layout((legacy.WORDS,), legacy.word_pieces),
)


def vocabulary_of(files: Files, side: str) -> Vocabulary:
    """Read by the first layout whose files are all there; TokenizerError when there is none."""
    for layout in LAYOUTS:
        if all(name in files for name in layout.needs):
            return layout.read(files, side)
    expected = "; or ".join(", ".join(layout.needs) for layout in LAYOUTS)
    found = ", ".join(sorted(files.contents)) or "none of them"
    raise TokenizerError(f"{files.where} has {found}; a tokenizer is {expected}. {ANEW}")
