"""From the command line to the first answer."""

from __future__ import annotations

import sys
from functools import partial

from anyformer.bench import Bar, Contender, Settings, Suite, Work


def spent(arguments: list[str], s: Settings) -> Work:
    """A process's whole life."""
    import resource
    import subprocess

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return Work(once)


def ours(s: Settings) -> Work:
    arguments = {"help": ["--help"], "list": ["list", "models"], "training": ["fit", "--help"]}[s.what]
    return spent([sys.executable, "-m", "anyformer", *arguments], s)


def python(code: str, s: Settings) -> Work:
    return spent([sys.executable, "-c", code], s)


SUITE = Suite(
    title="CPU seconds of a whole process: help, a list, and help that needs Lightning's command line.",
    unit="CPU s",
    contenders=[
        Contender("anyformer", ours),
        Contender("litgpt", partial(python, "import sys; sys.argv = ['litgpt', '--help']; "
                                    "from litgpt.__main__ import main; main()"), ("litgpt",), ("help",)),
        Contender("import torch", partial(python, "import torch"), (), ("training",)),
        Contender("import lightning.pytorch", partial(python, "import lightning.pytorch"), (), ("training",)),
    ],
    cases={"help": {"what": "help"}, "list": {"what": "list"}, "training": {"what": "training"}},
    full={},
    toy={},
    amount=True,
    seconds=0.0,
    bars=[Bar("help", at_most=0.3), Bar("list", at_most=0.3)],
)  # fmt: skip
