"""The trajectory tokenizer.

>>> rl = TrajectoryTokenizer()
>>> episode = Episode(np.zeros((2, 4)), np.array([0, 1]), np.ones(2), terminated=True)
>>> rl.fit([episode])
>>> tokens = rl.encode(episode)
>>> {name: stream.slots.tolist() for name, stream in tokens.streams.items()}
{'rl.return': [0, 3], 'rl.state': [1, 4], 'rl.action': [2, 5]}
>>> tokens.positions[:, 0].tolist()
[0, 0, 0, 1, 1, 1]
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyformer.contracts import Tokenizer
from anyformer.episode import Episode
from anyformer.errors import ConfigError, SampleError, TokenizerError
from anyformer.tokens import Stream, StreamSpec, Tokens
from anyformer_tokenizers.rl.frames import Frames
from anyformer_tokenizers.rl.space import Box, Discrete
from anyformer_tokenizers.rl.spaces import both_settings, make_space, spaces_of
from anyformer_tokenizers.standardisation import STATISTICS, Standardisation

if TYPE_CHECKING:
    import gymnasium

CARTPOLE = ({"type": "box", "shape": [4]}, {"type": "discrete", "n": 2})
OF_ACTIONS = "actions.json"


@dataclass
class TrajectoryTokenizer(Tokenizer):
    """Three streams, `rl.return`, `rl.state` and `rl.action`, at slots 0::3, 1::3 and 2::3 (Chen et al. 2021,
    arXiv:2106.01345 §3); the three slots of a step share its timestep as their position.

    Raw values: `Episode`. The observation after the last action, if there is one, is not encoded.

    env: a gymnasium environment whose spaces are taken where none are given; CartPole's otherwise.
    observation_space, action_space: JSON settings, `{"type": "discrete", "n": 2, "start": 0}`,
    `{"type": "box", "shape": [4], "low": null, "high": null}` or, for what a camera sees,
    `{"type": "frames", "shape": [84, 84, 4], "patch": 14}`, a slot a patch. return_scale: returns-to-go are divided by
    it. returns: False leaves them out, and with them all that tells a good episode from a bad one: cloning.
    standard_actions: Box actions are standardised too.

    Box observations are standardised with what `fit` learned, which comes first. Actions are decoded exactly, up to
    rounding where they are standardised; observations up to rounding; rewards as differences of returns-to-go, so that
    the last one of a segment holds all that follows, or as 0 without. How the episode ended is not encoded.
    """

    name: str = "rl"
    observation_space: dict[str, Any] | None = None
    action_space: dict[str, Any] | None = None
    return_scale: float = 100.0
    env: str | None = None
    returns: bool = True
    standard_actions: bool = False

    fidelity: ClassVar = "approximate"

    _learned: Standardisation | None = field(init=False, default=None, repr=False, compare=False)
    _of_actions: Standardisation | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.return_scale) and self.return_scale > 0):
            raise ConfigError(f"return_scale={self.return_scale}; expected a positive number.")
        if self.observation_space is None or self.action_space is None:
            observation, action = CARTPOLE if self.env is None else spaces_of(self.env)
            self.observation_space = self.observation_space or observation
            self.action_space = self.action_space or action
        _ = self.streams  # a wrong space is told now, not at the first sample

    @classmethod
    def for_env(cls, env_id: str, **settings: Any) -> TrajectoryTokenizer:
        """For a registered gymnasium environment, such as "CartPole-v1".

        ConfigError if there is none of that name, PluginError if it or what it needs is not installed.
        """
        return cls(env=env_id, **settings)

    @classmethod
    def from_spaces(
        cls, observation_space: gymnasium.Space, action_space: gymnasium.Space, **settings: Any
    ) -> TrajectoryTokenizer:
        """For an environment's spaces, Box or Discrete; ConfigError for others."""
        observation, action = both_settings(observation_space, action_space)
        return cls(observation_space=observation, action_space=action, **settings)

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        wanted = (StreamSpec.continuous(f"{self.name}.return", 1),) if self.returns else ()
        return (
            *wanted,
            self._observations.spec(f"{self.name}.state"),
            self._actions.spec(f"{self.name}.action"),
        )

    def encode(self, raw: Any) -> Tokens:
        """As many slots as `length` says. SampleError names the step that is not finite, misshapen or outside its
        space; TokenizerError before a needed `fit`."""
        episode = _checked(raw)
        return self._interleaved(
            episode.start,
            {
                "return": self._return_rows(episode.returns_to_go(), episode.start),
                "state": self._state_rows(episode.observations, episode.start),
                "action": self._action_rows(episode.actions, episode.start),
            },
        )

    def observe(self, return_to_go: float, observation: Any, timestep: int) -> Tokens:
        """The slots before an action: the (undiscounted, unscaled) return still wanted, and the state."""
        _check_timestep(timestep)
        wanted = _numbers(return_to_go, "return-to-go")
        if wanted.size != 1:
            raise SampleError(f"The return-to-go has shape {list(wanted.shape)}; expected one number.")
        return self._interleaved(
            timestep,
            {
                "return": self._return_rows(wanted.reshape(1).astype(np.float64), timestep),
                "state": self._state_rows(_numbers(observation, "observation")[None], timestep),
            },
        )

    def act(self, action: Any, timestep: int) -> Tokens:
        """The slot of an action taken."""
        _check_timestep(timestep)
        rows = self._action_rows(_numbers(action, "action")[None], timestep)
        return self._interleaved(timestep, {"action": rows})

    def action(self, values: Any) -> int | np.ndarray:
        """One value of the action stream as the environment wants it: an int, or an array within its bounds.

        values: what a head says for one slot, an id or a row of features.
        """
        actions = self._action_values(torch.as_tensor(values))
        if len(actions) != 1:
            raise TokenizerError(f"Expected the values of one action; got {len(actions)}. Call it for each.")
        return int(actions[0]) if self.streams[-1].is_discrete else actions[0]

    def decode(self, tokens: Tokens) -> Episode:
        """The segment these triples tell of; see the class for what is exact."""
        names = [spec.name for spec in self.streams]
        found = {name: len(tokens.streams[name].values) for name in names if name in tokens.streams}
        if len(found) < len(names) or len(set(found.values())) != 1 or 0 in found.values():
            raise TokenizerError(f"Cannot decode {found or 'no values'}; expected as many of each of {names}.")
        self._require_fitted()
        *returns, states, actions = (tokens.streams[name].values.detach().cpu() for name in names)
        wanted = returns[0][:, 0].double().numpy() * self.return_scale if returns else np.zeros(len(actions))
        return Episode(
            self._observations.values(states if self._learned is None else self._learned.invert(states)),
            self._action_values(actions),
            wanted - np.append(wanted[1:], 0.0),
            start=int(tokens.positions[0, 0]),
        )

    def length(self, raw: Any) -> int:
        """Three slots a step, or one fewer without returns; more where a state fills several."""
        return sum(self._widths.values()) * len(_checked(raw))

    def example(self, rng: np.random.Generator) -> Episode:
        """A random walk through the spaces, 2 to 12 steps long, that ends."""
        steps = int(rng.integers(2, 13))
        observations = self._observations.sample(rng, steps + 1)
        actions = self._actions.sample(rng, steps)
        return Episode(observations, actions, rng.normal(1, 1, steps), terminated=True)

    def render(self, raw: Any) -> dict[str, bytes | str]:
        """A line of text, a plot of reward and return-to-go, and the film where there is one."""
        from matplotlib.figure import Figure

        episode = _checked(raw)
        steps = np.arange(episode.start, episode.start + len(episode))
        ending = "terminated" if episode.terminated else "truncated" if episode.truncated else "goes on"
        figure = Figure(figsize=(5, 2), layout="constrained")
        axes = figure.subplots()
        axes.step(steps, episode.rewards, where="mid", label="reward")
        axes.plot(steps, episode.returns_to_go(), label="return to go")
        axes.set(xlabel="timestep")
        axes.legend()
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=80)
        summary = f"{len(episode)} steps from {episode.start}, return {np.sum(episode.rewards):g}, {ending}"
        film = {} if episode.film is None else {"image/gif": episode.film}
        return {"text/plain": summary, "image/png": picture.getvalue(), **film}

    @property
    def fitted(self) -> bool:
        missing = self._standardises and self._learned is None
        return not (missing or (self._needs_actions and self._of_actions is None))

    def fit(self, samples: Iterable[Episode]) -> None:
        """Mean and standard deviation of each feature of Box observations, and of actions where they are standardised;
        others need none."""
        if self.fitted and not self._standardises and not self._needs_actions:
            return
        episodes = [_checked(raw) for raw in samples]
        if self._standardises:
            rows = (self._observations.rows(e.observations, "observation", e.start) for e in episodes)
            self._learned = Standardisation.learned(rows, least=1e-4)
        if self._needs_actions:
            rows = (self._actions.rows(e.actions, "action", e.start) for e in episodes)
            self._of_actions = Standardisation.learned(rows, least=1e-4)

    def state(self) -> dict[str, bytes]:
        learned = {STATISTICS: self._learned, OF_ACTIONS: self._of_actions}
        return {file: one.to_json() for file, one in learned.items() if one is not None}

    def restore(self, state: Mapping[str, bytes]) -> None:
        observed, acted = (spec.width for spec in self.streams[-2:])
        wanted = self._standardises and state
        self._learned = Standardisation.from_json(state.get(STATISTICS), observed) if wanted else None
        wanted = self._needs_actions and state
        self._of_actions = Standardisation.from_json(state.get(OF_ACTIONS), acted) if wanted else None

    @cached_property
    def _observations(self) -> Discrete | Box | Frames:
        return make_space(self.observation_space)

    @cached_property
    def _actions(self) -> Discrete | Box | Frames:
        return make_space(self.action_space)

    @property
    def _standardises(self) -> bool:
        return isinstance(self._observations, Box)

    @property
    def _needs_actions(self) -> bool:
        return self.standard_actions and isinstance(self._actions, Box)

    @cached_property
    def _widths(self) -> dict[str, int]:
        """Slots of each part of a step, in their order."""
        return {spec.name.removeprefix(f"{self.name}."): spec.slots(1) for spec in self.streams}

    def _require_fitted(self) -> None:
        if not self.fitted:
            raise TokenizerError(f"Tokenizer {self.name!r} is not fitted; call fit(episodes) or restore(state).")

    def _return_rows(self, returns: np.ndarray, start: int) -> Float[Tensor, "steps 1"]:
        rows = torch.from_numpy(returns / self.return_scale).float()[:, None]
        _check_finite(rows, "return-to-go", start)
        return rows

    def _state_rows(self, observations: np.ndarray, start: int) -> Tensor:
        self._require_fitted()
        rows = self._observations.rows(observations, "observation", start)
        if self._learned is None:
            return rows
        rows = self._learned.apply(rows)
        _check_finite(rows, "standardised observation", start)
        return rows

    def _action_rows(self, actions: np.ndarray, start: int) -> Tensor:
        rows = self._actions.rows(actions, "action", start)
        return rows if self._of_actions is None else self._of_actions.apply(rows)

    def _action_values(self, rows: Tensor) -> np.ndarray:
        said = rows if self._of_actions is None else self._of_actions.invert(rows.detach().cpu().float())
        return self._actions.values(said)

    def _interleaved(self, start: int, parts: Mapping[str, Tensor]) -> Tokens:
        """Parts of consecutive steps, side by side in each step."""
        widths = tuple(width for part, width in self._widths.items() if part in parts)
        steps, width = len(parts["action" if "action" in parts else "state"]), sum(widths)
        here = [part for part in self._widths if part in parts]
        streams = {
            f"{self.name}.{part}": Stream(parts[part], slots, items)
            for part, (slots, items) in zip(here, _places(steps, widths), strict=True)
        }
        timesteps = torch.from_numpy(np.repeat(np.arange(start, start + steps), width))
        return Tokens(streams, steps * width, timesteps[:, None])


