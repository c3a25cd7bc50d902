"""ConstrINT's text form: what is read, what each sign binds, and what is refused."""

from __future__ import annotations

import pytest

from flashrnn_numba.tuning import Problem, minimum

from .test_problem import flashrnn_lstm


def values(text: str, name: str) -> list[int]:
    """The values that a variable takes over all solutions."""
    return sorted({s[name] for s in Problem.parse(text).solutions()})


def test_example_of_the_design():
    p = Problem.parse(
        "A == [8, 16, 32]; A * B + 2 * C <= D; D % A == 0; C == A ^ 2; B <= 64; D <= 4096"
    )
    s = p.solve()
    assert s["A"] in (8, 16, 32)
    assert s["C"] == s["A"] ** 2
    assert s["A"] * s["B"] + 2 * s["C"] <= s["D"]
    assert s["D"] % s["A"] == 0
    assert [v.name for v in p.variables] == ["A", "B", "C", "D"]


# The doctests of ConstrINT's own parser and solver, as facts: text, variable, its values.
@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("5 * x == 10", "x", [2]),
        ("x * 5 == 10", "x", [2]),
        ("5 * x <= 15; x + 1 <= 3", "x", [1, 2]),
        ("x == [1, 2, 3]", "x", [1, 2, 3]),
        ("x == [1, 2, 3] # This is a comment", "x", [1, 2, 3]),
        ("x ^ 2 == 9  # Another comment", "x", [3]),
        ("A == 1; B == 2;", "B", [2]),
        ("512 % B == 0", "B", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]),
        ("a + b == 15; a == 10; b == [5, 6]", "b", [5]),
        ("a == 5 | a == 3", "a", [3, 5]),
        ("a == 5 ||\n a == 3", "a", [3, 5]),
    ],
)
def test_as_constrint_reads_it(text, name, expected):
    assert values(text, name) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B == 3; x == [1, 2, 4, 8]; 24 % B * x == 0", [1, 2, 4, 8]),  # 24 % (3 x), not (24 % 3) x
        ("x == [1, 2, 3, 4]; 4 + 8 % x == 0", [1, 2, 3, 4]),  # (4 + 8) % x
        ("x == [1, 2, 3, 4, 5, 6, 7]; x % 2 + 1 == 0", [3, 6]),  # x % (2 + 1)
        ("x == [1, 2, 3]; 2 * x ^ 2 == 18", [3]),  # 2 (x ^ 2)
        ("x == [1, 2, 3]; 2 * (x + 1) == 8", [3]),  # brackets group
        ("x == [1, 2, 3]; 10 - x - 1 == 7", [2]),  # from the left
        ("x == [1, 2, 3, 4]; 7 // x == 3", [2]),
        ("x <= 9; x >= 3; x < 8; x > 4; x != 6", [5, 7]),
        ("x <= [2, 4]", [1, 2, 3, 4]),  # holds for one of the values
        ("x <= 6; x % [4, 5] == 0", None),
        ("[1, 2] == x", [1, 2]),
        ("x == [0, 1, 2]", [1, 2]),  # the domain starts at 1
    ],
)
def test_what_binds(text, expected):
    if expected is None:
        with pytest.raises(ValueError, match="a list stands alone"):
            Problem.parse(text)
    else:
        assert values(text, "x") == expected


def test_statements_run_over_lines_and_empty_ones_are_skipped():
    text = """
    # sizes
    A == [4, 8]   # either
    ;;
    A *
      B           # the product
    == 16;
    """
    assert sorted(s["B"] for s in Problem.parse(text).solutions()) == [2, 4]


def test_variable_without_a_list_is_any_positive_number():
    p = Problem.parse("A <= B")
    assert all(v.domain == range(1, 2**30 + 1) for v in p.variables)
    assert p.solve() is not None


def test_conflict_quotes_the_statements():
    p = Problem.parse("A == [8, 16]; A * B ==   60; B <= 7; B >= 2")
    assert p.conflict() == ["A == [8, 16]", "A * B == 60", "B <= 7"] or p.solve() is None
    assert set(p.conflict()) <= {"A == [8, 16]", "A * B == 60", "B <= 7", "B >= 2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A == ", r"column 5.*`A ==`: expected a variable, a number or `\(`, found the end"),
        ("A + B", r"expected a comparison"),
        ("A == 3 $ 4", r"column 8: .*: expected a known sign, found '\$ 4'"),
        ("A == [1, B]", r"expected a number, found 'B\]'"),
        ("A == [1 2]", r"expected `,` or `\]`"),
        ("[1] == [2]", r"a list on one side only"),
        ("A == (B + 1", r"expected `\)`, found the end"),
        ("A ^ B == 4", r"a number as the exponent"),
        ("A <= B <= C", r"expected `;`, `\|` or an operator, found '<= C'"),
        ("A == 1; B = 2", r"statement `B = 2`"),
        ("A == 3 |", r"column 9: .*: expected a variable, a number or `\(`, found the end"),
        ("A == 3 | | B == 2", r"column 10: .*found '\| B == 2'"),
        ("A == 3\n|", r"line 2, column 2: "),
        ("[1] == A;\n  [1] == [2]", r"line 2, column 3: .*a list on one side only"),
        ("A == " + "9" * 5000, r"column 6: .*expected a number of at most 4000 digits"),
        ("A == (" + "1 + " * 200 + "B C)", r"cannot read the statement `.{,320}`: expected `\)`"),
    ],
)
def test_error_quotes_the_place(text, message):
    with pytest.raises(ValueError, match=message):
        Problem.parse(text)


