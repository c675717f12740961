r"""Forms that are drawn for `--split test` alone: the reader of answers was not tuned on them.

As in `own_forms`, every form draws its numbers so that what is listed as different differs.
"""

import random
from collections.abc import Callable

from own_forms import Form, two_numbers


def plane(draw: random.Random) -> Form:
    a, b, c, d = draw.sample(range(2, 40), 4)
    return Form(
        f"{a}x+{b}y-{c}z+{d}=0",
        (
            f"{a}x + {b}y - {c}z + {d} = 0",
            f"-{a}x-{b}y+{c}z-{d}=0",
            f"{a}x+{b}y+{d}={c}z",
            f"{2 * a}x+{2 * b}y-{2 * c}z+{2 * d}=0",
        ),
        (
            f"{a}x+{b}y-{c}z-{d}=0",
            f"{a}x+{b}y-{c}z+{d}",
            f"{b}x+{a}y-{c}z+{d}=0",
            f"{a}x+{b}y-{c}z={d}",
            f"{a}x+{b}y-{c}z+{d}=1",
        ),
    )


def line_in_space(draw: random.Random) -> Form:
    a, b, c = draw.sample(range(2, 30), 3)
    return Form(
        f"({a},{b},{c})",
        (
            rf"\left({a},\,{b},\,{c}\right)",
            f"(x,y,z)=({a},{b},{c})",
            f"({a}.0, {b}, {c})",
            rf"\bigl({a},{b},{c}\bigr)",
        ),
        (
            f"({a},{c},{b})",
            f"({a},{b})",
            f"(x,z,y)=({a},{b},{c})",
            f"({a},{b},{c},0)",
            f"({a},{b},-{c})",
        ),
    )


def closed_half_line(draw: random.Random) -> Form:
    a = draw.randint(2, 80)
    return Form(
        rf"(-\infty,-{a}]",
        (
            rf"x \le -{a}",
            rf"\left(-\infty,\,-{a}\right]",
            rf"x \in (-\infty, -{a}]",
            rf"-{a} \geq x",
            rf"]-\infty, -{a}]",
        ),
        (
            rf"(-\infty,{a}]",
            rf"(-\infty,-{a})",
            rf"x \ge -{a}",
            rf"[-{a},\infty)",
            rf"x < -{a}",
        ),
    )


def two_inequalities(draw: random.Random) -> Form:
    a, b = two_numbers(draw)
    return Form(
        rf"-{a} \le x \le {b}",
        (rf"[-{a},{b}]", rf"x \in [-{a},{b}]", rf"-{a} \leq x \leq {b}", rf"{b} \ge x \ge -{a}"),
        (rf"-{a} < x < {b}", rf"[-{a},{b})", rf"-{b} \le x \le {a}", rf"{a} \le x \le {b}"),
    )


def polar(draw: random.Random) -> Form:
    a, b = draw.randint(2, 30), draw.choice((3, 4, 5, 6, 7))
    return Form(
        rf"\left({a},\frac{{\pi}}{{{b}}}\right)",
        (rf"({a}, \pi/{b})", rf"\left({a}, \dfrac{{\pi}}{{{b}}}\right)", rf"({a},\frac\pi {b})"),
        (
            rf"({a}, {b}\pi)",
            rf"(\frac{{\pi}}{{{b}}},{a})",
            rf"({a},\frac{{\pi}}{{{b + 1}}})",
            rf"(-{a},\frac{{\pi}}{{{b}}})",
        ),
    )


def exponential(draw: random.Random) -> Form:
    a, b = draw.sample(range(2, 20), 2)
    return Form(
        rf"{a}e^{{-{b}t}}",
        (
            rf"{a} e^{{-{b} t}}",
            rf"\frac{{{a}}}{{e^{{{b}t}}}}",
            rf"{a}\exp(-{b}t)",
            rf"{a}\cdot e^{{-{b}t}}",
        ),
        (
            rf"{a}e^{{{b}t}}",
            rf"{b}e^{{-{a}t}}",
            rf"{a}e^{{-{b}}}",
            rf"{a}e-{b}t",
            rf"-{a}e^{{-{b}t}}",
        ),
    )


