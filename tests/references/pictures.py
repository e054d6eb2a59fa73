"""Vision Transformers by three libraries."""

from __future__ import annotations

from typing import Any

from torch import nn

from references.reference import Reference, Tensors, numbered, watched
from references.setting import Setting
from references.sharp import pre_norm


def vit_hf(setting: Setting) -> Reference:
    """A picture that is higher than wide."""
    import transformers

    fields = setting.fields(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, patch_size=8, num_labels=10,
        image_size=setting.sized((24, 16), (104, 88)), attn_implementation="eager",
    )  # fmt: skip
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**fields))
    config = model.config
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    pixels = setting.normal("pixels", 2, config.num_channels, height, width)
    labels = setting.integers("labels", 0, config.num_labels, 2)
    return Reference(model, {"pixel_values": pixels, "labels": labels}, sharp=pre_norm("embeddings|o_proj|fc2"))


def vit_timm(setting: Setting) -> Reference:
    from timm.models.vision_transformer import VisionTransformer

    config = setting.fields(
        img_size=setting.sized(24, 96), patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=10, mlp_ratio=2.0
    )
    pixels = setting.normal("pixels", 2, 3, config["img_size"], config["img_size"])
    call = watched(_classify, lambda model: _stack(model.blocks, model.norm))
    return Reference(
        VisionTransformer(**config), {"pixel_values": pixels}, call, sharp=pre_norm(r"embed|cls_token|attn\.proj|fc2"),
        config={"cls": "timm.models.vision_transformer.VisionTransformer", **config},
    )  # fmt: skip


def vit_torchvision(setting: Setting) -> Reference:
    from torchvision.models.vision_transformer import VisionTransformer

    config = setting.fields(
        image_size=setting.sized(24, 96), patch_size=8, num_layers=3, num_heads=4, hidden_dim=48, mlp_dim=96,
        num_classes=10,
    )  # fmt: skip
    pixels = setting.normal("pixels", 2, 3, config["image_size"], config["image_size"])
    call = watched(_classify, lambda model: _stack(model.encoder.layers, model.encoder.ln))
    return Reference(
        VisionTransformer(**config), {"pixel_values": pixels}, call,
        sharp=pre_norm(r"conv_proj|class_token|pos_embedding|out_proj|mlp\.3"),
        config={"cls": "torchvision.models.vision_transformer.VisionTransformer", **config},
    )  # fmt: skip


def _classify(model: nn.Module, inputs: Tensors) -> Tensors:
    return {"logits": model(inputs["pixel_values"])}


def _stack(blocks: Any, norm: nn.Module) -> dict[str, nn.Module]:
    return numbered("hidden_states", blocks) | {"last_hidden_state": norm}


FAMILIES = {family.__name__: family for family in (vit_hf, vit_timm, vit_torchvision)}
