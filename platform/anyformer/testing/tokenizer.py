"""The tokenizer contract, clause by clause."""

from __future__ import annotations

import copy
import json
import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyformer.contracts import Tokenizer
from anyformer.errors import TokenizerError
from anyformer.model.embedders import default_embedder
from anyformer.registry import tokenizers
from anyformer.testing.clause import Clause, equal, equal_tokens, kind_of, shown
from anyformer.testing.encoding import require_well_formed
from anyformer.testing.files import hostile_files
from anyformer.testing.hostile import ODD_VALUES, WRONG_KINDS, bent
from anyformer.tokens import Stream, StreamSpec, Tokens, spec_table

CHECKED = 6  # samples that go through every clause
FITTED = 64  # synthetic samples that an unfitted tokenizer learns from
DIM = 32  # width of the embedders that are tried
TOLERANCE = 1e-4  # of an item embedded in a pack against alone, relative to the largest output (float32)


def check_tokenizer(tokenizer: str | Tokenizer, samples: Sequence[Any] | None = None, seed: int = 0) -> None:
    """Hold a tokenizer to its contract; ContractError names the first clause that it breaks.

    tokenizer: a registered name, or an object (left as it was: the checks run on a copy).
    samples: raw values to check and, if need be, to fit with; by default `tokenizer.example` makes them.

    The clauses: it pickles; examples follow their seed; it refuses to work before a needed fit; encodings are
    well formed, repeatable and as long as announced; settings and state rebuild its equal, and damaged state
    is refused; streams carry its name; decoding keeps the promised fidelity; an item's embedding does not
    depend on what is packed beside it; what cannot be encoded is refused with one of anyformer's own errors.
    """
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.create(tokenizer, {"name": tokenizer})
    plugin = f"tokenizer {getattr(tokenizer, 'name', tokenizer)!r}"
    clause = Clause(plugin, "is a tokenizer", "Derive it from anyformer's Tokenizer.")
    clause.require(isinstance(tokenizer, Tokenizer), "a Tokenizer", type(tokenizer).__name__)
    case = Case.of(plugin, tokenizer, samples, seed)
    for check in CLAUSES:
        check(case)


@dataclass(frozen=True)
class Case:
    """A fitted copy of the tokenizer and raw values to try it with."""

    plugin: str
    tokenizer: Tokenizer
    raws: list[Any]
    seed: int

    @classmethod
    def of(cls, plugin: str, tokenizer: Tokenizer, samples: Sequence[Any] | None, seed: int) -> Case:
        clause = Clause(plugin, "pickles", "Keep plain data in it: no open files, lambdas or local classes.")
        with clause.sound("a copy that a data worker can receive"):
            tokenizer = pickle.loads(pickle.dumps(tokenizer))
        raws = _examples(plugin, tokenizer, seed) if samples is None else list(samples)
        if not tokenizer.fitted:
            _refuses_before_fit(plugin, tokenizer, raws[0])
            clause = Clause(plugin, "fits", "fit learns from any iterable of raw values and turns `fitted` true.")
            with clause.sound(f"fit to accept {len(raws)} raw values"):
                tokenizer.fit(iter(raws))
            clause.require(tokenizer.fitted, "fitted to be true after fit", "false")
        return cls(plugin, tokenizer, raws[:CHECKED], seed)

    def clause(self, title: str, cure: str) -> Clause:
        return Clause(self.plugin, title, cure)

    def encoded(self) -> list[tuple[Any, Tokens]]:
        """Each raw value with its tokens. A copy is encoded: writing into it is another clause's business."""
        clause = self.clause("encodes", "This value came from samples or from example(); it must be usable.")
        pairs = []
        for raw in self.raws:
            with clause.sound(f"tokens of {shown(raw)}"):
                pairs.append((raw, self.tokenizer.encode(copy.deepcopy(raw))))
        return pairs


def _examples(plugin: str, tokenizer: Tokenizer, seed: int) -> list[Any]:
    def draw() -> list[Any]:
        rng = np.random.default_rng(seed)
        return [tokenizer.example(rng) for _ in range(CHECKED if tokenizer.fitted else FITTED)]

    clause = Clause(plugin, "example follows its seed", "Draw every random choice from the generator given.")
    with clause.sound("a synthetic raw value, made offline"):
        first, second = draw(), draw()
        clause.require(equal(first, second), "equal values from equal seeds", "different ones")
    return first


