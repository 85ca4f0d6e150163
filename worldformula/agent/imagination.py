"""An agent that acts by the dreams of its world: perception, world, cost, actor, memory and what it learns by.

A published agent configures it (`worldformula.agents`): its world, and either a policy and a critic that learn in
dreams or a planner that searches in them; who moves which weights, and by which optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldformula.agent import lessons
from worldformula.agent.actor import Actor
from worldformula.agent.acts import space_of
from worldformula.agent.configurator import Configuration, Habits
from worldformula.agent.cost import Cost
from worldformula.agent.memory import ShortTermMemory
from worldformula.agent.open_loop import open_loop
from worldformula.agent.perception import Perception
from worldformula.agent.recollection import Recollection, Recollects, kept_by
from worldformula.agent.search import Search
from worldformula.agent.terms import Measure, modules_of
from worldformula.envs.actions import Actions
from worldformula.errors import CheckpointError, ConfigError, near
from worldformula.formula.factors.joint import Factor, Joint
from worldformula.formula.syntax.nodes import factors as factors_of
from worldformula.learners.critics import MemoryCritic
from worldformula.learners.curiosity import Curious
from worldformula.learners.imagination import Behaviour
from worldformula.planner import Task
from worldformula.run.contract import LearningConfig
from worldformula.training.objective import Minimises, Objective, Updates
from worldformula.training.players import Order, Turns
from worldformula.training.precision import in_bfloat16
from worldformula.world import State, Values, World
from worldformula.world.conditions import conditions_of
from worldformula.world.heads import Means, decode, means_of

LABEL = "label/"  # columns that a run stores and no agent observes
UPDATES = "updates"  # beside the weights that are handed over: until the first one, some agents act at random


class ImaginationAgent(nn.Module):
    """The six modules of an agent that imagines.

    Args:
        config: its settings, which `checkpoint` does not hold.
        world: the world model.
        perception: from rows to the variables of the world.
        learner: actor and critic, and their losses; its policy acts. None is an agent that plans alone.
        players: what minimises which terms, "world" and those of the learner, and moves what; by name.
        order: who moves first, as of `Objective`; in later turns, dreams start from the states of the first.
        habits: how it acts by itself.
        horizon: steps of a dream.
        curious: bonuses by name, which it learns as terms of these names and counts as costs of its own.
        surprising: of a result of the world's loss, what it is at every row, ``[B, T]``: `surprise` then keeps it.
        intrinsic, critics: further terms of its cost by name, such as how far a goal is: see `Cost`. A `MemoryCritic`
            that a player minimises, by its name, learns from what the agent recollects.
        recollects: keeps states and their costs, in the acting state until their episode ends.
        late: dreams start from the last so many states of each sequence; 1 where the world remembers a past.
        context: whether sequences go on from the states that the replay keeps, see `latents`.

    Raises:
        ConfigError: the world remembers a past, of which it knows the last step of a sequence alone, and dreams shall
            start from others too; neither a learner nor a planner.

    Attributes:
        objective: all that it learns by, as formulas; `loss` is its short name.
    """

    objective: Objective

    def __init__(
        self, config: LearningConfig, world: World, perception: Perception, learner: Behaviour | None = None, *,
        players: Mapping[str, Minimises], order: Order | Turns = "simultaneous", habits: Habits | None = None,
        horizon: int = 1, late: int = 1, context: bool = False, curious: Mapping[str, Curious] | None = None,
        surprising: Callable[[Any], Tensor] | None = None, intrinsic: Mapping[str, Measure] | None = None,
        critics: Mapping[str, Measure] | None = None, recollects: Recollects | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.horizon, self.late, self.context = config, horizon, late, context
        self.world, self.learner, self.perception = world, learner, perception
        self.habits = habits or Habits()
        if world.memory and (late > 1 or context):
            what = f"late={late}" if late > 1 else "context=True"
            raise ConfigError(
                f"{what}: the world keeps {', '.join(world.memory)} of the last step of a sequence alone, and neither "
                f"earlier ones nor the replay have it\nexpected late=1, context=False, or a world that carries what it "
                f"remembers, h_t = f(h_{{t-1}}, ...)"
            )
        self.actor: Actor | None = None
        if learner is not None:
            acts = learner.policy
            self.policy: nn.Module = nn.ModuleList(acts.factors) if isinstance(acts, Joint) else acts
            read = {action: word for action, word in perception.allowed.items() if word in learner.masks}
            self.actor = Actor(acts, world.actions, read, self.habits.noise)
        self.curious = nn.ModuleDict(curious or {})
        discount = perception.discount if learner is None else learner.discount
        further = getattr(learner, "further", 1.0)
        terms: dict[str, Measure] = {**dict(self.curious.items()), **(intrinsic or {})}
        self.cost = Cost(world, terms, dict(critics or {}), discount=discount, further=further)
        self.judging = nn.ModuleList(m for term in (critics or {}).values() for m in modules_of(term))
        recalled = {name: term for name, term in (critics or {}).items() if isinstance(term, MemoryCritic)}
        recalled = {name: term for name, term in recalled.items() if any(name in p.weights for p in players.values())}
        self.recollects = recollects
        self.recollection = Recollection(None if recollects is None else recollects.capacity)
        sizes = {act.variable: act.size for act in perception.acts}
        self.memory = ShortTermMemory(world, sizes, *kept_by(recollects, recalled))
        self.configure(self.habits.usual)
        # Out of the module tree: it holds the same networks, which must appear once in the state_dict.
        self.__dict__["objective"] = lessons.objective(self, order, players, recalled)
        self.updates = Updates(self.objective)
        self.surprising, self.surprise = surprising, cast("NDArray[Any] | None", None)
        self._means: Means | None = None  # `means_of`, compiled
        self._halved = False

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._weight.device

    @cached_property
    def _weight(self) -> Tensor:
        """Any of them; to look one up takes longer than a layer."""
        return next(self.parameters())

    # ------------------------------------------------------------------------------------------------------------- act

    def initial(self, num: int) -> State:
        """The memory before the first row, for ``num`` streams."""
        return self.memory.initial(num, self.device)

    @torch.no_grad()
    def act(self, rows: Mapping[str, NDArray[Any]], state: Values, explore: bool = True) -> tuple[Actions, State]:
        """Actions at rows ``[num, ...]``, as `ActionSpec` says, an array or one per name, and the next state.

        ``explore`` samples, otherwise means and modes (`Configuration.draws` aside). What masks forbid is not chosen.
        """
        tokens = self.tokens(rows)
        observed = self.perception.observe(rows, self.device) | tokens
        masks, kept = self.perception.masks(rows, self.device), dict[str, Tensor]()
        anything = explore and self.habits.random and not self.updates.count
        surely = not (explore or self.configuration.draws)
        plain = self.search is None and surely != explore and not anything and not masks and not tokens
        if plain and self.learner is not None and not (explore and self.habits.noise):
            acted = self.world.act(observed, state, self.learner.policy, deterministic=not explore)
            kept = self._kept(acted, rows, state)
            return self.perception.act(acted), acted | kept if kept else acted
        seen = self.world.observe(observed, state, deterministic=surely)
        if anything:
            actions = self._anything(masks, len(rows["is_first"]))
        elif self.search is None:
            assert self.actor is not None
            actions = self.actor.act(seen | tokens, explore=explore, masks=masks)
        else:
            begins = torch.as_tensor(rows["is_first"], device=self.device).bool()
            task = self.task({k: v.to(self.device) for k, v in self.configuration.given(rows).items()})
            known = seen | tokens, State({**state, **tokens})
            planned = partial(self.search.act, self.world, task, *known, begins)
            if (switch := self.configuration.switch) is not None and self.actor is not None:
                planned = partial(switch.act, self.search, self.actor, self.world, task, *known, begins)
            actions, kept = planned(explore=explore, masks=masks)
        kept |= self._kept(seen, rows, state)
        return self.perception.act(actions), self.memory.update(seen, actions) | kept

    def tokens(self, rows: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """What the configuration says of the task itself at rows ``[N, ...]``, by condition.

        Raises:
            ConfigError: a token that nobody reads.
        """
        if not self.configuration.tokens:
            return {}
        policy = None if self.actor is None else self.actor.policy
        known = {*self.world.conditions, *conditions_of(self.world.posterior, policy)}
        found = {name: token.to(self.device) for name, token in self.configuration.told(rows).items()}
        if unread := [name for name in found if name not in known]:
            raise ConfigError(
                f"tokens: neither the world nor the policy reads {unread[0]!r}; conditions without time: "
                f"{', '.join(sorted(known)) or 'none'}.{near(unread[0], known)}\na goal that terms of the cost read is "
                f"Configuration(goal=...)"
            )
        return found

    def spent(self, states: State, rows: Mapping[str, NDArray[Any]]) -> Tensor:
        """IC at states ``[N, ...]``, with the goals of their rows: see `Cost.immediate`."""
        goals = {name: goal.to(self.device) for name, goal in self.configuration.given(rows).items()}
        return self.cost.immediate(State({**states, **goals}, 1))

    def _kept(self, seen: State, rows: Mapping[str, NDArray[Any]], state: Values) -> dict[str, Tensor]:
        """What the acting state holds of the episode, with this step."""
        if self.recollects is None:
            return {}
        begins = torch.as_tensor(rows["is_first"], device=self.device).bool()
        return self.memory.keep(seen, self.spent(seen.only(self.world.carried), rows), state, begins)

    def recollect(self, rows: Mapping[str, NDArray[Any]], state: Values) -> None:
        """Episodes that end at rows ``[N, ...]`` go from the acting state into what critics learn from.

        A run calls it after every turn of its own; what is acted in evaluations is not recollected.
        """
        if self.recollects is not None:
            for stream in np.flatnonzero(rows["is_last"]):
                states, costs = self.memory.episode(state, int(stream))
                if costs.shape[1] > 1:
                    self.recollection.write(states, costs)

    def _anything(self, masks: Mapping[str, Tensor], num: int) -> dict[str, Tensor]:
        """Uniformly random actions ``[num, size]`` by variable, among those that are allowed."""
        space = space_of(self.perception.acts)
        return {name: own.random(num, self.device, masks.get(name)) for name, own in space.items()}

    def configure(self, configuration: Configuration) -> None:
        """Another task with the same networks: weights of the cost, and Mode-2 where it names a planner.

        Raises:
            ConfigError: a weight or a limit of no term of the cost; no planner, and the agent has no policy; proposals
                or a value, and it has neither.
        """
        planner, space = configuration.planner, space_of(self.perception.acts)
        if planner is None and self.actor is None:
            raise ConfigError(
                "this agent has no policy, so it acts by a planner alone: expected Configuration(planner=...), such as "
                "that of agent.habits.usual"
            )
        if self.learner is None and (configuration.proposals or configuration.value or configuration.switch):
            raise ConfigError(
                "this agent has neither a policy nor a value: expected Configuration(proposals=0, value=False, "
                f"switch=None), got {configuration.proposals}, {configuration.value} and {configuration.switch}"
            )
        cost = replace(self.cost, weights=dict(configuration.weights))
        if configuration.limits:
            cost.task(limits=configuration.limits)  # what is wrong with them is told now, and not when it acts
        self.cost = cost
        self.configuration, policy = configuration, None if self.learner is None else self.learner.policy
        self.search = None
        if planner is not None:
            self.search = Search(
                planner, space, configuration.noise, configuration.warm, policy, configuration.proposals
            )

    def task(self, given: Mapping[str, Tensor] | None = None) -> Task:
        """What Mode-2 searches by; ``given`` are goals, a row for each episode."""
        asked, value = self.configuration, self._value if self.configuration.value else None
        return replace(self.cost.task(value, given=given, limits=asked.limits), samples=asked.samples)

    def _value(self, states: State) -> Tensor:
        """What the critic says is to come after states ``[N, ...]``."""
        assert self.learner is not None
        return self.learner.value(*(states[name] for name in self.learner.names))

    # ----------------------------------------------------------------------------------------------------------- learn

    @property
    def loss(self) -> Objective:
        """All that it learns by, as formulas: ``agent.loss.terms["dream"].code``."""
        return self.objective

    def update(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """One optimiser step on sequences ``[B, T, ...]``; returns detached metrics."""
        return self.learn(batch)[0]

    def learn(self, batch: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Tensor], dict[str, NDArray[Any]]]:
        """`update`, and the states of its rows ``[B, T, ...]`` for the replay, where it keeps `latents`."""
        outs = self.updates.update(batch)
        world = outs["world"]
        if self.surprising is not None:
            self.surprise = self.surprising(world).detach().float().cpu().numpy()
        terms = {f"loss/{text}": value.detach() for text, value in world.terms.items()}
        parts = {f"loss/{part}": self.objective.value(part, outs).detach() for part in self.objective.parts}
        totals = list(outs["totals"].values())
        metrics = {**terms, **parts, "loss/total": sum(totals[1:], totals[0])}
        if self.learner is not None:
            metrics |= self.learner.metrics(outs[next(iter(self.learner.terms))])
        return metrics, self.stored(world.samples)

    def watched(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """How the world's latents that nothing decodes are on sequences ``[B, T, ...]``, and what they tell of labels:
        see `World.watched`.
        """
        if not self.world.embeddings:
            return {}
        labels = {k.removeprefix(LABEL): torch.as_tensor(v) for k, v in batch.items() if k.startswith(LABEL)}
        return self.world.watched(self.perception.learn(batch, self.device), labels)

    @cached_property
    def latents(self) -> dict[str, tuple[int, ...]]:
        """What a replay shall keep of every row, name -> shape: the state of the world there; nothing without context.

        A sequence then goes on from the state before its first row, ``batch["start/h"]``, and not from zeros.
        """
        start = self.world.initial(1) if self.context else {}
        return {name: tuple(start[name].shape[1:]) for name in self.world.carried if name in start}

    def stored(self, state: Values) -> dict[str, NDArray[Any]]:
        """The latents of a state ``[..., event]``, as the replay keeps them."""
        return {name: state[name].detach().float().cpu().numpy() for name in self.latents}

    def use_bfloat16(self) -> ImaginationAgent:
        """From now on its networks compute in bfloat16, in updates, dreams and acting; see `training.precision`."""
        if self._halved:
            return self
        parts: list[Factor | Joint] = [self.world.posterior, *self.world.heads.values()]
        parts += [level.prior for level in self.world.levels.values()]
        parts += [] if self.learner is None else [self.learner.policy]
        found = [factor for part in parts for factor in (part.factors if isinstance(part, Joint) else (part,))]
        terms = [factors_of(term.node) for term in self.objective.terms.values() if term is not None]
        self._halved = bool(in_bfloat16((*found, *(factor for several in terms for factor in several))))
        return self

    def compile(self, **options: Any) -> ImaginationAgent:  # type: ignore[override]
        """Compile all that an update runs with ``torch.compile(**options)``: every term, and the dreams.

        What lies before, in and after a loop over time is compiled apart. The first update then takes minutes.

        Raises:
            ConfigError: its networks compute in bfloat16.
        """
        if self._halved:
            raise ConfigError("what is compiled computes in float32: expected precision=float32, or compile=false")
        for name, term in self.objective.terms.items():
            if term is not None:  # others learn through the world's states; nothing else is learnt through samples
                term.compile(detached=name != "world", **options)
        if self.learner is not None:
            self.world.rollout(self.learner.policy).compile(**options)
        self._means = torch.compile(means_of, **options)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_means": None}

    def _decode(self, states: State, names: Iterable[str]) -> dict[str, Tensor]:
        """The means of heads in a dream, through compiled code where there is some."""
        return decode(self.world.heads, states, names, {}, self.world.dynamics.rank, self._means)

    def imagined(self, start: Values, generator: torch.Generator | None) -> tuple[State, Tensor, Tensor]:
        """`dream` with its graph."""
        if self.learner is None:
            raise ConfigError("this agent has no policy to dream under: expected world.imagine(start, actions=...)")
        dream = self.world.imagine(start, self.learner.policy, horizon=self.horizon, generator=generator)
        return dream, *self.cost.outcome(dream, self._decode)

    @torch.no_grad()
    def dream(self, start: Values, generator: torch.Generator | None = None) -> tuple[State, Tensor, Tensor]:
        """Imagined states and actions from ``start`` ``[N, ...]``, with rewards and continuations ``[N, H+1]``.

        Raises:
            ConfigError: the agent has no policy.
        """
        return self.imagined(start, generator)

    # ------------------------------------------------------------------------------------------------------------ show

    @torch.no_grad()
    def open_loop(self, batch: Mapping[str, NDArray[Any]], context: int = 5) -> dict[str, NDArray[Any]]:
        """Truth and dream: ``context`` filtered rows, then the prior on the true actions.

        Pictures are uint8 ``[B, T, H, W, C]``; of a stack the newest is shown. Where none are observed it is numbers as
        the world predicts them (of an RSSM their symlog), float32 ``[B, T, D]``, and ``names`` ``[D]`` says which. Of a
        world without a decoder it is the reward.

        Raises:
            ConfigError: the world predicts nothing that it observes, and no reward.
        """
        tokens = self.tokens({name: column[:, 0] for name, column in batch.items()})
        return open_loop(self.world, self.perception, batch, self.device, context, tokens)

    # ------------------------------------------------------------------------------------------------------ checkpoint

    def weights(self) -> dict[str, Tensor]:
        """Copies of the weights, and the number of updates: all that decides how it acts."""
        found = {name: value.detach().clone() for name, value in self.state_dict().items()}
        return found | {UPDATES: torch.tensor(self.updates.count)}

    def take_over(self, weights: Mapping[str, Tensor]) -> None:
        """Acts from now on as the agent whose `weights` these are."""
        self.load_state_dict({name: value for name, value in weights.items() if name != UPDATES})
        self.updates.count = int(weights[UPDATES])

    def checkpoint(self) -> dict[str, Any]:
        """Weights, slow critic and return scale, and the optimiser's state."""
        recollected = {"recollection": self.recollection.state_dict()} if self.recollects else {}
        return {"weights": dict(self.state_dict()), "optimiser": self.updates.state_dict(), **recollected}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts the answer of `checkpoint` back; raises CheckpointError where it is of another agent."""
        try:
            self.load_state_dict(state["weights"])
            self.updates.load_state_dict(state["optimiser"])
            if self.recollects is not None:
                self.recollection.load_state_dict(state["recollection"])
        except (RuntimeError, ConfigError, KeyError) as error:
            raise CheckpointError(f"the checkpoint is of another agent or size: {error}") from error
