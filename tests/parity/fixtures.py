"""A reference's folder with our model of it, and the comparison of any architecture with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from unittest.mock import patch

import references

from anyformer.architecture import Architecture
from anyformer.batch import Example
from anyformer.errors import AnyformerError
from anyformer.model import Model
from anyformer.weights import files, from_pretrained, pretrained
from anyformer.weights.fixture import READERS, Facts, Inputs, Reading
from anyformer.weights.parity import Comparison, compare
from anyformer.weights.table import Table, table_for


def sketched(family: str, directory: Path, seed: int = 0, regime: str = "ordinary") -> Path:
    """A reference's folder without generations: one forward pass is all that a switch needs to show."""
    reference = references.live(family, seed, regime)
    reference.prompt = None
    reference.write(directory, reference.outputs(), {"family": family, "regime": regime})
    return directory


@dataclass(frozen=True)
class Fixture:
    """One family in one regime."""

    family: str
    regime: str
    directory: Path

    @cached_property
    def config(self) -> dict:
        return files.read_config(self.directory)

    @cached_property
    def table(self) -> Table:
        return table_for(self.config)

    @cached_property
    def model(self) -> Model:
        """The import as it should be."""
        return from_pretrained(self.directory)

    @cached_property
    def computed(self) -> set[str]:
        """Tensors of ours that the file does not hold: tables that a model makes itself."""
        theirs = files.read_tensors(self.directory)
        found = {name: self.table.entry(name) for name in self.model.state_dict()}
        return {ours for ours, entry in found.items() if entry and entry[0].optional and entry[1][0] not in theirs}

    def compared(self, model: Model) -> list[Comparison]:
        """A model against the stored outputs. Who sees whom follows from the model's own stacks."""
        facts = Facts(self.config, {**self.table.check, "inputs": _directed(self.table.check["inputs"])})
        return compare(model, self.directory, facts)

    def refuses(self, architecture: Architecture) -> str | None:
        """Why the file cannot be imported as this architecture, or None if it can."""
        try:
            with patch.object(pretrained, "architecture_of", lambda table, config: architecture):
                from_pretrained(self.directory)
        except AnyformerError as error:
            return str(error)
        return None


def _directed(name: str) -> str:
    """The name of a reader that leaves to each stack's `causal` what `name` knows about its own reference."""
    own = f"{name}, directed by the stacks"
    if own not in READERS:
        READERS[own] = _with_directions(READERS[name])
    return own


def _with_directions(reader: Callable[[Model, Inputs, Facts], Reading]):
    def directed(model: Model, inputs: Inputs, facts: Facts) -> Reading:
        reading, architecture = reader(model, inputs, facts), model.architecture
        examples = [_prefixed(example, architecture) for example in reading.examples]
        # Hidden padding is a mask for a bidirectional stack; a causal one sees no later slot anyway.
        if architecture.backbone.causal:
            return replace(reading, examples=examples, seen=None, cleared=False)
        return replace(reading, examples=examples)

    return directed


def _prefixed(example: Example, architecture: Architecture) -> Example:
    def directed(one: Example, causal: bool) -> Example:
        return replace(one, prefix=0 if causal else one.tokens.length)

    source = example.source
    if source is not None and architecture.encoder is not None:
        source = directed(source, architecture.encoder.causal)
    return directed(replace(example, source=source), architecture.backbone.causal)
