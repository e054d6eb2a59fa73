"""The data module: the same packed batches for any number of workers, and settings refused by name."""

from __future__ import annotations

from itertools import islice

import pytest
import runs
import torch
from toys import Colour, Letters, Words

import anyformer as af
from anyformer import registry
from anyformer.batch import SLOTS
from anyformer.contracts import laid
from anyformer.errors import ConfigError, LimitError, SampleError
from anyformer.training.data import InOrder
from anyformer.training.mixture import Reference

pytestmark = pytest.mark.usefixtures("toys")


def ready(**more) -> af.Mixture:
    mixture = runs.mixture(**more)
    mixture.setup()
    return mixture


def batches(count: int, **more) -> list[af.Batch]:
    return list(islice(ready(**more).train_dataloader(), count))


def assert_same(one: af.Batch, other: af.Batch) -> None:
    assert (one.keys, one.tasks, one.counts) == (other.keys, other.tasks, other.counts)
    assert torch.equal(one.positions, other.positions)
    assert one.streams.keys() == other.streams.keys()
    for name, stream in one.streams.items():
        assert torch.equal(stream.values, other.streams[name].values)
        assert torch.equal(stream.slots, other.streams[name].slots)


def test_workers_change_nothing():
    """Two real worker processes hand over the very batches that this process makes, of pictures and of a text that they
    must encode ahead for the plan."""
    runs.preload()
    kinds = {"letters": {"type": "characters"}, "dots": {}, "colour": {}}
    alone, helped = batches(15, tokenizers=kinds), batches(15, tokenizers=kinds, workers=2)
    assert len(helped) == 15
    for one, other in zip(alone, helped, strict=True):
        assert_same(one, other)


def test_plugins_of_a_script_stay_in_its_process():
    """A tokenizer defined in `__main__`, as in a notebook, cannot reach a worker: none is started, with a warning."""

    class Mine(Letters): ...

    Mine.__module__ = "__main__"
    registry.tokenizers._registered["mine"] = Mine
    try:
        mixture = ready(tokenizers={"letters": {"type": "mine"}}, tasks={"words": {}}, workers=2)
    finally:
        del registry.tokenizers._registered["mine"]
    with pytest.warns(UserWarning, match="workers cannot import .*Mine"):
        loader = mixture.train_dataloader()
    assert loader.num_workers == 0
    assert len(next(iter(loader))) > 0


def test_micro_batches_know_the_counts_of_their_step():
    """Every micro-batch of a window carries the window's counts per task, not its own."""
    mixture = ready()
    preparation = mixture._preparation("train")
    window = [[Reference("words", 0, 0), Reference("quadrants", 1, 0)], [Reference("words", 2, 0)]]
    both = [preparation.micro_batch(window, index) for index in (0, 1)]
    own = [preparation.batch(references).counts for references in window]
    words = {name: own[0]["words"][name] + own[1]["words"][name] for name in ("letters", SLOTS)}
    assert both[0].counts == both[1].counts == {"words": words, "quadrants": {"colour": 1.0, SLOTS: 7.0}}
    assert words[SLOTS] == words["letters"] + 2  # all but the first of each


def test_random_choices_depend_on_seed_sample_and_pass(monkeypatch):
    """What an objective draws for a sample is the same in any batch, and another for the next pass, sample or seed."""
    plain, drawn = af.NextToken.prepare, []

    def prepare(self, tokens, rng):
        drawn.append(int(rng.integers(2**62)))
        return plain(self, tokens, rng)

    monkeypatch.setattr(af.NextToken, "prepare", prepare)
    first, other = Reference("words", 0, 0), Reference("words", 1, 0)
    preparation = ready()._preparation("train")
    preparation.batch([first, other])
    preparation.batch([Reference("words", 0, 1), first])
    ready(seed=1)._preparation("train").batch([first])
    ready()._preparation("validation").batch([first])
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 5


def test_validation_is_each_tasks_split_in_order():
    """Every held-out sample once, unshuffled within its task, within the budget."""
    seen = [(t, k) for b in ready().val_dataloader() for t, k in zip(b.tasks, b.keys, strict=True)]
    for task in ("words", "quadrants"):
        assert {key for t, key in seen if t == task} == {f"validation-{i}" for i in range(30)}
    assert len(seen) == 60
    assert max(b.tokens for b in ready().val_dataloader()) <= 64


