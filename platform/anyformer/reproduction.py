"""A published result in small, by name: rows of experiments, each trained, judged and timed.

A file of `configs/reproductions` names the rows. A row is one experiment, or several of which each begins with what the
one before it has learned:

    metric: accuracy                            # of the last experiment's task
    baseline: {of: TF-IDF and logistic regression, value: 0.813}
    rows:
      from scratch: [reviews]
      pre-trained: [{experiment: reviews-masked, set: {data.token_budget: 2048}}, reviews]
    headline: pre-trained                       # the last row, if it is not said; `mean`: the mean of all

Rows that begin alike share that beginning: it is trained once.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import lightning as L

from anyformer import presets
from anyformer.checkpoint import load
from anyformer.errors import ConfigError, EvaluationError, unknown
from anyformer.evaluation import evaluate, provenance
from anyformer.training import Checkpoints, Odometer, ProgressLines, TimeBudget
from anyformer.training.experiment import Experiment, read


def cpu_seconds() -> float:
    """User and system time of this process and of the children that it has waited for, since it began."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


BEFORE = "{before}"
"""In the place of a setting: the checkpoint of the step before."""


@dataclass(frozen=True)
class Step:
    """An experiment to train, by its name in `configs/experiments` or its file's path.

    set: values that differ, by place (`data.token_budget`). cpu_minutes: train for so long, whatever the machine,
    instead of the experiment's number of steps. take: the parts that it takes over from the one before it, see
    Learner.start_parts; by default all, and tokenizers. A value of `set` that is "{before}" is that one's checkpoint,
    and nothing else is taken over then: a learned tokenizer.
    """

    experiment: str
    set: Mapping[str, Any] = field(default_factory=dict)
    cpu_minutes: float | None = None
    take: Sequence[str] = ()

    def settings(self) -> Experiment:
        """The experiment with its changes."""
        file = Path(self.experiment) if self.experiment.endswith(".yaml") else None
        return read(file or presets.find("experiments", self.experiment)).changed(self.set)


MEAN = "mean"
"""A headline that is no row: the mean of all (folds, speakers that are left out in turn)."""


@dataclass(frozen=True)
class Reproduction:
    """What a file of `configs/reproductions` says.

    baseline: the reference's score, `{of, value}`; without one, the task's own first baseline is computed. task: which
    of the last experiment's tasks is judged, where it has several; judged, another one instead, `{name: settings}`;
    split, on which of its splits: "train" for what is to be learned by heart.
    For the tables of results: bars, what is hoped for; page, the one it stands on; peer, a script of `benchmarks` that
    does the same with other means.
    """

    name: str
    metric: str
    rows: Mapping[str, tuple[Step, ...]]
    headline: str
    baseline: Mapping[str, Any] | None = None
    task: str | None = None
    judged: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"
    bars: tuple[Mapping[str, Any], ...] = ()
    page: str = ""
    peer: str = ""

    @property
    def headlines(self) -> tuple[str, ...]:
        """The rows whose mean is the value: one, or all."""
        return (self.headline,) if self.headline in self.rows else tuple(self.rows)

    @classmethod
    def named(cls, name: str) -> Reproduction:
        """The one of this name, or the file at this path."""
        return cls.of(Path(name) if name.endswith(".yaml") else presets.find("reproductions", name))

    @classmethod
    def of(cls, path: Path) -> Reproduction:
        content = presets.read_mapping(path, "The reproduction")
        if not {"metric", "rows"} <= content.keys() or not isinstance(content["rows"], Mapping) or not content["rows"]:
            raise ConfigError(f"{path}: expected a mapping with `metric` and `rows`.")
        known = [f.name for f in fields(cls) if f.name != "name"]
        for key in content:
            if key not in known:
                raise unknown("reproduction setting", str(key), known)
        lists = {**content["rows"], "bars": content.get("bars", [])}
        wrong = next((name for name, entries in lists.items() if not isinstance(entries, list)), None)
        if wrong is not None:
            raise ConfigError(f"{path}: {wrong} is {lists[wrong]!r:.40}; expected a list.")
        rows = {str(row): tuple(step_of(path, entry) for entry in steps) for row, steps in content["rows"].items()}
        headline = content.get("headline", list(rows)[-1])
        if headline not in (*rows, MEAN):
            raise unknown("row", str(headline), [*rows, MEAN])
        rest = {key: value for key, value in content.items() if key not in ("rows", "headline", "bars")}
        return cls(path.stem, rows=rows, headline=headline, bars=tuple(content.get("bars", ())), **rest)


def step_of(path: Path, entry: Any) -> Step:
    settings = {"experiment": entry} if isinstance(entry, str) else entry
    if not isinstance(settings, Mapping) or "experiment" not in settings:
        raise ConfigError(
            f"{path}: a step is {entry!r}; expected an experiment's name, or a mapping with `experiment`."
        )
    known = [f.name for f in fields(Step)]
    for key in settings:
        if key not in known:
            raise unknown("step setting", str(key), known)
    return Step(**settings)


