"""A mixture of experts: what it computes, what its router is taught, and that no token feels another's choice."""

import math

import pytest
import runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from anyformer.architecture import Architecture, BackboneConfig
from anyformer.batch import Example, pack
from anyformer.mask import Mask
from anyformer.model import ForwardPass, Model
from anyformer.sublayers import Context, Experts, FeedForward, Placement
from anyformer.sublayers.feed_forward import make_feed_forward
from anyformer.tokens import Stream, Tokens


def experts(count: int, top_k: int, seed: int = 0, **more) -> Experts:
    """With parameters of ordinary size: at initialisation a router hardly prefers anybody."""
    torch.manual_seed(seed)
    made = Experts(BackboneConfig(8, 2, hidden=12, experts=count, top_k=top_k, **more), layer=1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.4)
    return made


def alone(tokens: int, **probe) -> Context:
    return Context(
        Placement(), Mask.causal((tokens,)), probe={f"feed_forward.{name}": hook for name, hook in probe.items()}
    )


def imbalance(made: Experts, x: Tensor) -> Tensor:
    """What the layer says of its balance."""
    said = []
    made(x, alone(len(x), balance=lambda layer, value: said.append((layer, value))))
    ((layer, value),) = said
    assert layer == 1
    return value


@pytest.mark.parametrize(("count", "top_k"), [(4, 2), (5, 1), (3, 3), (8, 2)])
def test_it_is_mixtrals(count, top_k):
    """transformers' sparse block, weights copied: outputs, and the gradients of the input and of the router."""
    module = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    config = module.MixtralConfig(
        hidden_size=8, intermediate_size=12, num_local_experts=count, num_experts_per_tok=top_k
    )
    theirs = module.MixtralSparseMoeBlock(config)
    ours = experts(count, top_k, gated=True, activation="silu", feed_forward_bias=False)
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router.weight)
        theirs.experts.gate_up_proj.copy_(torch.stack([expert.up.weight for expert in ours.experts]))
        theirs.experts.down_proj.copy_(torch.stack([expert.down.weight for expert in ours.experts]))
    x = torch.randn(50, 8).requires_grad_()
    found, wanted = ours(x, alone(50)), theirs(x[None])[0]
    assert float((found - wanted).abs().max()) <= 1e-5
    gradients = [
        torch.autograd.grad(out.square().sum(), (x, router))
        for out, router in ((found, ours.router.weight), (wanted, theirs.gate.weight))
    ]
    for mine, other in zip(*gradients, strict=True):
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_it_is_the_definition(count, top_k, seed):
    """Token by token: the experts its router likes best, weighted by the softmax over these alone."""
    top_k = min(top_k, count)
    made, x = experts(count, top_k, seed), torch.randn(7, 8)
    wanted = []
    for row in x:
        likes = made.router.weight @ row
        best = sorted(range(count), key=lambda index: -float(likes[index]))[:top_k]
        shares = torch.stack([likes[index] for index in best]).softmax(0)
        said = [made.experts[index](row[None], alone(1))[0] for index in best]
        wanted.append(sum(share * one for share, one in zip(shares, said, strict=True)))
    assert torch.allclose(made(x, alone(7)), torch.stack(wanted), atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_a_tokens_output_is_its_own(first, second, seed):
    """Alone, beside others, in any order, and where an expert or a whole layer has nothing to do: none is dropped."""
    made = experts(6, 2, seed)
    x = torch.randn(first + second, 8)
    whole = made(x, alone(len(x)))
    assert torch.allclose(
        torch.cat([made(part, alone(len(part))) for part in x.split((first, second))]), whole, atol=1e-6
    )
    order = torch.randperm(len(x))
    assert torch.allclose(made(x[order], alone(len(x))), whole[order], atol=1e-6)
    assert made(x[:0], alone(0)).shape == (0, 8)


def test_gradients_reach_the_router_and_every_expert_that_was_asked():
    """The router through the weights of what it chose; an expert that nobody chose gets none."""
    made, x = experts(4, 2), torch.randn(6, 8)
    chosen = set((x @ made.router.weight.T).topk(2).indices.flatten().tolist())
    made(x, alone(6)).square().sum().backward()
    assert made.router.weight.grad.any(1).tolist() == [index in chosen for index in range(4)]
    for index, expert in enumerate(made.experts):
        assert bool(expert.up.weight.grad is not None and expert.up.weight.grad.any()) == (index in chosen)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_it_runs_under_autocast(norm):
    """In bfloat16, forward and backward, near float32."""
    architecture = Architecture(
        BackboneConfig(16, 2, depth=2, experts=3, norm=norm), {"text": {"tie": True}}, {"text": {"vocab_size": 9}}
    )
    torch.manual_seed(0)
    model = Model.of(architecture)
    says = {"text": Stream.whole(torch.tensor([1, 2, 3]))}
    batch, found = pack([Example(Tokens.of("text", torch.tensor([4, 5, 6])), says)]), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            said = ForwardPass(model, batch).read("text", batch.targets[""]["text"])
        said.float().square().mean().backward()
        found.append(said.detach().float())
    assert not torch.equal(*found)
    assert float((found[1] - found[0]).norm()) < 0.1 * float(found[0].norm())


# Balance


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(1, 3), st.integers(0, 99))
def test_the_balancing_loss_is_the_formula(count, top_k, seed):
    """experts · Σ share · mean probability (arXiv:2101.03961 eq. 4-6), times `balance`."""
    top_k = min(top_k, count)
    made, x = experts(count, top_k, seed, balance=0.3), torch.randn(11, 8)
    probabilities = (x @ made.router.weight.T).softmax(-1)
    total = 0.0
    for index in range(count):
        asked = sum(index in sorted(range(count), key=lambda i: -float(row[i]))[:top_k] for row in probabilities)
        total += asked / (top_k * len(x)) * float(probabilities[:, index].mean())
    assert math.isclose(float(imbalance(made, x)), 0.3 * count * total, rel_tol=1e-5)