def decimal_power(draw: random.Random) -> Form:
    a, b, k = draw.randint(1, 9), draw.randint(1, 9), draw.randint(2, 8)
    return Form(
        rf"{a}.{b} \times 10^{{{k}}}",
        (
            rf"{a}.{b}e{k}",
            rf"{a}{b} \times 10^{{{k - 1}}}",
            rf"{a}.{b} \cdot 10^{k}",
            f"{a}{b}{'0' * (k - 1)}",
            rf"{a}.{b}\times10^{{{k}}}\text{{ m}}",
        ),
        (
            rf"{a}.{b} \times 10^{{-{k}}}",
            rf"{a}.{b} \times {k}^{{10}}",
            rf"{a}{b} \times 10^{{{k}}}",
            rf"{a}.{b}",
            rf"{a}.{b} + 10^{{{k}}}",
        ),
    )


def quadratic_surd(draw: random.Random) -> Form:
    a, b, c = draw.randint(1, 20), draw.choice((2, 3, 5, 7, 11, 13)), draw.choice((3, 5, 7, 9))
    return Form(
        rf"\frac{{{a}+\sqrt{{{b}}}}}{{{c}}}",
        (
            rf"\frac{{\sqrt{{{b}}}+{a}}}{{{c}}}",
            rf"\frac{{{a}}}{{{c}}}+\frac{{\sqrt{{{b}}}}}{{{c}}}",
            rf"({a}+\sqrt{{{b}}})/{c}",
            rf"\frac{{1}}{{{c}}}({a}+\sqrt{{{b}}})",
        ),
        (
            rf"\frac{{{a}-\sqrt{{{b}}}}}{{{c}}}",
            rf"{a}+\frac{{\sqrt{{{b}}}}}{{{c}}}",
            rf"\frac{{{a}+{b}}}{{{c}}}",
            rf"\frac{{{a}+\sqrt{{{b}}}}}{{{c + 1}}}",
            rf"\frac{{{a} \pm \sqrt{{{b}}}}}{{{c}}}",
        ),
    )


def both_signs(draw: random.Random) -> Form:
    a = draw.randint(2, 60)
    return Form(
        rf"\pm {a}",
        (
            rf"{a}, -{a}",
            rf"-{a}, {a}",
            rf"\{{-{a},{a}\}}",
            rf"{a} \text{{ and }} -{a}",
            rf"x=\pm {a}",
        ),
        (f"{a}", f"-{a}", rf"\pm {a + 1}", rf"{a}, {a + 1}", rf"\pm {a}, 0"),
    )


def set_of_fractions(draw: random.Random) -> Form:
    a, b = two_numbers(draw, 2, 30)
    b = b if b % a else b + 1
    return Form(
        rf"\left\{{ -\frac{{1}}{{{a}}}, {b} \right\}}",
        (
            rf"\{{{b}, -1/{a}\}}",
            rf"{b}, -\frac{{1}}{{{a}}}",
            rf"\{{-\dfrac{{1}}{{{a}}},\ {b}\}}",
            rf"\{{ -\frac1{{{a}}},{b} \}}",
        ),
        (
            rf"\{{\frac{{1}}{{{a}}}, {b}\}}",
            rf"\{{-\frac{{1}}{{{a}}}\}}",
            rf"\{{-\frac{{1}}{{{b}}}, {a}\}}",
            rf"\{{-{a}, {b}\}}",
            rf"(-\frac{{1}}{{{a}}}, {b})",
        ),
    )


def function(draw: random.Random) -> Form:
    a, b = two_numbers(draw)
    return Form(
        f"f(x)={a}x-{b}",
        (f"{a}x-{b}", f"f(x) = -{b} + {a}x", f"f(x)={a}x - {b}", rf"f(x)={a}\cdot x-{b}"),
        (f"f(x)={b}x-{a}", f"f(x)={a}x+{b}", f"f(x)={a}x", f"{a}-{b}x", f"f({a})=x-{b}"),
    )


