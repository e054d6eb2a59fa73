"""Imported weights against a reference's stored outputs: largest differences, output by output.

A directory holds config.json and model.safetensors as the reference wrote them, inputs.safetensors and
outputs.safetensors with what it was given and gave, and meta.json with the settings of its generations.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anyformer.batch import Batch
from anyformer.errors import WeightsError
from anyformer.model import Beams, Model
from anyformer.model.saying import behind, run_of
from anyformer.model.session import begun
from anyformer.weights import files
from anyformer.weights.fixture import Facts, Reading, padded, prompts, read
from anyformer.weights.pretrained import from_pretrained
from anyformer.weights.table import table_for

TOLERANCE, CEILING, ROUNDING = 2e-5, 1e-4, 2e-6
"""Of an output's scale; in absolute terms; and the share of a large scale (above 50) that float32 itself takes."""


@dataclass(frozen=True)
class Comparison:
    """One output: the largest difference where neither is padding, beside what is allowed. ids: exact or not."""

    name: str
    difference: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.allowed


@dataclass(frozen=True)
class Pass:
    """One forward pass over the inputs with everything that was seen on the way."""

    reading: Reading
    batch: Batch
    seen: dict[tuple[str, int], Tensor]
    hidden: Tensor


def check_weights(directory: str | Path) -> list[Comparison]:
    """Every stored output of a directory against ours. Comparisons that do not hold are in the list, not raised."""
    path = Path(directory)
    config = files.read_config(path)
    table = table_for(config)
    return compare(from_pretrained(path), path, Facts(config, table.check))


@torch.no_grad()
def compare(model: Model, path: Path, facts: Facts) -> list[Comparison]:
    """A model against the stored outputs of `path`."""
    inputs, outputs = (_tensors(path / name) for name in ("inputs.safetensors", "outputs.safetensors"))
    forward = run(model, read(model, inputs, facts))
    found = [*_states(forward, inputs, outputs, facts), *_heads(model, forward, inputs, outputs, facts)]
    if "loss" in outputs:
        found.append(_loss(model, forward, inputs, outputs, facts))
    if any(name.endswith("_ids") for name in outputs):
        found += _generations(model, path, inputs, outputs, facts)
    return found


def _tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise WeightsError(f"{file}: is not there; expected the reference's inputs and outputs beside its weights.")
    return files.read_tensors(file)


def run(model: Model, reading: Reading) -> Pass:
    """One pass with every hook listening."""
    seen: dict[tuple[str, int], Tensor] = {}

    def keep(site: str):
        return lambda layer, value: seen.__setitem__((site, layer), value)

    sites = ["entry", "block", "hidden", "encoder.entry", "encoder.block", "encoder.hidden", "cross_attention.weights"]
    probe: dict[str, Any] = {site: keep(site) for site in sites}
    if reading.cleared:
        probe["entry"] = lambda layer, x: seen.setdefault((("entry"), 0), _cleared(x, reading))
    batch = reading.batch()
    return Pass(reading, batch, seen, model(batch, probe=probe))


def _cleared(x: Tensor, reading: Reading) -> Tensor:
    """Zeros in the frames that are padding."""
    assert reading.seen is not None
    there = [torch.arange(len(c)) < seen for c, seen in zip(reading.columns, reading.seen, strict=True)]
    return x * torch.cat(there)[:, None]


def _difference(name: str, ours: Tensor, theirs: Tensor, where: Tensor) -> Comparison:
    """ours, theirs: [batch, time, ...]; where: bool[batch, time]."""
    a, b = ours[where].double(), theirs[where].double()
    if a.shape != b.shape or not b.numel() or not a.isfinite().all():
        return Comparison(name, math.inf, 0.0)
    scale = max(1e-2, float(b.abs().max()))
    return Comparison(name, float((a - b).abs().max()), max(min(CEILING, TOLERANCE * scale), ROUNDING * scale))


STATE = re.compile(r"(?P<stack>encoder_|decoder_)?hidden(?:_states)?(?P<order>_TBD)?\.(?P<layer>\d+)")


def _states(forward: Pass, inputs: dict, outputs: dict, facts: Facts) -> Iterator[Comparison]:
    """Every layer's hidden states. The last one is normed, unless the table says that it is `bare`."""
    for name, theirs in outputs.items():
        found = STATE.fullmatch(name)
        side = "encoder." if name.startswith("encoder_") else ""
        depth = sum(site == f"{side}block" for site, _ in forward.seen)
        if found is not None:
            layer = int(found["layer"])
            last = "hidden" if layer == depth and facts.check.get("last", "normed") == "normed" else "block"
            key = (f"{side}entry", 0) if layer == 0 else (f"{side}{last}", 0 if last == "hidden" else layer - 1)
            theirs = theirs.transpose(0, 1) if found["order"] else theirs
        elif name in ("last_hidden_state", "encoder_last_hidden_state", "annotations"):
            side = "encoder." if name != "last_hidden_state" else side
            key = (f"{side}hidden", 0)
        else:
            continue
        columns = forward.reading.source_columns if side else forward.reading.columns
        ours, there = padded(forward.seen[key], columns, theirs)
        yield _difference(name, ours, theirs, there & _counted(theirs, inputs, outputs, side))


