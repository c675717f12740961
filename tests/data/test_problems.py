"""Reading problem files, the split's guard, and the order in which problems come."""

import json
import subprocess
import sys
from collections import Counter
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from passk.config.schema import ConventionsConfig, EvalConfig, PromptConfig, TableConfig
from passk.data.problems import ProblemStream, load_data, normalised, read_problems
from passk.errors import UserError
from passk.types import Problem

EVAL = EvalConfig(num_problems=3)


@pytest.fixture
def write(tmp_path):
    """Write rows (objects as JSON, text as it is) to a file; its path as the user would type it."""

    def to_file(*rows, name="rows.jsonl", encoding="utf-8"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
        return str(tmp_path / name)

    return to_file


def row(i, **fields):
    return {"prompt": f"T{i}+1=", "answer": str(i + 1)} | fields


def problems_of(path, **columns):
    problems, notes = read_problems(path, "data.path", TableConfig(**columns))
    assert not notes
    return problems


def table(path=None, eval_path=None, **changes):
    return TableConfig(name="jsonl", path=path, eval_path=eval_path, **changes)


def refusal(path, **columns):
    with pytest.raises(UserError) as refused:
        read_problems(path, "data.path", TableConfig(**columns))
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


def test_fields_are_read_and_the_rest_ignored(write):
    full = {"id": "a", "kind": "easy", "solution": "1+1=2", "difficulty": 3, "notes": None}
    path = write(row(1, **full), row(2), row(3, kind=None))
    assert problems_of(path) == (
        Problem("a", "T1+1=", "2", "easy", "1+1=2"),
        Problem("rows-2", "T2+1=", "3"),
        Problem("rows-3", "T3+1=", "4"),
    )


def test_columns_by_name(write):
    columns = {name: f"my {name}" for name in ("prompt", "answer", "solution", "id", "kind")}
    columns |= {"level": "my level", "type": "my type"}
    path = write({column: name for name, column in columns.items()} | {"prompt": "other"})
    by_name = {f"{name}_column": column for name, column in columns.items()}
    assert problems_of(path, **by_name) == (
        Problem("id", "prompt", "answer", "kind", "solution", "level", "type"),
    )
    bare = dict.fromkeys(("solution_column", "id_column", "kind_column"))
    assert problems_of(path, **by_name | bare) == (
        Problem("rows-1", "prompt", "answer", level="level", type="type"),
    )


def test_numbers_are_answers_as_they_are_written(write):
    path = write(*(row(i, answer=answer) for i, answer in enumerate((7, -2.5, "007"))))
    assert [p.answer for p in problems_of(path)] == ["7", "-2.5", "007"]


JSON_NUMBERS = [
    ("14.0", "14"),
    ("0.00001", "0.00001"),
    ("1e-05", "0.00001"),
    ("1.50", "1.5"),
    ("0.1", "0.1"),
    ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
    ("10000000000000000.0", "1" + "0" * 16),
    ("1e16", "1" + "0" * 16),
    ("1e400", "1" + "0" * 400),
    ("-0.0", "0"),
    ("-2.50E+1", "-25"),
    ("7" * 5000, "7" * 5000),
]


@pytest.mark.parametrize(("written", "gold"), JSON_NUMBERS)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_number_in_json_is_the_answer_that_a_person_writes(write, written, gold, name):
    path = write(f'[{{"prompt": "x", "answer": {written}}}]', name=name)
    (problem,), _ = read_problems(path, "data.path")
    assert problem.answer == gold


def test_answers_that_are_written_otherwise_are_named(write):
    _, notes = read_problems(write(row(1, answer=14.0), row(2, answer=1.5), row(3)), "data.path")
    assert notes == ["data: answers that are numbers, written as people do: 1 (rows-1: 14.0 is 14)"]


@pytest.mark.parametrize("written", ["NaN", "Infinity", "-Infinity", "1e10000", "1e-10000"])
def test_numbers_that_nobody_can_write_out_are_refused(write, written):
    says = refusal(write(row(1), f'{{"prompt": "x", "answer": {written}}}'))
    assert "line 2: 'answer' must be text or a finite number (of at most 10000 digits)" in says


@pytest.mark.parametrize("written", [f"1e{'9' * 30}", f"1e-{'9' * 30}", "9" * 10_001])
def test_endless_numbers_are_refused_in_a_short_sentence(write, written):
    says = refusal(write(f'{{"prompt": "x", "answer": {written}}}'))
    assert "line 1: 'answer' must be" in says and len(says) < 400


@pytest.mark.parametrize(
    ("column", "golds"),
    [
        (pa.array([0.1, 14.0, 1e16], pa.float32()), ["0.1", "14", "1" + "0" * 16]),
        (pa.array([0.1, 14.0, 1e-5], pa.float64()), ["0.1", "14", "0.00001"]),
        (pa.array([0.5, 2.0, 0.1], pa.float16()), ["0.5", "2", "0.1"]),
        (pa.array([7, -1, 2**62], pa.int64()), ["7", "-1", str(2**62)]),
        (pa.array([Decimal("7.50"), Decimal("-0.00"), Decimal(3)], pa.decimal128(9, 2)), None),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([b"7", "é".encode(), b"x"], pa.binary()), ["7", "é", "x"]),
    ],
    ids=["float32", "float64", "float16", "int64", "decimal", "dictionary", "binary"],
)
@pytest.mark.parametrize("suffix", ["parquet", "arrow", "feather"])
def test_columns_of_every_type(tmp_path, column, golds, suffix):
    table = pa.table({"prompt": ["x", "y", "z"], "answer": column})
    file = str(tmp_path / f"rows.{suffix}")
    {"parquet": pq.write_table, "arrow": feather.write_feather, "feather": feather.write_feather}[
        suffix
    ](table, file)
    problems, _ = read_problems(file, "data.path")
    assert [p.answer for p in problems] == (golds or ["7.5", "0", "3"])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([float("nan")]),
        pa.array([float("inf")], pa.float32()),
        pa.array([True]),
        pa.array([0], pa.timestamp("ns")),
        pa.array([2**62], pa.timestamp("ms")),
        pa.array([[1]]),
        pa.array([b"\xff"], pa.binary()),
        pa.array([None], pa.string()),
    ],
    ids=["nan", "inf", "bool", "time", "year 146e9", "list", "bytes", "null"],
)
def test_cells_that_are_no_answer_are_named(tmp_path, column):
    file = str(tmp_path / "rows.parquet")
    pq.write_table(pa.table({"prompt": ["x"], "answer": column}), file)
    assert "'answer'" in refusal(file) and file in refusal(file)


