"""Tests that are marked by their names."""

import textwrap

import pytest

TESTS = """
    import pytest

    def test_configure_one(): pass
    def test_configure_offline(): pass
    @pytest.mark.parametrize("a", [1, 2])
    def test_live(a): pass
    class TestWaterfall:
        def test_rows(self): pass
    def test_other(): pass
"""


@pytest.mark.parametrize(
    "patterns, marked",
    [
        ("test_configure_*", ["test_configure_one", "test_configure_offline"]),
        ("test_configure_* !*_offline", ["test_configure_one"]),
        ("!*_offline test_configure_*", ["test_configure_one", "test_configure_offline"]),
        ("test_live", ["test_live[1]", "test_live[2]"]),
        ("test_live*2*", ["test_live[2]"]),
        ("*::TestWaterfall::*", ["test_rows"]),
        ("load/*", ["test_under_load"]),
        ("configure", []),
        ("", []),
    ],
)
def test_a_pattern_marks_the_tests_that_it_matches(run, pytester, patterns, marked):
    pytester.makepyfile(test_all=TESTS)
    pytester.mkdir("load")
    load = pytester.path / "load" / "test_load.py"
    load.write_text("def test_under_load(): pass\n", encoding="utf-8")
    pytester.makeini(f"[pytest]\nfocus_breaker_needs_fiber = {patterns}")
    result = run("--collect-only", "-q", "--strict-markers", "-m", "needs_fiber")
    found = [line.split("::")[-1] for line in result.outlines if "::" in line]
    assert sorted(found) == sorted(marked)


PASTED = """
    import pytest

    @pytest.mark.parametrize("kind", ["live", "historic", "a b", "[1]", "it's", "x/y::z", "\u4e2d"])
    def test_configure(kind): pass
    def test_configurel(): pass
    class TestWaterfall:
        @pytest.mark.parametrize("number", [1, 2])
        def test_rows(self, number): pass
    def test_rows1(): pass
"""
LIVE = "test_configure[live]"
ALL_KINDS = [f"test_configure[{kind}]" for kind in ("live", "historic", "a b", "[1]", "it's", "x/y::z", "\\u4e2d")]
ROWS = ["test_rows[1]", "test_rows[2]"]
ALL = [*ALL_KINDS, "test_configurel", *ROWS, "test_rows1"]


@pytest.fixture
def marked_by(run, pytester):
    """The tests of two files that the patterns mark, and what pytest printed."""

    def marked(ini, *args):
        for folder in ("tests", "tests/load"):
            (pytester.path / folder).mkdir()
        (pytester.path / "tests" / "test_all.py").write_text(textwrap.dedent(PASTED), encoding="utf-8")
        load = pytester.path / "tests" / "load" / "test_load.py"
        load.write_text("def test_under_load(): pass\n", encoding="utf-8")
        pytester.makeini(f"[pytest]\nfocus_breaker_needs_fiber = {ini}")
        result = run("--collect-only", "-q", "-m", "needs_fiber", *args)
        ids = [line for line in result.outlines if line.startswith("tests/") and "::" in line]
        return [line.split("::", 1)[1] for line in ids], result

    return marked


@pytest.mark.parametrize(
    "patterns, marked",
    [
        (LIVE, [LIVE]),
        (f"tests/test_all.py::{LIVE}", [LIVE]),
        (f"test_all.py::{LIVE}", [LIVE]),
        (f"./tests/test_all.py::{LIVE}", [LIVE]),
        (f"../tests/test_all.py::{LIVE}", [LIVE]),
        (f"ROOT/tests/test_all.py::{LIVE}", [LIVE]),
        (f"tests\\test_all.py::{LIVE}", [LIVE]),
        ("tests/test_all.py::test_configure", ALL_KINDS),
        ("test_configure", ALL_KINDS),
        *((name, [name]) for name in ALL_KINDS),
        *((f"tests/test_all.py::{name}", [name]) for name in ALL_KINDS),
        ('"test_configure[a b]"', ["test_configure[a b]"]),
        ("test_configure[*i*]", ["test_configure[live]", "test_configure[historic]", "test_configure[it's]"]),
        ("test_configure[l", []),
        ("test_configure[l*", [LIVE]),
        ("test_configure !test_configure[live]", ALL_KINDS[1:]),
        ("test_configure !tests/test_all.py::test_configure[a b]", [k for k in ALL_KINDS if "a b" not in k]),
        ('test_configure !"test_configure[a b]"', [k for k in ALL_KINDS if "a b" not in k]),
        ("test_rows[1]", ["TestWaterfall::test_rows[1]"]),
        ("TestWaterfall.test_rows[1]", ["TestWaterfall::test_rows[1]"]),
        ("TestWaterfall::test_rows", [f"TestWaterfall::{row}" for row in ROWS]),
        ("tests/test_all.py::TestWaterfall", [f"TestWaterfall::{row}" for row in ROWS]),
        ("TestWaterfall", [f"TestWaterfall::{row}" for row in ROWS]),
        ("Test*", []),
        ("Test*.test_r*", [f"TestWaterfall::{row}" for row in ROWS]),
        ("test_rows[12]", []),
        ("test_row[s-t]*", [*(f"TestWaterfall::{row}" for row in ROWS), "test_rows1"]),
        ("tests/load", ["test_under_load"]),
        ("tests/load/", ["test_under_load"]),
        ("tests\\load", ["test_under_load"]),
        ("tests\\load\\*", ["test_under_load"]),
        ("tests/l*", ["test_under_load"]),
        ("load", []),
        ("tests/load/test_load.py", ["test_under_load"]),
        ("test_load.py", ["test_under_load"]),
        ("test_l*.py", []),
        ("*/test_l*.py", ["test_under_load"]),
        ("!", []),
        ("\n    # a comment\n    tests/load\n    test_rows1", ["test_under_load", "test_rows1"]),
    ],
)
def test_names_pasted_from_pytests_output_match(marked_by, pytester, patterns, marked):
    found, _ = marked_by(patterns.replace("ROOT", str(pytester.path)))
    assert sorted(found) == sorted(marked)


@pytest.mark.parametrize("flags", [[], ["-W", "error"], ["-W", "error", "-q", "-q"]])
def test_patterns_that_match_no_test_are_named_in_a_warning(marked_by, flags):
    _, result = marked_by("test_rows1 test_typo tests/load !test_configure[love] !test_rows1", *flags)
    assert result.ret == 0
    warning = "*PytestConfigWarning: focus_breaker_needs_fiber: no collected test matches test_typo, !test_configure[[]love]"
    result.stdout.fnmatch_lines([warning])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.parametrize(
    "args, warns",
    [
        (["tests"], True),
        (["tests", "-k", "test_under_load"], True),
        (["tests/test_all.py"], False),
        (["tests/test_all.py::test_rows1"], False),
        (["--ignore=tests/load"], False),
        (["--lf"], False),
    ],
)
def test_running_part_of_a_suite_gives_no_warning(marked_by, args, warns):
    flags = ["-p", "cacheprovider"] if "--lf" in args else []
    _, result = marked_by("test_typo", *flags, *args)
    assert ("no collected test matches test_typo" in str(result.stdout)) is warns


def test_a_file_that_cannot_be_imported_gives_no_warning(run, pytester):
    pytester.makepyfile(test_one="def test_one(): pass", test_two="import nothing_of_the_kind")
    pytester.makeini("[pytest]\nfocus_breaker_needs_fiber = test_two")
    assert "no collected test" not in str(run("--collect-only", "--continue-on-collection-errors").stdout)
