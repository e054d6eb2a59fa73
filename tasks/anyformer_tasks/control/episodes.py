"""Recorded episodes from files and into files.

Flat files hold all steps one behind the other: NumPy's .npz, or HDF5 as D4RL has it (arXiv:2004.07219), with
`observations`, `actions`, `rewards` and, for where episodes end, `terminals` and `timeouts`. A Minari data set is a
folder with `data/main_data.hdf5`, in which each episode is a group.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyformer.episode import Episode
from anyformer.errors import ConfigError, unknown
from anyformer_tasks.packages import require

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "observations": ("observations", "obs"),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "terminals": ("terminals", "terminations", "dones"),
    "timeouts": ("timeouts", "truncations"),
    "starts": ("episode_starts",),
}
"""What arrays of a flat file are called; the last three may be absent."""

NEEDED = ("observations", "actions", "rewards")
RECORDED = "episodes.npz"
MINARI = Path("data") / "main_data.hdf5"


def read(source: str, data_dir: str | None = None) -> list[Episode]:
    """All episodes of a source: a flat file, a folder that was recorded or is a Minari data set (either also below
    `data_dir`), or the name of a Minari data set on this machine. ConfigError says what is wrong with it."""
    path = place(source, data_dir)
    if path.suffix == ".npz":
        return from_flat(_npz(path), str(path))
    if path.name == MINARI.name:
        return from_minari(path)
    with _hdf5(path) as file:
        return from_flat({name: file[name][()] for name in _spelled(file)}, str(path))


def place(source: str, data_dir: str | None = None) -> Path:
    """The file that holds a source's episodes."""
    minari = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
    for folder in (Path(), *([Path(data_dir)] if data_dir else []), minari):
        path = folder / source
        if path.is_file():
            return path
        for inside in (RECORDED, MINARI):
            if (path / inside).is_file():
                return path / inside
    raise ConfigError(
        f"No episodes at {source!r}; expected a .npz or .hdf5 file, a folder that `anyformer record` wrote, or a "
        f"Minari data set, here, below data_dir={data_dir} or in {minari}. Record it, download it, or set data_dir."
    )


def from_flat(arrays: Mapping[str, np.ndarray], source: str) -> list[Episode]:
    """Episodes end where they terminate, where time is out, and before the next one's start."""
    found = {name: next((arrays[s] for s in spelt if s in arrays), None) for name, spelt in SPELLINGS.items()}
    steps = {name: len(array) for name, array in found.items() if name in NEEDED and array is not None}
    if len(steps) < len(NEEDED) or len(set(steps.values())) != 1 or 0 in steps.values():
        raise ConfigError(
            f"{source} has the arrays {sorted(arrays)} of {steps} steps; expected as many {', '.join(NEEDED)}."
        )
    count = steps["actions"]
    flags = {name: _flags(found[name], count, name, source) for name in ("terminals", "timeouts", "starts")}
    last = flags["terminals"] | flags["timeouts"] | np.append(flags["starts"][1:], True)
    if last.sum() == 1 and count > 1 and all(found[name] is None for name in flags):
        raise ConfigError(f"{source} does not say where episodes end; expected `terminals`, and `timeouts` where cut.")
    return list(_parted(found, flags["terminals"], np.flatnonzero(last) + 1))


def _parted(found: Mapping[str, Any], terminals: np.ndarray, ends: np.ndarray) -> Iterator[Episode]:
    for start, stop in zip(np.append(0, ends[:-1]).tolist(), ends.tolist(), strict=True):
        terminated = bool(terminals[stop - 1])
        observations, actions, rewards = (found[name][start:stop] for name in NEEDED)
        yield Episode(observations, actions, rewards.reshape(-1), terminated, not terminated)


def _flags(array: np.ndarray | None, count: int, name: str, source: str) -> np.ndarray:
    if array is None:
        return np.zeros(count, dtype=bool)
    if array.size != count:
        raise ConfigError(f"{source} has {array.size} {name} for {count} actions; expected one for each.")
    return array.reshape(-1).astype(bool)


