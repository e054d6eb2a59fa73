"""How what is heard becomes a text: by CTC alone, by an attention decoder, or by both at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from anyformer.errors import ConfigError, nearest
from anyformer.model import Beams
from anyformer.objectives.ctc import blank_of
from anyformer.objectives.scorers import CTCPrefixScore, Fusion, ordinary
from anyformer.objectives.transcripts import Language, PrefixBeams, Values, greedy, log_probabilities
from anyformer_tasks.language.lengths import answered, slots

if TYPE_CHECKING:
    from anyformer.batch import Example
    from anyformer.model import Model
    from anyformer.model.rules import Rule
    from anyformer.tokens import StreamSpec

TOKEN_BUDGET = 8192  # slots that go through the model at once


@dataclass(frozen=True)
class Writing:
    """beams: the texts that compete. ctc: of a model that has both, how much CTC weighs against attention (λ of Hori et
    al. 2017), from 0, attention alone, to 1.

    A language model has its say by one of these: order, of an n-gram model of the training texts; language, the
    checkpoint of a text model. weight: how much (α of Hannun et al. 2014). bonus: for each value, against the shortness
    that it prefers (β).
    """

    beams: int = 16
    ctc: float = 0.0
    order: int = 0
    language: str = ""
    weight: float = 1.0
    bonus: float = 0.0

    @classmethod
    def of(cls, where: str, settings: dict[str, Any]) -> Self:
        """ConfigError for a setting that is misspelt or out of range."""
        known = [f.name for f in fields(cls)]
        for name in settings:
            if name not in known:
                raise ConfigError(
                    f"{where} has no setting {name!r} of its decoding; expected some of: {', '.join(known)}."
                    f"{nearest(name, known)}"
                )
        found = cls(**settings)
        if found.beams < 1 or not 0 <= found.ctc <= 1 or found.weight < 0 or (found.order and found.language):
            raise ConfigError(
                f"{where} has decoding={settings}; expected at least one beam, ctc from 0 to 1, a weight of 0 or more, "
                "and an order or a language, not both."
            )
        return found


def by_ctc(
    model: Model, prompts: Sequence[Example], spec: StreamSpec, writing: Writing | None, language: Language | None
) -> list[Values]:
    """Of each prompt, which is what is heard. writing: None is the likeliest path."""
    if writing is None:
        decode = greedy
    elif writing.ctc:
        raise ConfigError(f"ctc={writing.ctc} weighs CTC against attention, which this model lacks; leave it out.")
    else:
        decode = PrefixBeams(writing.beams, language, writing.weight, writing.bonus)
    return [decode(rows, blank_of(spec)) for rows in log_probabilities(model, prompts, spec.name)]


def by_attention(
    model: Model, prompts: Sequence[Example], spec: StreamSpec, writing: Writing | None, language: Language | None
) -> list[Values]:
    """Of each prompt, in which or in whose source is what is heard; no text has more values than that has slots.
    writing: None is the likeliest value, one after the other."""
    if writing is not None:
        return [_searched(model, prompt, spec, writing, language) for prompt in prompts]

    def write(batch: Sequence[Example]) -> list[Values]:
        said = model.generate(batch, spec.name, max(map(_room, batch)))
        values = [tokens.streams[spec.name].values[: _room(p)].tolist() for tokens, p in zip(said, batch, strict=True)]
        return ordinary(spec, values)

    return answered(prompts, lambda prompt: slots(prompt) + _room(prompt), TOKEN_BUDGET, write)


def _searched(model: Model, prompt: Example, spec: StreamSpec, writing: Writing, language: Language | None) -> Values:
    """By itself: what CTC says is said of one sound."""
    rules: list[Rule] = []
    if writing.ctc:
        (chances,) = log_probabilities(model, [prompt], spec.name)
        rules.append(CTCPrefixScore(chances, spec, writing.ctc))
    if language is not None or writing.bonus:
        rules.append(Fusion(language, spec, writing.weight, writing.bonus))
    settings = Beams(writing.beams, _room(prompt), length_penalty=0.0, rules=tuple(rules))
    (found,) = model.beam_search([prompt], spec.name, settings)
    return ordinary(spec, [found[0].tokens.streams[spec.name].values.tolist()])[0] if found else ()


def _room(prompt: Example) -> int:
    """A value for each slot that is heard, and an end."""
    return 1 + (prompt.source or prompt).tokens.length
