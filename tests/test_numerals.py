"""Numbers and digits as a person writes them."""

from decimal import Decimal

import pytest

from passk.text import MOST_DIGITS, plain_answer, plain_number, plain_text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (7, "7"),
        (-7, "-7"),
        (10**400, "1" + "0" * 400),
        ("0", "0"),
        ("-0", "0"),
        ("-0.00", "0"),
        ("14.0", "14"),
        ("1E+2", "100"),
        ("1e-05", "0.00001"),
        ("1.50e-5", "0.000015"),
        ("100.250", "100.25"),
    ],
)
def test_plain_numbers(number, text):
    assert plain_number(Decimal(number)) == text
    assert Decimal(text) == Decimal(number)


@pytest.mark.parametrize("number", ["NaN", "Infinity", f"1e{MOST_DIGITS}", f"1e-{MOST_DIGITS}"])
def test_what_has_no_plain_form(number):
    assert plain_number(Decimal(number)) is None


def test_the_longest_numbers_there_are():
    for number in (f"1e{MOST_DIGITS - 1}", f"1e-{MOST_DIGITS - 1}", "9" * MOST_DIGITS):
        assert Decimal(plain_number(Decimal(number))) == Decimal(number)


@pytest.mark.parametrize("zero", [0x30, 0x660, 0x966, 0x9E6, 0xFF10, 0x1D7D8])
def test_digits_of_every_script(zero):
    digits = "".join(chr(zero + i) for i in range(10))
    assert plain_text(f"\u2212{digits} \u00e9") == "-0123456789 \u00e9"


def test_characters_that_nobody_sees_go():
    assert plain_text("\u200f7\u200b\u2060\ufeff") == "7"


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("1e-05", "0.00001"),
        ("-2.5e+16", "-25000000000000000"),
        ("1e5", "1e5"),  # which people write too
        ("14.0", "14.0"),
        ("x", "x"),
        (r"\frac{٢}{3}", r"\frac{2}{3}"),
    ],
)
def test_plain_answers(answer, plain):
    assert plain_answer(answer) == plain