def test_a_csv_column_of_floats_is_read_as_numbers_and_any_other_as_text(tmp_path):
    def golds(*cells):
        rows = pd.DataFrame({"prompt": [f"p{i}" for i in range(len(cells))], "answer": cells})
        rows.to_csv(tmp_path / "rows.csv", index=False)
        return [p.answer for p in read_problems(str(tmp_path / "rows.csv"), "data.path")[0]]

    assert golds(14.0, 0.00001, 1e16, 2.5) == ["14", "0.00001", "1" + "0" * 16, "2.5"]
    assert golds("14.0", "007") == ["14.0", "007"]
    assert golds("1.50", "2.5") == ["1.50", "2.5"]
    assert golds(3.0, None) == ["3"], "a row without an answer is left out"
    with pytest.raises(UserError, match="row 2: 'answer' must be text or a finite number"):
        golds(3.0, float("inf"))


@pytest.mark.parametrize(
    ("cell", "weight"), [("0.5", 0.5), ("", 1.0), (" 2 ", 2.0), ("0", 0.0), ("1e-3", 0.001)]
)
def test_weights_of_a_csv(write, cell, weight):
    path = write("prompt,answer,weight", f"x,1,{cell}", name="rows.csv")
    assert read_problems(path, "data.path")[0][0].weight == weight


@pytest.mark.parametrize("weight", ['"-1"', '"one"', '"1_0"', '"nan"', "1e400", "7" * 400, "true"])
def test_what_is_no_weight_is_refused(write, weight):
    says = refusal(write(f'{{"prompt": "x", "answer": "1", "weight": {weight}}}'))
    assert "line 1: 'weight' must be a finite number of 0 or more, found" in says


@pytest.mark.parametrize("field", ["prompt", "answer", "id", "solution", "kind"])
def test_half_a_character_is_refused_where_it_is_used(write, field):
    says = refusal(write(row(1), row(2, **{field: "\ud83dx"})))
    assert f"line 2: '{field}' holds half of a surrogate pair" in says
    assert "\\ud83d" in says and says.encode()
    assert len(problems_of(write(row(1, note="\ud83d")))) == 1


def test_names_hold_no_nul(write):
    assert "'kind' holds a NUL character" in refusal(write(row(1, kind="a\0b")))


GSM8K = {"prompt_column": "question", "solution_column": "answer", "gold_in": "after_hash"}
MATH = {
    "prompt_column": "problem",
    "answer_column": "solution",
    "level_column": "level",
    "type_column": "type",
    "gold_in": "in_box",
}


