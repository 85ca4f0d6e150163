"""Factors and products in MathML, and what they stand for; in LaTeX: `latex.factor_latex` and `latex.product_latex`."""

from __future__ import annotations

from worldformula import families
from worldformula.formula.print.broken import WIDTH
from worldformula.formula.print.definitions import Settings, factorised, flows_in_time, made
from worldformula.formula.print.mathml import (
    APPLY,
    COMMA,
    block,
    defined,
    factorisation,
    fenced,
    head,
    rule,
    symbol,
    variable,
)
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.nodes import Product
from worldformula.formula.syntax.numbers import places


def product_mathml(p: Product) -> str:
    """A product as it is read: the joint density, and what it factorises into; see `latex.product_latex`."""
    d = factorised(p)
    return block([(0, factorisation(p))] if d is None else defined(d, WIDTH))


def factor_mathml(u: Factor) -> str:
    """A factor, and what it stands for where it is made of simpler densities; see `latex.factor_latex`."""
    d = made(u)
    if d is not None:
        return block(defined(d, WIDTH))
    left, family = head(u.header), u.family
    x = "".join(map(variable, u.variables))
    c = COMMA.join(map(variable, u.conditions))
    letter = symbol(u.header.letter.partition("_")[0])
    bar = '<mo lspace="0.17em" rspace="0.17em" stretchy="false">∣</mo>'
    right = ""
    if isinstance(family, families.MixtureFamily | families.UnlikeMixtureFamily):
        weight = fenced("(", c, ")", stretchy=False) if c and u.net is not None else ""
        given = bar + c if c and u.net is not None else ""
        over = f"<mrow><mi>k</mi><mo>=</mo><mn>1</mn></mrow><mn>{family.components}</mn>"
        right = f'<munderover><mo movablelimits="false" largeop="true">∑</mo>{over}</munderover>'
        right += f'<msub><mi>w</mi><mi>k</mi></msub>{weight}<mspace width="0.17em"/><msub>{letter}<mi>k</mi></msub>'
        right += fenced("(", x + given, ")", stretchy=False)
    elif isinstance(family, families.ZeroInflatedFamily):
        conditioned = c and u.net is not None
        gate = "<mi>π</mi>" + (fenced("(", c, ")", stretchy=False) if conditioned else "")
        rest = fenced("(", f"<mn>1</mn><mo>−</mo>{gate}", ")", stretchy=False)
        right = f'{gate}<mspace width="0.17em"/><msub><mi>δ</mi><mn>0</mn></msub>{fenced("(", x, ")", stretchy=False)}'
        right += f'<mo>+</mo>{rest}<mspace width="0.17em"/><msub>{letter}<mn>0</mn></msub>'
        right += fenced("(", x + (bar + c if conditioned else ""), ")", stretchy=False)
    elif flows_in_time(u):
        at = COMMA.join(filter(None, ("<msub><mi>u</mi><mi>τ</mi></msub>", "<mi>τ</mi>", c)))
        area = '<msubsup><mo movablelimits="false" largeop="true">∫</mo><mn>0</mn><mn>1</mn></msubsup>'
        begin = "<msub><mi>u</mi><mn>0</mn></msub>"
        way = f'{begin}<mo>+</mo>{area}<mi>v</mi>{fenced("(", at, ")", stretchy=False)}<mspace width="0.17em"/>'
        way += "<mi>d</mi><mi>τ</mi>"
        ends = f'{COMMA}<mspace width="0.8em"/>{begin}<mo>∼</mo><msub>{letter}<mn>0</mn></msub>'
        return block([(0, f'<mrow>{left}<mo rspace="0.27em">:</mo>{x}<mo>=</mo>{way}{ends}</mrow>')])
    elif isinstance(family, families.FlowFamily):
        image = "<mi>f</mi>" + fenced("(", f"{x}<mo>;</mo>{c}" if c else x, ")", stretchy=False)
        slope = f"<mfrac><mrow><mi>∂</mi>{image}</mrow><mrow><mi>∂</mi>{x}</mrow></mfrac>"
        right = f"<msub>{letter}<mn>0</mn></msub>{fenced('(', image, ')')}"
        right += fenced("|", f"<mi>det</mi>{APPLY}{slope}", "|")
    elif isinstance(family, families.AutoregressiveFamily):
        each = f"<msub><mrow>{x}</mrow><mi>i</mi></msub>"
        before = f"<msub><mrow>{x}</mrow><mrow><mo>&lt;</mo><mi>i</mi></mrow></msub>"
        right = f'<munder><mo movablelimits="false" largeop="true">∏</mo><mi>i</mi></munder>{letter}'
        right += fenced("(", each + bar + (COMMA.join((before, c)) if c else before), ")", stretchy=False)
    known = Settings(places(u))
    behind = f'{COMMA}<mspace width="0.8em"/>{rule(known)}' if known.places else ""
    return block([(0, f"<mrow>{left}<mo>=</mo>{right}{behind}</mrow>" if right else f"<mrow>{left}{behind}</mrow>")])
