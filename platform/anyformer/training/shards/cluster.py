"""Jobs on the processes of Ray: of this machine, or of a cluster that all see the folder that is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from anyformer.errors import ConfigError, PluginError, ProcessError
from anyformer.training.shards.writing import Job, Record, Run

AHEAD = 4  # jobs a worker that wait in line: enough that none is idle, few enough to be held in memory


def on_ray(workers: int, address: str | None = None) -> Run:
    """workers: processes at once. address: of a cluster, as `ray start` tells it, or "auto"; by default a new one here.

    PluginError without Ray, ProcessError where it fails. A worker that dies is replaced, and its jobs are done again,
    three times at most.
    """
    if workers < 1:
        raise ConfigError(f"{workers=}: expected at least 1 process.")
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise PluginError(
            "Several processes need Ray, which is not installed; pip install 'anyformer[prepare]', or use --workers 0."
        ) from error
    return partial(_run, workers, address)


def _run(workers: int, address: str | None, work: Callable[[Job], Record], jobs: Sequence[Job]) -> Iterator[Record]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    if not jobs:
        return
    _begin(workers, address)
    try:
        held, waiting, left = ray.put(work), [], list(reversed(jobs))
        task = ray.remote(num_cpus=1)(_do)
        while left or waiting:
            while left and len(waiting) < AHEAD * workers:
                waiting.append(task.remote(held, left.pop()))
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise ProcessError(f"Ray cannot go on ({_said(error)}). Start again: what is written stays.") from error
    finally:
        ray.shutdown()


def _begin(workers: int, address: str | None) -> None:
    import ray

    new = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **new)
    except Exception as error:  # it has no type of its own for a machine that is too busy to start it in time
        raise ProcessError(
            f"Ray did not start ({_said(error)}). Look at --address; on a busy machine start again, or use --workers 0."
        ) from error


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _do(work: Callable[[Job], Record], job: Job) -> Record:
    return work(job)
