"""The evaluation job: every task of a configuration, one model, one report.

A task's rows are a function of the model, its own settings and (seed, its name): never of which other tasks
ran, in which order, or how they ended.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from anyformer.contracts import Metric, Sample, Score, Task, Tokenizer
from anyformer.errors import AnyformerError, ConfigError, ContractError, unknown
from anyformer.evaluation import provenance
from anyformer.evaluation.finished import Finished, Outcome
from anyformer.evaluation.plan import Entry, Plan, read_plan
from anyformer.evaluation.report import UNKNOWN, Exhibit, Part, Report, Result, SampleScore, writable
from anyformer.evaluation.statistics import key, mean_interval, weighted_mean
from anyformer.registry import make_task

if TYPE_CHECKING:
    from anyformer.model import Model

log = logging.getLogger(__name__)

EXHIBITS = 6  # samples of a task that the page shows
LONGEST_ERROR = 600  # characters: the tail of a library's message helps nobody in a table


def evaluate(
    model: Model,
    config: Path | str | Mapping[str, Any],
    out: Path | str | None = None,
    *,
    seed: int | None = None,
    data_dir: str | None = None,
    commit: str | None = None,
    checkpoint: str | None = None,
) -> Report:
    """Score `model` on every task of `config`, a YAML file or the mapping it would hold::

        seed: 0
        split: test
        tasks:
          digits: {}
          short: {type: digits, limit: 50}   # another name, the first setting of an entry says which task

    out: the folder for report.json, samples.jsonl, report.md and report.html; nothing is written without it.
    seed, data_dir: instead of the configuration's. commit: instead of this repository's. checkpoint: what to call the
    model in the report.

    ConfigError says what is wrong with the configuration or `out` before anything runs. After that, whatever
    a task raises becomes the `error` of its rows. The model comes back in the mode it was in.
    """
    plan = read_plan(config, seed, data_dir)
    folder = writable(out)
    tasks = [_made(entry, plan) for entry in plan.entries]
    found, changed = provenance.commit()
    finished = Finished(folder, _identity(checkpoint, plan))
    outcomes = []
    for entry, task in zip(plan.entries, tasks, strict=True):
        outcomes.append(finished.get(asdict(entry)) or _run(entry, task, model, plan))
        finished.keep(asdict(entry), outcomes[-1])
    report = Report(
        results=[result for outcome in outcomes for result in outcome.results],
        samples=[sample for outcome in outcomes for sample in outcome.samples],
        seed=plan.seed,
        config=plan.config(),
        commit=commit or found,
        uncommitted_changes=None if commit else changed,
        machine=provenance.machine(),
        checkpoint=checkpoint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        exhibits=[exhibit for outcome in outcomes for exhibit in outcome.exhibits],
    )
    if folder is not None:
        report.save(folder)
        finished.clear()
    return report


def _identity(checkpoint: str | None, plan: Plan) -> str | None:
    """What rows depend on beside their own settings; None for a model that no file vouches for."""
    folders = [] if checkpoint is None else [Path(checkpoint), Path(checkpoint) / "last"]
    manifest = next((path for path in (folder / "manifest.json" for folder in folders) if path.is_file()), None)
    if manifest is None:
        return None
    settings = [plan.seed, plan.split, plan.baselines, plan.data_dir, provenance.content()]
    return f"{manifest.read_text(encoding='utf-8')} {settings}"


def _made(entry: Entry, plan: Plan) -> Task | Exception:
    """The task, or why it could not be made; only a mistake in the configuration stops the job."""
    try:
        with _seeded(plan.seed, entry.name):
            task = make_task(entry.type, entry.settings, entry.objective, plan.data_dir)
        for metric in entry.bars:
            if metric not in [known.name for known in task.metrics]:
                raise unknown(f"metric in the bars of task {entry.name!r}:", metric, [m.name for m in task.metrics])
        return task
    except ConfigError:
        raise
    except Exception as error:
        return error


def _run(entry: Entry, task: Task | Exception, model: Model, plan: Plan) -> Outcome:
    started = time.perf_counter()
    try:
        if isinstance(task, Exception):
            raise task
        with _evaluating(model), _seeded(plan.seed, entry.name):
            samples, scores = _scores(entry, task, model, plan)
    except Exception as error:
        outcome = Outcome(_failed(entry, task, error, time.perf_counter() - started))
        log.warning("%s failed: %s", entry.name, outcome.results[0].error)
        log.debug("%s failed", entry.name, exc_info=error)
        return outcome
    seconds = time.perf_counter() - started
    clusters = {sample.id: sample.cluster for sample in samples}
    kept = [
        SampleScore(
            entry.name,
            score.id,
            score.cluster or clusters.get(score.id, "") or score.id,
            score.metric,
            float(score.value),
            float(score.weight),
        )
        for score in scores
    ]
    baselines, trouble = _baselines(entry, task, plan)
    results = [_result(entry, task, metric, kept, baselines, trouble, seconds, plan) for metric in task.metrics]
    for row in results:
        log.info("%s %s: %s (%d samples, %.1f s)", row.task, row.metric, row.value, row.n, row.seconds)
    return Outcome(results, kept, _exhibits(entry.name, scores, task, model.tokenizers))


def _scores(entry: Entry, task: Task, model: Model, plan: Plan) -> tuple[Sequence[Sample], list[Score]]:
    """The samples and all their scores. ContractError for a metric that the task does not declare."""
    for tokenizer in task.fields.values():
        if tokenizer not in model.tokenizers:
            raise ConfigError(
                f"Task {entry.name!r} needs the tokenizer {tokenizer!r}; the model has: "
                f"{', '.join(sorted(model.tokenizers)) or 'none'}. Train with that task or leave it out."
            )
    samples = _limited(task.examples(plan.split), entry, plan)
    names = {metric.name for metric in task.metrics}
    scores = []
    for score in task.score(model, samples):
        if score.metric not in names:
            raise ContractError(
                f"Task {entry.name!r} scored sample {score.id!r} on {score.metric!r}; "
                f"expected one of its metrics: {', '.join(sorted(names))}."
            )
        scores.append(score)
    return samples, scores


def _limited(samples: Sequence[Sample], entry: Entry, plan: Plan) -> Sequence[Sample]:
    """At most `limit` samples, drawn over the whole split: its head may hold one class or one document."""
    if entry.limit is None or len(samples) <= entry.limit:
        return samples
    chosen = np.random.default_rng(key(plan.seed, entry.name, "limit")).choice(len(samples), entry.limit, replace=False)
    return [samples[index] for index in sorted(chosen.tolist())]


def _baselines(entry: Entry, task: Task, plan: Plan) -> tuple[Mapping[str, Mapping[str, float]], str | None]:
    """The task's baselines and what went wrong with them. They are stated for the test split: beside another
    split they would mislead, so there are none."""
    if plan.split != "test" or not plan.baselines:
        return {}, None
    try:
        with _seeded(plan.seed, entry.name, "baselines"):
            found = task.baselines()
            return {
                metric: {method: float(value) for method, value in methods.items()} for metric, methods in found.items()
            }, None
    except Exception as error:
        return {}, f"The baselines could not be computed: {_sentence(error)}"


def _result(
    entry: Entry,
    task: Task,
    metric: Metric,
    samples: Sequence[SampleScore],
    baselines: Mapping[str, Mapping[str, float]],
    trouble: str | None,
    seconds: float,
    plan: Plan,
) -> Result:
    """One row from a metric's samples; scores that cannot be averaged leave it without a value."""
    samples = [sample for sample in samples if sample.metric == metric.name]
    values, weights = [sample.score for sample in samples], [sample.weight for sample in samples]
    clusters = [sample.cluster for sample in samples]
    error = _objection(entry.name, metric.name, samples)
    methods = baselines.get(metric.name, {})
    return Result(
        task=entry.name,
        modality=task.modality,
        metric=metric.name,
        value=None if error else weighted_mean(values, weights),
        baseline=next(iter(methods.values()), None),
        n=len(samples),
        higher_is_better=metric.higher_is_better,
        interval=None if error else mean_interval(values, weights, clusters, key(plan.seed, entry.name, metric.name)),
        baselines=methods,
        clusters=len(set(clusters)),
        seconds=round(seconds, 3),
        error=error or trouble,
        bar=entry.bars.get(metric.name),
    )


