"""Interleaved timing: what few rounds are summed up to."""

import pytest

from benchmarks.timing import interleave, options


@pytest.mark.parametrize("rounds", [1, 2])
def test_few_rounds_are_summed_up(rounds):
    found = interleave({"a": lambda: sum(range(500)), "b": lambda: sum(range(500))}, "a", rounds, 0.002, 1)
    assert found["a"]["ratio"] == 1.0
    assert found["a"]["ratio_iqr"] == [1.0, 1.0]
    low, high = found["b"]["ratio_iqr"]
    assert low <= high
    assert rounds > 1 or low == high == found["b"]["ratio"]


def test_no_rounds_are_refused(tmp_path, capsys):
    parser = options("A benchmark.", tmp_path / "x.json", rounds=9)
    assert parser.parse_args(["--rounds", "1"]).rounds == 1
    for wrong in ("0", "-1", "few"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--rounds", wrong])
        assert "expected a whole number of at least 1" in capsys.readouterr().err