def test_validation_tokens_limit_each_task():
    counted = dict.fromkeys(("words", "quadrants"), 0)
    for batch in ready(validation_tokens=70).val_dataloader():
        for task, length in zip(batch.tasks, batch.mask.queries, strict=True):
            counted[task] += length
    assert all(40 < tokens <= 70 for tokens in counted.values())


def test_the_test_split_is_whole_and_its_own():
    keys = [key for batch in ready(validation_tokens=10).test_dataloader() for key in batch.keys]
    assert len(keys) == 60
    assert all(key.startswith("test-") for key in keys)


@pytest.mark.parametrize("ranks", [1, 2, 3, 9])
def test_ranks_share_held_out_batches(ranks):
    """Each batch is one rank's own; who has fewer goes through the first again, for all must meet at each."""
    shares = [InOrder(list("abcd"), rank, ranks) for rank in range(ranks)]
    assert sorted(request for share in shares for request in list(share)[: share.own]) == list("abcd")
    assert len({len(list(share)) for share in shares}) == 1
    assert all(request == "a" for share in shares for request in list(share)[share.own :])


def test_temperature_flattens_shares():
    """Temperature 1 follows the amounts of data; larger ones approach equal shares."""
    shares = {}
    for temperature in (1.0, 3.0, 100.0):
        tokens = {"words": 0, "quadrants": 0}
        for batch in batches(60, temperature=temperature, tasks={"words": {"size": 90}, "quadrants": {"size": 10}}):
            for task, length in zip(batch.tasks, batch.mask.queries, strict=True):
                tokens[task] += length
        shares[temperature] = tokens["words"] / sum(tokens.values())
    total = {"words": sum(len(s.values["text"]) + 2 for s in Words(size=90).examples("train")), "quadrants": 10 * 7}
    assert shares[1.0] == pytest.approx(total["words"] / sum(total.values()), abs=0.05)
    assert shares[1.0] > shares[3.0] > shares[100.0]
    assert shares[100.0] == pytest.approx(0.5, abs=0.05)


def test_tokenizers_are_fitted_on_training_values_alone():
    mixture = ready(tasks={"words": {"size": 2, "longest": 5}}, tokenizers={"letters": {}})
    seen = {letter for sample in mixture.tasks["words"].examples("train") for letter in sample.values["text"]}
    assert set(mixture.tokenizers["letters"]._alphabet) == seen


def test_two_tasks_of_one_type_are_two_tasks():
    mixture = ready(tasks={"short": {"type": "words", "longest": 5}, "long": {"type": "words", "shortest": 9}})
    assert {task for batch in islice(mixture.train_dataloader(), 4) for task in batch.tasks} == {"short", "long"}


def test_another_objective_may_be_chosen():
    tokenizers = {"dots": {}, "colour": {}}
    mixture = ready(tokenizers=tokenizers, tasks={"quadrants": {"objective": {"type": "next_token"}}})
    assert type(mixture.tasks["quadrants"].objective) is af.NextToken
    assert type(ready().tasks["quadrants"].objective) is af.Prefix


WRONG = {
    "tokenizer": ({"tokenizers": {"lettres": {}}}, "Unknown tokenizer 'lettres'.*Did you mean 'letters'"),
    "tokenizer setting": ({"tokenizers": {"letters": {"lowr": 1}}}, "no setting 'lowr'.*Did you mean 'lower'"),
    "tokenizer value": ({"tokenizers": {"letters": 5}}, "settings of tokenizer 'letters' are 5"),
    "task": ({"tasks": {"wrods": {}}}, "Unknown task 'wrods'.*Did you mean 'words'"),
    "task setting": ({"tasks": {"words": {"weigth": 1}}}, "no setting 'weigth'.*Did you mean 'weight'"),
    "task's own setting": ({"tasks": {"words": {"longst": 1}}}, "no setting 'longst'.*Did you mean 'longest'"),
    "weight": ({"tasks": {"words": {"weight": "much"}}}, "weight='much'; expected a number above 0"),
    "zero weight": ({"tasks": {"words": {"weight": 0}}}, "weight=0; expected a number above 0"),
    "objective": ({"tasks": {"words": {"objective": {"type": "nxt_token"}}}}, "'nxt_token'.*Did you mean 'next_token'"),
    "missing tokenizer": ({"tokenizers": {"dots": {}, "colour": {}}}, "Task 'words' needs a tokenizer:.*'letters'"),
    "no task": ({"tasks": {}}, "at least one task"),
    "temperature": ({"temperature": 0}, "temperature=0; expected more than 0"),
}