def test_whole_numbers_are_names(write):
    named = {"id": 7, "kind": 0, "level": 5.0, "type": -1}
    path = write(row(1, **named))
    columns = {"level_column": "level", "type_column": "type"}
    assert problems_of(path, **columns) == (Problem("7", "T1+1=", "2", "0", "", "5", "-1"),)


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_a_table_without_the_columns_names_the_missing_one(tmp_path, suffix):
    rows = pd.DataFrame({"question": ["1+1"], "target": ["2"]})
    file = tmp_path / f"rows.{suffix}"
    if suffix == "csv":
        rows.to_csv(file, index=False)
    elif suffix == "json":
        rows.to_json(file, orient="records")
    else:
        rows.to_parquet(file)
    says = f"{file}, row 1: the field 'prompt' is missing (data.prompt_column)"
    assert refusal(str(file)).startswith(says)


def test_digests_follow_the_problems_their_order_and_the_shots(write):
    def digests(answer="1", path=None, needs_training=True, **changes):
        rows = [row(i, solution="s") for i in range(6)]
        heldout = write(row(7, answer=answer), row(8), name="heldout.jsonl")
        cfg = table(path or write(*rows), heldout, **changes)
        return load_data(cfg, EVAL, needs_training=needs_training).digests

    first = digests()
    assert digests() == first and list(first) == ["heldout_sha256", "training_sha256"]
    assert digests(needs_training=False) == {"heldout_sha256": first["heldout_sha256"]}
    other = digests(answer="9")
    assert other["heldout_sha256"] != first["heldout_sha256"]
    assert other["training_sha256"] == first["training_sha256"]
    backwards = write(*(row(i, solution="s") for i in reversed(range(6))), name="other.jsonl")
    turned = digests(path=backwards)
    assert turned["heldout_sha256"] == first["heldout_sha256"]
    assert turned["training_sha256"] != first["training_sha256"]
    shots = PromptConfig(num_shots=2)
    shown = digests(prompt=shots, needs_training=False)
    assert list(shown) == ["heldout_sha256"] and shown["heldout_sha256"] != first["heldout_sha256"]


def test_rows_in_the_fields_of_gsm8k(write):
    answer = "48/2 = <<48/2=24>>24 clips.\n48+24 = <<48+24=72>>72.\n#### 72"
    path = write({"question": "How many?", "answer": answer})
    (problem,) = problems_of(path, **GSM8K, strip_calculations=True)
    stripped = "48/2 = 24 clips.\n48+24 = 72.\n#### 72"
    assert problem == Problem("rows-1", "How many?", "72", solution=stripped)
    assert problems_of(path, **GSM8K)[0].solution == answer


def test_rows_in_the_fields_of_math(write):
    solution = r"Then $x = \boxed{\frac{1}{2}}$."
    fields = {"problem": "Find $x$.", "level": "Level ?", "type": "Algebra", "answer": "0.5"}
    assert problems_of(write(fields | {"solution": solution}), **MATH) == (
        Problem("rows-1", "Find $x$.", r"\frac{1}{2}", "", solution, "Level ?", "Algebra"),
    )


def test_rows_without_an_answer_are_left_out_and_named(write):
    solutions = (r"\boxed{1}", r"\boxed{}", "none", r"\boxed{4}", "", r"\boxed{6", r"\boxed{7}")
    path = write(*({"problem": f"P{i}", "solution": s} for i, s in enumerate(solutions, 1)))
    problems, notes = read_problems(path, "data.path", TableConfig(**MATH))
    assert [(p.id, p.answer) for p in problems] == [
        ("rows-1", "1"),
        ("rows-4", "4"),
        ("rows-7", "7"),
    ]
    lines = "; ".join(f"{path}, line {number}" for number in (2, 3, 5))
    assert notes == [f"data: rows left out because they hold no answer: 4 ({lines}; ...)"]
    says = refusal(write({"problem": "P", "solution": "none"}), **MATH)
    assert "no row has an answer in the field 'solution' (data.gold_in=in_box)" in says


def test_empty_lines_are_skipped_but_counted(write):
    assert [p.id for p in problems_of(write("", row(1), "  ", row(2)))] == ["rows-2", "rows-4"]


