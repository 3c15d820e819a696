"""Tests that are marked by their names."""

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
def test_a_pattern_marks_what_it_fits(run, pytester, patterns, marked):
    pytester.makepyfile(test_all=TESTS)
    pytester.mkdir("load")
    load = pytester.path / "load" / "test_load.py"
    load.write_text("def test_under_load(): pass\n", encoding="utf-8")
    pytester.makeini(f"[pytest]\nfocus_breaker_needs_fiber = {patterns}")
    result = run("--collect-only", "-q", "--strict-markers", "-m", "needs_fiber")
    found = [line.split("::")[-1] for line in result.outlines if "::" in line]
    assert sorted(found) == sorted(marked)