def _refuses_before_fit(plugin: str, tokenizer: Tokenizer, raw: Any) -> None:
    """Streams that do not depend on what is learned may be known before; encodings may not."""
    clause = Clause(plugin, "refuses to work before fit", "Raise TokenizerError while `fitted` is false.")
    with clause.accepts_or_refuses("streams of an unfitted tokenizer"):
        _ = tokenizer.streams
    with clause.refuses("encode of an unfitted tokenizer", TokenizerError):
        tokenizer.encode(raw)


def encodes_well_formed(case: Case) -> None:
    """Streams, values, slots, items and positions are as the specs declare."""
    for raw, tokens in case.encoded():
        require_well_formed(case.plugin, case.tokenizer.streams, tokens, shown(raw))


def repeats_itself(case: Case) -> None:
    """Encoding draws no random number and leaves its input alone."""
    repeats = case.clause("encodes repeatably", "Draw augmentation in the task, from the sample's own key.")
    leaves = case.clause("leaves its input alone", "Copy before you write.")
    for raw in case.raws:
        with repeats.sound(f"two encodings of {shown(raw)}"):
            before = copy.deepcopy(raw)
            first = _with_seed(1, lambda raw=raw: case.tokenizer.encode(raw))
            leaves.require(equal(raw, before), "an unchanged raw value", f"a changed {shown(raw)}")
            second = _with_seed(2, lambda raw=raw: case.tokenizer.encode(raw))
            repeats.require(equal_tokens(first, second), "equal tokens twice", f"others for {shown(raw)}")


def _with_seed(seed: int, call: Callable[[], Tokens]) -> Tokens:
    """The call with every ambient generator set, and given back as it was."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            return call()
        finally:
            np.random.set_state(state)


def announces_length(case: Case) -> None:
    """Batches are planned with `length` before anything is encoded."""
    for raw, tokens in case.encoded():
        _require_length(case, raw, tokens)


def _require_length(case: Case, raw: Any, tokens: Tokens) -> None:
    clause = case.clause("announces its length", "length and encode must follow one rule.")
    expected = f"the int {tokens.length} for {shown(raw)}"
    with clause.sound(expected):
        length = case.tokenizer.length(raw)
        clause.require(type(length) is int and length == tokens.length, expected, length)


def rebuilds(case: Case) -> None:
    """`config()` is JSON, and with `state()` it makes an equal tokenizer."""
    tokenizer = case.tokenizer
    clause = case.clause("config is JSON", "Make each field a number, string, list or dict.")
    with clause.sound("plain JSON values"):
        config = json.loads(json.dumps(tokenizer.config()))
    clause = case.clause("state is bytes by file name", "Serialise what fit learned.")
    state = tokenizer.state()
    clause.require(all(isinstance(content, bytes) for content in state.values()), "bytes", state)
    clause = case.clause("rebuilds from config and state", "What changes an encoding is a field or in state().")
    with clause.sound("an equal tokenizer"):
        twin = _rebuilt(tokenizer, config, state)
        clause.require(twin.fitted, "a fitted tokenizer", "an unfitted one")
        prints = [each.fingerprint()[:12] for each in (tokenizer, twin)]
        clause.require(prints[0] == prints[1], f"fingerprint {prints[0]}…", f"{prints[1]}…")
        clause.require(_described(twin) == _described(tokenizer), f"{_described(tokenizer)}", _described(twin))
        for raw, tokens in case.encoded():
            clause.require(equal_tokens(twin.encode(raw), tokens), "the same tokens", f"others for {shown(raw)}")


def refuses_damaged_state(case: Case) -> None:
    """An unreadable file is noticed when it is restored, not when it is first used; a missing one leaves the
    tokenizer unfitted at best."""
    clause = case.clause("refuses damaged state", "restore raises TokenizerError naming the file.")
    config, state = case.tokenizer.config(), case.tokenizer.state()
    for filename in state:
        without = {name: content for name, content in state.items() if name != filename}
        with clause.accepts_or_refuses(f"state without {filename!r}"):
            twin = _rebuilt(case.tokenizer, config, without)
            clause.require(not twin.fitted, f"refusal without {filename!r}, or `fitted` false", "fitted")
        with clause.refuses(f"garbage in {filename!r}"):
            _rebuilt(case.tokenizer, config, {**state, filename: b"\xff\x00 not a state"})


def _rebuilt(tokenizer: Tokenizer, config: dict[str, Any], state: dict[str, bytes]) -> Tokenizer:
    twin = type(tokenizer)(**config)
    twin.restore(state)
    return twin


def _described(tokenizer: Tokenizer) -> list[tuple[Any, ...]]:
    """The specs without their factories, which need not compare equal."""
    return [(s.name, s.width, s.is_discrete, s.rank, s.end, s.slots(64)) for s in tokenizer.streams]


def names_its_streams(case: Case) -> None:
    """Two tokenizers of one class may serve one model, so streams carry the tokenizer's own name."""
    clause = case.clause("streams carry its name", "Name a stream self.name, or f'{self.name}.part'.")
    config = {**case.tokenizer.config(), "name": f"{case.tokenizer.name}_renamed"}
    for tokenizer in (case.tokenizer, _rebuilt(case.tokenizer, config, case.tokenizer.state())):
        names = [spec.name for spec in tokenizer.streams]
        clause.require(bool(names) and len(set(names)) == len(names), "unique names", names)
        for name in names:
            follows = name == tokenizer.name or name.startswith(f"{tokenizer.name}.")
            clause.require(follows, f"{tokenizer.name!r} or '{tokenizer.name}.<part>'", repr(name))
    clause = case.clause("ends within its vocabulary", "`end` is a value of the stream.")
    for spec in case.tokenizer.streams:
        within = spec.end is None or 0 <= spec.end < (spec.vocab_size or 0)
        clause.require(within, f"an end in [0, {spec.vocab_size}) for stream {spec.name!r}", spec.end)


