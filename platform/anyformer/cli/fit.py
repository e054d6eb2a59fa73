"""`anyformer fit|validate|test|predict`: Lightning's own command line around Learner and Mixture."""

from __future__ import annotations

import re
import sys
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from anyformer.errors import nearest
from anyformer.training import CheckpointDirectory, Checkpoints, Learner, Mixture, ProgressLines


class Parser(LightningArgumentParser):
    """Lightning's parser, with the nearest known setting beside an unknown one."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        known = [option.lstrip("-") for action in self._actions for option in action.option_strings]
        unrecognised = re.search(r"[Uu]nrecognized arguments: --(\S+)|[Kk]ey[^\"']*[\"']([\w.]+)[\"']", message)
        name = next((group for group in unrecognised.groups() if group), "") if unrecognised else ""
        hint = nearest(name.split("=")[0], known) if name else ""
        print(f"anyformer: {message.strip()}{hint}", file=sys.stderr)
        sys.exit(2)


class CLI(LightningCLI):
    """Our plugin for checkpoint directories is always there; callbacks of the configuration join the defaults."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action="config", help="Path to a configuration file in YAML.")
        return parser

    def instantiate_trainer(self, **kwargs: Any):
        given = self._get(self.config_init, "trainer", default={}).get("plugins") or []
        plugins = given if isinstance(given, list) else [given]
        return super().instantiate_trainer(plugins=[*plugins, CheckpointDirectory()], **kwargs)


def run(arguments: list[str]) -> int:
    CLI(
        Learner,
        Mixture,
        args=arguments,
        trainer_defaults={
            "callbacks": [Checkpoints(), ProgressLines()],
            "use_distributed_sampler": False,  # the mixture's own sampler splits the order among ranks
            "enable_model_summary": False,
        },
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"prog": "anyformer"},
        auto_configure_optimizers=False,
    )
    return 0