def money(draw: random.Random) -> Form:
    a, b = draw.randint(2, 900), draw.randint(11, 99)
    b = b if b % 10 else b + 1
    return Form(
        f"{a}.{b}",
        (
            rf"\${a}.{b}",
            rf"{a}.{b} \text{{ dollars}}",
            f"${a}.{b}",
            rf"\text{{\${a}.{b}}}",
            f"€{a}.{b}",
        ),
        (f"{a},{b}0", rf"\${a + 1}.{b}", f"{a}{b}", f"{a}", rf"\${b}.{a}1"),
    )


def degrees_and_minutes(draw: random.Random) -> Form:
    a = draw.randint(2, 178)
    return Form(
        rf"{a}^\circ",
        (
            f"{a}",
            rf"{a}^{{\circ}}",
            f"{a}°",
            f"{a} degrees",
            rf"{a}\text{{ degrees}}",
            rf"{a}\degree",
        ),
        (rf"{a + 1}^\circ", rf"{a}\pi", rf"-{a}^\circ", rf"{a}^2"),
    )


def algebraic_fraction(draw: random.Random) -> Form:
    a, b = two_numbers(draw)
    return Form(
        rf"\frac{{x+{a}}}{{x-{b}}}",
        (
            rf"\dfrac{{{a}+x}}{{x-{b}}}",
            f"(x+{a})/(x-{b})",
            rf"1+\frac{{{a + b}}}{{x-{b}}}",
            rf"-\frac{{x+{a}}}{{{b}-x}}",
        ),
        (
            rf"\frac{{x-{b}}}{{x+{a}}}",
            rf"\frac{{x+{a}}}{{x+{b}}}",
            f"x+{a}/x-{b}",
            rf"-\frac{{x+{a}}}{{x-{b}}}",
            rf"\frac{{y+{a}}}{{y-{b}}}",
        ),
    )


def answers_by_name(draw: random.Random) -> Form:
    a, b = draw.sample(range(2, 60), 2)
    return Form(
        f"a={a}, b={b}",
        (
            f"b={b}, a={a}",
            f"a={a},\\ b={b}",
            rf"a = {a} \text{{ and }} b = {b}",
            f"a={a} and b={b}",
        ),
        (f"a={b}, b={a}", f"a={a}", f"a={a}, b={b + 1}", f"a={a}, c={b}"),
    )


def vector(draw: random.Random) -> Form:
    a, b, c = draw.sample(range(-20, 30), 3)
    return Form(
        rf"\langle {a}, {b}, {c} \rangle",
        (rf"\langle {a},{b},{c}\rangle", rf"\left\langle {a}, {b}, {c} \right\rangle"),
        (rf"\langle {b}, {a}, {c} \rangle", rf"\langle {a}, {b} \rangle", rf"\{{{a}, {b}, {c}\}}"),
    )


def absolute(draw: random.Random) -> Form:
    a, b = two_numbers(draw)
    return Form(
        f"|x-{a}|+{b}",
        (rf"\left|x-{a}\right|+{b}", f"{b}+|x-{a}|", rf"\lvert x-{a} \rvert + {b}", f"|{a}-x|+{b}"),
        (f"|x+{a}|+{b}", f"x-{a}+{b}", f"|x-{a}|-{b}", f"|x-{b}|+{a}"),
    )


def factorials(draw: random.Random) -> Form:
    n = draw.randint(6, 30)
    return Form(
        f"{n}!",
        (rf"{n} \cdot {n - 1}!", f"({n})!", rf"{n}\times({n - 1})!"),
        (f"{n - 1}!", f"{n}", f"{n}!!", f"{n}!+1", rf"2 \cdot {n}!"),
    )


def percent_decimal(draw: random.Random) -> Form:
    a, b = draw.randint(2, 98), draw.randint(1, 9)
    return Form(
        rf"{a}.{b}\%",
        (
            f"{a}.{b}%",
            f"{a}.{b}0%",
            rf"{a}.{b} \%",
            f"{a}.{b} percent",
            rf"{a}.{b}\text{{ percent}}",
        ),
        (f"{a}.{b}1%", f"{a}{b}%", rf"-{a}.{b}\%", f"{b}.{a}1%"),
    )