@lru_cache(maxsize=256)
def _places(steps: int, widths: tuple[int, ...]) -> tuple[tuple[Tensor, Tensor], ...]:
    """The slots of each of the streams that take turns for so many steps, and their one item."""
    slots = torch.arange(steps * sum(widths)).view(steps, sum(widths)).split(widths, dim=1)
    return tuple((at.reshape(-1), torch.tensor([[steps, at.numel()]])) for at in slots)


def _checked(raw: Any) -> Episode:
    """The episode as arrays of `steps` rows each, or a SampleError."""
    if not isinstance(raw, Episode):
        raise SampleError(f"A trajectory is {type(raw).__name__}; expected anyformer.episode.Episode.")
    observations = _numbers(raw.observations, "observations")
    actions, rewards = _numbers(raw.actions, "actions"), _numbers(raw.rewards, "rewards")
    if actions.ndim < 1 or len(actions) < 1:
        raise SampleError("An episode has no steps; expected at least one action. Drop it.")
    steps = len(actions)
    if rewards.shape != (steps,) or observations.ndim < 1 or len(observations) not in (steps, steps + 1):
        raise SampleError(
            f"An episode of {steps} actions has rewards {list(rewards.shape)} and observations "
            f"{list(observations.shape)}; expected [{steps}] and [{steps} or {steps + 1}, ...]. Repair it."
        )
    _check_timestep(raw.start)
    _check_finite(torch.from_numpy(rewards.astype(np.float64)), "reward", raw.start)
    if not isinstance(raw.return_after, int | float | np.number) or not math.isfinite(raw.return_after):
        raise SampleError(f"An episode has return_after={raw.return_after!r}; expected a finite number.")
    if not all(isinstance(flag, bool | np.bool_) for flag in (raw.terminated, raw.truncated)):
        raise SampleError(
            f"An episode has terminated={raw.terminated!r}, truncated={raw.truncated!r}; expected booleans."
        )
    return replace(raw, observations=observations[:steps], actions=actions, rewards=rewards)


def _numbers(raw: Any, what: str) -> np.ndarray:
    try:
        numbers = raw.detach().cpu().numpy() if isinstance(raw, Tensor) else np.asarray(raw)
    except ValueError as error:  # rows of unequal length
        raise SampleError(f"The {what} are not one array ({error}); expected rows of equal shape.") from error
    if numbers.dtype.kind not in "biuf":
        raise SampleError(f"The {what} are of type {numbers.dtype}; expected numbers.")
    return numbers


def _check_timestep(timestep: Any) -> None:
    if not isinstance(timestep, int | np.integer) or timestep < 0:
        raise SampleError(f"A segment starts at timestep {timestep!r}; expected a whole number from 0 on.")


def _check_finite(rows: Tensor, what: str, start: int) -> None:
    if np.isfinite(rows.numpy()).all():  # numpy: a rollout asks this of single rows, thousands of times a second
        return
    wrong = ~rows.isfinite().reshape(len(rows), -1).all(1)
    if wrong.any():
        step = int(wrong.int().argmax())
        raise SampleError(
            f"The {what} at step {start + step} is {rows[step].tolist()}; expected finite float32 numbers. "
            "Repair or drop the episode."
        )
