"""The tables of an evaluation against arithmetic done by hand."""

from math import comb

import numpy as np
import pandas as pd
import pytest

from passk.config.schema import EvalConfig
from passk.evaluation.tables import (
    NO_GROUP,
    SAMPLE_COLUMNS,
    at_temperature,
    count_correct,
    eval_tables,
    majority_votes,
    pass_curve,
    pass_markdown,
    pass_table,
    pass_table_by,
    percent_cells,
    summary_markdown,
)

COLUMNS = ["k", "value", "ci_low", "ci_high", "num_problems", "num_samples"]

COUNTS = ["temperature", "n", "c", "n_first", "c_first"]


def rho(n: int, c: int, k: int) -> float:
    return 1 - comb(n - c, k) / comb(n, k)


def counts_of(rows: list[tuple[str, str, int, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["problem_id", "kind", "n", "c"])


def test_pass_table_by_hand():
    counts = counts_of([("a", "x", 8, 4), ("b", "y", 8, 0), ("c", "x", 8, 8), ("d", "y", 8, 1)])
    cfg = EvalConfig(ks=[1, 2, 8], num_resamples=200)
    table = pass_table(counts, cfg)
    assert list(table.columns) == COLUMNS
    assert table["k"].tolist() == [1, 2, 8]
    for row in table.itertuples():
        expected = np.mean([rho(8, c, row.k) for c in (4, 0, 8, 1)])
        assert row.value == pytest.approx(expected)
        assert 0.0 <= row.ci_low < row.value < row.ci_high <= 1.0
        assert (row.num_problems, row.num_samples) == (4, 8)
    # By hand: (4/8 + 0 + 1 + 1/8) / 4 and (1 - 6/28 + 0 + 1 + 7/28) / 4.
    assert table["value"].tolist()[:2] == pytest.approx([13 / 32, (3 - 6 / 28 + 7 / 28 - 1) / 4])


def test_intervals_shrink_with_problems():
    cfg = EvalConfig(ks=[1], num_resamples=500)

    def width(num_problems: int) -> float:
        rows = [(str(i), "x", 4, 4 * (i % 2)) for i in range(num_problems)]
        table = pass_table(counts_of(rows), cfg)
        return float((table["ci_high"] - table["ci_low"]).iloc[0])

    # A mean of coin tosses: 2 * 1.96 * 0.5 / sqrt(P).
    assert width(400) == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)
    assert width(100) == pytest.approx(2 * width(400), rel=0.25)


def test_where_all_problems_are_solved_others_might_not_be():
    """Of 100 problems, with 95 % confidence: 0.025^(1/100) of the population or more."""
    cfg = EvalConfig(ks=[1, 2], num_resamples=20_000)
    solved = pass_table(counts_of([(str(i), "x", 8, 8) for i in range(100)]), cfg)
    assert solved["ci_low"].tolist() == pytest.approx([0.025 ** (1 / 100)] * 2, abs=2e-3)
    assert solved["value"].tolist() == solved["ci_high"].tolist() == [1.0, 1.0]
    assert percent_cells(solved)[0] == "100.0 [96.4, 100.0]"


def test_tables_repeat_and_depend_on_the_seed_in_the_intervals_alone():
    counts = counts_of([(str(i), "x", 16, i) for i in range(17)])
    first, again = (pass_table(counts, EvalConfig(ks=[1, 4], num_resamples=100)) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    other = pass_table(counts, EvalConfig(ks=[1, 4], num_resamples=100, seed=1))
    assert other["value"].tolist() == first["value"].tolist()
    assert other["ci_low"].tolist() != first["ci_low"].tolist()


def test_problems_judged_too_seldom_leave_every_row():
    counts = counts_of([("a", "x", 8, 4), ("b", "x", 3, 3), ("c", "x", 4, 1), ("d", "x", 0, 0)])
    table = pass_table(counts, EvalConfig(ks=[1, 4], num_resamples=100))
    assert table["num_problems"].tolist() == [2, 2]  # also where k = 1 could use problem b
    assert table["num_samples"].tolist() == [4, 4]
    assert table["value"].tolist() == pytest.approx(
        [(rho(8, 4, 1) + rho(4, 1, 1)) / 2, (rho(8, 4, 4) + rho(4, 1, 4)) / 2]
    )
    none = pass_table(counts, EvalConfig(ks=[1, 16]))
    assert none.empty and list(none.columns) == COLUMNS


def test_one_problem_has_a_value_and_no_interval():
    table = pass_table(counts_of([("a", "x", 8, 4)]), EvalConfig(ks=[1, 2]))
    assert table["value"].tolist() == pytest.approx([0.5, rho(8, 4, 2)])
    assert table[["ci_low", "ci_high"]].isna().all(axis=None)


def test_the_table_by_kind_is_the_table_of_each_kind():
    rows = [(f"p{i}", ("y", "x", "z")[i % 3], 8, i % 9) for i in range(30)]
    counts, cfg = counts_of(rows), EvalConfig(ks=[1, 4], num_resamples=100)
    by_kind = pass_table_by(counts, "kind", cfg)
    assert list(by_kind.columns) == ["kind", *COLUMNS]
    assert by_kind["kind"].tolist() == ["x", "x", "y", "y", "z", "z"]
    for kind, table in by_kind.groupby("kind"):
        own = counts[counts["kind"] == kind]
        expected = np.mean([[rho(8, c, k) for c in own["c"]] for k in (1, 4)], axis=1)
        assert table["value"].tolist() == pytest.approx(expected.tolist())
        assert table["num_problems"].tolist() == [10, 10]
        alone = pass_table(own, cfg)
        pd.testing.assert_frame_equal(
            table.drop(columns="kind").reset_index(drop=True), alone.reset_index(drop=True)
        )
    # The kinds weighted by their problems make the whole.
    whole = pass_table(counts, cfg)["value"].to_numpy()
    parts = by_kind.pivot(index="k", columns="kind", values="value").mean(axis=1).to_numpy()
    np.testing.assert_allclose(parts, whole)


@pytest.mark.filterwarnings("error")
def test_a_kind_without_usable_problems_has_no_value_and_numbers_stay_numbers():
    counts = counts_of([("a", "x", 2, 1), ("b", "y", 8, 4), ("c", "y", 8, 2)])
    by_kind = pass_table_by(counts, "kind", EvalConfig(ks=[1, 4], num_resamples=100))
    assert list(by_kind.columns) == ["kind", *COLUMNS]
    assert by_kind["kind"].tolist() == ["x", "x", "y", "y"]
    assert by_kind["k"].tolist() == [1, 4, 1, 4]
    assert by_kind[["value", "ci_low", "ci_high"]][:2].isna().all(axis=None)
    assert by_kind["num_problems"].tolist() == [0, 0, 2, 2]
    assert by_kind["num_samples"].tolist() == [0, 0, 8, 8]
    assert by_kind["value"].tolist()[2:] == pytest.approx(
        [(4 / 8 + 2 / 8) / 2, (rho(8, 4, 4) + rho(8, 2, 4)) / 2]
    )
    assert [by_kind[name].dtype.kind for name in COLUMNS] == list("ifffii")
    assert pass_markdown(by_kind, "kind").splitlines()[2] == "| x | \u2013 | \u2013 |"
    nothing = pass_table_by(counts, "kind", EvalConfig(ks=[16]))
    assert nothing["num_problems"].tolist() == [0, 0] and nothing["value"].isna().all()
    unjudged = pass_table_by(counts[:0], "kind", EvalConfig(ks=[16]))
    assert unjudged.empty and list(unjudged.columns) == ["kind", *COLUMNS]


def test_problems_of_no_group_have_a_name_and_n_is_the_fewest():
    counts = counts_of([("a", "", 8, 4), ("b", "y", 8, 4), ("c", "y", 6, 3)])
    by_kind = pass_table_by(counts, "kind", EvalConfig(ks=[1], num_resamples=20))
    assert by_kind["kind"].tolist() == [NO_GROUP, "y"] and NO_GROUP == "(none)"
    assert by_kind["num_samples"].tolist() == [8, 6]


def test_percent_cells():
    table = pd.DataFrame(
        [(1, 0.54749, 0.52, 0.5746, 4, 8), (8, 1.0, 1.0, 1.0, 4, 8)], columns=COLUMNS
    )
    assert percent_cells(table) == ["54.7 [52.0, 57.5]", "100.0 [100.0, 100.0]"]


def sample(
    problem: str, answer: str = "", reason: str = "wrong", *, temperature: float = 1.0, **fields
) -> dict[str, object]:
    """One row; the reward follows from the reason."""
    unjudged = reason in ("timeout", "error")
    row = dict.fromkeys(SAMPLE_COLUMNS, "") | {"problem_id": problem, "sample": 0}
    row |= {"answer": answer, "reason": reason, "num_tokens": 10, "temperature": temperature}
    row |= {"reward": np.nan if unjudged else float(reason == "correct"), "logprob_sampler": -1.0}
    return row | {"finish_reason": "length" if reason == "truncated" else "stop"} | fields


def frame(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=SAMPLE_COLUMNS)


def votes(*pairs: tuple[str, str]) -> float:
    """The majority vote of one problem's (answer, reason) pairs."""
    (value,) = majority_votes(frame(*(sample("p", *pair) for pair in pairs)))
    return value


RIGHT, FOUR, FIVE = ("3", "correct"), ("4", "wrong"), ("5", "wrong")


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([RIGHT, RIGHT, FOUR], 1.0),
        ([RIGHT, FOUR, FOUR], 0.0),
        ([RIGHT, RIGHT, FOUR, FOUR, FIVE], 1 / 2),
        ([RIGHT, FOUR, FIVE], 1 / 3),
        ([RIGHT, FOUR, FOUR, FIVE, FIVE], 0.0),  # a tie among others does not help
        # The gold answer written in two ways is one class, which outnumbers either of them.
        ([("1/2", "correct"), ("0.5", "correct"), FOUR], 1.0),
        # What has no answer, or was not judged, does not vote.
        ([RIGHT, ("", "unparsed"), ("", "unparsed"), ("9", "truncated"), ("9", "truncated")], 1.0),
        ([RIGHT, FIVE, FIVE, ("3", "timeout"), ("3", "error")], 0.0),
        ([RIGHT, FIVE, ("", "wrong"), ("", "wrong")], 1 / 2),
        ([("", "unparsed"), ("", "truncated"), ("", "timeout")], 0.0),  # no vote at all
    ],
)
def test_majority_by_hand(pairs, expected):
    assert votes(*pairs) == pytest.approx(expected)