def test_windows_line_ends_and_a_missing_last_newline(tmp_path):
    text = "\r\n".join(json.dumps(row(i)) for i in (1, 2))
    (tmp_path / "rows.jsonl").write_bytes(text.encode())
    assert len(problems_of(str(tmp_path / "rows.jsonl"))) == 2


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_only_newlines_end_a_line(write, separator):
    """Python's splitlines would cut a row at these, which JSON allows in a string."""
    prompt = f"one{separator}two"
    text = json.dumps(row(1, prompt=prompt), ensure_ascii=False)
    assert separator in text
    assert problems_of(write(text))[0].prompt == prompt


NO_ANSWER = "'answer' must be text or a finite number (of at most 10000 digits), found"
MALFORMED = [
    ('{"prompt": "x", ', "not a JSON object"),
    ("no json", "not a JSON object"),
    ("[1, 2]", "a JSON object is needed, found list"),
    ('"text"', "a JSON object is needed, found str"),
    ("null", "a JSON object is needed, found NoneType"),
    ({"answer": "2"}, "the field 'prompt' is missing"),
    ({"prompt": "x"}, "the field 'answer' is missing"),
    ({"prompt": "x", "answer": None}, "the field 'answer' is missing"),
    (
        {"prompt": "x", "answer": True},
        f"{NO_ANSWER} True",
    ),
    (
        {"prompt": "x", "answer": ["2"]},
        f"{NO_ANSWER} ['2']",
    ),
    (
        '{"prompt": "x", "answer": NaN}',
        f"{NO_ANSWER} NaN",
    ),
    ({"prompt": "", "answer": "2"}, "'prompt' must be a non-empty string, found ''"),
    ({"prompt": ["x"], "answer": "2"}, "'prompt' must be a non-empty string, found ['x']"),
    ({"prompt": "x", "answer": "2", "kind": 3.5}, "'kind' must be text or a whole number, found"),
    ({"prompt": "x", "answer": "2", "kind": True}, "'kind' must be text or a whole number, found"),
    ({"prompt": "x", "answer": "2", "solution": 3}, "'solution' must be text, found 3"),
    ({"prompt": "x", "answer": "2", "id": [7]}, "'id' must be a non-empty string or a whole numb"),
    ({"prompt": "x", "answer": "2", "id": ""}, "'id' must be a non-empty string or a whole numb"),
    ({"prompt": "x", "answer": "2", "id": "rows-1"}, "id 'rows-1' is used already in "),
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


@pytest.mark.parametrize("key", ["path", "eval_path"])
@pytest.mark.parametrize("name", ["/no/folder", "./none", "~/nowhere.jsonl"])
def test_what_can_only_be_a_missing_file_or_folder_is_said_to_be_missing(key, name):
    with pytest.raises(UserError, match=f"data.{key}={name} cannot be read: there is no such file"):
        load_data(table(**{key: name}), EVAL)


def test_a_prompt_with_two_answers_is_named_and_stays(write):
    again = {"prompt": " t1+1=", "answer": "3"}
    problems, notes = read_problems(write(row(1), row(2), again, row(1), again), "data.path")
    assert len(problems) == 5
    assert notes == [
        "data: problems that stand here again with another answer: "
        "2 (rows-3 as rows-1; rows-5 as rows-1)"
    ]


def test_files_of_both_sides(write):
    train = write(*(row(i, solution=f"{i}+1={i + 1}" if i % 2 else "") for i in range(6)))
    heldout = write(*(row(i) for i in range(10, 15)), name="heldout.jsonl")
    data = load_data(table(train, heldout), EVAL)
    assert [p.prompt for p in data.train] == [f"T{i}+1=" for i in range(6)]
    assert len(data.heldout) == 3 and {p.prompt for p in data.heldout} < {
        f"T{i}+1=" for i in range(10, 15)
    }
    assert [p.prompt for p in data.corpus] == ["T1+1=", "T3+1=", "T5+1="]
    assert (data.shots, data.notes) == ((), ())


def test_held_out_problems_are_drawn_by_seed_and_fewer_are_the_first_of_more(write):
    heldout = write(*(row(i) for i in range(50)), name="heldout.jsonl")

    def ids(count, seed=0):
        cfg = EvalConfig(num_problems=count, seed=seed)
        return [
            p.id for p in load_data(table(eval_path=heldout), cfg, needs_training=False).heldout
        ]

    everything = ids(50)
    assert sorted(everything, key=lambda i: int(i.split("-")[1])) == [
        f"heldout-{i}" for i in range(1, 51)
    ]
    assert ids(99) == everything and ids(8) == everything[:8]
    assert len(set(ids(8)) - {f"heldout-{i}" for i in range(1, 9)}) > 0, "not the first rows"
    assert ids(8, seed=1) != ids(8)


@pytest.mark.parametrize("given", [(), ("path",), ("eval_path",)])
def test_both_sides_are_needed(given, write):
    given = dict.fromkeys(given, write(row(1)))
    with pytest.raises(UserError, match=r"data=jsonl needs data\.path .* and data\.eval_path"):
        load_data(table(**given), EVAL)


def test_evaluation_needs_the_held_out_side_alone(write):
    data = load_data(table(write(name="empty.jsonl"), write(row(1))), EVAL, needs_training=False)
    assert (data.train, len(data.heldout), data.corpus) == ((), 1, ())
    with pytest.raises(UserError, match=r"data\.eval_path \(held out\)"):
        load_data(table(write(row(1))), EVAL, needs_training=False)


def test_training_problems_that_are_held_out_are_left_out(write):
    train = write(*(row(i, solution="s") for i in range(5)))
    # The same but for case, white space and letter forms; "T1+1 =" is another text.
    heldout = write(
        {"prompt": " t3+1=\n", "answer": "4"},
        {"prompt": "\uff344+1=", "answer": "5"},
        {"prompt": "T1+1 =", "answer": "2"},
        name="heldout.jsonl",
    )
    data = load_data(table(train, heldout), EVAL)
    assert [p.prompt for p in data.train] == ["T0+1=", "T1+1=", "T2+1="]
    assert data.corpus == data.train
    assert data.notes == (
        "data: problems left out of training because they are held out too: "
        "2 (rows-4 is heldout-1, ...)",
    )
    assert not {normalised(p.prompt) for p in data.train} & {
        normalised(p.prompt) for p in data.heldout
    }
    fewer = load_data(table(train, heldout), EvalConfig(num_problems=1))
    assert fewer.train == data.train, "whichever of the held-out side is evaluated"
    with pytest.raises(UserError, match="is left to train on"):
        load_data(table(heldout, heldout), EVAL)


def test_normalised_prompts_keep_apart_what_differs():
    assert normalised("T1+1=") != normalised("C1+1=")
    assert normalised("What is\n 1\u00a0+ 1?") == normalised(" what is 1 + 1? ")


def test_shots_are_chosen_by_seed_and_not_trained_on(write):
    train = write(*(row(i, solution=f"s{i}" if i else "") for i in range(20)))
    heldout = write(row(50), row(7), name="heldout.jsonl")

    def load(count, seed=0, **options):
        cfg = table(train, heldout, seed=seed, prompt=PromptConfig(num_shots=count))
        return load_data(cfg, EVAL, **options)

    data = load(3)
    assert len(data.shots) == 3 and all(shot.solution for shot in data.shots)
    assert data.shots == load(3).shots == load(5).shots[:3] != load(3, seed=1).shots
    shown = {shot.id for shot in data.shots}
    assert not shown & {p.id for p in (*data.train, *data.corpus)} and "rows-8" not in shown
    assert (len(data.train), len(data.corpus)) == (16, 15)
    assert load(3, needs_training=False).shots == data.shots, "evaluated with the same prompts"
    assert not load(18).corpus
    with pytest.raises(UserError, match=r"num_shots=19, but only 18 training problems have a"):
        load(19)


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


def test_conventions_are_apart_by_construction():
    data = load_data(conventions(), EvalConfig(num_problems=200))
    sides = [{normalised(p.prompt) for p in side} for side in (data.train, data.corpus)]
    assert not (sides[0] | sides[1]) & {normalised(p.prompt) for p in data.heldout}
    assert load_data(conventions(), EVAL, needs_training=False).heldout == data.heldout[:3]


def test_files_replace_the_generated_problems(write):
    data = load_data(conventions(path=write(row(1)), eval_path=write(row(2), name="h.jsonl")), EVAL)
    assert [p.prompt for p in data.train] == ["T1+1="]
    assert [p.prompt for p in data.heldout] == ["T2+1="]
    corpus = load_data(conventions(), EVAL).corpus
    assert data.corpus == corpus
    solved = corpus[0].prompt
    without = load_data(conventions(eval_path=write({"prompt": solved, "answer": "1"})), EVAL)
    assert without.corpus == tuple(p for p in corpus if p.prompt != solved)
    assert f"{corpus[0].id} is rows-1" in without.notes[0]


def test_datasets_is_not_imported_for_json_lines(write):
    """It takes a second."""
    code = "from passk.data.problems import read_problems; "
    code += f"read_problems({write(row(1))!r}, 'data.path')"
    code += "; import sys; print([m for m in ('datasets', 'torch', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


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
