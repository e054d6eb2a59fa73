"""Switches that no output can show, each with the reason, and how it is known that nothing is lost by it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from parity.trial import Verdict

TURNED = ("llama_mqa", "qwen2", "ernie4_5")
"""Their keys are rotated behind the bias, which thereby differs from key to key, and shows."""

WITHOUT_TABLES = r"vaswani_torch|conformer_.*|shaw_w2v2bert_relkey|decision_transformer"


@dataclass(frozen=True)
class Invisible:
    """Mutants by a pattern of their names, in the families of a pattern.

    identical: every output is bit by bit what it was. unimportable: the file's tensors are not those that this
    architecture needs, so the import says so.
    """

    mutants: str
    reason: str
    families: str = ".*"
    but: tuple[str, ...] = ()
    identical: bool = False
    unimportable: bool = False

    def covers(self, family: str, mutant: str) -> bool:
        here = re.fullmatch(self.families, family) and family not in self.but
        return bool(here and re.fullmatch(self.mutants, mutant))

    def proves(self, verdict: Verdict) -> bool:
        return (verdict.identical or not self.identical) and (verdict.unimportable or not self.unimportable)


INVISIBLE = (
    Invisible(
        r"(backbone|encoder)\.attention_bias: not k",
        "a key's bias adds the same to all scores of a query, and softmax takes it away; a round trip keeps it exactly",
        but=TURNED,
        unimportable=True,
    ),
    Invisible(
        r"(backbone|encoder)\.(attention_bias: [qkvo] too|feed_forward_bias: True|embed_shift: True)"
        r"|heads\..*\.(bias|offset): True",
        "zeros are added: what a new bias is made of, where the file has none",
        identical=True,
        unimportable=True,
    ),
    Invisible(
        r"heads\..*\.tie: False", "the head's own table holds the same numbers as the shared one", identical=True
    ),
    Invisible(
        r"streams\..*\.overlay: True",
        "nothing else stands at these slots, and to be added to nothing is to be laid there",
        identical=True,
    ),
    Invisible(
        r"streams\..*\.input: True",
        "a stream that is only predicted gets an embedder, which nothing enters",
        identical=True,
        unimportable=True,
    ),
    Invisible(r"scale: True", "it is about tables, and none is read", families=WITHOUT_TABLES, identical=True),
    Invisible(
        r"streams\.replaced\.features: .*",
        "the discriminator's stream, for which a generator has no head",
        families="electra_generator",
        identical=True,
    ),
    Invisible(
        r"(backbone|encoder)\.positions: (size larger|computed)",
        "the same sinusoids, computed for more positions or when they are needed",
        families="marian",
        identical=True,
    ),
    Invisible(
        r"encoder\.positions: (layout|endpoint|base) .*",
        "the table of sinusoids is in the file, and is read from there",
        families="whisper",
        identical=True,
    ),
)


def reason_for(family: str, mutant: str) -> Invisible | None:
    """Why this mutant cannot be seen in this family, if so."""
    return next((entry for entry in INVISIBLE if entry.covers(family, mutant)), None)
