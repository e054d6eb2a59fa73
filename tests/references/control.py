"""The Decision Transformer."""

from __future__ import annotations

import torch

from references.reference import Reference
from references.setting import Setting
from references.sharp import pre_norm


def decision_transformer(setting: Setting) -> Reference:
    """Episodes of returns, states and actions, the second one shorter and padded on the left."""
    import transformers

    fields = setting.fields(
        state_dim=7, act_dim=3, hidden_size=48, max_ep_len=setting.sized(32, 64), n_layer=3, n_head=2,
        n_positions=setting.sized(64, 256), attn_implementation="eager",
    )  # fmt: skip
    model = transformers.DecisionTransformerModel(transformers.DecisionTransformerConfig(**fields))
    steps, missing = setting.sized((9, 4), (50, 6))
    mask = torch.ones(2, steps, dtype=torch.long)
    mask[1, :missing] = 0
    clock = torch.arange(steps)
    played = mask[..., None].float()
    inputs = {
        "states": setting.normal("states", 2, steps, model.config.state_dim) * played,
        "actions": setting.normal("actions", 2, steps, model.config.act_dim) * played,
        "rewards": torch.zeros(2, steps, 1),
        "returns_to_go": setting.normal("returns", 2, steps, 1) * played,
        "timesteps": torch.stack([clock + 3, (clock - missing).clamp(min=0)]),
        "attention_mask": mask,
    }
    return Reference(
        model, inputs, compare=mask, sharp=pre_norm("^embed_|wpe|c_proj"),
        notes=("encoder.wpe[0] is added to every token", "hidden states: three tokens (R, s, a) a step"),
    )  # fmt: skip


FAMILIES = {"decision_transformer": decision_transformer}