def test_majority_is_per_problem_and_knows_where_there_is_none():
    rows = [sample("b", *RIGHT), sample("b", *FOUR), sample("b", *FOUR)]
    rows += [sample("a", *RIGHT), sample("a", "4", "timeout")]
    rows += [sample("c", "", "timeout"), sample("d", "", "unparsed")]
    found = majority_votes(frame(*rows))  # c has nothing judged and is left out
    assert found.to_dict() == {"b": 0.0, "a": 1.0, "d": 0.0}
    assert list(found.index) == ["b", "a", "d"]
    # A verifier that names no answers: nobody can say which wrong ones agree.
    nameless = frame(sample("p", "", "wrong"), sample("p", "", "correct"))
    assert majority_votes(nameless).empty
    summary = eval_tables(nameless, CFG)["summary"]
    assert "majority_accuracy" not in set(summary["metric"])


CFG = EvalConfig(ks=[1, 2], num_resamples=200)
MIXED = frame(
    sample("a", *RIGHT, level="Level 1", type="Algebra", num_tokens=10),
    sample("a", *RIGHT, level="Level 1", type="Algebra", num_tokens=20),
    sample("a", *FOUR, level="Level 1", type="Algebra", num_tokens=30),
    sample("a", "", "unparsed", level="Level 1", type="Algebra", num_tokens=40),
    sample("b", "", "truncated", level="Level 2", type="Algebra", num_tokens=50),
    sample("b", "", "truncated", level="Level 2", type="Algebra", num_tokens=50),
    sample("b", *RIGHT, level="Level 2", type="Algebra", num_tokens=50),
    sample("b", "3", "timeout", level="Level 2", type="Algebra", num_tokens=50),
    sample("a", *FOUR, level="Level 1", type="Algebra", num_tokens=999, temperature=0.0),
    sample("b", *RIGHT, level="Level 2", type="Algebra", num_tokens=999, temperature=0.0),
)


