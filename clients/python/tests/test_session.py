"""Failed requests do not end a session, and exceptions that are meant to end it do."""

import pytest
from conftest import admitted, refused

SUITE = """
    import pytest

    def test_before(): pass

    @pytest.mark.needs_fiber
    def test_needs(): pass

    def test_after(): pass
"""


@pytest.mark.parametrize(
    "url",
    ["http://a..b:80", f"http://{'a' * 70}.example", "http://no-such-host.invalid", "http://[fe80::1]:1"],
)
def test_an_invalid_host_does_not_affect_the_results_of_other_tests(run, pytester, url):
    pytester.makepyfile(SUITE)
    result = run(f"--focus-breaker-url={url}")
    result.assert_outcomes(passed=2, errors=1)
    assert f"focus-breaker: {url}, focus-breaker is unreachable: " in str(result.stdout)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


# One per place that sends a request: the header, a test, after a failure, and the summary.
@pytest.mark.parametrize("failing", range(1, 5))
@pytest.mark.parametrize("error", ["RecursionError()", "UnicodeError('idna')", "pytest.fail.Exception('no')"])
def test_an_error_of_any_request_does_not_affect_the_results(run, pytester, stub, failing, error):
    stub.answers["/-/fiber"] = [admitted()]
    pytester.makeconftest(f"""
        import pytest
        from pytest_focus_breaker import proxy

        asked = []
        ask = proxy.ask

        def broken(*args, **kwargs):
            asked.append(1)
            if len(asked) >= {failing}:
                raise {error}
            return ask(*args, **kwargs)

        proxy.ask = broken

        def pytest_unconfigure():
            proxy.ask = ask
    """)
    pytester.makepyfile(SUITE.replace("def test_needs(): pass", "def test_needs(): assert 0"))
    result = run(f"--focus-breaker-url={stub.url}", "--focus-breaker-max-age=0")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    if failing <= 2:
        result.assert_outcomes(passed=2, errors=1)
    else:
        result.assert_outcomes(passed=2, failed=1)
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.parametrize(
    "error, status, said",
    [
        ("KeyboardInterrupt()", pytest.ExitCode.INTERRUPTED, "*KeyboardInterrupt*"),
        ("pytest.exit.Exception('over')", pytest.ExitCode.INTERRUPTED, "*Exit: over*"),
        ("SystemExit(7)", 7, "*Exit: SystemExit: 7*"),
        # Not 0, because some tests did not run.
        ("SystemExit()", pytest.ExitCode.INTERRUPTED, "*Exit: SystemExit*"),
        ("SystemExit('over')", pytest.ExitCode.INTERRUPTED, "*Exit: SystemExit: over*"),
    ],
)
def test_exceptions_that_end_the_run_end_it_during_a_wait(pytester, stub, error, status, said):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makeconftest(f"""
        import pytest
        from pytest_focus_breaker import proxy

        ask = proxy.ask

        def interrupted(method, url, **kwargs):
            if "/-/wait" in url:
                raise {error}
            return ask(method, url, **kwargs)

        proxy.ask = interrupted
    """)
    pytester.makepyfile(SUITE)
    waits = "--focus-breaker-missing=wait=60"
    result = pytester.runpytest_subprocess(f"--focus-breaker-url={stub.url}", waits)
    assert result.ret == status
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([said])


# Like an error in a signal handler of the suite, which can run at any point of a wait.
@pytest.mark.parametrize("place", ["proxy.Proxy.wait", "gate.Gate._wait", "patience.OwnPatience.begin"])
def test_an_error_in_the_middle_of_a_wait_does_not_affect_other_tests(pytester, stub, place):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makeconftest(f"""
        from pytest_focus_breaker import gate, patience, proxy

        class Over(Exception): pass

        def over(*args, **kwargs):
            raise Over("the suite took too long")

        {place} = over
    """)
    pytester.makepyfile(SUITE)
    waits = "--focus-breaker-missing=wait=1"
    result = pytester.runpytest_subprocess(f"--focus-breaker-url={stub.url}", waits)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the suite took too long*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_an_exit_of_a_worker_during_a_wait_does_not_affect_other_tests(pytester, stub):
    pytest.importorskip("xdist")
    stub.answers["/-/fiber"] = [refused()]
    pytester.makeconftest("""
        import os
        from pytest_focus_breaker import proxy

        def over(*args, **kwargs):
            raise SystemExit(7)

        if "PYTEST_XDIST_WORKER" in os.environ:
            proxy.Proxy.wait = over
    """)
    pytester.makepyfile(SUITE)
    flags = ["-p", "xdist.plugin", "-n2", "--focus-breaker-missing=wait=1"]
    result = pytester.runpytest_subprocess(f"--focus-breaker-url={stub.url}", *flags)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*SystemExit: 7*"])