def test_error_tells_line_and_column_of_the_text_as_given():
    text = "# sizes\n\nA == [8,  16];\n  A *   B == # the product\n\t 3 $ 4;\n"
    with pytest.raises(ValueError, match=r"^line 5, column 5: .*`A \* B == 3 \$ 4`.*found '\$ 4'"):
        Problem.parse(text)
    again = "A == 3;\nA = 3; A == 3"
    with pytest.raises(ValueError, match=r"^line 2, column 3: .*`A = 3`"):
        Problem.parse(again)
    with pytest.raises(ValueError, match=r"^line 2, column 8: .*found '<= 3'"):  # not the next line
        Problem.parse("A <= 3;\nA <= 3 <= 3\n; A <= 3")


@pytest.mark.parametrize(
    "text",
    [
        "A == 3 // comment",
        "A == 3; // comment\nB == 4",
        "A == 3 // the tile, A",
        "A == 3 // 5 rows;",
        "A == 3 //;",
        "// A == 3",
        "A == 3 // (see below)",
        "A * 2 == 3 // A: twice",
    ],
)
def test_two_strokes_start_no_comment(text):
    with pytest.raises(ValueError, match=r"\(`//` divides; a comment starts with `#`\)$"):
        Problem.parse(text)


def test_two_strokes_divide_by_what_is_known():
    assert values("B == 2; x == 7 // B", "x") == [3]
    assert values("B == 2; x <= 9; x // 3 == B // (B + 0)", "x") == [3, 4, 5]
    with pytest.raises(ValueError, match=r"named before, such as by `B >= 1;`, found 'B'"):
        Problem.parse("x == 7 // B; B == 2")


def test_many_terms_and_many_brackets():
    names = [f"a{n}" for n in range(250)]
    p = Problem.parse(f"{' + '.join(names)} == 250; {'(' * 1000}a0{')' * 1000} == 1")
    assert set(p.solve().values()) == {1}
    again = Problem.parse(p.to_text())
    assert set(again.solve().values()) == {1}
    deep = f"{'(' * 101}a{' % 3 + 1)' * 101} == 1"
    with pytest.raises(ValueError, match=r"^line 1, column \d+: .*more than 100 levels deep"):
        Problem.parse(deep)
    with pytest.raises(ValueError, match=r"^line 1, column \d+: .*more than 100 levels deep"):
        Problem.parse(f"{'(' * 101}a{'^ 2)' * 101} == 1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x == 2 * (3 + (4 - 1)) ^ 2", 72),
        ("x == ((2)) + 17 % (5 * 2) + 1", 8),  # 19 % 11
        ("x == 100 % 30 % 7", 3),
        ("x == 2 ^ 3 * 2 - 1 - (1 - 1)", 15),
        ("x == 100 // 7 // 2 * 3", 21),
        ("x == (7 % 4) * (7 % 4) + 1", 10),
    ],
)
def test_brackets_and_order(text, expected):
    assert values(text, "x") == [expected]


def test_what_is_tried_first_can_be_said():
    text = "A == [1, 2, 3]; B == [4, 5]"
    assert Problem.parse(text).solve() == {"A": 1, "B": 4}
    assert Problem.parse(text, prefer={"A": "largest"}).solve() == {"A": 3, "B": 4}
    both = {"A": "largest", "B": "largest"}
    assert Problem.parse(text, prefer=both).solve() == {"A": 3, "B": 5}
    with pytest.raises(ValueError, match=r"prefer: the text has no variable 'C'.*A, B"):
        Problem.parse(text, prefer={"C": "largest"})
    with pytest.raises(ValueError, match=r"prefer: expected 'smallest' or 'largest', got 'most'"):
        Problem.parse(text, prefer={"A": "most"})


def test_parse_wants_a_string():
    with pytest.raises(TypeError, match="expected a str, got int"):
        Problem.parse(3)


def test_writing_refuses_what_the_form_cannot_say():
    p = Problem()
    a = p.variable("a", range(1, 9))
    p.require(minimum(a, 3) == 2)
    with pytest.raises(ValueError, match="cannot say"):
        p.to_text()
    q = Problem()
    q.variable("zero", range(4))
    with pytest.raises(ValueError, match=r"zero: .*from 1"):
        q.to_text()
    r = Problem()
    r.variable("a b", [1])
    with pytest.raises(ValueError, match="'a b'"):
        r.to_text()


@pytest.mark.parametrize("shape", [(64, 12), (768, 1)])
def test_flashrnn_problem_as_text(shape):
    p, _ = flashrnn_lstm(*shape)
    again = Problem.parse(p.to_text())
    found = again.solve()
    assert again.stats.nodes < 200
    for requirement in p.constraints:
        left, op, right = requirement.sides(found)
        assert eval(f"{left} {op} {right}")
