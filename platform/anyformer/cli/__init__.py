"""`anyformer COMMAND …`. Arguments are read before torch is imported, so help and lists answer at once.

Exit status: 0 success; 1 a check, task or bar failed; 2 the command line or a configuration is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from anyformer.errors import AnyformerError, ConfigError, nearest, unknown
from anyformer.imports import lean, without_collecting

LIGHTNING = ("fit", "validate", "test", "predict")


@dataclass(frozen=True)
class Command:
    """A subcommand: one line of help, its arguments, and the module whose `run` does it (imported on use)."""

    help: str
    module: str
    arguments: Callable[[argparse.ArgumentParser], None]


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", required=True, nargs="+", metavar="DIR",
        help="a checkpoint directory; of several, each has a report and is compared with the first",
    )  # fmt: skip
    parser.add_argument("--config", required=True, metavar="FILE", help="which tasks, as YAML; bars missed exit with 1")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the report goes, or a folder for each")
    parser.add_argument("--seed", type=int, help="instead of the configuration's")
    parser.add_argument("--data_dir", metavar="DIR", help="where tasks that read files find them")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default cpu)")


def _study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a name of `anyformer list studies`")
    parser.add_argument("--checkpoint", metavar="DIR", help="a checkpoint directory, where the study asks a model")
    parser.add_argument("--config", metavar="FILE", help="the study's settings, as YAML")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="settings that differ: shots=4"
    )
    parser.add_argument("--out", metavar="DIR", help="where study.json, study.md and the study's own files go")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default cpu)")


def _generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint directory")
    parser.add_argument(
        "--input", action="append", default=[], metavar="TOKENIZER=VALUE",
        help="what is given, in order: image=photo.png, audio=clip.wav, text='once upon'",
    )  # fmt: skip
    parser.add_argument("--output", default="text", metavar="TOKENIZER", help="what is generated (default text)")
    parser.add_argument("--prompt", metavar="TEXT", help="text to continue; the same as --input text=TEXT, left open")
    parser.add_argument("--max-new", type=int, default=64, help="the most new tokens (default 64)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, help="sample among the k likeliest")
    parser.add_argument("--top-p", type=float, help="sample among the likeliest that hold this much probability")
    parser.add_argument("--min-p", type=float, help="sample among those at least this part as likely as the likeliest")
    parser.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1: what was said is less likely")
    parser.add_argument("--no-repeat-ngram", type=int, metavar="N", help="say no run of N tokens twice")
    parser.add_argument("--beams", type=int, metavar="N", help="search for the likeliest continuation, N at a time")
    parser.add_argument("--length-penalty", type=float, default=1.0, metavar="X", help="of --beams: more is longer")
    parser.add_argument("--log-probabilities", action="store_true", help="each token's, in nats, on stderr")
    parser.add_argument("--seed", type=int, default=0)


def _list(parser: argparse.ArgumentParser) -> None:
    kinds = (
        *("tokenizers", "tasks", "objectives", "studies", "models"),
        *("experiments", "evaluations", "reproductions", "matrices"),
    )
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--json", action="store_true", help="one JSON array on stdout")


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=["tokenizer", "task", "weights", "checkpoint"])
    parser.add_argument("name", help="of the tokenizer or task; for weights and checkpoints, a directory")
    parser.add_argument("--config", metavar="FILE", help="an experiment whose settings for it are used")


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a directory of published weights, a hub id, or a checkpoint")
    parser.add_argument("target", metavar="DST", help="a new directory")
    parser.add_argument("--family", help="the published layout to write; by default where the model came from")
    parser.add_argument("--grid", metavar="ROWSxCOLUMNS", help="of patches: a model of pictures at another resolution")


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", metavar="DIR", help="a checkpoint directory")
    parser.add_argument("--model", metavar="NAME_OR_DIR", help="or an architecture, or published weights")
    parser.add_argument("--prompt", metavar="TEXT", help="text to read")
    parser.add_argument("--answer", metavar="TEXT", help="what a decoder reads, the prompt being its source")
    parser.add_argument("--input", action="append", default=[], metavar="TOKENIZER=VALUE", help="more to read")
    parser.add_argument("--image", metavar="FILE", help="the same as --input image=FILE")
    parser.add_argument("--audio", metavar="FILE", help="the same as --input audio=FILE")
    parser.add_argument("--stream", metavar="NAME", help="the predicted stream in whose words layers are read")
    parser.add_argument("--quick", action="store_true", help="without what each head matters: a pass a head")
    parser.add_argument("--out", default="inspection.html", metavar="FILE", help="the page (default inspection.html)")


def _diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="MODEL", help="a name of `anyformer list models`, or a YAML file")
    parser.add_argument("others", metavar="MODEL", nargs="+", help="each is compared with the one before it")


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=8.0, help="for training and evaluation together (default 8)")
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="checkpoint and report (default runs/demo)")
    parser.add_argument("--seed", type=int, default=0)


def _reproduce(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of `anyformer list reproductions`, or a YAML file's path")
    parser.add_argument("--data_dir", metavar="DIR", help="the folder that holds the data sets' folders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="DIR", help="checkpoints and reports (default runs/reproduce/NAME-SEED)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default 1, as references were timed)")


def _record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", required=True, metavar="ID", help="a gymnasium environment")
    parser.add_argument(
        "--policy", nargs="+", default=["random"], metavar="POLICY",
        help="random, expert, noisy, noisy:0.05 or a checkpoint's directory; several take turns",
    )  # fmt: skip
    parser.add_argument("--episodes", type=int, default=100, metavar="N", help="in all (default 100)")
    parser.add_argument("--out", required=True, metavar="DIR", help="where episodes.npz and a page about them go")
    parser.add_argument("--minari", metavar="NAME", help="also a Minari data set of this name, walker/mixed-v0")
    parser.add_argument("--target", type=float, default=0.0, help="the return that a checkpoint is asked for")
    parser.add_argument("--context", type=int, default=20, help="the most steps that a checkpoint sees (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; each has the next one")


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="MODEL", help="a name of `anyformer list models`, or a YAML file"
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[8], metavar="N", help="a column for each (default 8)")
    for name, kind, help in (
        ("tokens", float, "of the whole run (default 1e12)"),
        ("batch", int, "tokens of an optimiser step (default 4194304)"),
        ("micro", int, "tokens of a micro-batch on a GPU (default 16384)"),
        ("peak", float, "FLOP/s of a GPU in bfloat16 (default 989e12)"),
        ("mfu", float, "the part of them that is made use of (default 0.4)"),
        ("price", float, "dollars of a GPU for an hour (default 2.5)"),
        ("link", float, "bytes/s between GPUs (default 50e9)"),
        ("disk", float, "bytes/s at which a checkpoint is written (default 1e9)"),
        ("samples", int, "of a shard (default 8192)"),
        ("token", float, "bytes of a token in a shard (default 2)"),
        ("encoded", float, "tokens/s that a core prepares (default 5e5)"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=help)


def _prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="an experiment: its tasks and tokenizers")
    parser.add_argument("--out", required=True, metavar="DIR", help="where shards go; what is there already is kept")
    parser.add_argument(
        "--splits", nargs="+", default=["train", "validation"], metavar="SPLIT",
        help="which are written (default train validation); the others are read from raw data",
    )  # fmt: skip
    parser.add_argument("--samples", type=int, default=8192, metavar="N", help="of a shard (default 8192)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N",
        help="processes (default: one a core); 0 is this one, without Ray",
    )  # fmt: skip
    parser.add_argument("--address", help="of a Ray cluster, or auto (default: processes of this machine)")
    parser.add_argument("--data_dir", metavar="DIR", help="where tasks that read files find them")


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="REPORT", help="a report's directory or report.json")
    parser.add_argument("second", metavar="REPORT")


def _chaos(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="*", help="of `anyformer chaos --list`")
    parser.add_argument("--list", action="store_true", help="the trials, how many make the full figure, what they try")
    parser.add_argument("--n", type=int, help="how many more (default: what the full figure lacks)")
    parser.add_argument("--seed", type=int, default=0, help="other trials of the same kinds (default 0)")
    parser.add_argument("--out", default="runs/chaos", metavar="DIR", help="the ledger's folder (default runs/chaos)")
    parser.add_argument("--page", metavar="FILE", help="write what the ledger holds as a page of Markdown")


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="*", help="of `anyformer bench --list`, or a suite's file")
    parser.add_argument("--list", action="store_true", help="the suites, and what each compares")
    parser.add_argument("--toy", action="store_true", help="at a size that only shows that it works")
    parser.add_argument("--rounds", type=int, help="turns that each contender takes (default: the suite's)")
    parser.add_argument("--threads", type=int, default=1, help="of each contender (default 1)")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu",
        help="cuda: suites of models on an accelerator, without names all of them, checked against the processor",
    )  # fmt: skip
    parser.add_argument("--out", default="runs/bench", metavar="DIR", help="the JSON's folder (default runs/bench)")
    parser.add_argument("--page", metavar="FILE", help="write what the folder holds as a page of Markdown")


COMMANDS: dict[str, Command] = {
    "demo": Command("train one backbone on four modalities, evaluate it, print the report", "demo", _demo),
    "fit": Command("train: --config FILE [--a.b=c …]; resume with --ckpt_path last", "fit", lambda p: None),
    "validate": Command("losses on the validation split", "fit", lambda p: None),
    "test": Command("losses on the test split", "fit", lambda p: None),
    "predict": Command("losses per batch of the test split", "fit", lambda p: None),
    "evaluate": Command("score a checkpoint on the tasks of a configuration; writes a report", "evaluate", _evaluate),
    "reproduce": Command("a published result in small: train, judge, one line of JSON", "reproduce", _reproduce),
    "study": Command("a published question put to a checkpoint, or to data alone; prints a table", "study", _study),
    "prepare": Command("an experiment's data as encoded shards, in parallel; again, to go on", "prepare", _prepare),
    "plan": Command("what a long run needs: memory, time, money, checkpoints, data", "plan", _plan),
    "record": Command("episodes of policies in an environment, for others to learn from", "record", _record),
    "compare": Command("two reports side by side, with intervals and a paired test", "compare", _compare),
    "generate": Command("let a checkpoint speak: text from text, image, audio", "generate", _generate),
    "list": Command("what there is: tokenizers, tasks, objectives, studies, models, experiments …", "listing", _list),
    "diff": Command("two or more architectures, switch by switch", "diff", _diff),
    "inspect": Command("look inside: attention, memories, logit lens, heads, as one page", "inspect", _inspect),
    "convert": Command("published weights into a checkpoint, or the other way round", "convert", _convert),
    "check": Command("tokenizers and tasks against their contract, weights and checkpoints as well", "check", _check),
    "chaos": Command("try what is promised under faults, one process each, and keep count", "chaos", _chaos),
    "bench": Command("ours and others, in turn, on the same work: speed and memory", "bench", _bench),
    "doctor": Command("versions, devices, plugins: what is broken and how to mend it", "doctor", lambda p: None),
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Complains in one sentence, with the nearest name, rather than with its usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"`{self.prog}`: {message}. See `{self.prog} --help`.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise unknown(action.dest, value, action.choices)


def main(argv: Sequence[str] | None = None) -> None:
    """The console script."""
    # Threads that spin while they wait starve each other when anything else runs: on 2 cores with one busy neighbour
    # a training step is twice as fast without, on an idle machine about a tenth slower. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        sys.exit(_run(arguments))
    except ConfigError as error:
        sys.exit(_say(error, 2))
    except AnyformerError as error:
        sys.exit(_say(error, 1))
    except BrokenPipeError:  # the reader of our output (head, less) has closed it
        sys.stderr.close()
        sys.exit(0)


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name == "--version":
        from anyformer import __version__

        print(f"anyformer {__version__}")
        return 0
    if name not in COMMANDS:
        raise ConfigError(f"Unknown command {name!r}.{nearest(name, COMMANDS)} See `anyformer --help`.")
    module = f"anyformer.cli.{COMMANDS[name].module}"
    if name in LIGHTNING:
        return _imported(module).run(arguments)
    parser = Parser(f"anyformer {name}", description=COMMANDS[name].help, allow_abbrev=False)
    COMMANDS[name].arguments(parser)
    _refuse_unknown(parser, arguments[1:])
    parsed = parser.parse_args(arguments[1:])  # `--help` ends here, before anything heavy is imported
    return _imported(module).run(parsed)


def _imported(module: str) -> Any:
    lean()
    with without_collecting():
        return import_module(module)


def _refuse_unknown(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """argparse first complains of what is missing; the misspelt option that caused it is the better news."""
    known = [option for action in parser._actions for option in action.option_strings]
    for argument in arguments:
        option = argument.split("=")[0]
        if option.startswith("--") and option not in known:
            raise ConfigError(f"Unknown option {option!r} of `{parser.prog}`.{nearest(option, known)}")


def overview() -> str:
    """What `anyformer --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "anyformer: anything that can be tokenized goes through one transformer.",
            "",
            "usage: anyformer COMMAND [arguments]        anyformer COMMAND --help",
            "",
            *lines,
        ]
    )


def _say(error: AnyformerError, status: int) -> int:
    print(f"anyformer: {error}", file=sys.stderr)
    return status
