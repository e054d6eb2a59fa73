"""Beam search: the likeliest continuations, found by keeping a few of them going side by side.

Every decision is the one that Hugging Face's transformers (5.24) takes: which candidates go on, which are kept, when a
prompt is done. Only empty beams differ, which there are with fewer values in the vocabulary than beams: there they
score -1e9, may end and may be returned; here they score -inf and never do.

Groups of beams are searched one after the other at each step, each away from what those before it have just said
(diverse beam search, arXiv:1610.02424).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import EllipsisType

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from anyformer.batch import Example
from anyformer.errors import ConfigError, NonFiniteError, unknown
from anyformer.model.network import Network
from anyformer.model.rules import Rule
from anyformer.model.saying import asked, behind, run_of
from anyformer.model.session import begun
from anyformer.tokens import Tokens

STOPPING = ("heuristic", "first", "never")

PENALTIES: dict[str, Callable[[int, float], float]] = {
    "power": lambda length, strength: length**strength,
    "gnmt": lambda length, strength: ((5 + length) / 6) ** strength,  # arXiv:1609.08144 eq. 14
}
"""What a sum of log probabilities is divided by, by (generated values, the end among them; strength)."""


@dataclass(frozen=True)
class Beams:
    """How the likeliest continuations are looked for.

    beams: continuations that go on side by side; one is greedy search, which ends at its first `end`. max_new: the most
    values that are generated. returns: how many continuations come back. length_penalty: 0 adds log probabilities up,
    1 averages them (in the "power" form), more favours long continuations. penalty_form: see PENALTIES.

    stopping: a prompt with `beams` finished continuations is done "first": at once; "heuristic": when the best
    running one, at its present length, scores no better than the worst finished one; "never": when it could not even if
    all values to come were certain, at the length that suits it best.

    rules: change the log probabilities that are added up. groups: the beams are dealt out to so many; diversity: what
    a value costs in the choice of candidates, in nats, for each beam of an earlier group that says it at the same step
    (the Hamming diversity of arXiv:1610.02424 §3). Scores are free of it.
    """

    beams: int
    max_new: int
    returns: int = 1
    length_penalty: float = 1.0
    penalty_form: str = "power"
    stopping: str = "heuristic"
    rules: tuple[Rule, ...] = ()
    groups: int = 1
    diversity: float = 0.0

    def __post_init__(self) -> None:
        if self.beams < 1 or self.max_new < 1:
            raise ConfigError(f"beams={self.beams}, max_new={self.max_new}; expected at least 1 of each.")
        if not 1 <= self.returns <= self.beams:
            raise ConfigError(f"returns={self.returns}; expected between 1 and beams={self.beams}.")
        if not -10 <= self.length_penalty <= 10:
            raise ConfigError(f"length_penalty={self.length_penalty}; expected a number from -10 to 10.")
        if self.penalty_form not in PENALTIES:
            raise unknown("penalty form", self.penalty_form, PENALTIES)
        if self.stopping not in STOPPING:
            raise unknown("stopping rule", self.stopping, STOPPING)
        if self.groups < 1 or self.beams % self.groups or not 0 <= self.diversity < float("inf"):
            raise ConfigError(
                f"groups={self.groups}, diversity={self.diversity}; expected groups of equal size for "
                f"beams={self.beams}, and a penalty from 0 up."
            )

    def divisor(self, length: int) -> float:
        """What the log probability of so many values is divided by, to give a score.

        >>> Beams(beams=4, max_new=9, length_penalty=2.0).divisor(3)
        9.0
        """
        return PENALTIES[self.penalty_form](length, self.length_penalty)

    def hopeful_length(self, length: int) -> int:
        """The length at which a continuation of `length` values is held to score best."""
        return self.max_new if self.stopping == "never" and self.length_penalty > 0 else length


@dataclass(frozen=True)
class Hypothesis:
    """One continuation: its values (the end among them), their log probabilities (nats), and what the sum of these
    scores."""

    tokens: Tokens
    score: float
    log_probabilities: Float32[Tensor, " values"]


def search(
    network: Network, prompts: Sequence[Example], stream: str, settings: Beams, end: int | EllipsisType | None = ...
) -> list[list[Hypothesis]]:
    """See `Model.beam_search`."""
    spec, end = asked(network, prompts, stream, end)
    if end is not None and not 0 <= end < spec.width:
        raise ConfigError(f"end={end}; expected a value of stream {stream!r}, from 0 to {spec.width - 1}, or None.")
    if not prompts:
        return []
    with torch.inference_mode():
        searches = _searched(network, prompts, stream, settings, end)
    return [_best(stream, each, settings.returns) for each in searches]


def _searched(
    network: Network, prompts: Sequence[Example], stream: str, settings: Beams, end: int | None
) -> list[list[Search]]:
    """Each prompt's searches, one for each group, done."""
    session = begun(network, prompts)
    session.select([prompt for prompt in range(len(prompts)) for _ in range(settings.beams)])  # beams side by side
    searches = [[Search(settings, end, *behind(p.tokens, stream)) for _ in range(settings.groups)] for p in prompts]
    going = searches
    while True:
        rows = _advance(going, session.network.read(stream, session.last), settings)
        going = [left for each in going if (left := [one for one in each if not one.done])]
        if not going:
            break
        session.select(rows)  # what is done leaves the session
        runs = [(run.values[-1], one.position) for each in going for one in each for run in one.live]
        session.append_values(stream, *zip(*runs, strict=True))
    return searches


