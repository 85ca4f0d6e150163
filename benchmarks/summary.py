"""The README's table of measured numbers, from the JSON files that the measuring commands wrote; and docs/results.md,
with everything that the cards claim and what was measured of it.

``python -m benchmarks.summary`` prints the table; ``--write`` puts it into README.md, between its two marks, and writes
docs/results.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.margins import passage
from worldformula import cards, catalogue
from worldformula.cards import results

RESULTS = Path(__file__).parent / "results"
CARDS = Path(__file__).parents[1] / "worldformula" / "cards" / "results"
README = Path(__file__).parents[1] / "README.md"
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
CLAIMS = ("demo", "rssm_dream", "vae_digits")
TIMED = ("vae_step", "rssm_step", "temporal", "iwae_step", "replay_memory", "memory_flat", "kills")
BEGIN, END = "<!-- numbers -->", "<!-- end of numbers -->"


def result(name: str) -> dict[str, Any]:
    """One result file, of a benchmark or of a card."""
    folder = CARDS if (CARDS / f"{name}.json").is_file() else RESULTS
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def card(name: str) -> str:
    """A row of the table for a card: every seed, floor, needed, best known or published."""
    found = result(name)
    about, metric = found["card"], found["card"]["metric"]
    values = ", ".join(f"{row['metrics'][metric]:.4g}" for row in found["rows"])
    sign = "≥" if about["direction"] == "higher" else "≤"
    verdict = "pass" if found["passed"] else "FAIL"
    ceiling = "–" if about["ceiling"] is None else f"{about['ceiling']:g}"
    published = "–" if about["published"] is None else about["published"]
    claim, minutes = about["claim"].rstrip("."), found["cpu_seconds"] / 60 / len(found["rows"])
    needed = f"{sign} {about['threshold']:g}{', interval of the mean' if about.get('verdict') == 'interval' else ''}"
    return (
        f"| {claim} | {values} | {needed} | {about['floor']:g} | {ceiling} | {published} | "
        f"{verdict}, {minutes:.1f} CPU minutes a seed | `worldformula reproduce {name}` |"
    )


def page() -> str:
    """``docs/results.md``: every system with its claims, and the values of every seed; in order of the catalogue."""
    claims = [cards.load(name) for name in cards.names()]
    lines = [
        "# Results",
        "",
        "What the cards claim of every system, and what was measured last. Every seed is shown; pilots used others.",
        "Card and measuring file lie in [worldformula/cards](../worldformula/cards); each is measured again by",
        "`worldformula reproduce CARD`. This page is written by `python -m benchmarks.summary --write`.",
        "",
        "| system | card | claim | metric | seeds | needed | verdict |",
        "|" + "---|" * 7,
    ]
    for kind in catalogue.KINDS:
        for system in catalogue.discover(kind):
            name = f"[{system.name}](../worldformula/{kind}/{system.name}.py)"
            own = [c for c in claims if c.covers(system.name)]
            lines += [f"| {name} | `{c.name}` | {_cell(c.claim)} | {_measured(c)} |" for c in own]
            lines += [] if own else [f"| {name} | – | – | – | – | – | no card |"]
    return "\n".join([*lines, "", *passage(), "", *notebooks()]) + "\n"


def notebooks() -> list[str]:
    """The models of Pixyz's notebooks at equal budget, mean and range over seeds."""
    found = result("notebooks")
    data, unit, epochs, seeds = (found[key] for key in ("data", "unit", "epochs", "seeds"))
    lines = [
        "## Beside Pixyz at equal budget",
        "",
        f"Models of Pixyz's notebooks on {data}: {unit}, lower is better. Networks, initial weights, batches and the",
        f"{epochs} epochs are the same for both; {len(seeds)} seeds: mean, and their range. Written by",
        "`python -m benchmarks.notebooks`; with MNIST at hand, `--data mnist` prints the notebooks' own numbers too.",
        "",
        "| model | untrained | worldformula | Pixyz | CPU seconds, worldformula and Pixyz |",
        "|" + "---|" * 5,
    ]
    for name, row in found["rows"].items():
        ours, theirs = (sum(row[f"{who}_seconds"]) / len(seeds) for who in ("worldformula", "pixyz"))
        cells = " | ".join(_spread(row[who]) for who in ("untrained", "worldformula", "pixyz"))
        lines.append(f"| {name} | {cells} | {ours:.1f} and {theirs:.1f} |")
    return lines


def _spread(values: list[float]) -> str:
    """Mean, and the least and the greatest."""
    return f"{sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _cell(text: str) -> str:
    """A text that may stand in a cell of a table."""
    return text.replace("|", "\\|")


