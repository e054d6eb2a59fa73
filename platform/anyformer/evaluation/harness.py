"""A model in EleutherAI's lm-evaluation-harness, which brings tasks of its own (the extra `eval`):

    import lm_eval
    from lm_eval.tasks import TaskManager
    from anyformer.evaluation.harness import HarnessModel

    model = HarnessModel(af.load("runs/quickstart/last"), context=512)
    found = lm_eval.simple_evaluate(model, tasks=["my_task"],
                                    task_manager=TaskManager(include_path="my_tasks", include_defaults=False))

Without `include_defaults=False` the harness knows all its own tasks, most of which download their data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyformer.errors import ConfigError, PluginError
from anyformer.evaluation.likelihood import Likelihood, TextModel
from anyformer.model import Model

try:
    from lm_eval.api.model import LM
except ImportError as error:
    raise PluginError(
        "HarnessModel needs lm-evaluation-harness, which is not installed; expected lm-eval 0.4.9 or newer. "
        "Install the extra: pip install 'anyformer[eval]'."
    ) from error

MAX_NEW = 256
"""Tokens written where a request does not say how many, as in the harness' own models."""


class HarnessModel(LM):
    """What the harness asks of a model: how likely, how likely as a whole, and what is written.

    Requests are packed by token budget, in their own order; texts are cut and parted as `TextModel` does, which are
    the harness' own rules. settings: see TextModel.
    """

    def __init__(self, model: Model, **settings: Any) -> None:
        super().__init__()
        self.text = TextModel(model.eval(), **settings)
        self._device = model.device

    @property
    def tokenizer_name(self) -> str:
        """What the harness caches its requests under."""
        return self.text.model.tokenizers[self.text.tokenizer].fingerprint()

    def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """(log probability, whether greedy decoding would say it) of each (context, continuation)."""
        pairs = [request.args for request in requests]
        return self._remembered("loglikelihood", pairs, [_answer(f) for f in self.text.log_likelihoods(pairs)])

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """The log probability of each whole text, in windows that do not overlap."""
        texts = [request.args for request in requests]
        found = self.text.rolling([text for (text,) in texts])
        return self._remembered("loglikelihood_rolling", texts, [likelihood.total for likelihood in found])

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """What is written greedily behind each context, up to one of the strings that the request names.

        ConfigError for a request that wants to sample.
        """
        written: dict[int, str] = {}
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(_terms(request.args[1]), []).append(index)
        for (until, max_new), rows in groups.items():
            texts = self.text.write([requests[row].args[0] for row in rows], max_new, until)
            written |= dict(zip(rows, texts, strict=True))
        answers = [written[row] for row in range(len(requests))]
        return self._remembered("generate_until", [request.args for request in requests], answers)

    def _remembered(self, kind: str, arguments: Sequence[tuple], answers: list) -> list:
        """The answers, told to the harness' cache."""
        for given, answer in zip(arguments, answers, strict=True):
            self.cache_hook.add_partial(kind, given, answer)
        return answers


def _answer(found: Likelihood) -> tuple[float, bool]:
    return found.total, found.is_greedy


def _terms(wanted: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    """(until, most new tokens) of a request."""
    if wanted.get("do_sample") and wanted.get("temperature", 1.0):
        raise ConfigError("A request wants to sample (do_sample: true); expected greedy decoding. Set temperature: 0.")
    until = wanted.get("until") or ()
    most = next((wanted[name] for name in ("max_gen_toks", "max_new_tokens", "max_tokens") if name in wanted), MAX_NEW)
    return ((until,) if isinstance(until, str) else tuple(until)), int(most)
