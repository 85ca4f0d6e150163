"""The part of a page about latents that nothing decodes, and the alarm at its head."""

from tests.report.test_report import parsed
from worldformula.report.codes import alarm, codes
from worldformula.report.evidence import Evidence
from worldformula.report.page import Run, page

WELL = {"codes/z/rank": 0.5, "codes/z/median": 1.0, "codes/z/least": 0.4}
GONE = {"codes/z/rank": 0.04, "codes/z/median": 0.01, "codes/z/least": 0.0}


def logged(*rows):
    return [{"step": 100 * i, "loss": 1.0, **row} for i, row in enumerate(rows, 1)]


def test_the_alarm_says_since_when_and_is_gone_where_the_latent_recovers():
    shown = alarm(logged(WELL, GONE, GONE, {}), "update")
    assert "z has collapsed: RankMe is 0.04 D" in shown
    assert "(since update 200)" in shown
    assert alarm(logged(GONE, WELL), "update") == ""
    assert alarm(logged({}, {}), "update") == ""


def test_every_number_has_a_chart_and_none_stands_among_the_terms_of_the_loss():
    whole = page(Run("r", {}, logged(WELL, GONE)), Evidence())
    parsed(whole)
    assert whole.count('y="15">z: RankMe / D') == 1
    assert whole.count('y="15">z: deviation, the median') == 1
    assert "codes/z" not in whole
    assert "Alarm" in whole.partition("<section>")[0]
    assert codes(logged({})) == ""


def test_names_of_latents_are_escaped():
    rows = logged({"codes/<b>/rank": 0.01})
    for shown in (alarm(rows, "step"), codes(rows)):
        assert "&lt;b&gt;" in shown
        assert "<b>:" not in shown