def _measured(about: cards.Card) -> str:
    """The cells of metric, seeds, needed and verdict."""
    found = results.latest(about)
    sign = "≥" if about.direction == "higher" else "≤"
    values = "–" if found is None else ", ".join(f"{value:.4g}" for value in found.values.values())
    verdict = "not measured yet" if found is None else "pass" if found.passed else "FAIL"
    needed = f"{sign} {about.threshold:g}{', interval of the mean' if about.verdict == 'interval' else ''}"
    return f"{about.metric}{f', {about.unit}' if about.unit else ''} | {values} | {needed} | {verdict}"


def speed() -> list[str]:
    """The steps of training beside hand-written PyTorch and peers."""
    lines = []
    for name in ("vae_step", "rssm_step", "temporal"):
        for what, row in result(name)["rows"].items():
            if name == "temporal" and what.startswith("RSSM"):
                continue  # it has a row of its own
            peers = [f"{row[p]['ratio']:.2f}" if p in row else "–" for p in ("pixyz", "pyro", "in the loop")]
            label = f"VAE step, {what}" if name == "vae_step" else what
            lines.append(f"| {label} | {row['worldformula']['ratio']:.2f} | {' | '.join(peers)} |")
    return lines


def samples() -> list[str]:
    """What 50 samples of an IWAE cost: beside hand-written PyTorch, and beside one sample."""
    lines = ["| 50 samples of an IWAE | worldformula | compiled | Pixyz | times one sample |", "|" + "---|" * 5]
    for what, row in result("iwae_step")["rows"].items():
        ratios = (f"{row[f'{who}, K 50']['ratio']:.2f}" for who in ("formula", "compiled", "pixyz"))
        more = row["formula, K 50"]["ms"] / row["formula, K 1"]["ms"]
        lines.append(f"| {what} | {' | '.join(ratios)} | {more:.1f} |")
    return lines


def runs() -> list[str]:
    """What long and killed runs do."""
    flat, subjects = result("memory_flat"), result("kills")["subjects"].values()
    kills, size = sum(one["kills"] for one in subjects), sum(one["kills"] * one["bytes"] for one in subjects)
    unlike = sum(sum(kill["differs"].values()) for one in subjects for kill in one["found"])
    steps = f"{flat['steps']:,}".replace(",", " ")
    grown = f"{100 * flat['growth']['VmRSS']:.2f} %".replace("-", "−")
    return [
        f"Over {steps} environment steps of an agent, behind the first fifth, memory grows by {grown}.",
        f"{kills} runs of {len(subjects)} kinds, killed at random moments, went on; of the {size / 1e6:,.0f} million",
        f"bytes compared at their ends {unlike} differ.",
    ]


def table() -> str:
    """The whole passage in Markdown."""
    demo, replay, floors = result("demo"), result("replay_memory"), result("env_floors")["scores"]["pendulum"]
    where = f"{demo['machine']['processor']}, {demo['machine']['cores']} cores, one thread, no accelerator"
    disk, memory = replay["extrapolated_to_a_million_rows"]["disk_gb"], replay["measured"]["added_memory_bytes_at_most"]
    random, best = (f"{floors[k]['mean']:.0f} ± {floors[k]['error']:.0f}" for k in ("random", "reference"))
    days = sorted({result(name)["date"][:10] for name in (*CLAIMS, *TIMED)})
    claims = "claim | seeds | needed | floor | best known | published | verdict | command"
    ratios = (
        "time per step, as a ratio to hand-written PyTorch in the same run | worldformula | Pixyz | Pyro | all in loop"
    )
    lines = [
        f"Measured on {', '.join(days)}: {where}.",
        "Every seed is shown; pilots used other seeds.",
        "",
        *(f"| {claims} |", "|" + "---|" * 8, *(card(name) for name in CLAIMS)),
        "",
        *(f"| {ratios} |", "|" + "---|" * 5, *speed()),
        "",
        *samples(),
        "",
        f"The pendulum's floor is a random policy ({random}), its best known an energy controller that sees the state",
        f"({best}). A replay of 10⁶ frames of 64 × 64 × 3 takes {disk} GB of disk (extrapolated from 10⁵) and at most",
        f"{memory / 1e9:.2f} GB of memory.",
        *runs(),
        "Their commands are `python -m benchmarks.vae_step`, `rssm_step`, `temporal`, `iwae_step`, `replay_memory`,",
        "`memory_flat`, `kills`, `render_speed`, and `python -m worldformula.envs.reference`; their results lie in",
        "[benchmarks/results](benchmarks/results), those of the claims in",
        "[worldformula/cards/results](worldformula/cards/results).",
    ]
    return "\n".join(lines)


def main() -> None:
    """Prints the table, or writes it into the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put it into README.md, and write docs/results.md")
    if not parser.parse_args().write:
        print(table())
        return
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