def test_summary_by_hand():
    summary = eval_tables(MIXED, CFG)["summary"]
    assert (summary.pop("temperature") == 1).all()
    assert list(summary.columns) == ["metric", "value", "ci_low", "ci_high", "num_problems"]
    assert dict(zip(summary["metric"], summary["value"], strict=True)) == pytest.approx(
        {
            "pass_at_1": (2 / 4 + 1 / 3) / 2,
            "majority_accuracy": 1.0,
            "mean_tokens": (25 + 50) / 2,
            "truncation_rate": 0.25,
            "share_correct": 3 / 8,
            "share_wrong": 1 / 8,
            "share_unparsed": 1 / 8,
            "share_truncated": 2 / 8,
            "share_timeout": 1 / 8,
            "share_error": 0.0,
        }
    )
    assert (summary["num_problems"] == 2).all()
    # Two problems: a resample holds either of them twice, or both.
    tokens = summary.set_index("metric").loc["mean_tokens"]
    assert (tokens["ci_low"], tokens["ci_high"]) == (25, 50)


def test_summary_with_a_reason_of_its_own():
    rows = [sample("a", *RIGHT), sample("a", "", "out of memory", reward=np.nan)]
    summary = eval_tables(frame(*rows), EvalConfig(ks=[1]))["summary"]
    values = dict(zip(summary["metric"], summary["value"], strict=True))
    assert (values["share_out of memory"], values["share_correct"]) == (0.5, 0.5)
    assert values["pass_at_1"] == 1.0  # of the judged samples
    assert summary[["ci_low", "ci_high"]].isna().all(axis=None)  # one problem


