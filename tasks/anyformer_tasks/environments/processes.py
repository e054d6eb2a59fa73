"""Environments in other processes, which step at once.

Gymnasium's AsyncVectorEnv keeps the processes; in each are several environments, so that a model acts in all attempts
together, however many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv

from anyformer.errors import ProcessError
from anyformer_tasks.environments.attempts import Attempt, Wish, make_env

SHOWN = 8
"""Start states that a message names."""

LOST = (EOFError, ConnectionError)
"""What talking to a dead process raises."""

Told = tuple[Any, Any, bool, bool, Any]
"""An observation, the reward, terminated, truncated, and a frame where one is filmed."""


class Several(gymnasium.Env):
    """Within a process: of all environments every `of`-th from number `first` on. Only its own methods are called."""

    observation_space = action_space = gymnasium.spaces.Discrete(1)

    def __init__(self, kind: EnvSpec, first: int, of: int) -> None:
        self.kind, self.first, self.of = kind, first, of
        self.envs: dict[int, gymnasium.Env] = {}

    def begin(self, wishes: Sequence[Wish]) -> dict[int, Told]:
        told = {}
        for number in range(self.first, len(wishes), self.of):
            wish = wishes[number]
            env = self.envs[number] = make_env(self.kind, **wish.rendering)
            observation, _ = env.reset(seed=wish.seed)
            told[number] = (observation, 0.0, False, False, env.render() if wish.filmed else None)
        return told

    def act(self, actions: Mapping[int, Any]) -> dict[int, Told]:
        return {number: self._acted(env, actions[number]) for number, env in self.envs.items() if number in actions}

    def close(self) -> None:
        for env in self.envs.values():
            env.close()

    def _acted(self, env: gymnasium.Env, action: Any) -> Told:
        observation, reward, terminated, truncated, _ = env.step(action)
        return observation, reward, terminated, truncated, env.render() if env.render_mode else None


class Faraway(gymnasium.Env):
    """An environment of another process as this one has it: it says what has been told from there."""

    def __init__(self, like: gymnasium.Env, wish: Wish, told: Told) -> None:
        self.observation_space, self.action_space, self.spec = like.observation_space, like.action_space, like.spec
        self.render_mode = wish.rendering.get("render_mode")
        self.told = told

    def reset(self, **settings: Any) -> tuple[Any, dict]:
        return self.told[0], {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        return *self.told[:4], {}

    def render(self) -> Any:
        return self.told[4]


class Processes:
    """Attempts whose environments are dealt out in turn to so many processes. A context: they end with it, and at once
    where anything fails. ProcessError names one that died.

    attempts: one for each wish, under way. The processes come from a server that was started empty, so nothing of this
    one (threads, a GPU) is in them.
    """

    attempts: list[Attempt]

    def __init__(self, env_id: str, wishes: Sequence[Wish], processes: int) -> None:
        self._env_id, self._of = env_id, max(1, min(processes, len(wishes)))
        like = make_env(env_id)
        vector = _started([partial(Several, like.spec, first, self._of) for first in range(self._of)])
        if vector is None:
            raise ProcessError(
                f"A process for environments {env_id} died as it started. A script that starts this has to do so under "
                "`if __name__ == '__main__':`; or set processes: 0."
            )
        self._vector, self.attempts = vector, []
        try:
            told = self._asked("begin", list(wishes))
            stand_ins = [Faraway(like, wish, told[number]) for number, wish in enumerate(wishes)]
            self.attempts = [Attempt(env, wish.seed, wish.target) for env, wish in zip(stand_ins, wishes, strict=True)]
        except BaseException:
            self._kill()
            raise

    def step(self, actions: Mapping[Attempt, Any]) -> None:
        """Each of these attempts goes on by its action."""
        told = self._asked("act", {n: actions[one] for n, one in enumerate(self.attempts) if one in actions})
        for number, happened in told.items():
            attempt = self.attempts[number]
            cast(Faraway, attempt.env).told = happened
            attempt.step(actions[attempt])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self._vector.close()
        else:
            self._kill()

    def _asked(self, method: str, what: Any) -> dict[int, Told]:
        try:
            answers = self._vector.call(method, what)
        except LOST as error:
            raise self._died() from error
        return {number: told for answer in answers for number, told in answer.items()}

    def _died(self) -> ProcessError:
        workers = self._vector.processes
        for worker in workers:
            worker.join(0.5)
        number = next((n for n, worker in enumerate(workers) if not worker.is_alive()), 0)
        going = [str(one.seed) for one in self.attempts[number :: self._of] if one.going]
        states = ", ".join([*going[:SHOWN], *["…"] * (len(going) > SHOWN)]) or "to make"
        return ProcessError(
            f"Process {number} of {self._of} that step {self._env_id} (pid {workers[number].pid}) died with exit "
            f"code {workers[number].exitcode}; it had the start states {states}. Try the environment by itself; where "
            "memory is short, use fewer processes."
        )

    def _kill(self) -> None:
        """AsyncVectorEnv's own end would first wait for the answers."""
        for worker in self._vector.processes:
            worker.kill()
        for worker in self._vector.processes:
            worker.join()
        self._vector.closed = True


def _started(makers: Sequence[Callable[[], Several]]) -> AsyncVectorEnv | None:
    """None where a process died; those beside it are ended as what held them is let go."""
    try:
        return AsyncVectorEnv(makers, shared_memory=False, context="forkserver")
    except LOST:
        return None