def test_a_wait_does_not_need_pytests_own_reporter(pytester, stub):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makeconftest("""
        import pytest

        class Reporter:
            def pytest_runtest_logreport(self, report):
                print(f"{report.nodeid} {report.when} {report.outcome}")

        @pytest.hookimpl(trylast=True)
        def pytest_configure(config):
            config.pluginmanager.unregister(name="terminalreporter")
            config.pluginmanager.register(Reporter(), "terminalreporter")
    """)
    pytester.makepyfile(SUITE)
    waits = "--focus-breaker-missing=wait=0.1"
    result = pytester.runpytest_subprocess(f"--focus-breaker-url={stub.url}", waits, "-s")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*::test_needs setup skipped*", "*::test_after call passed*"])


@pytest.mark.parametrize("flag", ["--collect-only", "--setup-plan", "--fixtures", "--fixtures-per-test", "--markers"])
def test_without_running_tests_no_request_is_sent(run, pytester, stub, flag):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makepyfile(SUITE)
    result = run(f"--focus-breaker-url={stub.url}", "--focus-breaker-missing=wait=60", flag)
    assert result.ret == pytest.ExitCode.OK
    assert stub.asked == []
    result.stdout.no_fnmatch_line("*skipped*")


# With -q there is no request for the header.
@pytest.mark.parametrize("flags", [[], ["-q"]])
def test_a_proxy_that_starts_after_pytest_is_found_with_and_without_a_header(run, pytester, stub, flags):
    stub.answers["/-/fiber"] = [admitted()]
    pytester.makeconftest("""
        import pytest
        from pytest_focus_breaker import proxy

        ask = proxy.ask
        has_started = []

        def late(*args, **kwargs):
            if not has_started:
                raise ConnectionRefusedError
            return ask(*args, **kwargs)

        proxy.ask = late

        def pytest_collection_finish():
            has_started.append(1)

        def pytest_unconfigure():
            proxy.ask = ask
    """)
    pytester.makepyfile(SUITE)
    run(f"--focus-breaker-url={stub.url}", *flags).assert_outcomes(passed=3)


def test_no_request_is_sent_while_fixtures_of_a_test_exist(run, pytester, stub):
    stub.answers["/-/fiber"] = [admitted()]
    pytester.makeconftest("""
        import pytest
        from pytest_focus_breaker import proxy

        ask = proxy.ask
        standing = []

        def watched(*args, **kwargs):
            assert not standing, "asked while a fixture exists"
            return ask(*args, **kwargs)

        proxy.ask = watched

        @pytest.fixture
        def fixture():
            standing.append(1)
            yield
            standing.pop()

        def pytest_unconfigure():
            proxy.ask = ask
    """)
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.needs_fiber

        def test_fails(fixture): assert 0

        @pytest.fixture
        def broken(fixture): assert 0

        def test_breaks(broken): pass

        @pytest.fixture
        def breaks_late(fixture):
            yield
            assert 0

        def test_breaks_late(breaks_late): pass
    """)
    result = run(f"--focus-breaker-url={stub.url}", "--focus-breaker-max-age=0")
    result.assert_outcomes(failed=1, errors=2, passed=1)
    result.stdout.no_fnmatch_line("*asked while a fixture exists*")
    # For the header, before and after each test, and for the summary if there is one.
    assert stub.asked == ["/-/fiber"] * 7