def test_the_front_has_a_row_for_each_temperature_and_greedy_answers_have_k_1():
    cfg = EvalConfig(ks=[1, 2], temperature=1.0, temperatures=[0, 0.5], num_resamples=100)
    hot = [sample(p, *pair) for p in "ab" for pair in (RIGHT, FOUR)]
    cool = [sample(p, *RIGHT, temperature=0.5) for p in "ab" for _ in range(2)]
    greedy = [sample("a", *FOUR, temperature=0.0), sample("b", "", "timeout", temperature=0.0)]
    tables = eval_tables(frame(*hot, *cool, *greedy), cfg)
    front = tables["front"]
    rows = front[["temperature", "k", "value", "num_problems"]].to_numpy().tolist()
    assert rows == [[0, 1, 0, 1], [0.5, 1, 1, 2], [0.5, 2, 1, 2], [1, 1, 0.5, 2], [1, 2, 1, 2]]
    at_1 = front[front["temperature"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(at_1, tables["table"])
    at_1 = tables["front_summary"].query("temperature == 1").reset_index(drop=True)
    pd.testing.assert_frame_equal(at_1, tables["summary"])


def test_counts_of_the_first_half_of_the_samples():
    rows = [sample("a", *(RIGHT if i < 2 else FOUR)) | {"sample": i} for i in range(6)]
    rows[0]["reward"] = np.nan
    counts = count_correct(frame(*rows))
    assert counts[["n", "c", "n_first", "c_first"]].to_numpy().tolist() == [[5, 1, 2, 1]]


def test_counts_and_tables_by_the_groups_that_there_are():
    counts = at_temperature(count_correct(MIXED), 1.0)
    assert list(counts.columns) == ["problem_id", "kind", "level", "type", *COUNTS]
    assert counts[["n", "c"]].to_numpy().tolist() == [[4, 2], [3, 1]]
    tables = eval_tables(MIXED, CFG)
    own = ["table", "summary", "table_by_level", "table_by_type"]
    assert list(tables) == [*own, "front", "front_summary"]
    assert all((tables[name].pop("temperature") == 1).all() for name in own)
    by_level = tables["table_by_level"]
    assert list(by_level.columns) == ["level", *COLUMNS]
    assert by_level["level"].tolist() == ["Level 1", "Level 1", "Level 2", "Level 2"]
    assert by_level["value"].tolist() == pytest.approx([1 / 2, rho(4, 2, 2), 1 / 3, rho(3, 1, 2)])
    assert by_level["num_samples"].tolist() == [4, 4, 3, 3]
    whole = tables["table_by_type"].drop(columns="type")
    pd.testing.assert_frame_equal(whole, tables["table"])
    plain = frame(*(sample("a", *RIGHT, kind="x") for _ in range(2)))
    assert list(count_correct(plain).columns) == ["problem_id", "kind", *COUNTS]
    assert list(eval_tables(plain, CFG)) == ["table", "summary", "table_by_kind"]


def test_a_problem_that_was_never_judged_has_n_0():
    counts = count_correct(frame(sample("a", "", "error"), sample("b", *RIGHT)))
    assert counts[["problem_id", "n", "c"]].to_numpy().tolist() == [["a", 0, 0], ["b", 1, 1]]
    assert counts["c"].dtype == np.int64


def test_the_curve_is_the_table_at_every_k():
    counts = counts_of([("a", "x", 8, 4), ("b", "x", 7, 1), ("c", "x", 3, 3)])
    cfg = EvalConfig(ks=[1, 4], num_resamples=100)
    curve = pass_curve(counts, cfg)
    assert curve["k"].tolist() == list(range(1, 8))  # b has 7; c is not in the table either
    expected = [(rho(8, 4, k) + rho(7, 1, k)) / 2 for k in range(1, 8)]
    assert curve["value"].tolist() == pytest.approx(expected)
    in_table = curve[curve["k"].isin(cfg.ks)].reset_index(drop=True)
    pd.testing.assert_frame_equal(in_table, pass_table(counts, cfg))
    assert pass_curve(counts, EvalConfig(ks=[16])).empty


def test_markdown_for_people():
    tables = eval_tables(MIXED, CFG)
    assert pass_markdown(tables["table_by_level"], "level").splitlines()[2:] == [
        "| Level 1 | 50.0 | 83.3 |",  # one problem: no interval
        "| Level 2 | 33.3 | 66.7 |",
    ]
    lines = summary_markdown(tables["summary"]).splitlines()
    assert "| Tokens of a completion | 37.5 [25.0, 50.0] | 2 |" in lines
    (line,) = (line for line in lines if line.startswith("| Samples truncated (%) | 25.0 ["))
    assert line.endswith("] | 2 |")