def _advance(going: Sequence[Sequence[Search]], logits: Float[Tensor, "rows vocab"], settings: Beams) -> list[int]:
    """One more value for every group of every prompt; the session's rows to go on with, of groups that are not done."""
    nats = logits.float().log_softmax(-1)
    if settings.rules:
        lost = nats.isnan().any(-1, keepdim=True)  # before the rules: theirs may leave a beam no value
        for rule in settings.rules:
            nats = rule(nats, [[*one.given, *run.values] for each in going for one in each for run in one.live])
        nats = nats.masked_fill(lost, torch.nan)
    width, at = settings.beams // settings.groups, 0
    starts = {}
    for one in (one for each in going for one in each):
        starts[one], at = at, at + width
    cost = nats.new_zeros(len(going), nats.shape[1]) if settings.diversity else None
    rows: dict[Search, list[int]] = {}
    for turn in range(max(map(len, going))):
        now = [(number, each[turn]) for number, each in enumerate(going) if turn < len(each)]
        numbers = torch.tensor([number for number, _ in now])
        own = [nats.narrow(0, starts[one], width) for _, one in now]
        price = None if cost is None else cost[numbers.to(nats.device)]
        found = _turn([one for _, one in now], torch.stack(own) if len(own) > 1 else own[0][None], price)
        rows |= {one: [starts[one] + row for row in kept] for (_, one), kept in zip(now, found, strict=True)}
        if cost is not None:
            said = [(number, run.values[-1]) for number, one in now for run in one.live]
            where = torch.tensor(said).T.to(nats.device)
            cost.index_put_((where[0], where[1]), cost.new_tensor(settings.diversity), accumulate=True)
    return [row for each in going for one in each if not one.done for row in rows[one]]


def _turn(
    going: Sequence[Search],
    nats: Float[Tensor, "searches width vocab"],
    cost: Float[Tensor, "searches vocab"] | None,
) -> list[list[int]]:
    """One more value for one group of each prompt; which of its own beams each goes on with.

    The best candidates are sought among all of a group's beams x vocabulary, and twice as many as beams: each beam can
    end in one way only, so enough of them go on.
    """
    width, vocabulary = nats.shape[1:]
    totals = nats + torch.stack([one.totals for one in going]).to(nats.device)[..., None]
    ranked = (totals if cost is None else totals - cost[:, None]).flatten(1)
    ranked, places = ranked.topk(min(2 * width, width * vocabulary))
    chosen = (ranked, totals.flatten(1).gather(1, places), nats.flatten(1).gather(1, places), places)
    ranked, best, said, places = torch.stack([each.double() for each in chosen]).cpu()  # in one piece
    ranked, best, kept = ranked.float(), best.float(), []
    for number, one in enumerate(going):
        where = [divmod(int(place), vocabulary) for place in places[number].tolist()]
        candidates = [
            one.live[parent].then(value, nat) for (parent, value), nat in zip(where, said[number].tolist(), strict=True)
        ]
        kept.append([where[place][0] for place in one.advance(candidates, best[number], ranked[number])])
    return kept


