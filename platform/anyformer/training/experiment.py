"""An experiment file as data, and run: what `fit` does through Lightning's command line, for what has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from anyformer import presets
from anyformer.errors import ConfigError, unknown
from anyformer.training.checkpointing import CheckpointDirectory
from anyformer.training.data import Mixture
from anyformer.training.learner import Learner

SECTIONS = ("model", "data", "trainer")


@dataclass(frozen=True)
class Experiment:
    """The three sections of `configs/experiments/*.yaml`."""

    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]

    def mixture(self, **chosen: Any) -> Mixture:
        """The data module with these settings beside the file's, its tokenizers fitted."""
        settings: dict[str, Any] = self.data | chosen
        mixture = Mixture(**settings)
        mixture.setup()
        return mixture

    def train(
        self, mixture: Mixture, out: Path, callbacks: Sequence[Callback], start: str | None = None, **chosen: Any
    ) -> None:
        """Train into `out/last`, without validation. chosen: settings of the trainer beside the file's. start: see
        Learner."""
        ours: dict[str, Any] = {"default_root_dir": str(out), "logger": False, "limit_val_batches": 0}
        settings: dict[str, Any] = self.trainer | ours | chosen
        trainer = L.Trainer(
            **settings, callbacks=list(callbacks), plugins=[CheckpointDirectory()], enable_model_summary=False
        )
        learned: dict[str, Any] = self.model | {"start": start}
        trainer.fit(Learner(**learned), datamodule=mixture)

    def changed(self, changes: Mapping[str, Any]) -> Experiment:
        """With other values at these places, `{"data.token_budget": 512}`; a place that is new is made.

        ConfigError for a place that lies in no section, or within something that is no mapping.
        """
        sections: dict[str, Any] = {name: deepcopy(getattr(self, name)) for name in SECTIONS}
        for place, value in changes.items():
            *outer, last = place.split(".")
            if not outer or outer[0] not in SECTIONS:
                raise unknown("section", outer[0] if outer else place, SECTIONS)
            there: Any = sections
            for depth, name in enumerate(outer, start=1):
                there = there.setdefault(name, {})
                if not isinstance(there, dict):
                    raise ConfigError(f"{place} cannot be set: {'.'.join(outer[:depth])} is {there!r}, no mapping.")
            there[last] = value
        return Experiment(**sections)


def read(path: Path) -> Experiment:
    """Plain values only; ConfigError names an unreadable file or an unknown section."""
    content = presets.read_mapping(path, "The experiment")
    sections = {key: value for key, value in content.items() if key != "seed_everything"}
    for key in sections:
        if key not in SECTIONS:
            raise unknown("section", str(key), SECTIONS)
        if not isinstance(sections[key] or {}, dict):
            raise ConfigError(
                f"The experiment {path} has {key}: {sections[key]!r:.40}; expected a mapping of settings."
            )
    return Experiment(*(sections.get(key) or {} for key in SECTIONS))
