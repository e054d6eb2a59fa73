"""`anyformer fit|validate|test|predict`: Lightning's own command line around Learner and Mixture."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, NoReturn

from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from anyformer.errors import ConfigError, nearest
from anyformer.training import CheckpointDirectory, Checkpoints, Learner, Mixture, ProgressLines
from anyformer.training.deepspeed import require_ours
from anyformer.training.safe import require_safe


class Parser(LightningArgumentParser):
    """Lightning's parser. Its complaints are one sentence, with the nearest setting beside an unknown one."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        found = re.search(r"[Uu]nrecognized arguments: --([^\s=]+)|does not accept option '([^']+)'", message)
        if found is None:
            raise ConfigError(" ".join(message.split()))
        name = next(group for group in found.groups() if group)
        raise ConfigError(f"Unknown setting {name!r}.{nearest(name, _settings(self))} See `anyformer fit --help`.")


def _settings(parser: argparse.ArgumentParser) -> list[str]:
    """Every setting a parser knows, those of its subcommands included."""
    inner = [
        sub for action in parser._actions if isinstance(action, argparse._SubParsersAction)
        for sub in action._name_parser_map.values()
    ]  # fmt: skip
    own = [option.lstrip("-") for action in parser._actions for option in action.option_strings]
    return own + [setting for sub in inner for setting in _settings(sub)]


class CLI(LightningCLI):
    """Our plugin for checkpoint directories is always there; the configuration's callbacks replace our defaults."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = Parser(allow_abbrev=False, **kwargs)
        parser.add_argument("-c", "--config", action="config", help="Path to a configuration file in YAML.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("model.start", "data.start")  # weights and the tokenizers that they belong to
        parser.add_argument(
            "--safe", action="store_true",
            help="An experiment file is code: it can import anything, so run only what you trust. With --safe it is "
            "held to be data first: settings and registry names, no classes but a few listed ones, no URLs.",
        )  # fmt: skip

    def instantiate_classes(self) -> None:
        """One seed for all, unless the mixture has its own. What is saved of the configuration stays as it was given,
        so that it can be run again with another."""
        require_ours(self._get(self.config, "trainer.strategy"))
        super().instantiate_classes()
        if self._get(self.config, "data.seed") is None:
            self.datamodule.seed = int(self._get(self.config, "seed_everything") or 0)

    def instantiate_trainer(self, **kwargs: Any):
        chosen = self._get(self.config_init, "trainer", default={})
        plugins = [*_listed(chosen.get("plugins")), CheckpointDirectory()]
        callbacks = _listed(chosen.get("callbacks"))
        for flag, kind, default in (
            ("enable_checkpointing", Checkpoints, Checkpoints),
            ("enable_progress_bar", ProgressBar, ProgressLines),
        ):
            if chosen.get(flag) is not False and not any(isinstance(callback, kind) for callback in callbacks):
                callbacks.append(default())
        try:
            return super().instantiate_trainer(plugins=plugins, callbacks=callbacks, **kwargs)
        except (TypeError, ValueError) as error:  # how Lightning refuses a setting
            raise ConfigError(f"The trainer's settings: {' '.join(str(error).split())}") from error


def _listed(given: Any) -> list:
    """What Lightning takes as nothing, one or several."""
    return list(given) if isinstance(given, (list, tuple)) else [given] if given is not None else []


def run(arguments: list[str]) -> int:
    try:
        _run(arguments)
    except ModuleNotFoundError as error:  # a logger or callback whose package is an option
        raise ConfigError(f"The configuration needs a package that is not installed: {error}. Install it.") from error
    except MisconfigurationException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    return 0


def _run(arguments: list[str]) -> None:
    if "--safe" in arguments:
        require_safe(arguments[1:])
    CLI(
        Learner,
        Mixture,
        args=None if arguments == sys.argv[1:] else arguments,  # Lightning warns of arguments beside sys.argv's
        seed_everything_default=0,
        trainer_defaults={
            "use_distributed_sampler": False,  # the mixture's own sampler splits the order among ranks
            "enable_model_summary": False,
        },
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"prog": "anyformer"},
        auto_configure_optimizers=False,
    )
