"""The id of a test run."""

import re

import pytest

from pytest_focus_breaker import focus_headers, test_run_id


CI = ["GITHUB_RUN_ID", "CI_PIPELINE_ID", "BUILD_TAG", "BUILD_BUILDID", "CIRCLE_WORKFLOW_ID"]


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    for variable in (*CI, "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(variable, raising=False)
    test_run_id.cache_clear()
    yield
    test_run_id.cache_clear()


@pytest.mark.parametrize("variable", CI)
def test_the_id_of_each_ci_system_overrides_that_of_xdist(monkeypatch, variable):
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "of-xdist")
    monkeypatch.setenv(variable, "run-4711")
    assert test_run_id() == "run-4711"


def test_long_ids_of_two_builds_differ(monkeypatch):
    ids = set()
    for number in (41, 42):
        monkeypatch.setenv("BUILD_TAG", f"jenkins-{'a-folder-' * 10}nightly-{number}")
        test_run_id.cache_clear()
        ids.add(test_run_id())
    assert len(ids) == 2
    assert all(len(id) == 64 for id in ids)


def test_without_a_variable_the_id_is_random_and_constant():
    assert re.fullmatch(r"[0-9a-f]{32}", test_run_id())
    assert focus_headers() == {"X-Test-Run": test_run_id()}


def test_our_variable_overrides_that_of_the_ci_system(monkeypatch):
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
def test_characters_that_a_header_must_not_contain_are_replaced(monkeypatch, given, sent):
    monkeypatch.setenv("FOCUS_BREAKER_TEST_RUN", given)
    assert test_run_id() == sent


def test_a_variable_with_only_unsafe_characters_is_ignored(monkeypatch):
    monkeypatch.setenv("FOCUS_BREAKER_TEST_RUN", "///")
    assert len(test_run_id()) == 32


def test_the_session_sends_the_id(run, pytester, stub):
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
