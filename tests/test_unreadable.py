"""Samples that cannot be read: an error, or others in their place, counted, and the same ones in a resumed run."""

from __future__ import annotations

import pytest
import runs
import torch
from toys import Dots

from anyformer import checkpoint
from anyformer.errors import ConfigError, SampleError
from anyformer.training.mixture import Plan, Reference, Source, lot
from anyformer.training.unreadable import Unreadable

pytestmark = [pytest.mark.usefixtures("toys"), pytest.mark.filterwarnings("ignore:Passed over")]

SKIP = {"type": "skip", "share": 0.2}  # of 30 samples: six
BAD = (2, 9, 17)


@pytest.fixture
def damaged(monkeypatch):
    """Some clouds of the task `quadrants` cannot be encoded. Returns the indices, to be mended or added to."""
    bad = set(BAD)
    plain, clouds = Dots.encode, {}

    def encode(self, raw):
        if raw.tobytes() in {clouds[i] for i in bad}:
            raise SampleError("The cloud is torn.")
        return plain(self, raw)

    task = runs.mixture().tasks["quadrants"]
    clouds |= {i: sample.values["cloud"].tobytes() for i, sample in enumerate(task.examples("train"))}
    monkeypatch.setattr(Dots, "encode", encode)
    return bad


def fitted(**more):
    mixture = runs.mixture(**more)
    mixture.setup()
    return mixture


def test_a_policy_is_read_from_data():
    assert not Unreadable({}).skips and Unreadable({"type": "skip"}).share == 0.001
    for bad, said in (
        ({"type": "skp"}, "Did you mean 'skip'"),
        ({"type": "skip", "shrae": 0.1}, "Did you mean 'share'"),
        ({"type": "stop", "share": 0.1}, "setting of unreadable 'stop'"),
        ({"type": "skip", "share": 1}, "share=1"),
        ({"type": "skip", "share": True}, "share=True"),
    ):
        with pytest.raises(ConfigError, match=said):
            Unreadable(bad)


def test_by_default_the_first_one_stops_the_run(damaged, tmp_path):
    with pytest.raises(SampleError, match=r"Task 'quadrants', sample 'train-\d+': The cloud is torn"):
        runs.fit(tmp_path, 20)


def test_another_sample_takes_its_place(damaged):
    """As many as planned, none longer, all sound; the batch says which could not be read."""
    mixture = fitted(unreadable=SKIP)
    preparation = mixture._preparation("train")
    references = [Reference("quadrants", index, 0) for index in (1, 2, 9)]
    batch = preparation.batch(references)
    assert len(batch) == 3 and "train-1" in batch.keys
    assert not {f"train-{i}" for i in BAD} & set(batch.keys)
    assert [(task, index) for task, index, _ in batch.unreadable] == [("quadrants", 2), ("quadrants", 9)]
    assert all("sample 'train-" in reason and "torn" in reason for *_, reason in batch.unreadable)
    assert preparation.batch(references).keys == batch.keys


def test_only_samples_of_the_lot_take_a_place(damaged):
    """Where a task has `samples: n`, the others are not to be seen, unreadable ones or not."""
    settings = {"words": {}, "quadrants": {"samples": 8}}
    mixture = fitted(unreadable={"type": "skip", "share": 0.9}, tasks=settings)
    drawn = [f"train-{index}" for index in lot("quadrants", 30, mixture.seed, 8)]
    damaged |= {int(name.removeprefix("train-")) for name in drawn[:6]}
    preparation = mixture._preparation("train")
    batch = preparation.batch([Reference("quadrants", index, epoch) for index in sorted(damaged) for epoch in range(3)])
    assert len(set(batch.keys)) == 2 and set(batch.keys) <= set(drawn)


def test_what_is_known_to_be_bad_is_replaced_alike(damaged):
    """Even when its file has been mended: a resumed run repeats what the first one did."""
    references = [Reference("quadrants", index, 3) for index in (2, 9, 17)]
    keys = fitted(unreadable=SKIP)._preparation("train").batch(references).keys
    mixture = fitted(unreadable=SKIP)
    mixture.load_state_dict({"unreadable": {"quadrants": dict.fromkeys(BAD, "torn")}})
    damaged.clear()
    assert mixture._preparation("train").batch(references).keys == keys


def test_held_out_samples_must_all_be_sound(damaged):
    """A score over fewer samples would be another score."""
    mixture = fitted(unreadable=SKIP)
    preparation = mixture._preparation("validation")
    torn = preparation.samples("quadrants")[4].values["cloud"]
    torn[:] = mixture._preparation("train").samples("quadrants")[2].values["cloud"]
    with pytest.raises(SampleError, match=r"sample 'validation-4': The cloud is torn"):
        preparation.batch([Reference("quadrants", 4, 0)])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_passes_over_the_same(damaged, tmp_path, workers):
    """Bit-equal weights, the same list in the checkpoint, whether or not the files were mended meanwhile."""
    data = {"unreadable": SKIP, "workers": 0}
    whole = runs.fit(tmp_path / "whole", 14, data=data)
    runs.fit(tmp_path / "stopped", 14, [runs.stop_at(11)], data=data)
    if workers:  # a worker imports the toys anew, without this test's damage; the checkpoint knows of it
        data["workers"] = workers
    damaged.clear()
    resumed = runs.fit(tmp_path / "stopped", 14, data=data, resume=True)
    assert all(torch.equal(t, resumed.state_dict()[n]) for n, t in whole.state_dict().items())
    lists = [
        checkpoint.read_trainer(tmp_path / run / "last")[0]["Mixture"]["unreadable"] for run in ("whole", "stopped")
    ]
    assert lists[0] == lists[1] and set(lists[0]["quadrants"]) == set(BAD)


def test_more_than_its_share_stops_the_run(damaged, tmp_path):
    """The error counts, and names the last one."""
    damaged |= {4, 6, 21}
    with pytest.raises(SampleError, match=r"'quadrants', sample .*torn.* 4 of at most 3 \(0\.1 of 30\)"):
        runs.fit(tmp_path, 40, data={"unreadable": {"type": "skip", "share": 0.1}})


def test_what_cannot_be_measured_is_passed_over_in_the_plan():
    """A file whose header is broken is found when batches are planned; the order of the others stays."""

    def length(index: int) -> int:
        if index in bad:
            raise SampleError("no header")
        return 3

    bad: set[int] = set()
    plain = [r for _, batch in zip(range(8), Plan([Source("t", 20, length, 0)], [1], 12).batches(), strict=False)
             for r in batch]  # fmt: skip
    bad |= {5, 11}
    policy = Unreadable({"type": "skip", "share": 0.1})
    policy.sizes = {"t": 20}
    batches = Plan([Source("t", 20, length, 0, policy)], [1], 12).batches()
    found = [r for _, batch in zip(range(6), batches, strict=False) for r in batch]
    assert found == [r for r in plain if r.index not in bad][: len(found)]
    assert set(policy.found["t"]) == bad
    with pytest.raises(SampleError, match="no header"):
        list(zip(range(8), Plan([Source("t", 20, length, 0)], [1], 12).batches(), strict=False))


def test_where_no_other_fits_the_batch_is_smaller_or_refused(damaged):
    """All clouds are bad: the words beside them remain; alone they are an error."""
    damaged |= set(range(30))
    preparation = fitted(unreadable=SKIP)._preparation("train")
    batch = preparation.batch([Reference("words", 0, 0), Reference("quadrants", 1, 0)])
    assert batch.tasks == ("words",)
    with pytest.raises(SampleError, match=r"train-1.*No other sample fits in its place"):
        preparation.batch([Reference("quadrants", 1, 0)])