def _objection(task: str, metric: str, samples: Sequence[SampleScore]) -> str | None:
    """Why these scores have no mean, as one sentence."""
    if not samples:
        return f"Task {task!r} gave no scores on {metric!r}; expected one for every sample."
    for sample in samples:
        if not math.isfinite(sample.score):
            return f"Sample {sample.id!r} scored {sample.score} on {metric!r}; expected a finite number."
        if not (math.isfinite(sample.weight) and sample.weight >= 0):
            return f"Sample {sample.id!r} weighs {sample.weight} on {metric!r}; expected 0 or a positive number."
    if not any(sample.weight for sample in samples):
        return f"All samples weigh 0 on {metric!r}; expected a positive weight somewhere."
    name, times = Counter(sample.id for sample in samples).most_common(1)[0]
    if times > 1:
        return f"Sample {name!r} was scored {times} times on {metric!r}; expected ids that occur once."
    return None


def _failed(entry: Entry, task: Task | Exception, error: Exception, seconds: float) -> list[Result]:
    """A row for each metric without a value; one row when not even the metrics are known."""
    known = isinstance(task, Task)
    return [
        Result(
            task=entry.name,
            modality=task.modality if isinstance(task, Task) else UNKNOWN,
            metric=metric.name,
            value=None,
            baseline=None,
            n=0,
            higher_is_better=metric.higher_is_better,
            seconds=round(seconds, 3),
            error=_sentence(error),
            bar=entry.bars.get(metric.name),
        )
        for metric in (task.metrics if known else (Metric(UNKNOWN, higher_is_better=True),))
    ]


