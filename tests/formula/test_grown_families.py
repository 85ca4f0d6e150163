"""Random formulas over all families and over what all rows share: emitted code and interpreter agree, all is finite."""

import pytest
import torch

from tests.formula.test_properties import compare, line
from tests.formula.wide_grower import CONTINUOUS, COUNTS, Wide, WideGrower
from worldformula import E, Sum, Value, norm2
from worldformula.errors import FormulaError
from worldformula.formula.syntax.nodes import OverRows, walk

COUNT, PARTS = 800, 8  # formulas, in so many tests
POOL = Wide()


def grown(seed):
    """A formula; one of five is a bound of all rows, with weights that they share."""
    grower = WideGrower(POOL, seed)
    formula = grower.bound() if seed % 5 == 0 else grower.grow(3)
    return formula.mean() if seed % 3 == 1 and seed % 5 else formula


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
def test_formulas_of_all_families_run_as_interpreted(part):
    refused = 0
    for seed in range(COUNT * part // PARTS, COUNT * (part + 1) // PARTS):
        try:
            formula = grown(seed)
            _ = formula.program
        except FormulaError:
            refused += 1
            continue
        value, *_ = compare(formula, POOL.data)
        assert value.isfinite().all(), f"seed {seed}: {line(formula)}"
        assert formula.latex
    assert refused < 0.25 * COUNT / PARTS


def test_every_family_and_plate_is_grown():
    """So that none is left out in silence."""
    letters, plates = set(), set()
    for seed in range(300):
        try:
            formula = grown(seed)
        except FormulaError:
            continue
        letters |= {letter for letter in {**CONTINUOUS, **COUNTS, "u": None} if f"q({letter}|x)" in line(formula)}
        plates |= {text for node in walk(formula.node) if isinstance(node, OverRows) for text in [str(node.rows)]}
    assert letters == {*CONTINUOUS, *COUNTS, "u"}
    assert len(plates) == 3


def test_the_mean_over_a_plate_is_by_hand():
    """12 times the mean of the rows, of draws that all of them share."""
    weight, _ = POOL.shared
    formula = E(weight, Sum("n", norm2(Value("s", 2) - Value("y", 2)), rows=12))
    out = formula(y=POOL.data["y"], seed=0)
    by_hand = 12 * (out.samples["s"] - POOL.data["y"]).square().sum(-1).mean()
    torch.testing.assert_close(out.value, by_hand)
