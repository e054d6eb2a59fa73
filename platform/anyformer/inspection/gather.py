"""Everything one page tells of a model and an example, in one go."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Float
from torch import Tensor

from anyformer.architecture import StackConfig
from anyformer.batch import Example
from anyformer.errors import ConfigError
from anyformer.inspection.ablation import Importance, head_importance
from anyformer.inspection.axes import Axis, Words, axis
from anyformer.inspection.lens import Lens, check_discrete, discrete_heads, logit_lens
from anyformer.inspection.look import attention_maps, feed_forward_keys
from anyformer.inspection.memories import FeedForwardMemory, memories
from anyformer.model import Model


@dataclass(frozen=True)
class Inspection:
    """What was seen. Whatever a model lacks is empty, or None.

    facts: (label, words) about the model and the example. target, source: the axes of the example. maps: see
    `attention_maps`. expected: by slot, the value of the lens' stream that should be said there. memories: those of
    each layer. stream: whose words the lens and the memories speak.
    """

    facts: list[tuple[str, str]]
    words: Words
    target: Axis
    source: Axis | None
    maps: dict[str, list[Float[Tensor, "heads queries keys"]]]
    stream: str | None
    lens: Lens | None
    expected: dict[int, int]
    memories: list[list[FeedForwardMemory]]
    importance: Importance | None


def look_inside(model: Model, example: Example, stream: str | None = None, importance: bool = True) -> Inspection:
    """Look at one example. stream: the predicted discrete stream in whose words layers are read, by default one that
    the example has targets for. importance: measure each head, which takes a pass a head."""
    if not example.tokens.length:
        raise ConfigError("There is nothing to look at: the example has no slots.")
    if stream is not None:
        check_discrete(model, stream)
    stream = stream or _stream(model, example)
    words, maps = Words(model), attention_maps(model, example)
    target = example.targets.get(stream or "")
    aligned = target is not None and len(target.values) == len(target.slots)
    return Inspection(
        _facts(model, example, stream),
        words,
        axis(model, example.tokens, words),
        None if example.source is None else axis(model, example.source.tokens, words),
        maps,
        stream,
        logit_lens(model, example, stream) if stream else None,
        dict(zip(target.slots.tolist(), target.values.tolist(), strict=True)) if target and aligned else {},
        _memories(model, example, stream) if stream else [],
        _importance(model, example, stream) if importance else None,
    )


def _stream(model: Model, example: Example) -> str | None:
    names = discrete_heads(model)
    return next((name for name in example.targets if name in names), names[0] if names else None)


def _memories(model: Model, example: Example, stream: str) -> list[list[FeedForwardMemory]]:
    return [memories(model, example, layer, stream) for layer in range(len(feed_forward_keys(model, example)))]


def _importance(model: Model, example: Example, stream: str | None) -> Importance | None:
    found = head_importance(model, example, stream)
    return found if found.changes else None


def _facts(model: Model, example: Example, stream: str | None) -> list[tuple[str, str]]:
    architecture = model.architecture
    count = sum(parameter.numel() for parameter in model.parameters())
    facts = [("Parameters", f"{count:,}"), ("Backbone", settings(architecture.backbone))]
    if architecture.encoder is not None:
        facts.append(("Encoder", settings(architecture.encoder)))
    facts.append(("Streams", "; ".join(_stream_in_words(model, name) for name in model.specs)))
    facts.append(("Sequence", _sequence(example)))
    if example.source is not None:
        facts.append(("Source", _sequence(example.source)))
    if stream:
        facts.append(("Read as", stream))
    return facts


def _stream_in_words(model: Model, name: str) -> str:
    spec = model.specs[name]
    size = f"{spec.vocab_size:,} values" if spec.is_discrete else f"{spec.features:,} features"
    said = ", predicted" if name in model.architecture.heads else ""
    return f"{name} ({size}{said})"


def _sequence(example: Example) -> str:
    tokens = example.tokens
    parts = ", ".join(f"{len(stream.slots):,} of {name}" for name, stream in tokens.streams.items())
    seen = f"; the first {example.prefix:,} see each other both ways" if example.prefix else ""
    return f"{tokens.length:,} slots: {parts}{seen}"


def settings(config: StackConfig) -> str:
    """What a stack does not leave at its default."""
    defaults: dict[str, Any] = {
        f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(config)
    }
    changed = {name: value for name, value in config.as_json().items() if value != _plain(defaults[name])}
    return ", ".join(f"{name} {_told(value)}" for name, value in changed.items())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _told(value: Any) -> str:
    if isinstance(value, dict):
        rest = ", ".join(f"{name} {_told(inner)}" for name, inner in value.items() if name != "type")
        return f"{value.get('type', '')} ({rest})" if rest else str(value.get("type", ""))
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
