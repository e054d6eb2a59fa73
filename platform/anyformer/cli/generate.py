"""`anyformer generate`: what a checkpoint says behind the given inputs, as it comes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from anyformer.batch import Example
from anyformer.checkpoint import load
from anyformer.contracts import Tokenizer
from anyformer.errors import ConfigError, unknown
from anyformer.model import Beams, Model, NoRepeat, RepetitionPenalty, Said, Sampling, spoken
from anyformer.model.rules import Rule
from anyformer.tokens import Stream, StreamSpec, Tokens


def run(arguments: argparse.Namespace) -> int:
    model = load(arguments.checkpoint)
    if arguments.output not in model.tokenizers:
        raise unknown("tokenizer", arguments.output, model.tokenizers)
    tokenizer = model.tokenizers[arguments.output]
    stream = tokenizer.streams[0].name
    inputs, text = arguments.input, arguments.prompt
    asked = prompt(model, inputs, text) if model.encoder is None else translation(model, inputs, text, stream)
    heard: list[Said] = []
    start = time.perf_counter()
    _tell(_heard(_said(model, asked, stream, arguments), heard), tokenizer, arguments.stop, heard)
    seconds = time.perf_counter() - start
    if arguments.log_probabilities:
        for one in heard:
            print(f"{one.value}\t{one.log_probability:.4f}", file=sys.stderr)
    print(f"{len(heard)} tokens, {len(heard) / seconds:,.0f} tokens/s", file=sys.stderr)
    return 0


def _said(model: Model, asked: Example, stream: str, arguments: argparse.Namespace) -> Iterator[Said]:
    """Values as they are found; all at once behind a beam search."""
    penalty, size, rules = arguments.repetition_penalty, arguments.no_repeat_ngram, tuple[Rule, ...]()
    rules += () if penalty is None else (RepetitionPenalty(penalty),)
    rules += () if size is None else (NoRepeat(size),)
    if arguments.beams is None:
        sampling = Sampling(
            arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed, arguments.min_p, rules
        )
        yield from model.stream(asked, stream, arguments.max_new, sampling)
        return
    if arguments.temperature:
        raise ConfigError("--beams searches and --temperature draws; give one of them.")
    settings = Beams(arguments.beams, arguments.max_new, length_penalty=arguments.length_penalty, rules=rules)
    for best in model.beam_search([asked], stream, settings)[0]:
        values = best.tokens.streams[stream].values.tolist()
        yield from map(Said, values, best.log_probabilities.tolist())


def _heard(said: Iterator[Said], heard: list[Said]) -> Iterator[Said]:
    """The same, noted down."""
    for one in said:
        heard.append(one)
        yield one


def _tell(said: Iterator[Said], tokenizer: Tokenizer, stop: list[str], heard: list[Said]) -> None:
    """Text piece by piece, anything else when it is whole."""
    if isinstance(tokenizer.example(np.random.default_rng(0)), str):
        for piece in spoken(said, tokenizer, stop):
            print(piece, end="", flush=True)
        print()
        return
    if stop:
        raise ConfigError(f"--stop ends a text, and tokenizer {tokenizer.name!r} speaks none.")
    values = torch.tensor([one.value for one in said], dtype=torch.int64)
    print(tokenizer.decode(Tokens.of(tokenizer.streams[0].name, values)))


def prompt(model: Model, inputs: Sequence[str], text: str | None) -> Example:
    """The given values as a context seen in both directions, then the text to continue."""
    given = _inputs(model, inputs)
    prefix = sum(tokens.length for tokens in given)
    if text is not None:
        tokenizer = _tokenizer(model, "text")
        given.append(_open(tokenizer.encode(text), tokenizer.streams[0]))
    return Example(_together(given), {}, prefix)


def translation(model: Model, inputs: Sequence[str], text: str | None, stream: str) -> Example:
    """The given values, text included, as a source that is read whole; the answer begins with its start value."""
    source = _together(_inputs(model, [*inputs, *([] if text is None else [f"text={text}"])]))
    start = Tokens.of(stream, torch.tensor([start_of(model, stream)]))
    return Example(start, {}, source=Example(source, {}, source.length))


def start_of(model: Model, stream: str) -> int:
    """The value that a decoder's answer begins behind."""
    found = model.opening(stream)
    if found is None:
        raise ConfigError(
            f"The decoder's answer in stream {stream!r} has no value to start with; let its tokenizer name one "
            "(special: start), or use published weights whose config has decoder_start_token_id."
        )
    return found


def _together(given: list[Tokens]) -> Tokens:
    if not given:
        raise ConfigError("Nothing to go on: give --prompt TEXT or --input TOKENIZER=VALUE.")
    return Tokens.laid_end_to_end(given)


def _inputs(model: Model, entries: Sequence[str]) -> list[Tokens]:
    given = []
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not separator:
            raise ConfigError(f"--input {entry!r}: expected TOKENIZER=VALUE, such as image=photo.png.")
        given.append(_tokenizer(model, name).encode(value))
    return given


def _tokenizer(model: Model, name: str) -> Tokenizer:
    if name not in model.tokenizers:
        raise unknown("tokenizer", name, model.tokenizers)
    return model.tokenizers[name]


def _open(tokens: Tokens, spec: StreamSpec) -> Tokens:
    """A text without the token that would close it, so that it can be continued."""
    stream = tokens.streams[spec.name]
    if int(stream.values[-1]) != spec.end:
        return tokens
    keep = tokens.length - 1
    return Tokens({spec.name: Stream.whole(stream.values[:keep])}, keep, tokens.positions[:keep])
