"""DreamerV3 updates of other libraries, at the sizes of `dreamer_step`, for whoever has installed them.

    pip install torch==2.13.0 && pip install torchrl==0.14.1

Each is written through the library's public modules and its own optimiser: block GRU, latent groups and classes, heads,
bins, starts of dreams, horizon, slow critic and replay critic are those of size 1M. What differs is printed: weights,
and matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldformula.nets.sizes import Sizes


@dataclass
class Peer:
    """``update()`` is one whole update; ``weights`` are those that it trains."""

    update: Callable[[], object]
    weights: int


class Policy(nn.Module):
    """Mean and deviation of the actions, as the paper bounds them."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, state: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., n]`` each."""
        mean, deviation = self.trunk(state, belief).chunk(2, -1)
        return mean.tanh(), 0.1 + 0.9 * torch.sigmoid(deviation + 2.0)


class Symlogged(nn.Module):
    """A network on squashed numbers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """``[..., n]``."""
        found: Tensor = self.net(torch.sign(x) * x.abs().log1p())
        return found


def torchrl(
    sizes: Sizes, batch: Mapping[str, NDArray[Any]], horizon: int, compiled: bool = False, unroll: int | None = 8
) -> Peer:
    """The update of torchrl's `DreamerV3OptimizationStepper`; raises ImportError where torchrl is not installed."""
    from tensordict.nn import TensorDictModule, TensorDictSequential
    from torchrl.modules import DreamerV3MLP, RSSMPosteriorV3, RSSMPriorV3, RSSMRolloutV3, SymExpTwoHot
    from torchrl.objectives import DreamerV3Loss, DreamerV3ModelLoss, DreamerV3ValueLoss, SoftUpdate
    from torchrl.trainers.algorithms import DreamerV3OptimizationStepper, DreamerV3Optimizer

    width, actions = batch["vector"].shape[-1], batch["action"].shape[-1]
    features, units = sizes.feature, sizes.units
    prior_net = RSSMPriorV3(
        action_shape=(actions,), hidden_dim=sizes.hidden, rnn_hidden_dim=sizes.deter, num_categoricals=sizes.groups,
        num_classes=sizes.classes, action_dim=actions, recurrent_model="block_gru", num_blocks=sizes.blocks,
        unimix=0.01,
    )  # fmt: skip
    posterior_net = RSSMPosteriorV3(
        hidden_dim=sizes.hidden, rnn_hidden_dim=sizes.deter, num_categoricals=sizes.groups, num_classes=sizes.classes,
        obs_embed_dim=units, use_rms_norm=True, unimix=0.01,
    )  # fmt: skip
    seen = [("next", "state"), ("next", "belief")]
    reward, proceed = DreamerV3MLP(features, 255, 1, units, outscale=0.0), DreamerV3MLP(features, 1, 1, units)
    decoded = SymExpTwoHot(255)
    world = TensorDictSequential(
        TensorDictModule(
            Symlogged(DreamerV3MLP(width, None, 3, units)),
            in_keys=[("next", "observation")], out_keys=[("next", "encoded")],
        ),
        RSSMRolloutV3(
            TensorDictModule(
                prior_net, in_keys=["state", "belief", "action"],
                out_keys=[("next", "prior_logits"), ("next", "state"), ("next", "belief")],
            ),
            TensorDictModule(
                posterior_net, in_keys=[("next", "belief"), ("next", "encoded")],
                out_keys=[("next", "posterior_logits"), ("next", "state")],
            ),
        ),
        TensorDictModule(DreamerV3MLP(features, width, 3, units), in_keys=seen, out_keys=[("next", "reco_pixels")]),
        TensorDictModule(reward, in_keys=seen, out_keys=[("next", "reward_logits")]),
        TensorDictModule(decoded, in_keys=[("next", "reward_logits")], out_keys=[("next", "reward")]),
        TensorDictModule(proceed, in_keys=seen, out_keys=[("next", "continue_pred")]),
    )  # fmt: skip
    value = TensorDictSequential(
        TensorDictModule(
            DreamerV3MLP(features, 255, 3, units, outscale=0.0),
            in_keys=["state", "belief"], out_keys=["state_value_logits"],
        ),
        TensorDictModule(decoded, in_keys=["state_value_logits"], out_keys=["state_value"]),
    )  # fmt: skip
    model_loss = DreamerV3ModelLoss(
        world, lambda_continue=1.0, kl_mode="separate", unimix=0.01, continue_target_scale=1 - 1 / 333,
        detach_output=False,
    )  # fmt: skip
    model_loss.set_keys(pixels="observation")
    actor_loss = _behaviour(sizes, actions, prior_net, reward, decoded, proceed, value, horizon)
    value_loss = DreamerV3ValueLoss(value, "two_hot", actor_loss=actor_loss, slow_critic_regularization=1.0)
    loss = DreamerV3Loss(model_loss, actor_loss, value_loss)
    slow = SoftUpdate(value_loss, tau=0.02)
    trained = [p for p in loss.parameters() if p.requires_grad]
    stepper = DreamerV3OptimizationStepper(
        loss, DreamerV3Optimizer(trained), slow, compile_train_step=compiled, cudagraph=False, warmup_steps=1,
        rssm_scan_unroll=unroll,
    )  # fmt: skip
    sample = _sample(batch, sizes)
    if compiled:
        stepper.warmup(sample)
    return Peer(lambda: stepper.step(None, sample), sum(p.numel() for p in trained))