def _counted(theirs: Tensor, inputs: dict, outputs: dict, side: str = "") -> Tensor:
    """Where the reference's rows mean something: the compare_mask, by steps of three tokens if need be."""
    everywhere = torch.ones(theirs.shape[:2], dtype=torch.bool)
    mask = outputs.get("encoder_mask", inputs.get("compare_mask"))
    if mask is None or side:
        return everywhere
    for repeats in (1, 3):
        if mask.shape[1] * repeats == theirs.shape[1]:
            return mask.repeat_interleave(repeats, 1).bool()
    return everywhere


def _heads(model: Model, forward: Pass, inputs: dict, outputs: dict, facts: Facts) -> Iterator[Comparison]:
    """What heads say. `{head: name, every: n, at: k}` reads slot k of every n; `first` only each row's first."""
    for name, where in facts.check.get("outputs", {}).items():
        if name not in outputs:
            continue
        how = where if isinstance(where, dict) else {"head": where}
        if isinstance(how["head"], list):  # whichever of them the model has
            how = {**how, "head": next(head for head in how["head"] if head in model.architecture.heads)}
        theirs, hidden = outputs[name], forward.hidden
        said = hidden if how["head"] is None else model.read(how["head"], hidden)
        if how.get("first"):
            rows = said[torch.tensor(forward.batch.starts)]
            yield _difference(name, rows[:, None], theirs[:, None], torch.ones(len(rows), 1, dtype=torch.bool))
            continue
        step, at = how.get("every", 1), how.get("at", 0)
        columns = [kept[at::step] // step for kept in forward.reading.columns]
        starts = zip(forward.batch.mask.queries, forward.batch.starts, strict=True)
        slots = torch.cat([torch.arange(start + at, start + length, step) for length, start in starts])
        theirs = theirs if theirs.ndim == 3 else theirs[..., None]
        ours, there = padded(said[slots], columns, theirs)
        yield _difference(name, ours, theirs, there & _counted(theirs, inputs, outputs))
    yield from _alignments(forward, outputs)
    yield from _final_state(model, forward, outputs)


def _alignments(forward: Pass, outputs: dict) -> Iterator[Comparison]:
    if "attention" in outputs:
        theirs = outputs["attention"]
        ours = torch.zeros_like(theirs)
        for row, weights in enumerate(forward.seen[("cross_attention.weights", 0)]):
            ours[row, : weights.shape[1], forward.reading.source_columns[row]] = weights[0]
        yield _difference("attention", ours, theirs, torch.ones(theirs.shape[:2], dtype=torch.bool))


def _final_state(model: Model, forward: Pass, outputs: dict) -> Iterator[Comparison]:
    """What a recurrent decoder's cache holds when everything has been read."""
    if "final_state" in outputs:
        examples = forward.reading.examples
        session = begun(model, examples)
        ours, theirs = getattr(session.cache, "state", torch.empty(0))[:, None], outputs["final_state"][:, None]
        yield _difference("final_state", ours, theirs, torch.ones(theirs.shape[:2], dtype=torch.bool))


def _loss(model: Model, forward: Pass, inputs: dict, outputs: dict, facts: Facts) -> Comparison:
    terms = [t for t in facts.check["loss"] if t["head"] in model.architecture.heads and t["labels"] in inputs]
    total = sum(LOSSES[term["kind"]](model, forward, inputs, term, facts) for term in terms)
    return Comparison("loss", abs(float(total) - float(outputs["loss"])), 1e-5 * max(1.0, abs(float(outputs["loss"]))))


def _at_columns(forward: Pass, labels: Tensor) -> Tensor:
    """[batch, time] labels in the packed order of our slots."""
    return torch.cat([row[kept] for row, kept in zip(labels, forward.reading.columns, strict=True)])


def _cross_entropy(model: Model, forward: Pass, inputs: dict, term: dict, facts: Facts) -> Tensor:
    return F.cross_entropy(model.read(term["head"], forward.hidden), _at_columns(forward, inputs[term["labels"]]))


def _next_value(model: Model, forward: Pass, inputs: dict, term: dict, facts: Facts) -> Tensor:
    """Labels one slot further on, within each row."""
    labels = [row[kept] for row, kept in zip(inputs[term["labels"]], forward.reading.columns, strict=True)]
    shifted = torch.cat([torch.cat((row[1:], row.new_full((1,), -100))) for row in labels])
    return F.cross_entropy(model.read(term["head"], forward.hidden), shifted)


def _of_first(model: Model, forward: Pass, inputs: dict, term: dict, facts: Facts) -> Tensor:
    rows = forward.hidden[torch.tensor(forward.batch.starts)]
    return F.cross_entropy(model.read(term["head"], rows), inputs[term["labels"]])


def _binary(model: Model, forward: Pass, inputs: dict, term: dict, facts: Facts) -> Tensor:
    said = model.read(term["head"], forward.hidden)[:, 0]
    return F.binary_cross_entropy_with_logits(said, _at_columns(forward, inputs[term["labels"]]).float())


def _ctc(model: Model, forward: Pass, inputs: dict, term: dict, facts: Facts) -> Tensor:
    """Connectionist temporal classification over the frames that are no padding."""
    lengths = torch.tensor(forward.reading.seen or forward.batch.mask.queries)
    pieces = model.read(term["head"], forward.hidden).log_softmax(-1).split(forward.batch.mask.queries)
    labels = inputs[term["labels"]]
    return F.ctc_loss(
        torch.nn.utils.rnn.pad_sequence(list(pieces)), labels[labels >= 0], lengths, (labels >= 0).sum(1),
        blank=facts.id("pad_token_id"), reduction=facts.config.get("ctc_loss_reduction", "sum"),
        zero_infinity=facts.config.get("ctc_zero_infinity", False),
    )  # fmt: skip


LOSSES = {
    "aligned": _cross_entropy, "next": _next_value, "first": _of_first, "binary": _binary, "ctc": _ctc,
}  # fmt: skip


def _generations(model: Model, path: Path, inputs: dict, outputs: dict, facts: Facts) -> Iterator[Comparison]:
    """Stored generations: with the cache, greedy with and without an end, and beams."""
    meta_file = path / "meta.json"
    settings = json.loads(meta_file.read_text(encoding="utf-8")).get("generation") if meta_file.is_file() else None
    if settings is None:
        return
    given = prompts(model, inputs, facts, settings.get("decoder_start_token_id"))
    new, end, start = settings["max_new_tokens"], settings["eos_token_id"], settings["prompt_len"]
    ids, logits = _greedy(model, given, new)
    yield _ids("greedy_noeos_ids", ids.tolist(), outputs["greedy_noeos_ids"][:, start:], None)
    theirs = outputs["greedy_noeos_logits"]
    yield _difference("greedy_noeos_logits", logits, theirs, torch.ones(theirs.shape[:2], dtype=torch.bool))
    said = [tokens.streams["text"].values.tolist() for tokens in model.generate(given, "text", new, end=end)]
    yield _ids("greedy_ids", said, outputs["greedy_ids"][:, start:], end)
    for name, penalty, stopping in (("beam4", 1.0, "heuristic"), ("beam4_lp06_early", 0.6, "first")):
        beams = Beams(beams=4, length_penalty=penalty, stopping=stopping, returns=4, max_new=new)
        found = [h for each in model.beam_search(given, "text", beams, end=end) for h in each]
        said = [h.tokens.streams["text"].values.tolist() for h in found]
        yield _ids(f"{name}_ids", said, outputs[f"{name}_ids"][:, start:], end)
        scores, wanted = torch.tensor([[h.score] for h in found]), outputs[f"{name}_scores"][:, None]
        yield _difference(f"{name}_scores", scores, wanted, torch.ones_like(wanted, dtype=torch.bool))


def _greedy(model: Model, given: list, new: int) -> tuple[Tensor, Tensor]:
    """int64[prompts, new] likeliest ids one by one, and the logits they were chosen by."""
    session = begun(model, given)
    at = [behind(prompt.tokens, "text")[0] for prompt in given]
    logits = []
    for step in range(new):
        logits.append(model.read("text", session.last))
        chosen = logits[-1].argmax(-1).tolist()
        session.append([run_of("text", [value], position + step) for value, position in zip(chosen, at, strict=True)])
    return torch.stack([x.argmax(-1) for x in logits], 1), torch.stack(logits, 1)


def _ids(name: str, ours: list[list[int]], theirs: Tensor, end: int | None) -> Comparison:
    """How many sequences differ, up to and including the first end."""

    def cut(row: list[int]) -> list[int]:
        return row[: row.index(end) + 1] if end in row else row

    wrong = sum(cut(a) != cut(b) for a, b in zip(ours, theirs.tolist(), strict=True))
    return Comparison(name, float(wrong), 0.0)
