"""Resolutions drawn for each picture: within a budget of patches, true to its aspect ratio, a function of the pass and
the sample, and never more than what the batch was planned with."""

from __future__ import annotations

import math

import corpora
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import anyformer as af
from anyformer.errors import ConfigError
from anyformer.training.data import Preparation
from anyformer.training.mixture import Reference
from anyformer_tasks.vision.augmentation import augmentations, varied
from anyformer_tasks.vision.classification import ImageClassification
from anyformer_tasks.vision.resolution import RandomPatchBudget
from anyformer_tokenizers.image import ImageTokenizer


def below(value: float) -> float:
    """How likely a normal variable is less, and a half taken away."""
    return math.erf(value / math.sqrt(2)) / 2


def mean_of_cut(centre: float) -> float:
    """The mean of a normal distribution around `centre` that is cut off at -1 and 1."""
    low, high = -1 - centre, 1 - centre
    density = lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    return centre + (density(low) - density(high)) / (below(high) - below(low))


@pytest.mark.parametrize("centre", [-0.5, 0.0, 0.7])
def test_sides_are_spread_as_they_should_be(centre):
    """All within the bounds, the bounds themselves among them, and around the mean that the distribution has."""
    drawn = RandomPatchBudget(4, least=16, most=256, centre=centre)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        budgets = np.array([drawn.budget() for _ in range(4000)])
    assert budgets.min() >= 16 and budgets.max() <= 256 and np.ptp(budgets) > 230
    units = 2 * (np.sqrt(budgets) - 4) / 12 - 1
    assert abs(units.mean() - mean_of_cut(centre)) < 4 * units.std() / math.sqrt(len(units)) + 0.01


@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(1, 9), st.integers(1, 40), st.integers(0, 40),
    st.sampled_from(["pad", "resize"]), st.booleans(),
)  # fmt: skip
def test_no_picture_needs_more_than_it_was_planned_with(height, width, patch, budget, more, fit_mode, bounded):
    """Whatever its shape, also where the tokenizer itself has a limit; and it never grows."""
    tokenizer = ImageTokenizer(patch=patch, channels=1, fit_mode=fit_mode, max_patches=(budget + more) * bounded)
    planned = tokenizer.length(np.zeros((height, width), np.uint8))
    low, narrow = RandomPatchBudget(patch, 1, budget).size(height, width, budget)
    needed = tokenizer.length(np.zeros((low, narrow), np.uint8))
    assert 1 <= low <= height and 1 <= narrow <= width and needed <= planned
    assert (low, narrow) == (height, width) or needed <= budget


@given(st.integers(40, 400), st.integers(40, 400), st.integers(9, 64))
def test_the_aspect_ratio_is_kept_as_nearly_as_whole_patches_allow(height, width, budget):
    patch = 4
    low, narrow = RandomPatchBudget(patch, 1, 64).size(height, width, budget)
    scale = math.sqrt(budget * patch**2 / (height * width))
    for side, whole in ((low, height), (narrow, width)):
        assert side == whole or max(patch, scale * whole - patch) <= side + 1e-6 <= max(patch, scale * whole) + 1e-3


def test_a_picture_is_smoothed_as_it_shrinks():
    """Stripes of one pixel become grey, not stripes."""
    stripes = np.tile(np.array([[0, 255]], np.uint8), (32, 16))
    small = varied(stripes, augmentations([{"RandomPatchBudget": {"patch": 8, "least": 4, "most": 4}}]),
                   np.random.default_rng(0))  # fmt: skip
    assert small.shape == (16, 16) and 110 < small[2:-2, 2:-2].min() <= small[2:-2, 2:-2].max() < 145


@pytest.fixture(scope="module")
def hands(tmp_path_factory) -> dict:
    """As the experiment has it."""
    folder = tmp_path_factory.mktemp("sets")
    corpora.sign_language_digits(folder, np.random.default_rng(0))
    augment = ["RandomHorizontalFlip", {"RandomPatchBudget": {"patch": 8, "least": 4, "most": 36}}]
    mixture = af.Mixture(
        tokenizers={"image": {"patch": 8, "max_patches": 36}, "label": {}},
        tasks={
            "hands": {
                "type": "image_classification", "dataset": "sign-language-digits", "data_dir": str(folder),
                "size": 48, "augment": augment,
            }
        },
    )  # fmt: skip
    mixture.setup()
    return {"tasks": mixture.tasks, "tokenizers": mixture.tokenizers}


def patches(hands: dict, split: str, places: list[tuple[int, int]]) -> list[tuple]:
    """By picture: how many patches it has in a batch of them all, and their sum. places: (sample, pass)."""
    batch = Preparation(**hands, split=split, seed=0).batch([Reference("hands", *place) for place in places])
    values = batch.streams["image"].values.split(list(batch.mask.queries))
    return sorted((len(own), round(float(own.double().sum()), 3)) for own in values)


def test_what_is_drawn_is_a_function_of_the_pass_and_the_sample(hands):
    """Whoever is beside it, and in another process' copy; another at another pass; none in what is held out."""
    places = [(sample, 0) for sample in range(8)]
    together = patches(hands, "train", places)
    assert together == sorted(one for place in places for one in patches(hands, "train", [place]))
    sizes = [count for count, _ in together]
    assert 4 <= min(sizes) < max(sizes) <= 36 and len(set(sizes)) > 2
    assert len({patches(hands, "train", [(0, epoch)])[0] for epoch in range(12)}) > 2
    assert [count for count, _ in patches(hands, "validation", places[:3])] == [36] * 3


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ([{"RandomPatchBudget": {"patch": 4, "least": 4, "most": 9}}, "RandomHorizontalFlip"], "behind all other"),
        ([{"RandomPatchBudget": {"patch": 4, "least": 9, "most": 4}}], "least=9, most=4.*1 <= least <= most"),
        ([{"RandomPatchBudget": {"patch": 4}}], "cannot be made from"),
        (["RandomPatchBudgets"], "Did you mean 'RandomPatchBudget'"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_at_once(augment, said):
    with pytest.raises(ConfigError, match=said):
        ImageClassification("digits", augment=augment)


def test_nothing_else_may_change_a_size_before_it():
    transforms = augmentations(
        [{"Resize": {"size": [4, 4]}}, {"RandomPatchBudget": {"patch": 2, "least": 1, "most": 4}}]
    )
    with pytest.raises(ConfigError, match="expected the same"):
        varied(np.zeros((8, 8), np.uint8), transforms, np.random.default_rng(0))
