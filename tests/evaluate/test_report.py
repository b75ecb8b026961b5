import pytest

from mutoscope.core.errors import MutoscopeError, RequestError
from mutoscope.evaluate import report
from mutoscope.evaluate.report import Figure, Result, SetResult
from mutoscope.evaluate.statistics import wilson

ROWS = [{"right": {"all": index < 7, "colour": True}, "values": {"jump": float(index)}} for index in range(10)]


def a_result():
    found = report.figures(ROWS)
    part = SetResult("one object", 256, found, found, found, {"motion": {"left": found["all"]}})
    return Result({"model": "stiv/toy", "seed": 0}, {"one": part}, {"one": Figure(-0.01, -0.03, 0.02, 10)})


def test_shares_have_wilson_intervals_and_numbers_their_mean():
    found = report.figures(ROWS)
    assert found["all"] == Figure(*wilson(7, 10), 10)
    assert found["jump"].value == 4.5 and found["jump"].low < 4.5 < found["jump"].high


def test_the_difference_of_pairs_is_surer_than_that_of_strangers():
    others = [{"right": {}, "values": {"jump": row["values"]["jump"] - 1}} for row in ROWS]
    assert report.difference(ROWS, others, "jump") == Figure(1.0, 1.0, 1.0, 10)  # every pair differs by one
    with pytest.raises(ValueError, match="shorter"):
        report.difference(ROWS, others[:5], "jump")


def test_a_saved_result_reads_back_the_same(tmp_path):
    report.save(a_result(), tmp_path)
    assert report.load(tmp_path) == a_result()


def test_the_tables_are_markdown_with_every_figure(tmp_path):
    report.save(a_result(), tmp_path)
    text = (tmp_path / "result.md").read_text(encoding="utf-8")
    assert "10 of 256 clips" in text and "70.0 (39.7–89.2)" in text and "-1.0 (-3.0 to +2.0)" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 5 + 3  # head, rule and three measures; head, rule and one set
    assert len({row.count("|") for row in rows[:5]}) == 1


def test_figures_are_written_in_their_unit():
    assert report.spell(Figure(0.934, 0.896, 0.958, 256), "all") == "93.4 (89.6–95.8)"
    assert report.spell(Figure(31.26, 30.9, 31.7, 128), "missing_psnr") == "31.3 (30.9–31.7)"
    assert report.spell(Figure(0.012, 0.008, 0.016, 128), "path_error") == "1.2 (0.8–1.6)"


def test_the_tables_print(capsys):
    report.show(a_result())
    assert "one object" in capsys.readouterr().out


def test_a_missing_or_damaged_result_is_said_in_one_line(tmp_path):
    with pytest.raises(RequestError, match="no result"):
        report.load(tmp_path)
    (tmp_path / "result.json").write_text("{}", encoding="utf-8")
    with pytest.raises(MutoscopeError, match="is damaged"):
        report.load(tmp_path)
