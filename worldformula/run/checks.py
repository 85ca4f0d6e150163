"""What settings of a run contradict each other."""

from __future__ import annotations

from typing import Any

from worldformula.errors import ConfigError
from worldformula.run.config import RunConfig
from worldformula.run.contract import Learning


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