def outside(draw: random.Random) -> Form:
    a, b = two_numbers(draw)
    return Form(
        rf"x < {a} \text{{ or }} x > {b}",
        (
            rf"(-\infty,{a})\cup({b},\infty)",
            rf"x > {b} \text{{ or }} x < {a}",
            rf"x < {a}, x > {b}",
            rf"x \in (-\infty, {a}) \cup ({b}, \infty)",
        ),
        (
            rf"x < {a} \text{{ or }} x > {b + 1}",
            rf"{a} < x < {b}",
            rf"x > {a} \text{{ or }} x < {b}",
            rf"x \le {a} \text{{ or }} x \ge {b}",
        ),
    )


def sine(draw: random.Random) -> Form:
    a, b = draw.sample(range(2, 20), 2)
    return Form(
        rf"{a}\sin({b}x)",
        (
            rf"{a} \sin {b}x",
            rf"{a}\cdot\sin({b}x)",
            rf"{a}\sin\left({b}x\right)",
            rf"{a} \sin{{{b}x}}",
        ),
        (
            rf"{b}\sin({a}x)",
            rf"{a}\cos({b}x)",
            rf"{a}\sin({b})x",
            rf"\sin({a * b}x)",
            rf"{a}\sin({b}y)",
        ),
    )


def cube_root(draw: random.Random) -> Form:
    a, b = draw.randint(2, 9), draw.choice((2, 3, 5, 6, 7, 10))
    return Form(
        rf"{a}\sqrt[3]{{{b}}}",
        (rf"\sqrt[3]{{{a**3 * b}}}", rf"{a}\cdot {b}^{{1/3}}", rf"{a} \cdot \sqrt[3]{{{b}}}"),
        (
            rf"{a}\sqrt{{{b}}}",
            rf"\sqrt[3]{{{a * b}}}",
            rf"{a}\sqrt[4]{{{b}}}",
            rf"{3 * a}\sqrt{{{b}}}",
        ),
    )


def rationalised(draw: random.Random) -> Form:
    a, b = draw.randint(2, 40), draw.choice((2, 3, 5, 7, 11, 13))
    return Form(
        rf"\frac{{{a}\sqrt{{{b}}}}}{{{b}}}",
        (
            rf"\frac{{{a}}}{{\sqrt{{{b}}}}}",
            rf"{a}/\sqrt{{{b}}}",
            rf"\frac{{{a}}}{{{b}}}\sqrt{{{b}}}",
        ),
        (rf"\frac{{{a}}}{{{b}}}", rf"{a}\sqrt{{{b}}}", rf"\frac{{{b}}}{{\sqrt{{{a + b * b}}}}}"),
    )


def on_the_circle(draw: random.Random) -> Form:
    a, b = draw.choice(((1, 3), (2, 5), (3, 7), (1, 4), (5, 6)))
    return Form(
        rf"e^{{{a}\pi i/{b}}}",
        (
            rf"e^{{i{a}\pi/{b}}}",
            rf"e^{{\frac{{{a}\pi i}}{{{b}}}}}",
            rf"\cos\frac{{{a}\pi}}{{{b}}}+i\sin\frac{{{a}\pi}}{{{b}}}",
        ),
        (rf"e^{{-{a}\pi i/{b}}}", rf"e^{{{a}\pi/{b}}}", rf"e^{{{b}\pi i/{a + 7}}}", r"e^{\pi i}"),
    )


def three_by_three(draw: random.Random) -> Form:
    cells = draw.sample(range(-30, 60), 9)
    rows = [" & ".join(map(str, cells[k : k + 3])) for k in (0, 3, 6)]
    other = [rows[1], rows[0], rows[2]]

    def matrix(lines: list[str], kind: str = "pmatrix") -> str:
        return rf"\begin{{{kind}}} " + r" \\ ".join(lines) + rf" \end{{{kind}}}"

    return Form(
        matrix(rows),
        (matrix(rows, "bmatrix"), matrix([row.replace(" ", "") for row in rows])),
        (matrix(other), matrix(rows[:2]), matrix(rows, "vmatrix"), str(cells[0])),
    )