def _behaviour(
    sizes: Sizes, actions: int, prior: nn.Module, reward: nn.Module, decoded: nn.Module, proceed: nn.Module,
    value: Any, horizon: int,
) -> Any:  # fmt: skip
    """torchrl's actor loss on dreams of its model-based environment."""
    from tensordict.nn import (
        ProbabilisticTensorDictModule,
        ProbabilisticTensorDictSequential,
        TensorDictModule,
        TensorDictSequential,
    )
    from torchrl.data import Bounded, Composite, Unbounded
    from torchrl.envs.model_based import DreamerEnv
    from torchrl.modules import DreamerV3MLP, IndependentNormal, WorldModelWrapper
    from torchrl.objectives import DreamerV3ActorLoss
    from torchrl.objectives.utils import ValueEstimators

    here = ["state", "belief"]
    imagination = WorldModelWrapper(
        TensorDictModule(prior, in_keys=[*here, "action"], out_keys=["_", *here]),
        TensorDictSequential(
            TensorDictModule(reward, in_keys=here, out_keys=["reward_logits"]),
            TensorDictModule(decoded, in_keys=["reward_logits"], out_keys=["reward"]),
        ),
    )
    env = DreamerEnv(imagination, prior_shape=(sizes.stoch,), belief_shape=(sizes.deter,))
    env.observation_spec = Composite(state=Unbounded(sizes.stoch), belief=Unbounded(sizes.deter))
    env.state_spec = env.observation_spec.clone()
    env.action_spec, env.reward_spec = Bounded(-1, 1, (actions,)), Unbounded((1,))
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(
            Policy(DreamerV3MLP(sizes.feature, 2 * actions, 3, sizes.units, outscale=0.01)),
            in_keys=here, out_keys=["loc", "scale"],
        ),
        ProbabilisticTensorDictModule(
            in_keys=["loc", "scale"], out_keys=["action"], distribution_class=IndependentNormal,
        ),
    )  # fmt: skip
    goes_on = TensorDictSequential(
        TensorDictModule(proceed, in_keys=here, out_keys=["continue_logit"]),
        TensorDictModule(torch.sigmoid, in_keys=["continue_logit"], out_keys=["continuation"]),
    )
    loss = DreamerV3ActorLoss(
        actor, value, env, continuation_model=goes_on, imagination_horizon=horizon, use_reinforce=True
    )
    loss.make_value_estimator(ValueEstimators.TDLambda, gamma=1.0, lmbda=0.95)
    return loss


def _sample(batch: Mapping[str, NDArray[Any]], sizes: Sizes) -> Any:
    """The sequences as transitions."""
    from tensordict import TensorDict

    lead = batch["reward"].shape
    flags = {key: torch.as_tensor(batch[key])[..., None] for key in ("is_first", "is_last", "is_terminal")}
    after = {
        "observation": torch.as_tensor(batch["vector"]), "reward": torch.as_tensor(batch["reward"])[..., None],
        "done": flags["is_last"], "terminated": flags["is_terminal"],
    }  # fmt: skip
    now = {"state": torch.zeros(*lead, sizes.stoch), "belief": torch.zeros(*lead, sizes.deter)}
    now |= {"action": torch.as_tensor(batch["action"]), "is_init": flags["is_first"]}
    return TensorDict({**now, "next": after}, lead)
