"""The outcome of a test with each response of the proxy, or of another server."""

from xml.etree import ElementTree

import pytest
from conftest import SINCE, admitted, refused

from pytest_focus_breaker import gate, proxy

ONE_TEST = """
    import pytest

    @pytest.fixture
    def costly():
        print("the fixture was set up")

    @pytest.mark.needs_fiber
    def test_needs(costly):
        pass
"""


@pytest.fixture
def one(run, pytester, stub):
    pytester.makepyfile(ONE_TEST)
    return lambda *args: run("-rA", f"--focus-breaker-url={stub.url}", *args)


@pytest.mark.parametrize(
    "answer, shown",
    [
        (refused(), f"waiting for fiber since {SINCE} (a reason)"),
        (refused(code=424), "waiting for fiber since * (a reason)"),
        (refused(lastReadyAt="2026-01-01T00:00:00Z"), "*; the fiber was last connected at 2026-01-01T00:00:00Z)"),
        (refused("metadata_unavailable"), "metadata unavailable since *"),
        (refused("of_another_day"), "of another day since *"),
        (
            refused("forced_open", override={"since": "then", "until": "later"}),
            "stopped by a manual override since then until later (a reason)",
        ),
        (refused(reason="a\x1b[31m\r\nb\u202ec"), "waiting for fiber since * (a [[]31m  b c)"),
    ],
)
def test_a_refusal_skips_with_its_reason_before_fixtures(one, stub, answer, shown):
    stub.answers["/-/fiber"] = [answer]
    result = one()
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"SKIPPED * focus-breaker: {shown}"])
    result.stdout.no_fnmatch_line("*the fixture was set up*")
    assert "\x1b[31m" not in str(result.stdout)


@pytest.mark.parametrize(
    "answer, shown",
    [
        ((200, "<html>Welcome to nginx!</html>"), "responded with 200, but not as focus-breaker does"),
        ((200, {}), "responded with 200, but not"),
        ((200, [1]), "responded with 200, but not"),
        ((200, {"prr": 0.0, "sw_version": "waiting for fiber"}), "responded with 200, but not"),
        ((404, {"detail": "Not Found"}), "responded with 404, but not"),
        ((503, {"error": "overloaded"}), "responded with 503, but not"),
        ((503, "<html>Bad gateway</html>"), "responded with 503, but not"),
        ((308, "https://lab.example/"), "responded with 308 to https://lab.example/, but not"),
        ((200, "x" * 1_000_000), "responded with 200, but not"),
    ],
)
def test_a_response_of_another_server_is_an_error(one, stub, monkeypatch, answer, shown):
    monkeypatch.setattr(gate, "PAUSE_SECONDS", 0)
    stub.answers["/-/fiber"] = [answer]
    result = one()
    result.assert_outcomes(errors=1)
    line = f"focus-breaker is unreachable: {stub.url}/-/fiber {shown}*Check its URL*"
    result.stdout.fnmatch_lines([line])


def test_a_proxy_that_does_not_respond_costs_one_timeout(run, pytester, stub, monkeypatch):
    monkeypatch.setattr(proxy, "TIMEOUT_SECONDS", 1.0)
    stub.delay_seconds = 2.0
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.needs_fiber

        @pytest.mark.parametrize("number", range(100))
        def test_needs(number):
            pass
    """)
    result = run(f"--focus-breaker-url={stub.url}", "--focus-breaker-max-age=0")
    result.assert_outcomes(errors=100)
    result.stdout.fnmatch_lines(["*/-/fiber did not respond within 1 s*"])
    # One for the header, and one for all the tests.
    assert stub.asked == ["/-/fiber", "/-/fiber"]


def test_a_single_failed_request_does_not_make_the_proxy_unreachable(one, stub, monkeypatch):
    monkeypatch.setattr(gate, "PAUSE_SECONDS", 0)
    stub.answers["/-/fiber"] = [(502, "a moment"), admitted()]
    one().assert_outcomes(passed=1)


def test_hundreds_of_tests_need_one_request(run, pytester, stub):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.needs_fiber

        @pytest.mark.parametrize("number", range(300))
        def test_needs(number):
            pass
    """)
    run(f"--focus-breaker-url={stub.url}", "--focus-breaker-max-age=60").assert_outcomes(skipped=300)
    assert stub.asked == ["/-/fiber"]
    assert stub.headers[0]["X-Test-Run"]


