"""Tests that run more than once, and tests without the marker."""

import pytest
from conftest import admitted, refused

from pytest_focus_breaker import proxy, test_run_id

SUITE = """
    import pytest

    @pytest.mark.needs_fiber
    def test_needs():
        assert 0

    def test_other():
        assert 0
"""


def test_a_test_skipped_because_of_the_fiber_stays_in_the_list_of_last_failures(pytester, stub):
    pytester.makepyfile(SUITE)
    url = f"--focus-breaker-url={stub.url}"
    stub.answers["/-/fiber"] = [admitted()]
    pytester.runpytest_inprocess(url).assert_outcomes(failed=2)
    stub.answers["/-/fiber"] = [refused()]
    pytester.runpytest_inprocess(url, "--lf").assert_outcomes(failed=1, skipped=1)
    again = pytester.runpytest_inprocess(url, "--lf", "-k", "needs", "--focus-breaker-all-skipped=exit9")
    again.assert_outcomes(skipped=1, deselected=1)
    assert again.ret == 9
    stub.answers["/-/fiber"] = [admitted()]
    pytester.runpytest_inprocess(url, "--lf").assert_outcomes(failed=2)


def test_a_test_that_never_failed_is_not_added_to_the_list(pytester, stub):
    pytester.makepyfile(SUITE)
    stub.answers["/-/fiber"] = [refused()]
    url = f"--focus-breaker-url={stub.url}"
    pytester.runpytest_inprocess(url).assert_outcomes(failed=1, skipped=1)
    pytester.runpytest_inprocess(url, "--lf").assert_outcomes(failed=1)


AGAIN = """
    # Plugins that rerun a failed test run its phases again within one protocol.
    import pytest
    from _pytest.runner import runtestprotocol

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item, nextitem):
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if any(report.failed for report in reports):
            for report in reports:
                if report.failed:
                    report.outcome = "OUTCOME"
                    item.ihook.pytest_runtest_logreport(report=report)
            item._initrequest()
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True
"""


@pytest.mark.parametrize("outcome", ["rerun", "retried"])
def test_an_attempt_that_lost_the_fiber_and_a_skipped_one_are_one_skipped_test(run, pytester, stub, outcome):
    pytester.makeconftest(AGAIN.replace("OUTCOME", outcome))
    pytester.makepyfile("""
        import pytest

        @pytest.mark.needs_fiber
        def test_needs():
            assert 0
    """)
    stub.answers["/-/fiber"] = [admitted(), refused()]
    result = run(
        f"--focus-breaker-url={stub.url}", "--focus-breaker-all-skipped=exit9", "--focus-breaker-max-age=60"
    )
    assert result.ret == 9
    result.stdout.fnmatch_lines(
        ["1 of 1 test skipped by pytest-focus-breaker:", "No test ran, so the exit status is 9*"]
    )
    result.stdout.no_fnmatch_line("*failed while*")


def test_a_successful_attempt_counts(run, pytester, stub):
    pytester.makeconftest(AGAIN.replace("OUTCOME", "rerun"))
    pytester.makepyfile("""
        import pytest
        attempts = []

        @pytest.mark.needs_fiber
        def test_needs():
            attempts.append(1)
            assert len(attempts) == 2
    """)
    stub.answers["/-/fiber"] = [admitted()]
    result = run(f"--focus-breaker-url={stub.url}")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*focus-breaker ===*")


NEGATIVE = """
    import pytest

    def test_reads(): pass
    def test_configure_fails_as_it_must(): pass
    def test_also_reads(): pass

    @pytest.mark.needs_fiber
    def test_marked(): pass

    def test_reads_last(): pass
"""


def test_tests_without_the_marker_that_were_refused_are_listed_on_request(
    run, pytester, stub, monkeypatch
):
    monkeypatch.setenv("FOCUS_BREAKER_TEST_RUN", "nightly")
    pytester.makepyfile(NEGATIVE)
    unknown = (404, {"message": "Unknown or expired run"})
    counts = [(200, {"run": "nightly", "refused": count}) for count in (1, 1, 3, 3)]
    stub.answers = {"/-/fiber": [admitted()], "/-/runs/nightly": [unknown, unknown, *counts]}
    # This process already has another random id.
    test_run_id.cache_clear()
    result = run(f"--focus-breaker-url={stub.url}", "--focus-breaker-unmarked=list")
    test_run_id.cache_clear()
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(
        [
            "focus-breaker refused requests of 1 test without needs_fiber:",
            "  *::test_configure_fails_as_it_must",
            "They may have passed or failed because of that. Mark tests that start jobs with needs_fiber.",
        ]
    )
    # Once before the first and after each; once more after the test with the marker.
    assert stub.asked.count("/-/runs/nightly") == 6


@pytest.mark.parametrize("answer", [(404, {}), (500, "<html>"), (200, {"refused": "many"}), (200, [])])
def test_without_counts_from_the_proxy_nothing_is_listed(run, pytester, stub, answer):
    pytester.makepyfile(NEGATIVE)
    stub.answers["/-/fiber"] = [admitted()]
    result = run(f"--focus-breaker-url={stub.url}", "--focus-breaker-unmarked=list")
    result.assert_outcomes(passed=5)
    result.stdout.no_fnmatch_line("*without needs_fiber*")


def test_a_proxy_that_does_not_respond_is_not_asked_for_counts_for_each_test(run, pytester, stub, monkeypatch):
    monkeypatch.setattr(proxy, "TIMEOUT_SECONDS", 0.5)
    stub.delay_seconds = 1.0
    pytester.makepyfile(NEGATIVE)
    unmarked = ("-q", "-m", "not needs_fiber", "--focus-breaker-unmarked=list")
    result = run(f"--focus-breaker-url={stub.url}", *unmarked)
    result.assert_outcomes(passed=4, deselected=1)
    assert len(stub.asked) == 1