def test_the_balancing_loss_is_mixtrals():
    """transformers' counts a token as often as it has experts: `top_k` times ours."""
    module = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    made, x = experts(5, 2, balance=1.0), torch.randn(40, 8)
    wanted = module.load_balancing_loss_func((made.router(x),), 5, 2)
    assert math.isclose(2 * float(imbalance(made, x)), float(wanted), rel_tol=1e-5)


def test_equal_shares_are_the_balancing_losss_goal():
    """Where experts get equally many, it is 1 whatever the probabilities and no router is pushed; where one gets all,
    it is as many as there are experts; and following its gradient evens shares out."""
    made = experts(4, 1, balance=1.0)
    with torch.no_grad():
        made.router.weight.copy_(torch.eye(4, 8) * 5)
    even = torch.eye(4, 8).repeat(3, 1) * torch.linspace(0.5, 2, 12)[:, None]
    loss = imbalance(made, even)
    (push,) = torch.autograd.grad(loss, made.router.weight)
    assert math.isclose(float(loss), 1.0, rel_tol=1e-6)
    assert float(push.abs().max()) < 1e-6
    assert math.isclose(float(imbalance(made, torch.eye(4, 8)[:1] * 9)), 4.0, rel_tol=1e-4)

    torch.manual_seed(0)
    crowd = torch.randn(200, 8) + 1.0  # one expert is liked by nearly all
    with torch.no_grad():
        made.router.weight.normal_(std=0.3)
        made.router.weight[0] += 0.5
    optimizer, losses = torch.optim.SGD([made.router.weight], lr=0.3), []
    for _ in range(150):
        loss = imbalance(made, crowd)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    shares = torch.bincount((crowd @ made.router.weight.T).argmax(-1), minlength=4) / 200
    assert losses[0] > 2
    assert losses[-1] < 1.1
    assert float(shares.min()) > 0.1


def test_a_pass_collects_the_balance_of_every_layer():
    """The encoder's layers too; a pass of one network without experts collects nothing."""
    settings_ = {"dim": 8, "heads": 2, "hidden": 8}
    both = {**settings_, "experts": 2, "balance": 1.0}
    recipe = ("attention", "cross_attention", "feed_forward")
    text = {"text": {"vocab_size": 9}}
    words = Tokens.of("text", torch.tensor([1, 2, 3]))
    batch = pack([Example(words, {}, source=Example(words, {}, 3))])
    for backbone, encoder, wanted in [
        ({**both, "depth": 3, "recipe": recipe}, {**both, "depth": 2}, 5),
        ({**settings_, "recipe": recipe}, settings_, 0),
    ]:
        architecture = Architecture.of({"streams": text, "backbone": backbone, "encoder": encoder}, "model")
        forward = ForwardPass(Model.of(architecture), batch)
        assert forward.hidden.shape == (3, 8)
        assert len(forward.balance) == wanted
        assert all(float(loss) > 0.5 for loss in forward.balance)


def test_no_experts_are_one_feed_forward():
    """`experts=0`; and one expert that everybody gets is the same function."""
    plain, single = BackboneConfig(8, 2), BackboneConfig(8, 2, experts=1, top_k=1)
    one, mixture = make_feed_forward(plain), make_feed_forward(single)
    assert type(one) is FeedForward
    mixture.experts[0].load_state_dict(one.state_dict())
    x = torch.randn(5, 8)
    assert torch.allclose(mixture(x, alone(5)), one(x, alone(5)), atol=1e-6)


class Routers(Callback):
    """The routers' gradients at each step."""

    def __init__(self) -> None:
        self.steps: list[list[Tensor]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        routers = [p for name, p in pl_module.named_parameters() if name.endswith("router.weight")]
        self.steps.append([p.grad.clone() for p in routers])


@pytest.mark.usefixtures("toys")
def test_training_feels_the_balance(tmp_path):
    """Everything else equal, a learner's routers are pushed by the balance: by as much more as it weighs, in every
    layer; and the logged losses of the tasks are as they were."""
    pushed, weights, logged = {}, {}, {}
    for balance in (0.0, 1.0, 2.0):
        routers = Routers()
        backbone = {"dim": 16, "heads": 2, "depth": 2, "experts": 4, "balance": balance}
        learned = runs.learner(backbone=backbone)
        run = runs.trainer(tmp_path / str(balance), 1, [routers], accumulate_grad_batches=2, log_every_n_steps=1)
        run.fit(learned, datamodule=runs.mixture())
        pushed[balance], weights[balance] = routers.steps[0], runs.weights(learned)
        told = {name: float(v) for name, v in run.callback_metrics.items() if name.startswith("train/")}
        logged[balance] = {name: value for name, value in told.items() if not name.endswith("per_second")}
    assert logged[0.0]
    assert logged[0.0] == logged[2.0]
    assert len(pushed[0.0]) == 2
    for none, some, more in zip(*pushed.values(), strict=True):
        assert not torch.allclose(some, none, atol=1e-4)
        assert torch.allclose(more - none, 2 * (some - none), atol=1e-6)
    changed = {name for name, tensor in weights[0.0].items() if not torch.equal(tensor, weights[2.0][name])}
    assert {f"_model.backbone.blocks.{layer}.feed_forward.sublayer.router.weight" for layer in (0, 1)} <= changed