def test_wait_falls_back_to_polling_if_the_proxy_has_no_wait_route(one, stub, monkeypatch):
    monkeypatch.setattr(gate, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(gate, "PAUSE_SECONDS", 0.05)
    stub.answers["/-/fiber"] = [refused(), refused(), refused(), admitted()]
    result = one("--focus-breaker-missing=wait=60")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["focus-breaker: waiting for fiber since *; waiting up to 60 s"])
    assert stub.asked == ["/-/fiber", "/-/wait", "/-/fiber", "/-/fiber", "/-/fiber"]


def test_pytests_own_skip_marks_come_first(run, pytester, stub):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.needs_fiber

        @pytest.mark.skip(reason="a bug")
        def test_skipped(): pass

        @pytest.mark.skipif(True, reason="not here")
        def test_not_here(): pass

        @pytest.mark.xfail(run=False, reason="it hangs")
        def test_hangs(): pass
    """)
    result = run("-rs", f"--focus-breaker-url={stub.url}", "--focus-breaker-missing=fail")
    result.assert_outcomes(skipped=2, xfailed=1)
    result.stdout.fnmatch_lines(["*a bug*"])
    result.stdout.no_fnmatch_line("*skipped by pytest-focus-breaker*")


@pytest.mark.parametrize(
    "answer, cause",
    [
        (refused(), "waiting for fiber since *"),
        (refused("metadata_unavailable"), "metadata unavailable since *"),
        (refused("forced_open"), "stopped by a manual override since *"),
        (refused("of_another_day"), "of another day since *"),
        ((404, {"message": "no such route"}), "focus-breaker is unreachable: *"),
    ],
)
@pytest.mark.parametrize("count", [3, 4])
def test_the_summary_states_the_cause_of_the_skips_and_lists_up_to_three_tests(
    run, pytester, stub, monkeypatch, answer, cause, count
):
    monkeypatch.setattr(gate, "PAUSE_SECONDS", 0)
    stub.answers["/-/fiber"] = [answer]
    pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.mark.needs_fiber
        @pytest.mark.parametrize("number", range({count}))
        def test_needs(number): pass

        @pytest.mark.skip(reason="a bug")
        def test_skipped(): pass
        """
    )
    result = run(f"--focus-breaker-url={stub.url}", "--focus-breaker-unreachable=skip")
    result.assert_outcomes(skipped=count + 1)
    listed = [f"     test_it.py::test_needs[[]{number}]" for number in range(count) if count == 3]
    header = f"{count} of {count + 1} tests skipped by pytest-focus-breaker:"
    result.stdout.fnmatch_lines([header, f"  {count}: {cause}", *listed, "Now: *"], consecutive=True)


@pytest.mark.parametrize(
    "after, story",
    [
        (refused(), "the fiber went missing"),
        (refused("metadata_unavailable"), "focus-breaker started to refuse requests"),
        (refused("forced_open"), "focus-breaker started to refuse requests"),
    ],
)
def test_a_failure_reports_what_changed_while_the_test_ran(run, pytester, stub, after, story):
    stub.answers["/-/fiber"] = [admitted(), admitted(), after]
    pytester.makepyfile("""
        import pytest

        @pytest.mark.needs_fiber
        def test_needs(): assert 0
    """)
    result = run(f"--focus-breaker-url={stub.url}", "--focus-breaker-max-age=0")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"{story} while this test ran: *", "1 test failed while *:", "*::test_needs"])