@pytest.mark.parametrize(("settings", "said"), WRONG.values(), ids=WRONG.keys())
def test_wrong_settings_are_refused_by_name(settings, said):
    with pytest.raises(ConfigError, match=said):
        runs.mixture(**settings)


def test_a_tokenizer_that_no_task_can_fit_is_named():
    with pytest.raises(ConfigError, match="'letters' must be fitted, but no task uses it"):
        ready(tasks={"quadrants": {}})


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_a_sample_beyond_the_budget_is_named(loader):
    mixture = ready(token_budget=10)
    with pytest.raises(LimitError, match=r"Task 'words', sample [0-9]+: 1[0-9] tokens"):
        list(islice(getattr(mixture, loader)(), 40))


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
@pytest.mark.parametrize("method", ["length", "encode"])
def test_an_unusable_sample_is_named(monkeypatch, loader, method):
    """Whether it is found out in planning or in encoding: which task and sample, so that it can be mended."""

    def refuse(self, raw):
        raise SampleError("a torn page")

    mixture = ready(tasks={"words": {}}, tokenizers={"letters": {}})
    monkeypatch.setattr(Letters, method, refuse)
    with pytest.raises(SampleError, match=r"Task 'words', sample '[a-z]+-[0-9]+': a torn page"):
        next(iter(getattr(mixture, loader)()))


def test_a_field_that_the_task_does_not_declare_is_named(monkeypatch):
    samples = [af.Sample("page 7", {"txt": "ab"})]
    mixture = ready(tasks={"words": {}}, tokenizers={"letters": {}})
    monkeypatch.setattr(Words, "examples", lambda self, split: samples)
    with pytest.raises(ConfigError, match=r"sample 'page 7': 'txt'.*Did you mean 'text'"):
        next(iter(mixture.train_dataloader()))


def test_colours_are_one_slot():
    """The toys' own lengths are right: the plan rests on them."""
    assert Colour().encode(2).length == Colour().length(2) == 1


def test_what_no_chance_had_a_part_in_is_prepared_once(monkeypatch):
    """It is the same at every pass; what chance has a part in is prepared anew, with another outcome."""
    made: list[str] = []

    def counted(name, *rest):
        made.append(name)
        return laid(name, *rest)

    monkeypatch.setattr("anyformer.training.preparation.laid", counted)
    masked = {"type": "words", "objective": {"type": "masked", "masked": 0.0, "random": 1.0, "rate": 0.5}}
    preparation = ready(tasks={"words": {}, "guessed": masked})._preparation("train")
    for task, times in (("words", 1), ("guessed", 2)):
        first, again = (preparation.batch([Reference(task, 3, epoch)]) for epoch in (0, 1))
        assert made.count(task) == times
        assert torch.equal(first.streams["letters"].values, again.streams["letters"].values) == (times == 1)


def test_chance_in_what_is_asked_of_a_sample_leaves_it_encoded(monkeypatch):
    """Only the objective draws anew at each pass: pictures are not cut and sounds not analysed again."""
    encodings: list[str] = []
    monkeypatch.setattr(
        Letters, "encode", lambda self, raw, own=Letters.encode: encodings.append(raw) or own(self, raw)
    )
    masked = {"type": "words", "objective": {"type": "masked", "masked": 0.0, "random": 1.0, "rate": 0.5}}
    preparation = ready(tasks={"guessed": masked})._preparation("train")
    found = [preparation.batch([Reference("guessed", 3, epoch)]).streams["letters"].values for epoch in range(4)]
    assert len(encodings) == 1
    fresh = ready(tasks={"guessed": masked})._preparation("train").batch([Reference("guessed", 3, 3)])
    assert torch.equal(found[3], fresh.streams["letters"].values) and not torch.equal(found[2], found[3])


def test_what_is_kept_is_bounded(monkeypatch):
    """Else a set of pictures would fill the memory in its first pass."""
    monkeypatch.setattr("anyformer.training.preparation.MOST_HELD", 200)
    preparation = ready()._preparation("train")
    preparation.batch([Reference("words", index, 0) for index in range(20)])
    assert 1 <= len(preparation._constant) <= 10
