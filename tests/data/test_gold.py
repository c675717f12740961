"""Final answers in texts: after ####, in boxes; each as (text, answer) or None for no answer."""

import pytest

from passk.data.problems import find_gold, without_calculations
from passk.verifiers.math.text import last_box

BOXES = [
    (r"so $x=\boxed{5}$.", "5"),
    (r"\boxed{1}, no: \boxed{2}", "2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{\left\{x\mid x>0\right\}}", r"\left\{x\mid x>0\right\}"),
    (r"\boxed{a\\}b}", r"a\\"),  # a line break, then the brace that ends the box
    (r"\boxed {7}", "7"),
    (r"\boxed 2$.", "2"),
    (r"$\boxed\frac12$ in all", r"\frac12"),
    (r"\fbox{3}", "3"),
    (r"\fbox{3} or \boxed{4}", "3, 4"),
    (r"$\boxed{2}$ or $\boxed{3}$", "2, 3"),
    (r"$\boxed{2\frac{1}{2}}$ or $\boxed{\frac{5}{2}}$", r"2\frac{1}{2}"),
    (r"\boxed{} \boxed{5} \boxed{}", "5"),
    (
        "\\boxed{\n\\begin{pmatrix} 0 \\\\ 1 \\end{pmatrix}\n}",
        "\\begin{pmatrix} 0 \\\\ 1 \\end{pmatrix}",
    ),
    (r"\boxed{\mbox{four}} numbers", r"\mbox{four}"),
    (r"there are $\boxed{}$ primes", None),
    (r"\boxed{ }", None),
    (r"\boxed{1", None),
    (r"\boxed", None),
    (r"\boxedeq{1} and \mbox{2}", None),
    ("no box", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "answer"), BOXES)
def test_the_last_box(text, answer):
    assert find_gold(text, "in_box") == answer


def test_boxes_take_linear_time():
    assert last_box(r"\boxed{" * 200_000) is None
    assert last_box(r"\boxed{" + "{}" * 200_000 + "}") == "{}" * 200_000


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("24+48 = 72\n#### 72", "72"),
        ("#### 1\n#### 1,250 ", "1,250"),
        ("####-3", "-3"),
        ("72", None),
        ("#### ", None),
    ],
)
def test_after_hash(text, answer):
    assert find_gold(text, "after_hash") == answer


def test_whole():
    assert find_gold(" 72", "whole") == " 72"
    assert find_gold(" \n", "whole") is None


def test_calculations_are_taken_out():
    solution = "48/2 = <<48/2=24>>24 clips.\nSo $<<24+48=72>>72\n#### 72"
    assert without_calculations(solution) == "48/2 = 24 clips.\nSo $72\n#### 72"
    for kept in ("2 << 3, 5 >> 4", "a << b = c, c<d> >> e", "1 << 2\n= 4 >> 0"):
        assert without_calculations(kept) == kept