def from_minari(path: Path) -> list[Episode]:
    """The episodes of a Minari data set, in their order."""
    with _hdf5(path) as file:
        names = sorted((name for name in file if re.fullmatch(r"episode_\d+", name)), key=lambda n: int(n[8:]))
        if not names:
            raise ConfigError(f"{path} holds no episodes; expected groups episode_0, episode_1 and so on.")
        return [_minari_episode(file[name], f"{path}, {name}") for name in names]


def _minari_episode(group: Any, where: str) -> Episode:
    import h5py

    arrays = {}
    for name in (*NEEDED, "terminations", "truncations"):
        if name not in group:
            raise unknown(f"array {name!r} missing from {where}; it has", name, list(group))
        if not isinstance(group[name], h5py.Dataset):
            raise ConfigError(
                f"{where} has {name} of several parts ({', '.join(group[name])}); expected one array, a Box or "
                "Discrete space. Record it with gymnasium.wrappers.FlattenObservation."
            )
        arrays[name] = group[name][()]
    terminated, truncated = (bool(arrays[name][-1]) for name in ("terminations", "truncations"))
    observations, actions, rewards = (arrays[name] for name in NEEDED)
    return Episode(observations, actions, rewards, terminated, truncated)


def write(folder: Path, episodes: Sequence[Episode]) -> Path:
    """A flat file in this folder, which `read` reads; as in D4RL, what followed the last action is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = [len(episode) for episode in episodes]
    last = np.zeros(sum(counts), dtype=bool)
    last[np.cumsum(counts) - 1] = True
    terminated = np.repeat([episode.terminated for episode in episodes], counts)
    arrays: dict[str, Any] = {
        "observations": np.concatenate([episode.observations[: len(episode)] for episode in episodes]),
        "actions": np.concatenate([episode.actions for episode in episodes]),
        "rewards": np.concatenate([np.asarray(episode.rewards, dtype=np.float32) for episode in episodes]),
        "terminals": last & terminated,
        "timeouts": last & ~terminated,
    }
    np.savez_compressed(folder / RECORDED, **arrays)
    return folder / RECORDED


def write_minari(
    root: Path, name: str, env_id: str, episodes: Sequence[Episode], seeds: Sequence[int], policies: Sequence[str]
) -> Path:
    """A Minari data set of this name (`walker/mixed-v0`) below `root`; it needs the package minari."""
    require("minari", "rl", "Minari data sets are written by")
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    buffers = [
        EpisodeBuffer(number, seed, None, *_columns(episode))
        for number, (episode, seed) in enumerate(zip(episodes, seeds, strict=True))
    ]
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of what else could be told
            minari.create_dataset_from_buffers(
                name,
                buffers,
                env=env_id,
                algorithm_name=", ".join(policies),
                description=f"{len(episodes)} episodes of {env_id}.",
            )
    except ValueError as error:
        raise ConfigError(f"Minari refuses the data set {name!r}: {error}") from error
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
    return root / name


def _columns(episode: Episode) -> tuple[Any, ...]:
    """Observations, actions, rewards, terminations, truncations, as Minari has them."""
    before_last = [False] * (len(episode) - 1)
    ends = ([*before_last, episode.terminated], [*before_last, episode.truncated])
    return (episode.observations, episode.actions, np.asarray(episode.rewards).tolist(), *ends)


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in _spelled(file)}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as .npz ({error}); expected plain arrays. Write it again.") from error


def _spelled(file: Any) -> list[str]:
    """The names in a file that mean something here."""
    return [name for spelt in SPELLINGS.values() for name in spelt if name in file]


def _hdf5(path: Path) -> Any:
    require("h5py", "rl", f"{path} is read by")
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read as HDF5 ({error}); expected .npz or HDF5.") from error
