"""The name of a test run."""

import re

import pytest

from pytest_focus_breaker import focus_headers, test_run_id


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.delenv("GITHUB_RUN_ID", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_TESTRUNUID", raising=False)
    test_run_id.cache_clear()
    yield
    test_run_id.cache_clear()


def test_without_a_name_it_is_random_and_stays():
    assert re.fullmatch(r"[0-9a-f]{32}", test_run_id())
    assert focus_headers() == {"X-Test-Run": test_run_id()}


def test_ours_goes_before_that_of_the_ci(monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "of-xdist")
    assert test_run_id() == "of-xdist"
    test_run_id.cache_clear()
    monkeypatch.setenv("GITHUB_RUN_ID", "1234567890")
    assert test_run_id() == "1234567890"
    test_run_id.cache_clear()
    monkeypatch.setenv("FOCUS_BREAKER_TEST_RUN", "nightly")
    assert test_run_id() == "nightly"


@pytest.mark.parametrize(
    "given, sent",
    [
        ("feature/Süd\r\nX: y", "feature-S-d-X-y"),
        ("a" * 100, "a" * 64),
        (" 1.2_3-x ", "1.2_3-x"),
    ],
)
def test_what_a_header_should_not_hold_is_replaced(monkeypatch, given, sent):
    monkeypatch.setenv("FOCUS_BREAKER_TEST_RUN", given)
    assert test_run_id() == sent


def test_nothing_but_unsafe_characters_is_no_name(monkeypatch):
    monkeypatch.setenv("FOCUS_BREAKER_TEST_RUN", "///")
    assert len(test_run_id()) == 32


def test_the_session_sends_it(run, pytester, stub):
    pytest.importorskip("requests")
    stub.answers["/channels"] = [(200, {})]
    pytester.makepyfile(f"""
        from pytest_focus_breaker import test_run_id

        def test_session(focus_session, focus_test_run):
            focus_session.trust_env = False
            assert focus_session.get("{stub.url}/channels", timeout=10).status_code == 200
            assert focus_test_run == test_run_id()
    """)
    run().assert_outcomes(passed=1)
    assert stub.headers[0]["X-Test-Run"] == test_run_id()
