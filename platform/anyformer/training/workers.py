"""Data workers that are watched: one that dies or hangs is named with the samples it had to prepare."""

from __future__ import annotations

import atexit
import queue
import signal
import time
from collections.abc import Callable
from typing import Any

from torch.multiprocessing import set_sharing_strategy
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from anyformer.errors import ConfigError, ProcessError
from anyformer.training.ahead import Ahead

LOOK = 1.0  # seconds between two looks at whether the workers live
STARTING = 3  # times the patience, until the first batch is there: a worker first imports what it needs
PREFETCHED = 2  # requests of each worker that are under way
SHOWN = 8  # samples that a message names


class Loader(DataLoader):
    """A DataLoader that waits `patience` seconds for a batch, three times as long for the first one, and no longer.

    named: the samples of a request, for messages. ahead: what goes along with requests, and comes back with batches.
    ProcessError for a worker that died or does not answer.
    """

    def __init__(
        self,
        dataset: Dataset,
        workers: int,
        named: Callable[[Any], list[str]],
        patience: float,
        ahead: Ahead | None = None,
        **more,
    ) -> None:
        if not patience > 0:
            raise ConfigError(f"{patience=}: expected the seconds that a batch may take to prepare, more than 0.")
        self.named, self.patience, self.ahead = named, patience, ahead
        super().__init__(
            dataset, batch_size=None, num_workers=workers,
            # FFTs hang in a worker that was forked after OpenMP threads had started
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=_begin if workers else None,
            prefetch_factor=PREFETCHED if workers else None,
            **more,
        )  # fmt: skip

    def _get_iterator(self) -> Any:
        return _Workers(self) if self.num_workers else super()._get_iterator()


class _Workers(_MultiProcessingDataLoaderIter):
    """torch's iterator, which would wait for ever, or for the whole time-out where a worker is dead already."""

    def __init__(self, loader: Loader) -> None:
        self._requests: dict[int, Any] = {}
        self._named, self._patience, self._begun = loader.named, loader.patience, False
        self._ahead = loader.ahead
        super().__init__(loader)
        for worker in self._workers:
            atexit.register(_end, worker)

    def _next_index(self) -> Any:
        request = super()._next_index()
        self._requests[self._send_idx] = request if self._ahead is None else self._ahead.asked(request)
        return self._requests[self._send_idx]

    def _get_data(self) -> Any:
        patience = self._patience * (1 if self._begun else STARTING)
        until = time.monotonic() + patience
        while time.monotonic() < until:
            try:
                data = self._data_queue.get(timeout=min(LOOK, self._patience))
                self._requests.pop(data[0], None)
                self._begun = True
                return data if self._ahead is None else (data[0], self._ahead.answered(data[1]))
            except queue.Empty:
                pass
            except (EOFError, OSError) as error:  # half of a batch: its worker died while handing it over
                raise self._died() or error from error
            if (died := self._died()) is not None:
                raise died
        worker = self._task_info[self._rcvd_idx][0]
        pid = self._workers[worker].pid
        samples = self._samples([self._rcvd_idx])
        self._end_all()
        raise ProcessError(
            f"Data worker {worker} (pid {pid}) has not answered for {patience:g} s; it should prepare {samples}. "
            "Look at these samples, or raise the mixture's `patience`."
        )

    def _died(self) -> ProcessError | None:
        for number, worker in enumerate(self._workers):
            if self._workers_status[number] and not worker.is_alive():
                worker.join(LOOK)
                waiting = [i for i, (of, *data) in sorted(self._task_info.items()) if of == number and not data]
                samples = self._samples(waiting[:1])
                self._end_all()
                return ProcessError(
                    f"Data worker {number} (pid {worker.pid}) died ({_cause(worker.exitcode)}) while it prepared "
                    f"{samples}. Look at these samples; where memory is short, use fewer workers or a smaller "
                    "token_budget."
                )
        return None

    def _samples(self, requests: list[int]) -> str:
        names = [name for number in requests for name in self._named(self._requests[number])]
        return f"{', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}" or "nothing"

    def _end_all(self) -> None:
        """A stopped worker would not even notice that it is asked to end."""
        for worker in self._workers:
            worker.kill()


def _end(worker: Any) -> None:
    """At the process's end, before the interpreter would wait for it."""
    if worker.is_alive():
        worker.kill()


def _begin(number: int) -> None:
    """A terminal and a scheduler signal a whole group of processes; the run still needs its workers for the step that
    it finishes. They end with it.

    Batches are handed over as files: as descriptors, which torch prefers, the run would have to ask the worker for what
    it finds in the queue, and wait for ever for the answer of a stopped one.
    """
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(one, signal.SIG_IGN)
    set_sharing_strategy("file_system")


def _cause(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit {exitcode}"
    return signal.Signals(-exitcode).name