@dataclass(frozen=True)
class Row:
    """What one row came to. values: every metric of the task. cpu_seconds: to train all its steps, shared ones too, and
    to judge it. training_flops: of all its steps, counted operation by operation."""

    row: str
    value: float
    interval: tuple[float, float] | None
    values: Mapping[str, float | None]
    baselines: Mapping[str, float]
    cpu_seconds: float
    steps: int
    tokens: int
    training_flops: float


@dataclass
class Trained:
    """A checkpoint and what it cost."""

    checkpoint: Path
    experiment: Experiment
    cpu_seconds: float
    steps: int
    tokens: int
    flops: float


def reproduce(
    reproduction: Reproduction,
    out: Path,
    data_dir: str | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train and judge every row; the result as one line of JSON would hold it. Checkpoints and reports go to `out`."""
    commit, _ = provenance.commit()  # of the code that runs; hours later the checkout may hold another
    done: dict[str, Trained] = {}
    rows = []
    for name, steps in reproduction.rows.items():
        chain: list[Trained] = []
        for count in range(1, len(steps) + 1):
            key = json.dumps([asdict(step) for step in steps[:count]], sort_keys=True)
            if key not in done:
                say(f"{name}: training {steps[count - 1].experiment}")
                folder = out / f"{len(done):02d}-{Path(steps[count - 1].experiment).stem}"
                before = chain[-1].checkpoint if chain else None
                done[key] = train(steps[count - 1], folder, data_dir, seed, before)
            chain.append(done[key])
        rows.append(judge(reproduction, name, chain, out, data_dir, seed))
        say(f"{name}: {reproduction.metric} {rows[-1].value:.4f} in {rows[-1].cpu_seconds:.0f} CPU seconds")
    headline = [row for row in rows if row.row in reproduction.headlines]
    found = [next(iter(row.baselines.values())) for row in headline if row.baselines]
    computed = statistics.mean(found) if found else None
    result = {
        "name": reproduction.name,
        "metric": reproduction.metric,
        "value": statistics.mean(row.value for row in headline),
        "baseline": computed if reproduction.baseline is None else float(reproduction.baseline["value"]),
        "seed": seed,
        "cpu_seconds": round(cpu_seconds(), 2),
        "commit": commit,
    }
    return result | {"rows": [asdict(row) for row in rows]}


def train(step: Step, out: Path, data_dir: str | None, seed: int, before: Path | None) -> Trained:
    """One experiment into `out/last`, its weights and tokenizers from the checkpoint `before`, where there is one."""
    began = cpu_seconds()
    start = None if before is None else str(before)
    experiment = step.settings()
    if asked := [place for place, value in step.set.items() if value == BEFORE]:
        experiment, start = experiment.changed(dict.fromkeys(asked, start)), None
    L.seed_everything(seed, verbose=False)
    if start is not None and step.take:
        experiment = experiment.changed({"model.start_parts": list(step.take)})
    mixture = experiment.mixture(seed=seed, start=None if step.take else start, data_dir=data_dir)
    odometer = Odometer()
    callbacks = [Checkpoints(every_n_train_steps=10**9), ProgressLines(20.0), odometer]
    if step.cpu_minutes is None:
        experiment.train(mixture, out, callbacks, start)
    else:
        budget = TimeBudget(step.cpu_minutes, time.process_time)
        experiment.train(mixture, out, [*callbacks, budget], start, max_steps=-1)
    cost = cpu_seconds() - began
    return Trained(out / "last", experiment, cost, odometer.steps, odometer.tokens, odometer.flops)


def judge(
    reproduction: Reproduction, name: str, chain: Sequence[Trained], out: Path, data_dir: str | None, seed: int
) -> Row:
    """The row of one chain: its last checkpoint on the judged split of its task."""
    began = cpu_seconds()
    last = chain[-1]
    there = reproduction.judged or last.experiment.data["tasks"]
    tasks = {n: own_settings(s) for n, s in there.items() if reproduction.task in (None, n)}
    if len(tasks) != 1:
        raise ConfigError(
            f"Reproduction {reproduction.name!r}, row {name!r}: expected one task to judge; "
            f"say which (`task:`): {', '.join(there)}."
        )
    plan = {"seed": seed, "split": reproduction.split, "tasks": tasks, "baselines": reproduction.baseline is None}
    report = evaluate(
        load(last.checkpoint),
        plan,
        out / f"report-{_slug(name)}",
        data_dir=data_dir,
        checkpoint=str(last.checkpoint),
    )
    found = {result.metric: result for result in report.results}
    if reproduction.metric not in found:
        raise unknown("metric", reproduction.metric, found)
    result = found[reproduction.metric]
    if result.value is None:
        raise EvaluationError(f"Reproduction {reproduction.name!r}, row {name!r}: {result.error}")
    return Row(
        row=name,
        value=result.value,
        interval=result.interval,
        values={metric: row.value for metric, row in found.items()},
        baselines=result.baselines,
        cpu_seconds=round(sum(part.cpu_seconds for part in chain) + cpu_seconds() - began, 2),
        steps=sum(part.steps for part in chain),
        tokens=sum(part.tokens for part in chain),
        training_flops=sum(part.flops for part in chain),
    )


def own_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """A task's settings without those that only a mixture reads."""
    return {key: value for key, value in (settings or {}).items() if key not in ("weight", "loss_weight", "samples")}


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-")
