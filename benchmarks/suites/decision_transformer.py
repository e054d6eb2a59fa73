"""A Decision Transformer."""

from __future__ import annotations

from anyformer.bench import PEERS, Bar, Contender, Settings, Suite, Work


def theirs(s: Settings):
    import torch
    from transformers import DecisionTransformerConfig, DecisionTransformerModel

    torch.manual_seed(0)
    config = DecisionTransformerConfig(
        state_dim=17, act_dim=6, hidden_size=s.dim, max_ep_len=1000, n_layer=s.depth, n_head=1, n_positions=1024,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    draw = torch.Generator().manual_seed(1)
    inputs = {
        "states": torch.randn(s.batch, s.steps, 17, generator=draw),
        "actions": torch.randn(s.batch, s.steps, 6, generator=draw),
        "rewards": torch.zeros(s.batch, s.steps, 1),
        "returns_to_go": torch.randn(s.batch, s.steps, 1, generator=draw),
        "timesteps": torch.arange(s.steps).expand(s.batch, -1).contiguous(),
        "attention_mask": torch.ones(s.batch, s.steps, dtype=torch.int64),
    }
    return DecisionTransformerModel(config), inputs


def anyformer(s: Settings) -> Work:
    import torch
    from peers.published import ours, passes

    model, inputs = theirs(s)
    mine, batch = ours(model, None, inputs)
    batch = batch.to(s.device)
    states = torch.arange(1, batch.tokens, 3, device=s.device)  # an action is said where the state before it stands
    return passes(mine, lambda: mine.read("rl.action", mine(batch)[states]), s, 1)


def transformers(s: Settings) -> Work:
    from peers.published import passes

    model, given = theirs(s)
    inputs = {name: one.to(s.device) for name, one in given.items()}
    return passes(model, lambda: model(**inputs).action_preds, s, 1)


SUITE = Suite(
    title="A Decision Transformer: 3 layers, 128 wide, 64 contexts of 20 steps.",
    unit="updates",
    contenders=[
        Contender("anyformer", anyformer, ("transformers",)),
        Contender("transformers", transformers, ("transformers",)),
    ],
    cases={
        f"{what} {precision}": {"train": what == "train", "precision": precision}
        for what in ("train", "infer")
        for precision in ("fp32", "bf16")
    },
    full={"dim": 128, "depth": 3, "batch": 64, "steps": 20},
    toy={"dim": 16, "depth": 1, "batch": 2, "steps": 4},
    accelerated={"batch": 1024},
    bars=[Bar("train bf16", at_least=1.1, beside=PEERS), Bar("infer bf16", at_least=1.1, beside=PEERS)],
    notes="An update trains on the mean square of the predicted actions; transformers computes those of returns and "
    "states too, which nothing here asks of ours. bf16 is autocast with float32 weights.",
)