def _sentence(error: Exception) -> str:
    """Our own errors are sentences already; others need their type to make sense."""
    words = " ".join(str(error).split())
    if not isinstance(error, AnyformerError):
        words = f"{type(error).__name__}: {words}" if words else f"{type(error).__name__}."
    return words if len(words) <= LONGEST_ERROR else words[: LONGEST_ERROR - 1] + "…"


def _exhibits(name: str, scores: Sequence[Score], task: Task, tokenizers: Mapping[str, Tokenizer]) -> list[Exhibit]:
    """A few scores, evenly over the task, among those with the most to show: good and bad as they come."""
    most = max((len(score.shown) for score in scores), default=0)
    rich = [score for score in scores if most and len(score.shown) == most]
    count = min(EXHIBITS, len(rich))
    chosen = [rich[round((index + 0.5) * len(rich) / count - 0.5)] for index in range(count)]
    return [
        Exhibit(
            name,
            score.id,
            score.metric,
            float(score.value),
            [part for label, raw in score.shown.items() for part in _parts(label, raw, task, tokenizers)],
        )
        for score in chosen
    ]


def _parts(label: str, raw: Any, task: Task, tokenizers: Mapping[str, Tokenizer]) -> list[Part]:
    """A field's raw value as its tokenizer renders it, anything else as text."""
    if label not in task.fields:
        return [Part(label, "text/plain", str(raw))]
    try:
        rendered = tokenizers[task.fields[label]].render(raw)
        return [Part(label, mime, content) for mime, content in rendered.items()]
    except Exception as error:  # what cannot be shown must not cost the score
        return [Part(label, "text/plain", f"cannot be shown ({_sentence(error)})")]


@contextmanager
def _evaluating(model: Model) -> Generator[None]:
    """Eval mode without gradients; afterwards every module is in the mode it was in, frozen ones included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _seeded(*parts: object) -> Generator[None]:
    """All global generators seeded from `parts`; the caller's own random numbers go on undisturbed."""
    seed = key(*parts)
    before, before_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(before_numpy)