def test_a_failure_reports_that_the_fiber_went_missing_and_stays_a_failure(run, pytester, stub):
    later = "2026-11-23T19:00:00.000Z"
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.needs_fiber

        @pytest.fixture
        def broken():
            assert 0

        def test_1(): assert 0
        def test_2(): assert 0
        def test_3(broken): pass
        def test_4(): assert 0
        def test_5(): assert 0
    """)
    stub.answers["/-/fiber"] = [
        *[admitted(), admitted(), admitted()],
        *[admitted(), admitted(since=later)],
        *[admitted(since=later), refused("recovering", circuit={"state": "open", "since": SINCE})],
        *[admitted(since=later), refused("overloaded", circuit={"state": "closed", "since": later})],
        *[admitted(since=later), refused()],
        refused(),
    ]
    result = run(f"--focus-breaker-url={stub.url}", "--focus-breaker-max-age=0")
    result.assert_outcomes(failed=4, errors=1)
    sections = [line for line in result.outlines if " while this test ran: " in line]
    assert [line.split(" while this test ran: ")[0] for line in sections] == [
        "the fiber or focus-breaker was unavailable for a moment",
        "the fiber or focus-breaker was unavailable for a moment",
        "the fiber went missing",
    ]
    result.stdout.fnmatch_lines(
        ["3 tests failed while focus-breaker started to refuse requests or became unreachable:", "*_2", "*_3", "*_5"]
    )


def test_a_test_that_does_not_need_the_fiber_is_not_affected(run, pytester, stub):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makepyfile("def test_fails(): assert 0")
    result = run(f"--focus-breaker-url={stub.url}")
    result.assert_outcomes(failed=1)
    assert stub.asked == ["/-/fiber"]


def test_the_hint_keeps_the_expression_that_was_given(run, pytester, stub):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makepyfile(ONE_TEST)
    result = run(f"--focus-breaker-url={stub.url}", "-m", "not slow")
    result.stdout.fnmatch_lines(['*with your other arguments: pytest -m "(not slow) and needs_fiber"'])


@pytest.mark.parametrize(
    "other, status",
    [
        ("def test_other(): pass", 0),
        ("def test_other(): assert 0", 1),
        ("import pytest\n@pytest.mark.xfail\ndef test_other(): assert 0", 0),
        ("import pytest\ndef test_other(): pytest.skip('for another reason')", 9),
        ("", 9),
    ],
)
def test_the_exit_status_applies_to_a_session_in_which_no_test_ran(run, pytester, stub, other, status):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makepyfile(test_one=ONE_TEST, test_other=other)
    assert run(f"--focus-breaker-url={stub.url}", "--focus-breaker-all-skipped=exit9").ret == status


def test_other_skips_alone_do_not_change_the_exit_status(run, pytester, stub):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makepyfile("import pytest\ndef test_other(): pytest.skip('for another reason')")
    assert run(f"--focus-breaker-url={stub.url}", "--focus-breaker-all-skipped=exit9").ret == 0


@pytest.mark.parametrize("answer", [refused(), (404, {"message": "no such route"})])
def test_a_skip_is_located_at_its_test(run, pytester, stub, answer):
    stub.answers["/-/fiber"] = [answer]
    path = pytester.makepyfile(
        """
        import pytest

        @pytest.mark.needs_fiber
        @pytest.mark.parametrize("number", [1, 2])
        def test_one(number):
            pass

        class TestTwo:
            pytestmark = pytest.mark.needs_fiber

            def test_two(self):
                pass
        """
    )
    url = f"--focus-breaker-url={stub.url}"
    result = run(url, "--focus-breaker-unreachable=skip", "-rs", "--junitxml=junit.xml", "-W", "error")
    result.assert_outcomes(skipped=3)
    lines = [f"SKIPPED [[]2] {path.name}:3: focus-breaker*", f"SKIPPED [[]1] {path.name}:11: focus-breaker*"]
    result.stdout.fnmatch_lines(lines)
    skips = ElementTree.parse(pytester.path / "junit.xml").iter("skipped")
    assert [(skip.text or "").split(": ")[0] for skip in skips] == [f"{path}:{line}" for line in (3, 3, 11)]
