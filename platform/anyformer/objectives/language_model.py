"""What one of our own text models says of the values that may come next, for whoever writes a text value by value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from anyformer.contracts import Tokenizer
from anyformer.errors import ConfigError, unknown
from anyformer.model import Model
from anyformer.objectives.knowing import Symbols, is_said
from anyformer.tokens import StreamSpec, Tokens

Values = tuple[int, ...]


class LanguageModel:
    """A causal text model as a `Language` over another tokenizer's values.

    It reads each value once: a session goes along with the texts that compete, and one that grows goes on in the cache
    of the one that it grew from.

    model: it is only read. name: its tokenizer of the text. ours: the tokenizer of those who write, whose pieces must
    be among its own: ConfigError names one that is not, and says what else keeps a model from telling what comes next.
    """

    def __init__(self, model: Model, name: str, ours: Tokenizer) -> None:
        if name not in model.tokenizers:
            raise unknown("tokenizer of the language model", name, model.tokenizers)
        if model.encoder is not None or not model.backbone.config.causal:
            raise ConfigError("The language model is no causal text model: it reads a source, or reads both ways.")
        self.model = model.eval()
        self._spec = said_by(model.tokenizers[name])
        model.head(self._spec.name)
        self._width = said_by(ours).width
        self._ours, self._theirs = shared_values(ours, model.tokenizers[name])
        self._as_theirs = dict(zip(self._ours.tolist(), self._theirs.tolist(), strict=True))
        self._begin()

    @torch.no_grad()
    def __call__(self, prefixes: Sequence[Values]) -> Float[np.ndarray, "prefixes vocab"]:
        """In nats: of each value of ours that it has too, the end among them; -inf of any other."""
        if self._held[1:] != list(prefixes):
            self._go_on(prefixes)
        nats = self.model.read(self._spec.name, self._session.last[1:]).double().log_softmax(-1).cpu().numpy()
        found = np.full((len(prefixes), self._width), -np.inf)
        found[:, self._ours] = nats[:, self._theirs]
        return found

    @torch.no_grad()
    def _begin(self) -> None:
        """A text begins behind its start, or behind the end of the one before."""
        opening = Symbols(self._spec).first("start", "end")
        self._session = self.model.session(1)
        self._session.append([self._laid([opening], 0)])
        self._held: list[Values] = [()]  # the prefix in each row; the first one is always empty

    def _go_on(self, prefixes: Sequence[Values]) -> None:
        rows = {prefix: row for row, prefix in reversed(list(enumerate(self._held)))}
        begun = [next(p[:size] for size in range(len(p), -1, -1) if p[:size] in rows) for p in prefixes]
        self._session.select([0, *(rows[prefix] for prefix in begun)])
        more = [self._behind(prefix, len(known)) for prefix, known in zip(prefixes, begun, strict=True)]
        if any(part is not None for part in more):
            self._session.append([None, *more])
        self._held = [(), *prefixes]

    def _behind(self, prefix: Values, known: int) -> Tokens | None:
        """What is not read yet of a prefix, where the first values are."""
        if known == len(prefix):
            return None
        return self._laid([self._as_theirs[value] for value in prefix[known:]], 1 + known)

    def _laid(self, values: Sequence[int], position: int) -> Tokens:
        laid = Tokens.of(self._spec.name, torch.tensor(values, dtype=torch.int64))
        return Tokens(laid.streams, laid.length, laid.positions + position)


def said_by(tokenizer: Tokenizer) -> StreamSpec:
    """The stream in which a tokenizer spells; ConfigError where there is none."""
    found = next((spec for spec in tokenizer.streams if is_said(spec)), None)
    if found is None:
        raise ConfigError(f"The tokenizer {tokenizer.name!r} spells no text; expected one with a discrete stream.")
    return found


def shared_values(ours: Tokenizer, theirs: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Our values and theirs that spell the same, pairwise, and the end of both. ConfigError names a piece of ours that
    they lack or, where it is spelled by several (bytes), that does not stand at the same place there."""
    pieces, places = spellings(ours), defaultdict(list)
    for value, piece in spellings(theirs).items():
        places[piece].append(value)
    pairs = {}
    for value, piece in pieces.items():
        there = places.get(piece, [])
        if value not in there and len(there) != 1:
            raise ConfigError(
                f"The language model's tokenizer has {len(there) or 'no'} values that spell {piece!r}, our value "
                f"{value}; expected the same pieces. Train the language model with the recogniser's own tokenizer "
                "(`data.start`), or with one of the same settings and texts."
            )
        pairs[value] = value if value in there else there[0]
    ends = said_by(ours).end, said_by(theirs).end
    if None not in ends:
        pairs[ends[0]] = ends[1]
    return np.array(list(pairs)), np.array(list(pairs.values()))


def spellings(tokenizer: Tokenizer) -> dict[int, str]:
    """What each value without a role spells by itself."""
    spec = said_by(tokenizer)
    return {int(v): str(tokenizer.decode(Tokens.of(spec.name, torch.tensor([int(v)])))) for v in Symbols(spec).ordinary}