def decodes(case: Case) -> None:
    """`decode(encode(raw))` is what `fidelity` says."""
    tokenizer, fidelity = case.tokenizer, case.tokenizer.fidelity
    clause = case.clause("decodes as promised", f"fidelity is {fidelity!r}: decode better or promise less.")
    canonical = kind_of(tokenizer.example(np.random.default_rng(case.seed)))
    for raw, tokens in case.encoded():
        if fidelity == "none":
            with clause.refuses("decode with fidelity 'none'"):
                tokenizer.decode(tokens)
            continue
        with clause.sound(f"the value behind {shown(raw)}"):
            back = tokenizer.decode(tokens)
            clause.require(kind_of(back) == canonical, f"a value of kind {canonical}", f"{kind_of(back)}")
            again = tokenizer.encode(back)
        require_well_formed(case.plugin, tokenizer.streams, again, f"decoded {shown(back)}")
        if fidelity == "exact" and kind_of(raw) == canonical:  # a path, for one, comes back as its content
            clause.require(equal(back, raw), f"exactly {shown(raw)}", back)


def decodes_what_models_say(case: Case) -> None:
    """A model may say any value of a stream; decoding gives a raw value or one of anyformer's errors. Values
    that no model can say are refused."""
    if case.tokenizer.fidelity == "none":
        return
    clause = case.clause("decodes what models say", "Raise TokenizerError for values that mean nothing.")
    specs = spec_table(case.tokenizer.streams)
    generator = torch.Generator().manual_seed(case.seed)
    for _, tokens in case.encoded():
        said = tokens
        for name, stream in tokens.streams.items():
            said = _with_values(said, name, _any_values(specs[name], stream.values, generator))
            size = specs[name].vocab_size or 0
            for shift in (size, -size) if size and len(stream.values) else ():
                with clause.refuses(f"values outside [0, {size}) in stream {name!r}"):
                    case.tokenizer.decode(_with_values(tokens, name, stream.values + shift))
        with clause.accepts_or_refuses("arbitrary values"):
            case.tokenizer.decode(said)


def _with_values(tokens: Tokens, name: str, values: Tensor) -> Tokens:
    return replace(tokens, streams={**tokens.streams, name: replace(tokens.streams[name], values=values)})


def _any_values(spec: StreamSpec, values: Tensor, generator: torch.Generator) -> Tensor:
    if spec.vocab_size is not None:
        return torch.randint(spec.vocab_size, values.shape, generator=generator)
    return torch.randn(values.shape, generator=generator)


def renders(case: Case) -> None:
    """A person can be shown every raw value."""
    clause = case.clause("renders", 'Return {"text/plain": "..."} or another MIME type with str or bytes.')
    for raw in case.raws:
        with clause.sound(f"{shown(raw)} by MIME type"):
            parts = case.tokenizer.render(raw)
            right = all("/" in kind and isinstance(part, str | bytes) for kind, part in parts.items())
            clause.require(bool(parts) and right, "str or bytes by MIME type", parts)


