"""What settings of a run contradict each other."""

from __future__ import annotations

from typing import Any

from worldformula.errors import ConfigError
from worldformula.run.config import RunConfig
from worldformula.run.contract import HandsOver, Learning


def settled(config: RunConfig) -> None:
    """Refuses what a run by the wall clock cannot do, before a robot is touched.

    Raises:
        ConfigError: names the setting.
    """
    if config.drive.clock != "wall":
        return
    env = config.env
    if env.num != 1 or env.timeout is not None:
        raise ConfigError(
            f"drive.clock=wall acts on one robot, in a process of its own: expected env.num=1 and no env.timeout, got "
            f"{env.num} and {env.timeout}"
        )
    if env.log_info:
        raise ConfigError(f"drive.clock=wall logs no numbers of info: leave env.log_info out, got {env.log_info}")
    if config.eval_every and config.eval_episodes:
        raise ConfigError(
            f"drive.clock=wall leaves no time for evaluations while the robot goes on: set eval_every=0, got "
            f"{config.eval_every}; the evaluation at the end stays"
        )


def possible(config: RunConfig, agent: Any, resumes_at: int) -> None:
    """Refuses settings of a run that contradict each other, before anything is done.

    Raises:
        ConfigError: names them, and says what to write.
    """
    learning = agent.config if isinstance(agent, Learning) else None
    if learning and learning.prefill >= config.steps:
        raise ConfigError(
            f"steps={config.steps}, but learning starts after {learning.prefill} steps (prefill): nothing would "
            f"be learnt. Set more steps, or a smaller prefill: --set agent.prefill={config.steps // 2}"
        )
    if learning and config.capacity // config.env.num < learning.length:
        raise ConfigError(
            f"capacity={config.capacity} leaves {config.capacity // config.env.num} rows for each of "
            f"{config.env.num} streams, and a sequence has length={learning.length}. Set a larger capacity."
        )
    overshoot = config.env.num * config.env.action_repeat  # a run may end so many steps late
    if config.steps + overshoot <= resumes_at:
        raise ConfigError(
            f"steps={config.steps}, and the run stands at step {resumes_at}: set more steps, or take another folder"
        )
    if config.env.single and config.eval_every and config.eval_episodes:
        raise ConfigError(
            f"{config.env.id} cannot be made twice (env.single), so an evaluation would end the episode of the "
            f"training: set eval_every=0, got {config.eval_every}; the evaluation at the end stays"
        )


def require(agent: Any, config: RunConfig) -> None:
    """Refuses an agent that cannot act with weights that are handed over.

    Raises:
        ConfigError: it has no ``weights()`` and ``take_over(weights)``.
    """
    if not isinstance(agent, HandsOver):
        raise ConfigError(
            f"drive.clock={config.drive.clock} lets {config.model} act beside its learning, and it cannot hand over "
            "its weights: expected an agent with weights() and take_over(weights), or drive.clock=none"
        )
