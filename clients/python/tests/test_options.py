"""The values that the options accept, and the plugin's behavior without them."""

import json
from pathlib import Path

import pytest
from conftest import admitted, refused

from pytest_focus_breaker.settings import read_patterns, read_settings

TWO_TESTS = """
    import pytest

    @pytest.mark.needs_fiber
    def test_needs():
        pass

    def test_does_not():
        pass
"""


@pytest.mark.parametrize(
    "option, shown",
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
def test_an_invalid_option_is_named_with_its_value(run, option, shown):
    result = run(f"--focus-breaker-{option}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --focus-breaker-{option.split('=')[0]}: *{shown}"])


def test_secrets_in_invalid_options_are_not_shown(run):
    urls = ["ftp://user:hush-hush@x", "http://user:hush-hush@", "user:hush-hush@x", "http://u:1?hush-hush@x"]
    urls += ["http://user:hush-hush/y@x", "http://user:hush-hush@x:y", "http://hush-hush:x@y/?z"]
    for option in (*(f"url={url}" for url in urls), "admin-token=hush-hush töken"):
        result = run(f"--focus-breaker-{option}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "hush-hush" not in str(result.stdout) + str(result.stderr)


def test_showlocals_does_not_print_secrets(pytester):
    url = "--focus-breaker-url=http://me:hush-hush@x"
    settings = read_settings(pytester.parseconfigure("--focus-breaker-admin-token=hush-hush", url))
    assert settings.admin_token == "hush-hush"
    assert settings.url is not None and settings.url.authorization is not None
    for secret in ("hush-hush", settings.url.authorization):
        assert secret not in repr(settings)


# The test of the commands `check` and `wait` reads the same table.
@pytest.mark.parametrize("row", json.loads(Path(__file__).with_name("urls.json").read_text("utf-8")))
def test_a_url_is_parsed_as_in_the_commands(pytester, row):
    config = pytester.parseconfig(f"--focus-breaker-url={row['given']}")
    if row["base"] is None:
        with pytest.raises(pytest.UsageError, match="expected an http or https URL") as raised:
            read_settings(config)
        assert "secret" not in str(raised.value)
    else:
        url = read_settings(config).url
        assert url is not None
        assert (url.base, url.authorization) == (row["base"], row.get("authorization"))


def test_credentials_of_the_url_are_sent_and_not_shown(run, pytester, stub):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makepyfile(TWO_TESTS)
    result = run(f"--focus-breaker-url={stub.url.replace('//', '//me:hush-hush@')}/-/", "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    assert {headers.get("Authorization") for headers in stub.headers} == {"Basic bWU6aHVzaC1odXNo"}
    assert "hush-hush" not in str(result.stdout)


def test_an_empty_url_turns_the_plugin_off_and_leaves_the_marker(run, pytester, stub, monkeypatch):
    monkeypatch.setenv("FOCUS_BREAKER_URL", stub.url)
    pytester.makepyfile(TWO_TESTS)
    pytester.makeini(f"[pytest]\nfocus_breaker_url = {stub.url}")
    strict = ("--strict-markers", "--strict-config", "--focus-breaker-url=")
    run(*strict).assert_outcomes(passed=2)
    run(*strict, "-m", "not needs_fiber").assert_outcomes(passed=1, deselected=1)
    assert stub.asked == []


@pytest.mark.parametrize("markers", ["", "markers = needs_fiber: starts a job"])
def test_a_suite_that_declares_the_marker_works_without_the_plugin(run, pytester, monkeypatch, markers):
    pytester.makepyfile(TWO_TESTS)
    pytester.makeini(f"[pytest]\n{markers}")
    run("--strict-markers").assert_outcomes(passed=2)
    monkeypatch.delenv("PYTEST_PLUGINS")
    flags = ("-p", "no:cacheprovider", "-p", "no:focus_breaker", "--strict-markers")
    result = pytester.runpytest_subprocess(*flags)
    assert result.ret == (pytest.ExitCode.OK if markers else pytest.ExitCode.INTERRUPTED)


IS_NATIVE = int(pytest.__version__.split(".")[0]) >= 9
TABLES = ["[tool.pytest.ini_options]", *(["[tool.pytest]"] if IS_NATIVE else [])]


@pytest.fixture(params=TABLES)
def toml(request, pytester):
    """Writes options to pyproject.toml. In `[tool.pytest]`, pytest 9 keeps their types."""

    def write(*lines):
        pytester.makepyprojecttoml("\n".join([request.param, *lines]))

    return write


@pytest.mark.parametrize(
    "lines",
    [
        ["focus_breaker_max_age = 0.5"],
        ["focus_breaker_max_age = 2"],
        ["focus_breaker_max_age = '2'"],
        ["focus_breaker_insecure = true"],
        ["focus_breaker_insecure = 'yes'"],
        ["focus_breaker_all_skipped = 'exit9'", "focus_breaker_missing = 'wait=1'"],
    ],
)
def test_native_values_of_toml_are_read(pytester, toml, lines):
    toml(*lines)
    settings = read_settings(pytester.parseconfig())
    if "max_age" in lines[0]:
        assert settings.max_age_seconds in (0.5, 2)
    assert settings.insecure is ("insecure" in lines[0])
    assert settings.all_skipped_exit == (9 if "exit9" in lines[0] else None)


@pytest.mark.parametrize(
    "value, patterns",
    [
        ("['test_a[x y]', ' test_b ', '']", ["test_a[x y]", "test_b"]),
        ("'test_a[x y] test_b'", ["test_a[x y]", "test_b"]),
        ("'''\ntest_a\ntest_b\n'''", ["test_a", "test_b"]),
        ("[]", []),
    ],
)
def test_patterns_are_a_list_or_a_text_in_toml(pytester, toml, value, patterns):
    toml(f"focus_breaker_needs_fiber = {value}")
    assert read_patterns(pytester.parseconfig()) == patterns


NAMES = ["url", "missing", "unreachable", "all_skipped", "unmarked", "max_age", "insecure", "needs_fiber"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["['a']", "[1]", "{ a = 1 }", "true", "1979-05-27", "[]", "-1", "nan"])
def test_a_wrong_type_is_a_usage_error(run, pytester, toml, name, value):
    pytester.makepyfile(TWO_TESTS)
    toml(f"focus_breaker_{name} = {value}")
    result = run()
    printed = str(result.stdout) + str(result.stderr)
    assert "INTERNALERROR" not in printed and "Traceback" not in printed
    if (name, value) in {("insecure", "true"), ("needs_fiber", "['a']"), ("needs_fiber", "[]")}:
        assert result.ret == 0, printed
    # In the older table pytest converts anything but a list to text, and every text is a pattern.
    elif name != "needs_fiber" or result.ret != 0:
        assert result.ret == pytest.ExitCode.USAGE_ERROR, printed
        result.stderr.fnmatch_lines([f"ERROR: ini option focus_breaker_{name}*: expected *, given *"])


def test_a_token_of_the_wrong_type_is_not_shown(run, toml):
    toml("focus_breaker_admin_token = ['hush-hush']")
    result = run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "hush-hush" not in str(result.stdout) + str(result.stderr)


def test_an_invalid_ini_option_is_named_as_such(run, pytester):
    pytester.makeini("[pytest]\nfocus_breaker_all_skipped = exit")
    shown = "ERROR: ini option focus_breaker_all_skipped: expected ok, or exitN*given 'exit'"
    run().stderr.fnmatch_lines([shown])


def test_without_a_url_there_are_no_requests_and_no_skips(run, pytester):
    pytester.makepyfile(TWO_TESTS)
    result = run("--strict-markers", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*focus-breaker: *")


def test_a_flag_overrides_the_environment_which_overrides_the_ini_file(run, pytester, stub, monkeypatch):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makepyfile(TWO_TESTS)
    pytester.makeini(f"[pytest]\nfocus_breaker_url = {stub.url}")
    run().assert_outcomes(passed=1, skipped=1)
    monkeypatch.setenv("FOCUS_BREAKER_URL", "http://127.0.0.1:1")
    run("--focus-breaker-unreachable=fail").assert_outcomes(passed=1, errors=1)
    run(f"--focus-breaker-url={stub.url}/").assert_outcomes(passed=1, skipped=1)


def test_collecting_sends_no_request(run, pytester, stub):
    pytester.makepyfile(TWO_TESTS)
    result = run("--collect-only", f"--focus-breaker-url={stub.url}")
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"focus-breaker: {stub.url}", "*2 tests collected*"])
    assert stub.asked == []


def test_without_a_terminal_reporter_it_behaves_the_same(run, pytester, stub):
    stub.answers["/-/fiber"] = [refused()]
    pytester.makepyfile(TWO_TESTS)
    arguments = ("-p", "no:terminal", f"--focus-breaker-url={stub.url}", "--focus-breaker-all-skipped=exit7")
    assert run(*arguments).ret == 0
    assert run(*arguments, "-k", "test_needs").ret == 7


def test_the_machines_proxy_is_not_used(run, pytester, stub, monkeypatch):
    stub.answers["/-/fiber"] = [admitted()]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    pytester.makepyfile(TWO_TESTS)
    run(f"--focus-breaker-url={stub.url}").assert_outcomes(passed=2)


def test_a_prefix_stays_in_the_url(run, pytester, stub):
    stub.answers["/focus-server/-/fiber"] = [admitted()]
    pytester.makepyfile(TWO_TESTS)
    run(f"--focus-breaker-url={stub.url}/focus-server/").assert_outcomes(passed=2)
