"""`anyformer inspect`: a page about what happens inside a model while it reads one example."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from anyformer.architecture import BackboneConfig, StackConfig, read
from anyformer.batch import Example
from anyformer.checkpoint import load
from anyformer.cli.generate import prompt
from anyformer.errors import ConfigError
from anyformer.inspection import look_inside, render
from anyformer.model import Model
from anyformer.objectives import NextToken
from anyformer.tokens import Stream, StreamSpec, Tokens

MOST_SAID = 16  # values that a decoder says itself where it is given none
FEWEST_SLOTS = 8  # of noise that stands for something continuous

RANDOM = "The weights are random: this is the architecture before any training."
MADE_UP = "There is no tokenizer: the prompt's bytes stand for the values they number, and noise for everything else."
OWN_ANSWER = "What the decoder reads is its own greedy answer."


def run(arguments: argparse.Namespace) -> int:
    model, title, notes = chosen(arguments)
    if model.tokenizers:
        example, more = given(model, arguments)
    else:
        example, more = stand_in(model, arguments.prompt), [MADE_UP]
    inspection = look_inside(model, example, arguments.stream, importance=not arguments.quick)
    page, out = render(inspection, title, [*notes, *more]).encode(), Path(arguments.out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(page)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}). Name another file.") from error
    print(f"{out}: {len(page) / 1e6:.1f} MB")
    return 0


def chosen(arguments: argparse.Namespace) -> tuple[Model, str, list[str]]:
    """The model, what it is called, and sentences about it."""
    if (arguments.checkpoint is None) == (arguments.model is None):
        raise ConfigError("Give either --checkpoint DIR or --model NAME_OR_DIR.")
    if arguments.checkpoint is not None:
        return load(arguments.checkpoint), str(arguments.checkpoint), []
    if Path(arguments.model).is_dir():
        from anyformer.weights import from_pretrained

        return from_pretrained(arguments.model), str(arguments.model), []
    torch.manual_seed(0)
    return Model.of(read(arguments.model)).eval(), arguments.model, [RANDOM]


# Examples of what is given


def given(model: Model, arguments: argparse.Namespace) -> tuple[Example, list[str]]:
    """The inputs as `anyformer generate` lays them out, each on its axis, with what every slot should say where that is
    known; and sentences about it."""
    inputs = [*arguments.input]
    inputs += [f"{name}={value}" for name in ("image", "audio") if (value := getattr(arguments, name)) is not None]
    text, reads, causal = arguments.prompt, set(model.architecture.source), model.architecture.backbone.causal
    if text is not None and (not causal or _streams(model, "text") & reads):  # read whole, with nothing left open
        inputs, text = [*inputs, f"text={text}"], None
    of_source = [entry for entry in inputs if _streams(model, entry.partition("=")[0]) & reads]
    rest, notes = [entry for entry in inputs if entry not in of_source], []
    source = prompt(model, of_source, None) if of_source else None
    if source is not None and not rest and text is None:
        example = answer(model, source, arguments.answer)
        notes = [OWN_ANSWER] if arguments.answer is None else []
    else:
        example = replace(prompt(model, rest, text), source=source)
    return (with_targets(model, example) if causal else replace(example, prefix=example.tokens.length)), notes


def _streams(model: Model, tokenizer: str) -> set[str]:
    """None for a misspelt one, of which `prompt` complains."""
    return {spec.name for spec in model.tokenizers[tokenizer].streams} if tokenizer in model.tokenizers else set()


def answer(model: Model, source: Example, text: str | None) -> Example:
    """The decoder's side of a source: from its starting value on the given text, or what the model says itself."""
    stream = _spoken(model)[0]
    origin = getattr(model, "origin", None)  # published weights come with the configuration that names the value
    first = 0 if origin is None else origin.config.get("decoder_start_token_id") or 0
    start = Tokens.of(stream, torch.tensor([first]))
    if text is not None:
        said = prompt(model, [], text).tokens
    else:
        (said,) = model.generate([Example(start, {}, source=source)], stream, MOST_SAID)
    return Example(Tokens.laid_end_to_end([start, said]), {}, source=source)


def _spoken(model: Model) -> list[str]:
    """Streams that are both said and read."""
    return [name for name in model.architecture.heads if model.specs[name].input]


def with_targets(model: Model, example: Example) -> Example:
    """Each discrete value that the model predicts, from the slot before it; none inside the prefix."""
    if example.targets:
        return example
    following = NextToken().prepare({"prompt": example.tokens}, np.random.default_rng(0)).targets
    targets = {}
    for name, target in following.items():
        kept = target.slots >= example.prefix - 1
        if name in model.architecture.heads and bool(kept.any()):
            targets[name] = Stream.whole(target.values[kept], target.slots[kept])
    return replace(example, targets=targets)


# Examples of nothing in particular


def stand_in(model: Model, text: str | None) -> Example:
    """An example for a model without tokenizers: on each of its axes, every stream that comes in."""
    if text is None:
        raise ConfigError("This model has no tokenizers; give --prompt TEXT, whose bytes stand for values.")
    architecture, source = model.architecture, None
    ours = [name for name, spec in model.specs.items() if spec.input and not spec.overlay]
    if architecture.encoder is not None:
        theirs = [name for name in ours if name in architecture.source]
        tokens = noise(model, theirs, text, rooms(architecture.encoder, architecture.context[:1]))
        source = Example(tokens, {}, 0 if architecture.encoder.causal else tokens.length)
        ours = [name for name in ours if name not in theirs] or _spoken(model)  # T5's axes have one vocabulary
    tokens = noise(model, ours, text, rooms(architecture.backbone, architecture.context[-1:]))
    if not architecture.backbone.causal:
        return Example(tokens, {}, tokens.length, source=source)
    return with_targets(model, Example(tokens, {}, source=source))


def rooms(stack: StackConfig, context: Sequence[int]) -> list[int]:
    """What bounds a sequence of this stack: its context, and a table of positions, where there are such."""
    table = stack.positions.get("size") if isinstance(stack, BackboneConfig) else None
    return [*context, *([table] if table else [])]


def noise(model: Model, streams: Sequence[str], text: str, bounds: Sequence[int]) -> Tokens:
    """One axis, within its bounds; streams behind each other."""
    room = max(1, min(bounds, default=len(text.encode()) * len(streams)) // max(1, len(streams)))
    return Tokens.laid_end_to_end([made_up(model.specs[name], text.encode(), room) for name in streams])


def made_up(spec: StreamSpec, text: bytes, room: int) -> Tokens:
    """A byte for a value, or a row of noise for each byte; on two axes, as a square of them. room: the most slots."""
    count = 1 if spec.vocab_size == 1 else max(1, min(room, len(text)))
    side = math.isqrt(count)
    count = side * side if spec.rank == 2 else count
    if spec.is_discrete:
        values = torch.tensor([text[i % len(text)] if text else 0 for i in range(count)]) % spec.width
    else:
        while spec.slots(count) < min(room, FEWEST_SLOTS) and spec.rank == 1:
            count *= 2
        values = torch.randn(count, spec.width, generator=torch.Generator().manual_seed(0))
    slots = torch.arange(spec.slots(count))
    along = torch.cartesian_prod(torch.arange(side), torch.arange(side)) if spec.rank == 2 else slots[:, None]
    return Tokens({spec.name: Stream.whole(values, slots)}, len(slots), along)
