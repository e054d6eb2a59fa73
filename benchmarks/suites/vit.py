"""A vision transformer, ViT-S/16."""

from __future__ import annotations

from anyformer.bench import Bar, Contender, Settings, Suite, Work

CLS = "timm.models.vision_transformer.VisionTransformer"


def theirs(s: Settings):
    import torch
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    config = {
        "img_size": s.size, "patch_size": 16, "embed_dim": s.dim, "depth": s.depth, "num_heads": s.heads,
        "num_classes": 1000,
    }  # fmt: skip
    pixels = torch.randn(s.batch, 3, s.size, s.size, generator=torch.Generator().manual_seed(1))
    return VisionTransformer(**config), config, pixels


def anyformer(s: Settings) -> Work:
    import torch
    from peers.published import ours, passes

    model, config, pixels = theirs(s)
    mine, batch = ours(model, {"cls": CLS, **config}, {"pixel_values": pixels})
    batch, starts = batch.to(s.device), torch.tensor(batch.starts, device=s.device)
    return passes(mine, lambda: mine.read("label", mine(batch)[starts]), s, s.batch)


def timm(s: Settings) -> Work:
    from peers.published import passes

    model, _, pixels = theirs(s)
    pixels = pixels.to(s.device)
    return passes(model, lambda: model(pixels), s, s.batch)


def torchvision(s: Settings) -> Work:
    """Weights of its own."""
    import torch
    from peers.published import passes
    from torchvision.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(s.size, 16, s.depth, s.heads, s.dim, 4 * s.dim)
    pixels = torch.randn(s.batch, 3, s.size, s.size, device=s.device)
    return Work(passes(model, lambda: model(pixels), s, s.batch).run)


SUITE = Suite(
    title="A vision transformer, ViT-S/16: 12 layers, 384 wide, 4 pictures of 224 x 224.",
    unit="pictures",
    contenders=[
        Contender("anyformer", anyformer, ("timm",)),
        Contender("timm", timm, ("timm",)),
        Contender("torchvision", torchvision, ("torchvision",)),
    ],
    cases={
        f"{what} {precision}": {"train": what == "train", "precision": precision}
        for what in ("train", "infer")
        for precision in ("fp32", "bf16")
    },
    full={"size": 224, "dim": 384, "depth": 12, "heads": 6, "batch": 4},
    toy={"size": 32, "dim": 16, "depth": 1, "heads": 2, "batch": 2},
    accelerated={"batch": 128},
    bars=[Bar("train bf16", at_least=1.0, beside="timm"), Bar("infer bf16", at_least=1.0, beside="timm")],
    notes="A step trains on the mean square of the logits. bf16 is autocast with float32 weights.",
)
