"""`anyformer generate`: what a checkpoint says behind the given inputs."""

from __future__ import annotations

import argparse
import sys
import time

from anyformer.batch import Example
from anyformer.checkpoint import load
from anyformer.errors import ConfigError, unknown
from anyformer.model import Model, Sampling
from anyformer.tokens import Stream, StreamSpec, Tokens


def run(arguments: argparse.Namespace) -> int:
    model = load(arguments.checkpoint)
    if arguments.output not in model.tokenizers:
        raise unknown("tokenizer", arguments.output, model.tokenizers)
    tokenizer = model.tokenizers[arguments.output]
    sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed)
    start = time.perf_counter()
    (said,) = model.generate([prompt(model, arguments)], tokenizer.streams[0].name, arguments.max_new, sampling)
    seconds = time.perf_counter() - start
    print(tokenizer.decode(said))
    print(f"{said.length} tokens, {said.length / seconds:,.0f} tokens/s", file=sys.stderr)
    return 0


def prompt(model: Model, arguments: argparse.Namespace) -> Example:
    """The given values as a context seen in both directions, then the text to continue."""
    given = []
    for entry in arguments.input:
        name, separator, value = entry.partition("=")
        if not separator:
            raise ConfigError(f"--input {entry!r}: expected TOKENIZER=VALUE, such as image=photo.png.")
        if name not in model.tokenizers:
            raise unknown("tokenizer", name, model.tokenizers)
        given.append(model.tokenizers[name].encode(value))
    prefix = sum(tokens.length for tokens in given)
    if arguments.prompt is not None:
        if "text" not in model.tokenizers:
            raise unknown("tokenizer", "text", model.tokenizers)
        text = model.tokenizers["text"]
        given.append(_open(text.encode(arguments.prompt), text.streams[0]))
    if not given:
        raise ConfigError("Nothing to go on: give --prompt TEXT or --input TOKENIZER=VALUE.")
    return Example(Tokens.laid_end_to_end(given), {}, prefix)


def _open(tokens: Tokens, spec: StreamSpec) -> Tokens:
    """A text without the token that would close it, so that it can be continued."""
    stream = tokens.streams[spec.name]
    if int(stream.values[-1]) != spec.end:
        return tokens
    keep = tokens.length - 1
    return Tokens({spec.name: Stream.whole(stream.values[:keep])}, keep, tokens.positions[:keep])
