"""What factors, products and expressions offer is there and documented, in whichever file it is made."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from worldformula import E, Expression, Factor, Joint, Normal, log
from worldformula.formula.factors.joint import Marginal
from worldformula.formula.graph.graph import graph

ROOT = Path(__file__).parents[2]
OFFERED = [(Factor, "marginal", "(self, *names: 'str') -> 'Joint'"),
           (Factor, "condition", "(self, **values: 'Tensor') -> 'Factor'"),
           (Factor, "__mul__", "(self, other: 'Factor | Joint | Use') -> 'Joint'"),
           (Marginal, "log_prob", "(self: 'Marginal', **values: 'Any') -> 'Tensor'"),
           (Expression, "graph", "(self: 'Expression') -> 'Picture'")]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "signature"), OFFERED)
def test_a_method_reads_as_if_it_were_written_in_its_class(kind, name, signature):
    method = vars(kind)[name]
    assert str(inspect.signature(method)) == signature
    assert (method.__qualname__, method.__module__) == (f"{kind.__name__}.{name}", kind.__module__)
    assert name == "__mul__" or inspect.getdoc(method)


@pytest.mark.parametrize("kind", [Factor, Joint])
def test_latex_is_a_property_with_its_documentation(kind):
    assert isinstance(vars(kind)["latex"], property)
    assert inspect.getdoc(vars(kind)["latex"])


def test_notebooks_show_factors_products_and_graphs():
    p, q = Normal("p(z)", shape=2), Normal("p(x|z)", nn.Identity(), shape=1)
    assert p._repr_latex_() == r"$\displaystyle p(z)$"
    assert (p * q)._repr_latex_() == r"$\displaystyle p(z, x) = p(z)\, p(x \mid z)$"
    assert graph(E(p, log(p)))._repr_svg_() == E(p, log(p)).graph()


def test_whichever_file_is_imported_first_the_face_is_there():
    lines = (
        "from worldformula.formula.syntax.names import Variable",
        "from worldformula.formula.factors.joint import Factor",
        "print(isinstance(vars(Factor)['latex'], property))",
    )
    code = "\n".join(lines)
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout == "True\n", found.stderr
