"""Reading problem files, the split's guard, and the order in which problems come."""

import json
from collections import Counter

import pytest

from passk.config import ConventionsConfig, DataConfig, EvalConfig
from passk.errors import UserError
from passk.problems import ProblemStream, load_data, read_problems
from passk.types import Problem

EVAL = EvalConfig(num_problems=3)


@pytest.fixture
def write(tmp_path):
    """Write rows (objects as JSON, text as it is) to a file; its path as the user would type it."""

    def to_file(*rows, name="rows.jsonl", encoding="utf-8"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
        return str(tmp_path / name)

    return to_file


def row(i, **fields):
    return {"prompt": f"T{i}+1=", "answer": str(i + 1)} | fields


def refusal(path):
    with pytest.raises(UserError) as refused:
        read_problems(path, "data.path")
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


def test_fields_are_read_and_the_rest_ignored(write):
    full = {"id": "a", "kind": "easy", "solution": "1+1=2", "difficulty": 3, "notes": None}
    path = write(row(1, **full), row(2), row(3, kind=None))
    assert read_problems(path, "data.path") == (
        Problem("a", "T1+1=", "2", "easy", "1+1=2"),
        Problem("rows-2", "T2+1=", "3"),
        Problem("rows-3", "T3+1=", "4"),
    )


def test_empty_lines_are_skipped_but_counted(write):
    problems = read_problems(write("", row(1), "  ", row(2)), "data.path")
    assert [p.id for p in problems] == ["rows-2", "rows-4"]


def test_windows_line_ends_and_a_missing_last_newline(tmp_path):
    text = "\r\n".join(json.dumps(row(i)) for i in (1, 2))
    (tmp_path / "rows.jsonl").write_bytes(text.encode())
    assert len(read_problems(str(tmp_path / "rows.jsonl"), "data.path")) == 2


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_only_newlines_end_a_line(write, separator):
    """Python's splitlines would cut a row at these, which JSON allows in a string."""
    prompt = f"one{separator}two"
    text = json.dumps(row(1, prompt=prompt), ensure_ascii=False)
    assert separator in text
    assert read_problems(write(text), "data.path")[0].prompt == prompt


MALFORMED = [
    ('{"prompt": "x", ', "not a JSON object"),
    ("no json", "not a JSON object"),
    ("[1, 2]", "a JSON object is needed, found list"),
    ('"text"', "a JSON object is needed, found str"),
    ("null", "a JSON object is needed, found NoneType"),
    ({"answer": "2"}, "the field 'prompt' is missing"),
    ({"prompt": "x"}, "the field 'answer' is missing"),
    ({"prompt": "x", "answer": None}, "the field 'answer' is missing"),
    ({"prompt": "x", "answer": 2}, "'answer' must be a non-empty string, found 2"),
    ({"prompt": "", "answer": "2"}, "'prompt' must be a non-empty string, found ''"),
    ({"prompt": ["x"], "answer": "2"}, "'prompt' must be a non-empty string, found ['x']"),
    ({"prompt": "x", "answer": "2", "kind": 3}, "'kind' must be a"),
    ({"prompt": "x", "answer": "2", "id": 7}, "'id' must be a"),
    ({"prompt": "x", "answer": "2", "id": "rows-1"}, "id 'rows-1' stands already in line 1"),
]


@pytest.mark.parametrize(("malformed", "says"), MALFORMED)
def test_malformed_rows_are_named_by_file_and_line(write, malformed, says):
    path = write(row(1), "", malformed, row(2))
    assert refusal(path).startswith(f"{path}, line 3: {says}")


def test_files_that_hold_nothing_or_cannot_be_read(write, tmp_path):
    assert "holds no problems" in refusal(write("", " "))
    assert f"data.path={tmp_path / 'no.jsonl'} cannot be read" in refusal(
        str(tmp_path / "no.jsonl")
    )
    assert "cannot be read" in refusal(str(tmp_path))
    assert "UTF-8" in refusal(write(row(1), encoding="utf-16"))


def test_jsonl_data(write):
    train = write(*(row(i, solution=f"{i}+1={i + 1}" if i % 2 else "") for i in range(6)))
    heldout = write(*(row(i) for i in range(10, 15)), name="heldout.jsonl")
    data = load_data(DataConfig(name="jsonl", path=train, eval_path=heldout), EVAL)
    assert [p.prompt for p in data.train] == [f"T{i}+1=" for i in range(6)]
    assert [p.prompt for p in data.heldout] == ["T10+1=", "T11+1=", "T12+1="]
    assert [p.prompt for p in data.corpus] == ["T1+1=", "T3+1=", "T5+1="]


@pytest.mark.parametrize("given", [{}, {"path": "a"}, {"eval_path": "a"}])
def test_jsonl_data_needs_both_files(given):
    with pytest.raises(UserError, match=r"data\.path .* and data\.eval_path"):
        load_data(DataConfig(name="jsonl", **given), EVAL)


def test_overlap_of_training_and_held_out_is_refused(write):
    train = write(*(row(i) for i in range(5)))
    heldout = write(row(9), row(3), row(4), name="heldout.jsonl")
    with pytest.raises(UserError, match=r"2 held-out prompts are also training prompts.*'T3\+1='"):
        load_data(DataConfig(name="jsonl", path=train, eval_path=heldout), EVAL)
    data = load_data(
        DataConfig(name="jsonl", path=train, eval_path=heldout), EvalConfig(num_problems=1)
    )
    assert len(data.heldout) == 1, "problems that are not evaluated cannot overlap"


def conventions(**changes):
    return ConventionsConfig(name="conventions", num_train=30, num_corpus=40, **changes)


def test_conventions_data_has_the_sizes_asked_for():
    data = load_data(conventions(), EVAL)
    assert [len(side) for side in (data.train, data.corpus, data.heldout)] == [30, 40, 3]
    assert all(p.solution for p in data.corpus)
    assert load_data(conventions(), EVAL) == data
    assert load_data(conventions(seed=1), EVAL).train != data.train
    more = load_data(conventions(), EvalConfig(num_problems=50)).heldout
    assert more[:3] == data.heldout


def test_files_replace_the_generated_problems(write):
    data = load_data(conventions(path=write(row(1)), eval_path=write(row(2), name="h.jsonl")), EVAL)
    assert [p.prompt for p in data.train] == ["T1+1="]
    assert [p.prompt for p in data.heldout] == ["T2+1="]
    assert data.corpus == load_data(conventions(), EVAL).corpus
    solved = data.corpus[0].prompt
    with pytest.raises(UserError, match="1 held-out prompts are also training prompts"):
        load_data(conventions(eval_path=write({"prompt": solved, "answer": "1"})), EVAL)


PROBLEMS = tuple(Problem(str(i), f"p{i}", "a") for i in range(10))


def ids(problems):
    return [problem.id for problem in problems]


def test_each_pass_holds_every_problem_once_in_a_new_order():
    taken = ids(ProblemStream(PROBLEMS, seed=0).take(50))
    passes = [taken[i : i + 10] for i in range(0, 50, 10)]
    for one in passes:
        assert sorted(one, key=int) == ids(PROBLEMS)
    assert len({tuple(one) for one in passes}) == 5
    assert tuple(passes[0]) != tuple(ids(PROBLEMS))


def test_order_depends_on_the_seed_alone():
    first, again, other = (ids(ProblemStream(PROBLEMS, seed).take(30)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("size", [1, 3, 7, 10, 23])
def test_batches_do_not_change_the_order(size):
    stream = ProblemStream(PROBLEMS, seed=4)
    batches = [ids(stream.take(size)) for _ in range(6)]
    assert [len(batch) for batch in batches] == [size] * 6
    assert [one for batch in batches for one in batch] == ids(
        ProblemStream(PROBLEMS, seed=4).take(6 * size)
    )
    assert stream.position == 6 * size


@pytest.mark.parametrize("position", [0, 1, 9, 10, 11, 37])
def test_position_is_all_the_state(position):
    whole = ids(ProblemStream(PROBLEMS, seed=2).take(60))
    resumed = ProblemStream(PROBLEMS, seed=2, position=position)
    assert ids(resumed.take(60 - position)) == whole[position:]
    assert resumed.position == 60


def test_a_batch_larger_than_the_data_repeats_problems_evenly():
    assert set(Counter(ids(ProblemStream(PROBLEMS[:3], seed=0).take(9))).values()) == {3}
