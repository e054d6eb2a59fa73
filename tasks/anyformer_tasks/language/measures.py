"""How written answers are judged against right ones, text by text, so that their means are the published numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import numpy as np
from jaxtyping import Float

from anyformer.contracts import Metric
from anyformer_tasks.in_context.open_qa import normalised
from anyformer_tasks.packages import require

Judge = Callable[[Sequence[str], Sequence[Sequence[str]]], Mapping[str, Sequence[float]]]
"""(what was said, for each the texts that are right) → by metric a value for each."""


@dataclass(frozen=True)
class Measure:
    """metrics: their names; higher is better. package: the optional one that judges, if there is one."""

    names: tuple[str, ...]
    judge: Judge
    package: str = ""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(Metric(name, higher_is_better=True) for name in self.names)

    def require(self) -> None:
        """PluginError where the package is missing."""
        if self.package:
            require(self.package, "metrics", f"{', '.join(self.names)} is judged by")


def bleu(said: Sequence[str], wanted: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """Corpus BLEU by sacrebleu as it comes: `case:mixed|eff:no|tok:13a|smooth:exp` (arXiv:1804.08771).

    A corpus' BLEU (Papineni et al. 2002, P02-1040 §2.3) is no mean of its texts' own. What a text scores here is the
    corpus' BLEU and the text's first-order influence on it, as for `perplexities`: their mean is that BLEU, and the
    interval the delta method's.
    """
    from sacrebleu.metrics import BLEU

    if not said:
        return {"bleu": []}
    streams = [list(stream) for stream in zip_longest(*wanted)]  # None where a text has fewer right ones
    whole = BLEU(force=True).corpus_score(said, streams)
    alone = BLEU(force=True, effective_order=True)  # its counts are the same, and its warning is spared
    found = [alone.sentence_score(text, list(right)) for text, right in zip(said, wanted, strict=True)]
    counts, totals = (np.array([getattr(one, name) for one in found], float) for name in ("counts", "totals"))
    sizes, goals = (np.array([getattr(one, name) for one in found], float) for name in ("sys_len", "ref_len"))
    # log BLEU = min(0, 1 - goal / size) + Σ (log count_n - log total_n) / 4, over the sums of all texts
    influence = (relative(counts) - relative(totals)).mean(1)
    if sizes.sum() < goals.sum():
        influence = influence + goals.sum() / max(1, sizes.sum()) * (relative(sizes) - relative(goals))
    return {"bleu": (whole.score * (1 + influence)).tolist()}


def relative(parts: Float[np.ndarray, "texts ..."]) -> Float[np.ndarray, "texts ..."]:
    """How each text moves the log of the sum over all texts, to first order; 0 where there is nothing to move."""
    total = parts.sum(0)
    return np.divide(len(parts) * parts - total, total, out=np.zeros_like(parts), where=total > 0)


def macro_f1(wanted: Sequence[str], said: Sequence[str]) -> list[float]:
    """A value for each sample, whose mean is the mean over labels of 2·right / (said + wanted).

    That is no mean of the samples' own. What a sample has here is the whole and its first-order influence on it, so an
    interval of the mean is the delta method's (Efron 1982, §6: the infinitesimal jackknife).
    """
    both = np.asarray([wanted, said])
    names, index = np.unique(both, return_inverse=True)
    of = index.reshape(both.shape)
    right = np.bincount(of[0][of[0] == of[1]], minlength=len(names))
    there = np.bincount(of.ravel(), minlength=len(names))
    f1 = 2 * right / there
    hit = (of[0] == of[1]) * 2 / there[of[0]]  # ∂F1/∂right of the label that is right
    cost = f1[of] / there[of]  # −∂F1/∂there of both labels
    return (f1.mean() + len(wanted) / len(names) * (hit - cost.sum(0))).tolist()


def correlations(said: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """A value for each sample, whose mean is Pearson's correlation: the whole and the sample's influence on it, as for
    `macro_f1` (Devlin et al. 1975, Biometrika 62). 0 where one side is always the same.

    >>> correlations([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    [1.0, 1.0, 1.0]
    """
    sides = [np.asarray(side, float) - np.mean(side) for side in (said, wanted)]
    deviations = [float(np.sqrt(np.mean(side**2))) for side in sides]
    if min(deviations) <= 0:
        return [0.0] * len(said)
    x, y = (side / deviation for side, deviation in zip(sides, deviations, strict=True))
    whole = float(np.mean(x * y))
    return (whole + x * y - whole * (x**2 + y**2) / 2).round(12).tolist()


def ranks(values: Sequence[float]) -> list[float]:
    """From 1; what is equal shares the mean of its ranks, as in Spearman's correlation.

    >>> ranks([0.5, 0.1, 0.5])
    [2.5, 1.0, 2.5]
    """
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[index].tolist()


def rouge(said: Sequence[str], wanted: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """F-measures of words, pairs of words and longest common subsequences, of the text or of its lines (Lin 2004,
    W04-1013 §2 to 3.2), by rouge-score with stemming, in per cent; of several right texts the one that fits best."""
    from rouge_score.rouge_scorer import RougeScorer

    kinds = dict(zip(ROUGE, ("rouge1", "rouge2", "rougeL", "rougeLsum"), strict=True))
    scorer = RougeScorer(list(kinds.values()), use_stemmer=True)
    found = [scorer.score_multi(right, text) for text, right in zip(said, wanted, strict=True)]
    return {name: [100 * one[kind].fmeasure for one in found] for name, kind in kinds.items()}


ROUGE = ("rouge_1", "rouge_2", "rouge_l", "rouge_l_sum")


def best(
    rules: Mapping[str, Callable[[str, str], float]], said: Sequence[str], wanted: Sequence[Sequence[str]]
) -> dict[str, list[float]]:
    """By each rule, what fits the best of the right texts."""
    pairs = list(zip(said, wanted, strict=True))
    return {name: [max(rule(text, one) for one in right) for text, right in pairs] for name, rule in rules.items()}


def same(said: str, right: str) -> float:
    return float(said == right)


def same_words(said: str, right: str) -> float:
    """SQuAD's exact match (arXiv:1606.05250 §6.1): without case, punctuation and articles."""
    return float(normalised(said) == normalised(right))


def shared_words(said: str, right: str) -> float:
    """SQuAD's F1 (arXiv:1606.05250 §6.1): of the words of both as bags.

    >>> shared_words("the old town", "Town")
    0.6666666666666666
    """
    one, other = normalised(said).split(), normalised(right).split()
    if not one or not other:
        return float(one == other)
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other))


MEASURES: Mapping[str, Measure] = {
    "bleu": Measure(("bleu",), bleu, "sacrebleu"),
    "rouge": Measure(ROUGE, rouge, "rouge-score"),
    "exact_match": Measure(("exact_match",), partial(best, {"exact_match": same_words})),
    "f1": Measure(("f1", "exact_match"), partial(best, {"f1": shared_words, "exact_match": same_words})),
    "accuracy": Measure(("accuracy",), partial(best, {"accuracy": same})),
}
