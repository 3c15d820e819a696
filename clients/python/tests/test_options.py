"""What the options take, and what the plugin does without them."""

import pytest
from conftest import admitted, refused

from pytest_focus_breaker.settings import read_settings

TWO_TESTS = """
    import pytest

    @pytest.mark.needs_fiber
    def test_needs():
        pass

    def test_does_not():
        pass
"""


@pytest.mark.parametrize(
    "option, told",
    [
        ("url=focus-breaker:8080", "expected an http or https URL * given 'focus-breaker:8080'"),
        ("url=ftp://focus-breaker", "given 'ftp://focus-breaker'"),
        ("url=http://", "given 'http://'"),
        ("url=http://x:99999", "given 'http://x:99999' (*"),
        ("url=http://x/?a=1", "given 'http://x/?a=1'"),
        ("url=http://x/ y", "given 'http://x/ y'"),
        ("missing=wiat=3", "expected skip, fail, or wait=SECONDS * given 'wiat=3'"),
        ("missing=wait=0", "given 'wait=0'"),
        ("missing=wait=-5", "given 'wait=-5'"),
        ("missing=wait=1e3", "given 'wait=1e3'"),
        ("missing=wait=86401", "given 'wait=86401'"),
        ("unreachable=ignore", "expected one of fail, skip, run, given 'ignore'"),
        ("all-skipped=3", "expected ok, or exitN * given '3'"),
        ("all-skipped=exit0", "given 'exit0'"),
        ("all-skipped=exit256", "given 'exit256'"),
        ("max-age=soon", "expected seconds from 0 to 3600, given 'soon'"),
        ("max-age=nan", "given 'nan'"),
        ("max-age=-1", "given '-1'"),
    ],
)
def test_a_faulty_option_is_named_with_what_was_given(run, option, told):
    result = run(f"--focus-breaker-{option}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --focus-breaker-{option.split('=')[0]}: *{told}"])


def test_secrets_in_faulty_options_are_not_shown(run):
    for option in ("url=http://user:hush-hush@x", "admin-token=hush-hush töken"):
        result = run(f"--focus-breaker-{option}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "hush-hush" not in str(result.stdout) + str(result.stderr)


def test_the_token_is_not_in_what_showlocals_prints(pytester):
    settings = read_settings(pytester.parseconfigure("--focus-breaker-admin-token=hush-hush"))
    assert settings.admin_token == "hush-hush"
    assert "hush-hush" not in repr(settings)


def test_a_faulty_ini_option_is_named_as_such(run, pytester):
    pytester.makeini("[pytest]\nfocus_breaker_all_skipped = exit")
    told = "ERROR: ini option focus_breaker_all_skipped: expected ok, or exitN*given 'exit'"
    run().stderr.fnmatch_lines([told])


def test_without_a_url_nothing_is_asked_and_nothing_skipped(run, pytester):
    pytester.makepyfile(TWO_TESTS)
    result = run("--strict-markers", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*focus-breaker: *")


def test_a_flag_goes_before_the_environment_and_that_before_the_ini_file(run, pytester, stub, monkeypatch):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makepyfile(TWO_TESTS)
    pytester.makeini(f"[pytest]\nfocus_breaker_url = {stub.url}")
    run().assert_outcomes(passed=1, skipped=1)
    monkeypatch.setenv("FOCUS_BREAKER_URL", "http://127.0.0.1:1")
    run("--focus-breaker-unreachable=fail").assert_outcomes(passed=1, errors=1)
    run(f"--focus-breaker-url={stub.url}/").assert_outcomes(passed=1, skipped=1)


def test_collecting_asks_nobody(run, pytester, stub):
    pytester.makepyfile(TWO_TESTS)
    result = run("--collect-only", f"--focus-breaker-url={stub.url}")
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"focus-breaker: {stub.url}", "*2 tests collected*"])
    assert stub.asked == []


def test_without_a_terminal_it_does_the_same(run, pytester, stub):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makepyfile(TWO_TESTS)
    arguments = ("-p", "no:terminal", f"--focus-breaker-url={stub.url}", "--focus-breaker-all-skipped=exit7")
    assert run(*arguments).ret == 0
    assert run(*arguments, "-k", "test_needs").ret == 7


def test_a_proxy_of_the_machine_is_not_asked(run, pytester, stub, monkeypatch):
    stub.answers["/-/fiber"] = [admitted()]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    pytester.makepyfile(TWO_TESTS)
    run(f"--focus-breaker-url={stub.url}").assert_outcomes(passed=2)


def test_a_prefix_stays_in_the_url(run, pytester, stub):
    stub.answers["/focus-server/-/fiber"] = [admitted()]
    pytester.makepyfile(TWO_TESTS)
    run(f"--focus-breaker-url={stub.url}/focus-server/").assert_outcomes(passed=2)