def _best(stream: str, groups: Sequence[Search], returns: int) -> list[Hypothesis]:
    """The best of all groups, best first."""
    found = [one for group in groups for one in group.hypotheses(stream)]
    return sorted(found, key=lambda one: -one.score)[:returns]


@dataclass(frozen=True)
class Run:
    """Values said behind a prompt, and the log probability of each."""

    values: tuple[int, ...] = ()
    nats: tuple[float, ...] = ()

    def then(self, value: int, nat: float) -> Run:
        return Run((*self.values, value), (*self.nats, nat))


class Search:
    """One prompt's search, or that of one group of its beams, and all its decisions; it knows no model.

    start: the position of its first value. given: the prompt's values of the stream.

    live, with their sums of log probabilities in totals: what goes on. finished, with their scores: the best so far. Of
    both there are always `beams`, best first; a sum or score of -inf says that there is none.
    """

    def __init__(self, settings: Beams, end: int | None, start: int = 0, given: Sequence[int] = ()) -> None:
        self.settings, self.end, self.start, self.given = settings, end, start, given
        self.beams = settings.beams // settings.groups
        self.live, self.finished = [Run()] * self.beams, [Run()] * self.beams
        self.scores = torch.full((self.beams,), -torch.inf)
        self.totals = torch.cat((torch.zeros(1), self.scores[1:]))  # all are the prompt still, which counts once
        self.done = False

    @property
    def position(self) -> int:
        """Where the last value of every live run stands."""
        return self.start + len(self.live[0].values) - 1

    def advance(
        self,
        candidates: Sequence[Run],
        totals: Float32[Tensor, " candidates"],
        ranked: Float32[Tensor, " candidates"] | None = None,
    ) -> list[int]:
        """Take the best candidates, best first, each a live run with one more value; which of them go on.

        ranked: what they are chosen by, if not their totals.
        """
        if any(total != total for total in totals.tolist()):
            raise NonFiniteError("A beam's logits are NaN or infinite; look for damaged weights.")
        length = len(candidates[0].values)
        last, ends = length == self.settings.max_new, [run.values[-1] == self.end for run in candidates]
        ranked = totals if ranked is None else ranked
        if last or any(ends):
            ended = torch.tensor(ends)
            self._finish(candidates, totals, ended | last, length)
            totals, ranked = (each.masked_fill(ended, -torch.inf) for each in (totals, ranked))
        kept = ranked.topk(self.beams).indices.tolist()
        self.totals = totals[kept]
        self.live = [candidates[place] for place in kept]
        self.done = last or not self._may_improve(length)
        return kept

    def _finish(
        self, candidates: Sequence[Run], totals: Tensor, ended: Bool[Tensor, " candidates"], length: int
    ) -> None:
        """Keep the best of what was finished and what ends now, if it is among the best `beams` candidates."""
        eligible = ended & (torch.arange(len(ended)) < self.beams)
        scores = (totals / self.settings.divisor(length)).masked_fill(~eligible, -torch.inf)
        self.scores, best = torch.cat((self.scores, scores)).topk(self.beams)
        everything = [*self.finished, *candidates]
        self.finished = [everything[place] for place in best.tolist()]

    def _may_improve(self, length: int) -> bool:
        """Whether a live run may still find a place among the finished ones."""
        worst = self.scores[-1]
        full = bool(worst > -torch.inf)
        if full and (self.settings.stopping == "first" or self.beams == 1):
            return False
        return bool(self.totals.max() / self.settings.divisor(self.settings.hopeful_length(length)) > worst)

    def hypotheses(self, stream: str) -> list[Hypothesis]:
        """The best finished continuations, best first."""
        found = zip(self.finished, self.scores.tolist(), strict=True)
        return [
            Hypothesis(run_of(stream, run.values, 0), score, torch.tensor(run.nats))
            for run, score in list(found)[: self.settings.returns]
            if score > -torch.inf
        ]