@torch.no_grad()
def embeds_alike_alone_and_packed(case: Case) -> None:
    """An item's embeddings never depend on the items packed beside it."""
    clause = case.clause("embeds alike alone and packed", "Let no operation of the embedder cross an item.")
    streams = [tokens.streams for _, tokens in case.encoded()]
    for spec in case.tokenizer.streams:
        pieces = [named[spec.name] for named in streams if spec.name in named]
        with clause.sound(f"embedder(values, items) and head(hidden) of stream {spec.name!r} to work"):
            pickle.dumps((spec.embedder, spec.head))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(case.seed)
                embedder, head = (
                    default_embedder(spec, DIM, 1.0, None).eval(),
                    spec.head(DIM).eval() if spec.head else None,
                )
            if pieces:
                _require_same_packed(clause, spec, embedder, pieces)
            if head is not None:
                rows = head(torch.randn(5, DIM))
                clause.require(list(rows.shape) == [5, spec.width], f"rows of {spec.width} from the head", rows)


def _require_same_packed(clause: Clause, spec: StreamSpec, embedder: nn.Module, pieces: list[Stream]) -> None:
    alone = [embedder(piece.values, piece.items) for piece in pieces]
    for rows, piece in zip(alone, pieces, strict=True):
        shaped = list(rows.shape) == [len(piece.slots), DIM] and bool(rows.isfinite().all())
        clause.require(shaped, f"finite [{len(piece.slots)}, {DIM}] from stream {spec.name!r}", rows)
    joined, expected = Stream.joined(pieces), torch.cat(alone)
    off = (embedder(joined.values, joined.items) - expected).abs().max()
    within = bool(off <= TOLERANCE * expected.abs().max().clamp(min=1e-6))
    clause.require(within, f"the same rows of stream {spec.name!r}", f"a difference of {off:.2g}")


def refuses_wrong_kinds(case: Case) -> None:
    """A value of no modality is named as such."""
    clause = case.clause("refuses wrong kinds", "Raise SampleError saying which raw values it takes.")
    for wrong in WRONG_KINDS:
        with clause.refuses(f"encode({wrong!r})"):
            case.tokenizer.encode(wrong)
        with clause.refuses(f"length({wrong!r})"):
            case.tokenizer.length(wrong)


def survives_hostile_values(case: Case) -> None:
    """An odd value is encoded soundly or refused with one of anyformer's errors, in bounded time and memory; nothing
    else escapes. `length` may be content with a value that `encode` refuses: it need not read it whole."""
    clause = case.clause("survives hostile values", "Raise SampleError naming what is wrong with the value.")
    for raw in (*ODD_VALUES, *(value for good in case.raws[:2] for value in bent(good))):
        with clause.in_bounds(f"length({shown(raw)})"), clause.accepts_or_refuses(f"length({shown(raw)})"):
            case.tokenizer.length(raw)
        with clause.in_bounds(f"encode({shown(raw)})"), clause.accepts_or_refuses(f"encode({shown(raw)})"):
            tokens = case.tokenizer.encode(raw)
            require_well_formed(case.plugin, case.tokenizer.streams, tokens, shown(raw))
            _require_length(case, raw, tokens)


def survives_hostile_files(case: Case) -> None:
    """What reads files meets odd ones; what does not refuses a path. A picture that claims 20 000 x 20 000 pixels or a
    sound that claims ten hours is refused by its header, before memory is taken for it."""
    clause = case.clause("survives hostile files", "Raise SampleError, or LimitError, naming the file.")
    with tempfile.TemporaryDirectory() as folder:
        for path in hostile_files(Path(folder)):
            with clause.accepts_or_refuses(f"length of a file, {path.name!r}"):
                case.tokenizer.length(path)
            with clause.accepts_or_refuses(f"encode of a file, {path.name!r}"):
                tokens = case.tokenizer.encode(path)
                require_well_formed(case.plugin, case.tokenizer.streams, tokens, path.name)


CLAUSES: tuple[Callable[[Case], None], ...] = (
    encodes_well_formed,
    repeats_itself,
    announces_length,
    rebuilds,
    refuses_damaged_state,
    names_its_streams,
    decodes,
    decodes_what_models_say,
    renders,
    embeds_alike_alone_and_packed,
    refuses_wrong_kinds,
    survives_hostile_values,
    survives_hostile_files,
)
