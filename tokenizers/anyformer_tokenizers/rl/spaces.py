"""Spaces from plain JSON settings, and these from gymnasium's.

>>> make_space({"type": "box", "low": [-1, None], "high": 1}).features
2
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from anyformer.errors import ConfigError, PluginError, nearest, unknown
from anyformer_tokenizers.rl.frames import Frames, likely_patch
from anyformer_tokenizers.rl.space import Box, Discrete

if TYPE_CHECKING:
    import gymnasium

SPACES: dict[str, type[Discrete | Box | Frames]] = {"discrete": Discrete, "box": Box, "frames": Frames}


def make_space(settings: Any) -> Discrete | Box | Frames:
    """A space from `{"type": "discrete", "n": 2}` or `{"type": "box", "shape": [4], "low": -1}`."""
    if not isinstance(settings, Mapping):
        raise ConfigError(f'A space is {settings!r}; expected settings such as {{"type": "discrete", "n": 2}}.')
    given = dict(settings)
    kind = str(given.pop("type", None))
    if kind not in SPACES:
        raise unknown("space type", kind, SPACES)
    try:
        return SPACES[kind](**given)
    except TypeError as error:
        raise ConfigError(f"A {kind} space cannot be made from {given}: {error}.") from error


def settings_of(space: gymnasium.Space, bounded: bool) -> dict[str, Any]:
    """The settings of a gymnasium space; `bounded` keeps a Box's bounds. Bytes of [height, width, channels] are
    frames."""
    from gymnasium import spaces

    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        return {"type": "frames", "shape": list(space.shape), "patch": likely_patch(*space.shape[:2])}
    if isinstance(space, spaces.Discrete):
        return {"type": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.Box):
        bounds = {"low": _plain(space.low), "high": _plain(space.high)} if bounded else {}
        return {"type": "box", "shape": list(space.shape), **bounds}
    raise ConfigError(
        f"The space {space} is a {type(space).__name__}; expected Box or Discrete. "
        "Wrap the environment, for instance in gymnasium.wrappers.FlattenObservation."
    )


def both_settings(observation: gymnasium.Space, action: gymnasium.Space) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of what is observed and of what is done. Actions are held to their bounds. Observations are not: environments
    overstep their own."""
    return settings_of(observation, bounded=False), settings_of(action, bounded=True)


def spaces_of(env_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a registered gymnasium environment, such as "CartPole-v1".

    ConfigError if there is none of that name, PluginError if it or what it needs is not installed.
    """
    import gymnasium

    if ":" in env_id:  # gymnasium would import the module before it
        raise ConfigError(f"env={env_id!r} names a module; expected an environment that is registered already.")
    try:
        env = gymnasium.make(env_id)
    except Exception as error:  # whatever a third party's environment raises
        raise _unavailable(env_id, error) from error
    env.close()
    return both_settings(env.observation_space, env.action_space)


def _unavailable(env_id: str, error: Exception) -> ConfigError | PluginError:
    """A name that gymnasium does not know, or a package that is not there."""
    import gymnasium

    missing = (gymnasium.error.NamespaceNotFound, gymnasium.error.DependencyNotInstalled)
    if isinstance(error, gymnasium.error.Error) and not isinstance(error, missing):
        return ConfigError(
            f"There is no environment {env_id!r} ({error}); expected one of gymnasium.registry."
            f"{nearest(env_id, gymnasium.registry)}"
        )
    return PluginError(f"The environment {env_id!r} cannot be made ({error}). Install what provides it.")


def _plain(bound: np.ndarray) -> list:
    """Nested lists in which None stands for an infinite bound."""
    plain = bound.astype(object)
    plain[np.isinf(bound)] = None
    return plain.tolist()
