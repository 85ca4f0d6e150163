"""What settings of a run contradict each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worldformula.errors import ConfigError
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.contract import HandsOver, Learning, Recalling


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
    _evaluated_at_the_end(config, "drive.clock=wall leaves no time for evaluations while the robot goes on")


def possible(config: RunConfig, agent: Any, resumes_at: int, say: Callable[[str], None]) -> None:
    """Refuses settings of a run that contradict each other, before anything is done; says what is in doubt.

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
    if config.env.single:
        why = "cannot be made twice (env.single), so an evaluation would end the episode of the training"
        _evaluated_at_the_end(config, f"{config.env.id} {why}")
    if warning := _short(config, agent):
        say(warning)


def _short(config: RunConfig, agent: Any) -> str:
    """A warning, where a stream holds no whole sequence unless episodes end, each of which is a row more; else nothing.

    Raises:
        ConfigError: not even then, if every action ended one.
    """
    if not isinstance(agent, Learning):
        return ""
    needed = agent.config.length + int(isinstance(agent, Recalling) and bool(agent.latents))
    env = config.env
    rows = -(-config.steps // (env.num * env.action_repeat))
    if rows >= needed:
        return ""
    told = (
        f"steps={config.steps} are {rows} actions in each of {env.num} streams, and a sequence needs {needed} rows of "
        f"one stream: nothing would be learnt"
    )
    write = "Set more steps, fewer streams (env.num), or shorter sequences"
    if 2 * rows < needed:
        raise ConfigError(f"{told}. {write}: --set agent.length={max(1, rows // 2)}")
    return f"warning: {told}, unless {needed - rows} episodes or more end in a stream. {write} (agent.length)"


def limited(env: EnvConfig, real: bool, episodes: int) -> None:
    """Refuses episodes of evaluation that have no end: of a robot an episode is as long as one says.

    Args:
        env: the environments.
        real: it is a robot that is not simulated.
        episodes: of evaluation.

    Raises:
        ConfigError: says what to write.
    """
    if real and episodes and env.max_steps is None:
        raise ConfigError(
            f"{env.id} is a robot that is not simulated, whose episodes have no end by themselves: a run that is "
            "evaluated on it needs env.max_steps, such as --set env.max_steps=200, when it begins; train without "
            "evaluation with --set eval_episodes=0"
        )


def alone(config: RunConfig, envs: Any) -> None:
    """Refuses what a run on a robot that is not simulated cannot do: there is one, and the run acts on it.

    Raises:
        ConfigError: says what to write. ``envs`` is closed before.
    """
    try:
        _alone(config, envs.real)
    except ConfigError:
        envs.close()
        raise


def _alone(config: RunConfig, real: bool) -> None:
    limited(config.env, real, config.eval_episodes)
    if real and config.env.timeout is not None:
        raise ConfigError(
            f"{config.env.id} is a robot that is not simulated, and cannot be paused in a process that env.timeout "
            "kills: leave env.timeout out; drive.clock=wall notices a driver that hangs"
        )
    if real:
        why = "is a robot that is not simulated, so an evaluation would end the episode of the training"
        _evaluated_at_the_end(config, f"{config.env.id} {why}")


def _evaluated_at_the_end(config: RunConfig, why: str) -> None:
    if config.eval_every and config.eval_episodes:
        raise ConfigError(f"{why}: set eval_every=0, got {config.eval_every}; the evaluation at the end stays")


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