def mixed_repeating(draw: random.Random) -> Form:
    a, b = draw.randint(1, 9), draw.randint(1, 8)
    return Form(
        rf"0.{a}\overline{{{b}}}",
        (rf"\frac{{{10 * a + b - a}}}{{90}}", rf"0.{a}\bar{{{b}}}", rf"0.{a}{b}\overline{{{b}}}"),
        (f"0.{a}{b}", rf"0.\overline{{{a}{b}}}" if a != b else "0", rf"0.{a}\overline{{{b + 1}}}"),
    )


def equal_parts(draw: random.Random) -> Form:
    a, b = draw.sample(range(2, 40), 2)
    return Form(
        rf"\left(\frac{{1}}{{{a}}}, -{b}\right)",
        (f"(1/{a}, -{b})", rf"\left(\dfrac{{1}}{{{a}}},-{b}\right)", rf"(\tfrac1{{{a}}}, -{b})"),
        (f"({a}, -{b})", f"(1/{a}, {b})", f"(-{b}, 1/{a})", rf"[\frac{{1}}{{{a}}}, -{b}]"),
    )


def product_of_powers(draw: random.Random) -> Form:
    a, b = draw.sample(range(2, 9), 2)
    return Form(
        f"2^{{{a}}} \\cdot 3^{{{b}}}",
        (
            f"3^{{{b}}} \\cdot 2^{{{a}}}",
            str(2**a * 3**b),
            f"2^{a} \\times 3^{b}",
            f"2^{{{a}}}3^{{{b}}}",
        ),
        (
            f"2^{{{b}}} \\cdot 3^{{{a}}}",
            f"6^{{{a + b}}}",
            f"2^{{{a}}} + 3^{{{b}}}",
            str(2**a * 3**b + 1),
        ),
    )


def time_of_day(draw: random.Random) -> Form:
    hour, minute = draw.randint(1, 11), draw.randint(10, 58)
    return Form(
        rf"{hour}:{minute}\text{{ p.m.}}",
        (f"{hour}:{minute} p.m.", f"{hour}:{minute} PM", rf"\text{{{hour}:{minute} p.m.}}"),
        (
            f"{hour}:{minute} a.m.",
            f"{hour + 1}:{minute} p.m.",
            f"{hour}:{minute + 1} p.m.",
            f"{hour}",
        ),
    )


def difference_quotient(draw: random.Random) -> Form:
    a, b = draw.sample(range(2, 30), 2)
    return Form(
        f"x^2-{a}xy+{b}y^2",
        (
            f"{b}y^2 + x^2 - {a}xy",
            f"x^2-{a}yx+{b}y^2",
            f"x(x-{a}y)+{b}y^2",
            f"x^{{2}} - {a} x y + {b} y^{{2}}",
        ),
        (
            f"x^2+{a}xy+{b}y^2",
            f"x^2-{b}xy+{a}y^2",
            f"x^2-{a}x+{b}y^2",
            f"x^2-{a}xy+{b}y^2=0",
            f"y^2-{a}xy+{b}x^2",
        ),
    )


HELD_OUT: tuple[Callable[[random.Random], Form], ...] = (
    *(plane, line_in_space, closed_half_line, two_inequalities, polar, exponential, decimal_power),
    *(quadratic_surd, both_signs, set_of_fractions, function, money, degrees_and_minutes),
    *(algebraic_fraction, answers_by_name, vector, absolute, factorials, percent_decimal),
)
# Written after the errors in those above were mended.
HELD_OUT_LATER: tuple[Callable[[random.Random], Form], ...] = (
    *(outside, sine, cube_root, rationalised, on_the_circle, three_by_three, mixed_repeating),
    *(equal_parts, product_of_powers, time_of_day, difference_quotient),
)
