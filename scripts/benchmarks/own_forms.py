r"""Answers of forms that GSM8K and MATH have few of, each with texts that say the same and others.

Every form draws its numbers so that what is listed as different differs for all of them.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Form:
    """A gold answer, answers that are equal to it by construction, and answers that are not."""

    gold: str
    same: tuple[str, ...]
    other: tuple[str, ...]


def two_numbers(draw: random.Random, low: int = 2, high: int = 60) -> tuple[int, int]:
    """Two different whole numbers, the smaller one first."""
    a, b = sorted(draw.sample(range(low, high), 2))
    return a, b


def interval(draw: random.Random) -> Form:
    a, b = two_numbers(draw)
    return Form(
        f"[{a},{b})",
        (
            rf"\left[{a}, {b}\right)",
            rf"{a} \le x < {b}",
            rf"x \in [{a},{b})",
            rf"[{a},\,{b})",
            rf"{a} \leq x < {b}",
        ),
        (f"({a},{b})", f"[{a},{b}]", f"[{a},{b + 1})", f"[{b},{a})", rf"{a} < x < {b}", f"{a},{b}"),
    )


def half_line(draw: random.Random) -> Form:
    a = draw.randint(2, 90)
    return Form(
        rf"({a},\infty)",
        (rf"\left({a}, \infty\right)", rf"({a}, +\infty)", f"x > {a}", rf"x \in ({a}, \infty)"),
        (rf"[{a},\infty)", rf"(-\infty,{a})", rf"(-{a},\infty)", rf"x \ge {a}", f"x < {a}"),
    )


def union(draw: random.Random) -> Form:
    a, b = two_numbers(draw)
    return Form(
        rf"(-\infty,{a})\cup({b},\infty)",
        (
            rf"({b}, \infty) \cup (-\infty, {a})",
            rf"\left(-\infty, {a}\right) \cup \left({b}, \infty\right)",
            rf"x \in (-\infty, {a}) \cup ({b}, \infty)",
        ),
        (
            rf"(-\infty,{a}]\cup({b},\infty)",
            rf"(-\infty,{a})\cup({b + 1},\infty)",
            rf"(-\infty,{a})",
            rf"({a},{b})",
            rf"(-\infty,{a})\cap({b},\infty)",
        ),
    )


def without_a_point(draw: random.Random) -> Form:
    a, b = two_numbers(draw, 1, 9)
    return Form(
        rf"[0,{b + 1}]\setminus\{{{a}\}}",
        (
            rf"[0,{a})\cup({a},{b + 1}]",
            rf"[0, {b + 1}] \setminus \{{ {a} \}}",
            rf"[0,{b + 1}] \backslash \{{{a}\}}",
        ),
        (rf"[0,{b + 1}]", rf"[0,{b + 1}]\setminus\{{{b}\}}", rf"\{{{a}\}}"),
    )


def reals(draw: random.Random) -> Form:
    a = draw.randint(1, 50)
    return Form(
        r"\mathbb{R}",
        (r"(-\infty,\infty)", r"(-\infty, +\infty)", r"x \in \mathbb{R}"),
        (rf"(-\infty,{a})", r"\mathbb{Z}", r"\emptyset", rf"\mathbb{{R}}\setminus\{{{a}\}}"),
    )


def nothing(draw: random.Random) -> Form:
    return Form(
        r"\emptyset", (r"\varnothing", r"\{\}", "∅"), (r"\{0\}", "0", str(draw.randint(1, 99)))
    )


def point(draw: random.Random) -> Form:
    a, b = draw.sample(range(-30, 30), 2)
    return Form(
        f"({a},{b})",
        (f"({a}, {b})", rf"\left({a},{b}\right)", f"(x,y)=({a},{b})", rf"({a},\ {b})"),
        (
            f"({b},{a})",
            f"({a},{b + 1})",
            f"[{a},{b}]",
            rf"\{{{a},{b}\}}",
            f"({a},{b},{a})",
            f"(x,y)=({b},{a})",
        ),
    )


def named_point(draw: random.Random) -> Form:
    a, b = draw.sample(range(2, 60), 2)
    return Form(
        f"(x,y)=({a},{b})",
        (f"({a},{b})", rf"(x, y) = \left({a}, {b}\right)"),
        (f"({b},{a})", f"(x,y)=({b},{a})", f"(x,y)=({a},{b + 1})", f"(y,x)=({a},{b})"),
    )


def matrix(draw: random.Random) -> Form:
    a, b, c, d = draw.sample(range(-20, 30), 4)
    gold = rf"\begin{{pmatrix}} {a} & {b} \\ {c} & {d} \end{{pmatrix}}"
    inner = rf"{a} & {b} \\ {c} & {d}"
    return Form(
        gold,
        (
            rf"\begin{{bmatrix}} {inner} \end{{bmatrix}}",
            rf"\left[\begin{{array}}{{cc}} {inner} \end{{array}}\right]",
            rf"\left(\begin{{array}}{{rr}}{inner}\end{{array}}\right)",
            rf"\begin{{pmatrix}}{a}&{b}\\{c}&{d}\end{{pmatrix}}",
            rf"A = {gold}",
        ),
        (
            rf"\begin{{pmatrix}} {a} & {c} \\ {b} & {d} \end{{pmatrix}}",
            rf"\begin{{pmatrix}} {a} & {b} \\ {c} & {d + 1} \end{{pmatrix}}",
            rf"\begin{{vmatrix}} {inner} \end{{vmatrix}}",
            rf"\begin{{pmatrix}} {a} & {b} \end{{pmatrix}}",
            str(a * d - b * c),
        ),
    )


def column(draw: random.Random) -> Form:
    a, b, c = draw.sample(range(-20, 30), 3)
    return Form(
        rf"\begin{{pmatrix}} {a} \\ {b} \\ {c} \end{{pmatrix}}",
        (
            rf"\begin{{bmatrix}} {a} \\ {b} \\ {c} \end{{bmatrix}}",
            rf"\left[\begin{{array}}{{c}} {a} \\ {b} \\ {c} \end{{array}}\right]",
        ),
        (
            rf"\begin{{pmatrix}} {a} & {b} & {c} \end{{pmatrix}}",
            rf"\begin{{pmatrix}} {b} \\ {a} \\ {c} \end{{pmatrix}}",
            rf"\begin{{pmatrix}} {a} \\ {b} \end{{pmatrix}}",
        ),
    )


def complex_number(draw: random.Random) -> Form:
    a, b = two_numbers(draw)
    return Form(
        f"{a}+{b}i",
        (f"{a} + {b} i", f"{b}i + {a}", f"{a}+i{b}", rf"{a} + {b}\, i", rf"{a}+{b}\mathrm{{i}}"),
        (f"{a}-{b}i", f"{b}+{a}i", f"{a}+{b}", f"{a}+{b + 1}i", f"{a}i+{b}", f"-{a}+{b}i"),
    )


def imaginary_root(draw: random.Random) -> Form:
    a, b = draw.randint(2, 30), draw.choice((2, 3, 5, 6, 7, 10, 11, 13))
    return Form(
        rf"{a}\sqrt{{{b}}}i",
        (
            rf"{a}i\sqrt{{{b}}}",
            rf"{a}\sqrt{{{b}}} i",
            rf"{a}\sqrt{{{b}}}\,i",
            rf"i{a}\sqrt{{{b}}}",
            rf"\sqrt{{-{a * a * b}}}",
        ),
        (rf"{a}\sqrt{{{b}}}", rf"-{a}\sqrt{{{b}}}i", rf"{a}i", rf"{a}\sqrt{{{b}i}}"),
    )


def small_number(draw: random.Random) -> Form:
    a, k = draw.randint(1, 9), draw.randint(3, 9)
    return Form(
        rf"{a} \times 10^{{-{k}}}",
        (
            f"{a}e-{k}",
            rf"{a} \cdot 10^{{-{k}}}",
            f"{a}E-{k}",
            f"{a}.0e-{k}",
            f"0.{'0' * (k - 1)}{a}",
        ),
        (f"{a}e{k}", f"{a}e-{k + 1}", f"e-{k}", rf"{a} \times 10^{{{k}}}", f"{a}-{k}", str(a)),
    )


def large_number(draw: random.Random) -> Form:
    a, b, k = draw.randint(1, 9), draw.randint(1, 9), draw.randint(4, 12)
    whole = f"{a}{b}{'0' * (k - 1)}"
    return Form(
        f"{a}.{b}e{k}",
        (rf"{a}.{b} \times 10^{{{k}}}", rf"{a}.{b}\cdot 10^{{{k}}}", whole, f"{a}.{b}e+{k}"),
        (f"{a}.{b}e-{k}", f"{a}.{b}e{k + 1}", f"{a}.{b}", f"{whole}0", f"{a}.{b}{k}"),
    )


def mixed_number(draw: random.Random) -> Form:
    whole, (over, under) = (
        draw.randint(2, 20),
        draw.choice(((1, 2), (1, 4), (3, 4), (3, 5), (1, 8))),
    )
    total = whole + Fraction(over, under)
    return Form(
        rf"{whole}\frac{{{over}}}{{{under}}}",
        (
            rf"\frac{{{total.numerator}}}{{{total.denominator}}}",
            f"{whole} {over}/{under}",
            f"{float(total)}",
            rf"{whole} \frac{{{over}}}{{{under}}}",
            rf"{whole}\tfrac{over}{under}",
        ),
        (
            rf"\frac{{{whole * over}}}{{{under}}}",
            rf"{whole + 1}\frac{{{over}}}{{{under}}}",
            rf"{whole}\cdot\frac{{{over}}}{{{under}}}",
            f"{whole}",
            rf"{whole}\frac{{{under}}}{{{over}}}",
        ),
    )


def decimal(draw: random.Random) -> Form:
    whole, tenths = draw.randint(9, 40), draw.choice((2, 4, 5, 6, 8))
    gold = Fraction(10 * whole + tenths, 10)
    return Form(
        f"{whole}.{tenths}",
        (f"{whole}.{tenths}0", rf"\frac{{{gold.numerator}}}{{{gold.denominator}}}"),
        (
            f"{whole}(0.{tenths})",
            f"{whole},{tenths}",
            f"{whole}.{tenths}1",
            f"{tenths}.{whole}",
            rf"{whole}\cdot 0.{tenths}",
        ),
    )


def product(draw: random.Random) -> Form:
    a, b = draw.sample(range(3, 30), 2)
    return Form(
        str(a + b),
        (rf"{a} + {b}", f"{b}+{a}", f"({a}+{b})", rf"{2 * (a + b)}/2"),
        (f"{a}({b})", f"({a})({b})", rf"{a}\cdot{b}", rf"{a}\times {b}", f"1({a})({b})"),
    )


def repeating(draw: random.Random) -> Form:
    digit = draw.choice((1, 2, 4, 5, 7, 8))
    return Form(
        rf"0.\overline{{{digit}}}",
        (rf"\frac{{{digit}}}{{9}}", f"{digit}/9", rf"0.\overline {digit}", rf"0.\bar{{{digit}}}"),
        (f"0.{digit}", rf"0.\overline{{{digit + 1}}}", rf"\frac{{{digit}}}{{10}}", f"{digit}"),
    )


def percent(draw: random.Random) -> Form:
    a = draw.randint(2, 98)
    return Form(
        rf"{a}\%",
        (f"{a}%", f"{a} percent", rf"{a}\ \%", f"{a}.0%"),
        (f"{a + 1}%", rf"{a}0\%", f"0.{a:02d}%", rf"-{a}\%"),
    )


def quantity(draw: random.Random) -> Form:
    a = draw.randint(2, 400)
    return Form(
        str(a),
        (
            rf"{a}\text{{ cm}}",
            rf"{a}\ \mathrm{{cm}}",
            rf"{a}\,\text{{m/s}}",
            rf"{a}\text{{ N}}\cdot\text{{m}}",
            rf"{a}\ \Omega",
            f"{a} °C",
            rf"{a}^\circ",
            rf"{a}\text{{ cm}}^2",
            f"{a} square units",
        ),
        (
            rf"{a + 1}\text{{ cm}}",
            rf"{a}x",
            rf"{a}\pi",
            rf"{a}\text{{ or }}{a + 1}",
            f"{a} million",
        ),
    )


def line(draw: random.Random) -> Form:
    m, c = draw.sample(range(2, 30), 2)
    return Form(
        f"y={m}x+{c}",
        (f"y = {m}x + {c}", f"{m}x+{c}=y", f"y={c}+{m}x", f"y-{m}x={c}", f"y-{c}={m}x"),
        (
            f"y={c}x+{m}",
            f"y={m}x-{c}",
            f"0={m}x+{c}",
            f"y={m}x+{c + 1}",
            f"x={m}y+{c}",
            f"2y={m}x+{c}",
            f"{c}={m}x+y",
        ),
    )


def condition(draw: random.Random) -> Form:
    a, b = draw.sample(range(5, 40), 2)
    return Form(
        f"{a} = {b}a + c",
        (f"{b}a + c = {a}", f"{a} = c + {b}a", f"{a}={b}a+c"),
        (f"{a + 1} = {b}a + c", f"{b}a + c", f"{a} = {b}a - c", f"{a} = {b}c + a", f"{a}"),
    )


def circle(draw: random.Random) -> Form:
    r = draw.randint(2, 50)
    return Form(
        f"x^2+y^2={r}",
        (f"{r}=x^2+y^2", f"y^2+x^2={r}", f"x^2+y^2-{r}=0", f"x^{{2}} + y^{{2}} = {r}"),
        (f"x^2+y^2={r + 1}", f"x^2-y^2={r}", "x^2+y^2", f"x+y={r}", f"x^3+y^2={r}", f"{r}"),
    )


def derivative(draw: random.Random) -> Form:
    a = draw.randint(2, 40)
    return Form(
        rf"\frac{{dy}}{{dx}} = {a}x",
        (rf"\frac{{dy}}{{dx}}={a} x", rf"\frac{{dy}}{{dx}} = {a} \cdot x"),
        (rf"\frac{{dy}}{{dx}} = {a + 1}x", f"{a}", rf"\frac{{dx}}{{dy}} = {a}x", f"y={a}x"),
    )


def solved(draw: random.Random) -> Form:
    a = draw.randint(5, 60)
    return Form(
        str(a),
        (f"x={a}", f"x = {a}", f"{a} = x", rf"x \approx {a}", f"n={a}", rf"\theta = {a}"),
        (
            f"-x={a}",
            f"x^2={a}",
            f"x+1={a}",
            f"x={a + 1}",
            f"2x={a}",
            f"x>{a}",
            rf"x\neq {a}",
            "x",
        ),
    )


def letter(draw: random.Random) -> Form:
    name, a = draw.choice("xyznk"), draw.randint(2, 40)
    return Form(
        name, (f"{name} ", f"({name})"), (rf"{name} \approx {a}", f"{name}={a}", f"{name}^2")
    )


def inequality(draw: random.Random) -> Form:
    a = draw.randint(2, 60)
    return Form(
        f"x > {a}",
        (f"{a} < x", rf"({a},\infty)", f"x>{a}", rf"x \gt {a}"),
        (f"x < {a}", rf"x \ge {a}", f"{a} > x", f"x > {a + 1}", f"x > -{a}", f"{a}", f"x={a}"),
    )


def plus_minus(draw: random.Random) -> Form:
    a, b = two_numbers(draw)
    return Form(
        rf"{a} \pm {b}\sqrt{{3}}",
        (
            rf"{a}\pm{b}\sqrt3",
            rf"{a}+{b}\sqrt{{3}}, {a}-{b}\sqrt{{3}}",
            rf"{a} \pm \sqrt{{{3 * b * b}}}",
        ),
        (
            rf"{a} + {b}\sqrt{{3}}",
            rf"{b} \pm {a}\sqrt{{3}}",
            rf"{a} \pm {b}",
            rf"-{a} \pm {b}\sqrt{{3}}",
        ),
    )


def several(draw: random.Random) -> Form:
    a, b, c = draw.sample(range(2, 99), 3)
    return Form(
        f"{a}, {b}, {c}",
        (
            f"{c},{a},{b}",
            rf"\{{{a}, {b}, {c}\}}",
            f"{a}, {b} and {c}",
            rf"{a},\ {b},\ {c}",
            f"x={a}, x={b}, x={c}",
            rf"{a}, {b}, \text{{ and }} {c}",
        ),
        (f"{a}, {b}", f"{a}, {b}, {c + 1}", f"({a}, {b}, {c})", f"{a}", f"{a}, {b}, {c}, 1"),
    )


def factored(draw: random.Random) -> Form:
    a, b = two_numbers(draw, 2, 20)
    return Form(
        f"(x+{a})(x-{b})",
        (
            f"(x-{b})(x+{a})",
            f"x^2 + {a}x - {b}x - {a * b}",
            rf"(x+{a})\cdot(x-{b})",
            f"-({b}-x)(x+{a})",
        ),
        (f"(x-{a})(x+{b})", f"(x+{a})(x+{b})", f"(x+{a})", f"x^2-{a * b}", f"(x+{a})^2(x-{b})"),
    )


def root(draw: random.Random) -> Form:
    a, b = draw.randint(2, 12), draw.choice((2, 3, 5, 6, 7, 10))
    return Form(
        rf"{a}\sqrt{{{b}}}",
        (
            rf"\sqrt{{{a * a * b}}}",
            rf"{a} \cdot \sqrt{{{b}}}",
            rf"{a}\cdot {b}^{{1/2}}",
            rf"\sqrt{{{b}}} \cdot {a}",
            f"{a}√{b}",
            f"{a}sqrt({b})",
            rf"\frac{{{a * b}}}{{\sqrt{{{b}}}}}",
        ),
        (rf"{a}\sqrt{{{b + 10}}}", rf"\sqrt{{{a * b}}}", rf"{a}{b}", rf"{a}+\sqrt{{{b}}}", f"{a}"),
    )


def with_pi(draw: random.Random) -> Form:
    a, b = draw.randint(2, 40), draw.choice((3, 5, 7, 11))
    a = a if a % b else a + 1
    return Form(
        rf"\frac{{{a}\pi}}{{{b}}}",
        (
            rf"\frac{{{a}}}{{{b}}}\pi",
            rf"{a}\pi/{b}",
            rf"\frac{{\pi \cdot {a}}}{{{b}}}",
            f"{a}π/{b}",
        ),
        (
            rf"\frac{{{a}}}{{{b}}}",
            rf"\frac{{{b}\pi}}{{{a}}}",
            rf"{a}\pi",
            rf"\frac{{{a}\pi^2}}{{{b}}}",
        ),
    )


def choice(draw: random.Random) -> Form:
    name = draw.choice("ABCDE")
    other = draw.choice("ABCDE".replace(name, ""))
    number = draw.randint(2, 50)
    return Form(
        rf"\text{{({name})}}",
        (
            name,
            f"({name})",
            rf"\textbf{{({name})}}",
            rf"\mathrm{{({name})}}",
            rf"\textbf{{({name})}}\ {number}",
            rf"\text{{{name}}}",
        ),
        (other, f"({other})", rf"\textbf{{({other})}}\ {number}", f"{name}, {other}", f"{number}"),
    )


def words(draw: random.Random) -> Form:
    name, other = draw.sample(("Monday", "east", "Evelyn", "parabola", "ellipse", "increasing"), 2)
    return Form(
        rf"\text{{{name}}}",
        (name, name.upper(), rf"\textbf{{{name}}}", rf"\mbox{{{name}}}", f"{name}."),
        (other, rf"\text{{not {name}}}", f"{name} or {other}", name[:-1], name[::-1]),
    )


def based(draw: random.Random) -> Form:
    digits = draw.choice(("1011", "110", "2012", "120", "10012"))
    return Form(
        f"{digits}_3",
        (f"{digits}_{{3}}", digits, rf"{digits}_{{\text{{3}}}}"),
        (f"{digits}_4", f"{digits}1_3", digits[::-1] + "1_3", str(int(digits, 3))),
    )


def modulus(draw: random.Random) -> Form:
    a, n = draw.choice(((2, 7), (3, 8), (7, 9), (5, 11), (4, 13)))
    return Form(
        str(a),
        (rf"{a} \pmod{{{n}}}", rf"x \equiv {a} \pmod{{{n}}}", rf"{a} \mod {n}"),
        (rf"{a + 1} \pmod{{{n}}}", f"{a}, {n}", f"{n}", rf"{n} \pmod{{{a}}}"),
    )


def ratio(draw: random.Random) -> Form:
    a, b = draw.choice(((2, 3), (3, 5), (7, 4), (5, 9), (8, 3)))
    return Form(
        f"{a}:{b}",
        (f"{a} : {b}", rf"{a}\colon {b}", f"x:y={a}:{b}", rf"\frac{{{a}}}{{{b}}}"),
        (f"{b}:{a}", f"{a}:{b + 1}", f"{a}{b}", f"{a}, {b}", f"{a}"),
    )


def binomial(draw: random.Random) -> Form:
    n, k = draw.choice(((5, 2), (7, 3), (9, 4), (10, 3)))
    return Form(
        rf"\binom{{{n}}}{{{k}}}",
        (rf"{{{n} \choose {k}}}", rf"\dbinom{{{n}}}{{{k}}}", rf"\frac{{{n}!}}{{{k}!{n - k}!}}"),
        (rf"\binom{{{n}}}{{{k - 1}}}", rf"\frac{{{n}}}{{{k}}}", rf"\binom{{{k}}}{{{n}}}", f"{n}"),
    )


def power(draw: random.Random) -> Form:
    a, k = draw.choice((2, 3, 5, 10)), draw.randint(11, 40)
    return Form(
        f"{a}^{{{k}}}",
        (str(a**k), rf"{a}^{{{k - 1}}}\cdot {a}", f"{a}**{k}"),
        (f"{a}^{{{k + 1}}}", f"{a}{k}", str(a**k + 1), f"{k}^{{{a}}}", f"{2 * a}^{{{k}}}"),
    )


def logarithm(draw: random.Random) -> Form:
    a, b = draw.sample((2, 3, 5, 7, 11), 2)
    return Form(
        rf"\log_{{{a}}} {b}",
        (rf"\log_{a}({b})", rf"\frac{{\ln {b}}}{{\ln {a}}}", rf"\frac{{\log {b}}}{{\log {a}}}"),
        (
            rf"\log_{{{b}}} {a}",
            rf"\log {b}",
            rf"\log_{{{a}}} {b + 1}",
            rf"\ln {b}",
            rf"\frac{{{b}}}{{{a}}}",
        ),
    )


def with_constant(draw: random.Random) -> Form:
    a = draw.randint(2, 20)
    return Form(
        rf"x^{{{a}}} + \ln|x| + C",
        (
            rf"\ln|x| + x^{{{a}}} + C",
            rf"C + x^{{{a}}} + \ln |x|",
            rf"x^{{{a}}}+\ln\left|x\right|+C",
        ),
        (rf"x^{{{a + 1}}} + \ln|x| + C", rf"x^{{{a}}} - \ln|x| + C", rf"x^{{{a}}} + C"),
    )


FORMS: tuple[Callable[[random.Random], Form], ...] = (
    *(interval, half_line, union, without_a_point, reals, nothing, point, named_point, matrix),
    *(column, complex_number, imaginary_root, small_number, large_number, mixed_number, decimal),
    *(product, repeating, percent, quantity, line, condition, circle, derivative, solved, letter),
    *(inequality, plus_minus, several, factored, root, with_pi, choice, words, based, modulus),
    *(ratio, binomial, power, logarithm, with_constant),
)
