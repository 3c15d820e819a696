"""The pytest side: marker, options, skips, summary and fixtures. Loaded by its entry point."""

from __future__ import annotations

import fnmatch
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Callable, Optional

import pytest

from pytest_focus_breaker.gate import Gate
from pytest_focus_breaker.outage import DEFAULT_SECONDS, MAX_REASON_LENGTH, Outage
from pytest_focus_breaker.proxy import Admitted, Answer, Proxy, Refused, Unreachable
from pytest_focus_breaker.run_id import focus_headers, test_run_id
from pytest_focus_breaker.settings import NAMES_INI, Settings, add_options, read_settings

if TYPE_CHECKING:
    import requests

MARKER = "needs_fiber"

_settings_key = pytest.StashKey[Settings]()
_gate_key = pytest.StashKey[Gate]()
_proxy_key = pytest.StashKey[Proxy]()
_before_key = pytest.StashKey[Optional[Admitted]]()
_skip_key = pytest.StashKey[Optional[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARKER}: the test needs focus-server's fiber; focus-breaker is asked before it runs."
    )
    settings = read_settings(config)
    config.stash[_settings_key] = settings
    if settings.url is None:
        return
    proxy = Proxy(settings.url, insecure=settings.insecure, token=settings.admin_token)
    gate = Gate(proxy, max_age_seconds=settings.max_age_seconds, wait_seconds=settings.wait_seconds)
    config.stash[_proxy_key] = proxy
    config.stash[_gate_key] = gate
    config.pluginmanager.register(FiberGuard(config, settings, gate), "focus_breaker_guard")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks by name, also where no proxy is named: `-m "not needs_fiber"` needs none."""
    if _needs_fiber_by_name(item, item.config.getini(NAMES_INI)):
        item.add_marker(MARKER)


def _needs_fiber_by_name(item: pytest.Item, patterns: list[str]) -> bool:
    """Whether the last of the patterns that fits the test takes it in; one with a ! takes it out."""
    # With and without the parameters.
    names = [item.name, getattr(item, "originalname", None) or item.name]
    for pattern in reversed(patterns):
        takes_in = not pattern.startswith("!")
        wanted = pattern if takes_in else pattern[1:]
        is_id = "/" in wanted or "::" in wanted
        if any(fnmatch.fnmatchcase(name, wanted) for name in ([item.nodeid] if is_id else names)):
            return takes_in
    return False


class FiberGuard:
    """Stands before each test that needs the fiber, and keeps account of what it did."""

    def __init__(self, config: pytest.Config, settings: Settings, gate: Gate) -> None:
        self._config = config
        self._settings = settings
        self._gate = gate
        # By node id, in order; from reports, because with pytest-xdist the tests run in other processes.
        self._ran: dict[str, None] = {}
        self._others: dict[str, None] = {}
        self._skipped: dict[str, str] = {}
        self._lost: dict[str, None] = {}
        # The one that was set in place of pytest's own.
        self._exit_status: Optional[int] = None

    def pytest_report_header(self, config: pytest.Config) -> str:
        where = f"focus-breaker: {self._settings.url}"
        if config.getoption("collectonly", False):
            return where
        return f"{where}, {_state(self._gate.look())}"

    # Not tryfirst: pytest's own skip marks come first, and a test that they skip does not need the fiber.
    # Fixtures come after it in any case.
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        __tracebackhide__ = True
        item.stash[_before_key] = None
        item.stash[_skip_key] = None
        if item.get_closest_marker(MARKER) is None:
            return
        answer = self._gate.admit(self._tell)
        if isinstance(answer, Admitted):
            item.stash[_before_key] = answer
            return
        if isinstance(answer, Unreachable):
            what = self._settings.unreachable
            message = f"{answer}. Is its URL right, and does it run?"
            if what == "fail":
                message += " With --focus-breaker-unreachable=skip such a test is skipped, with =run it runs"
        else:
            what = self._settings.missing
            message = f"focus-breaker: {answer}"
        if what == "skip":
            item.stash[_skip_key] = str(answer)
            pytest.skip(message)
        elif what == "fail":
            pytest.fail(message, pytrace=False)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, Any, None]:
        outcome = yield
        report: pytest.TestReport = outcome.get_result()
        skip = item.stash.get(_skip_key, None)
        if skip is not None and call.when == "setup":
            # A plain value, which pytest-xdist carries to where the summary is written.
            report.focus_breaker_skip = skip  # type: ignore[attr-defined]
        before = item.stash.get(_before_key, None)
        if report.failed and call.when in ("setup", "call") and before is not None:
            story = _story(before, self._gate.look(fresh=True))
            if story is not None:
                report.sections.append(("focus-breaker", story))
                report.focus_breaker_lost = True  # type: ignore[attr-defined]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        skip = getattr(report, "focus_breaker_skip", None)
        if skip is not None:
            self._skipped[report.nodeid] = skip
        elif report.skipped and not hasattr(report, "wasxfail"):
            self._others[report.nodeid] = None
        elif report.when == "call" or report.failed:
            self._ran[report.nodeid] = None
        if getattr(report, "focus_breaker_lost", False):
            self._lost[report.nodeid] = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # A worker of pytest-xdist has seen a part of the tests only.
        if hasattr(self._config, "workerinput") or self._settings.all_skipped_exit is None:
            return
        is_all_skipped = bool(self._skipped) and not self._ran
        if session.exitstatus == pytest.ExitCode.OK and is_all_skipped:
            self._exit_status = session.exitstatus = self._settings.all_skipped_exit

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._skipped and not self._lost:
            return
        terminalreporter.section("focus-breaker")
        for line in self._summary():
            terminalreporter.write_line(line)

    def _summary(self) -> Iterator[str]:
        if self._skipped:
            total = len({**self._skipped, **self._others, **self._ran})
            yield f"{len(self._skipped)} of {_tests(total)} skipped for the fiber:"
            reasons: dict[str, int] = {}
            for what in self._skipped.values():
                reasons[what] = reasons.get(what, 0) + 1
            for what, count in reasons.items():
                yield f"  {count}: {what}"
        if self._lost:
            yield f"{_tests(len(self._lost))} failed while the fiber, or focus-breaker, went missing:"
            for nodeid in self._lost:
                yield f"  {nodeid}"
        if self._exit_status is not None:
            yield f"Nothing ran, so the exit status is {self._exit_status} (--focus-breaker-all-skipped)."
        yield f"Now: {_state(self._gate.look())}."
        if self._skipped:
            given = self._config.getoption("markexpr", "")
            expression = f'"({given}) and {MARKER}"' if given else MARKER
            yield f"To run all that need it again, with your other arguments: pytest -m {expression}"

    def _tell(self, answer: Refused, seconds: float) -> None:
        """Says why nothing moves: silence of minutes looks like a hang."""
        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        if terminal is None or self._config.getoption("verbose", 0) < 0:
            return
        # While a test is set up its output is kept for its report; there this would come when it is over.
        capture = self._config.pluginmanager.getplugin("capturemanager")
        with nullcontext() if capture is None else capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(f"focus-breaker: {answer}; waiting up to {seconds:.0f} s for it")
            # A CI reads a pipe, which would keep the line until something else is printed.
            terminal.flush()


def _tests(count: int) -> str:
    return f"{count} test" if count == 1 else f"{count} tests"


def _state(answer: Answer) -> str:
    return "the fiber is there" if isinstance(answer, Admitted) else str(answer)


def _story(before: Admitted, after: Answer) -> Optional[str]:
    """What happened to the fiber while a test ran that failed; None when nothing did."""
    if isinstance(after, Unreachable):
        return f"{after}, when asked after this test had failed"
    if isinstance(after, Refused) and not after.is_moment:
        return f"the fiber went missing while this test ran: {after}"
    # The circuit that was closed is another one now, so it was open in between.
    if before.state == "closed" and after.since != before.since:
        return (
            "the fiber, or focus-breaker itself, was away for a moment while this test ran: "
            f"the circuit is as it is since {after.since}, and was since {before.since}"
        )
    return None


@pytest.fixture(scope="session")
def focus_test_run() -> str:
    """The name of this test run, as it is sent in X-Test-Run."""
    return test_run_id()


@pytest.fixture(scope="session")
def focus_session(request: pytest.FixtureRequest) -> Iterator[requests.Session]:
    """A requests.Session that sends X-Test-Run; skips where requests is not installed."""
    requests = pytest.importorskip("requests", reason="focus_session needs requests: pip install requests")
    with requests.Session() as session:
        session.headers.update(focus_headers())
        session.verify = not request.config.stash[_settings_key].insecure
        yield session


@pytest.fixture
def focus_outage(request: pytest.FixtureRequest) -> Iterator[Callable[..., Outage]]:
    """
    `with focus_outage(reason="…", seconds=60):` the proxy refuses every guarded request, of all its clients.

    Taken back at the end of the block, also when the test fails. Skips without a URL or an admin token.
    """
    config = request.config
    if _proxy_key not in config.stash:
        pytest.skip("focus_outage needs focus-breaker: give --focus-breaker-url or FOCUS_BREAKER_URL")
    proxy = config.stash[_proxy_key]
    if not proxy.has_token:
        pytest.skip("focus_outage needs the proxy's admin.token: set FOCUS_BREAKER_ADMIN_TOKEN")
    made: list[Outage] = []

    def outage(reason: Optional[str] = None, seconds: int = DEFAULT_SECONDS) -> Outage:
        if reason is None:
            reason = f"outage simulated by {request.node.nodeid}"[:MAX_REASON_LENGTH]
        made.append(Outage(proxy, reason, seconds, config.stash[_gate_key].forget))
        return made[-1]

    yield outage
    # One that was entered by hand and never left.
    for left in reversed(made):
        left.end()
