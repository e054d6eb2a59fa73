"""Strategies whose ranks keep parts of what is learned: what is whole lies with rank 0, which gathers and writes it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies.strategy import Strategy


class Gathered(Strategy):
    """What such strategies have in common. Their `lightning_module_state_dict` and `optimizer_state` are of all ranks'
    parts, as one process has them, in a processor's memory, on rank 0; empty on others, though all of them must ask."""

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        Strategy.save_checkpoint(self, checkpoint, self.broadcast(filepath), storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every rank reads it and keeps its parts."""
        return self.checkpoint_io.load_checkpoint(self.broadcast(checkpoint_path))

    def on_first_rank(self, state: dict[str, Any]) -> dict[str, Any]:
        return state if self.is_global_zero else {}

    def everywhere(self, state: Any) -> Any:
        """What rank 0 has, mappings within mappings, on all ranks; one value after the other, for they are large."""
        keys = self.broadcast(list(state) if isinstance(state, dict) else None)
        if keys is None:
            return self.broadcast(state)
        return {key: self.everywhere(state[key] if self.is_global_zero else None) for key in keys}
