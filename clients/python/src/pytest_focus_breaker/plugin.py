"""The pytest side: marker, options, skips, summary and fixtures. Loaded by its entry point."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, cast

import pytest

from pytest_focus_breaker.gate import MAX_UNREACHABLE_AGE_SECONDS, Gate
from pytest_focus_breaker.names import Names, Test
from pytest_focus_breaker.outage import DEFAULT_SECONDS, MAX_REASON_LENGTH, Outage
from pytest_focus_breaker.patience import OwnPatience, Patience, WorkersPatience
from pytest_focus_breaker.proxy import Admitted, Answer, Proxy, Refused, Unreachable, shown
from pytest_focus_breaker.http_request import ca_bundle, now
from pytest_focus_breaker.run_id import focus_headers, test_run_id
from pytest_focus_breaker.settings import NAMES_INI, Settings, add_options, read_patterns, read_settings

if TYPE_CHECKING:
    import requests

MARKER = "needs_fiber"
# How many skipped tests with the same reason the summary lists by name.
MAX_LISTED_TESTS = 3
_WORKER_INPUT = "focus_breaker"

_settings_key = pytest.StashKey[Settings]()
_names_key = pytest.StashKey[Names]()
_gate_key = pytest.StashKey[Gate]()
_proxy_key = pytest.StashKey[Proxy]()
_answer_key = pytest.StashKey[Optional[Answer]]()
_before_key = pytest.StashKey[Optional[Admitted]]()
_timer_key = pytest.StashKey[Any]()
_skip_key = pytest.StashKey[Optional[str]]()


_Function = TypeVar("_Function", bound=Callable[..., Any])


def _hook(**options: bool) -> Callable[[_Function], _Function]:
    """`pytest.hookimpl` with its types, which older versions of pluggy lack."""
    return cast(Callable[[_Function], _Function], pytest.hookimpl(**options))


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARKER}: the test needs focus-server's fiber; focus-breaker is checked before it."
    )
    settings = read_settings(config)
    config.stash[_settings_key] = settings
    config.stash[_names_key] = Names(read_patterns(config), str(config.rootpath))
    if settings.url is None:
        return
    proxy = Proxy(
        settings.url.base,
        authorization=settings.url.authorization,
        insecure=settings.insecure,
        token=settings.admin_token,
        interrupts=(pytest.exit.Exception,),
    )
    guard = FiberGuard(config, settings, proxy)
    config.stash[_proxy_key] = proxy
    config.stash[_gate_key] = guard.gate
    config.pluginmanager.register(guard, "focus_breaker_guard")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks tests by name, even without a proxy: `-m "not needs_fiber"` does not need one."""
    function = getattr(item, "originalname", None) or item.name
    if item.config.stash[_names_key].needs_fiber(Test(item.nodeid, item.name, function)):
        item.add_marker(MARKER)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Warns about patterns that match no test, unless only part of the suite was collected."""
    config = session.config
    unused = config.stash[_names_key].unused
    if not unused or not _is_whole(session):
        return
    message = f"{NAMES_INI}: no collected test matches {', '.join(unused)}"
    where = str(config.inipath or config.rootpath)
    try:
        warnings.warn_explicit(message, pytest.PytestConfigWarning, where, 1)
    # With -W error: it must not end the session, but is still reported.
    except pytest.PytestConfigWarning as warning:
        recorded = warnings.WarningMessage(warning, pytest.PytestConfigWarning, where, 1)
        details = {"warning_message": recorded, "when": "collect", "nodeid": "", "location": None}
        config.hook.pytest_warning_recorded.call_historic(kwargs=details)


def _is_whole(session: pytest.Session) -> bool:
    """Whether whole folders were collected; a single test or file is only part of the suite."""
    config = session.config
    # One worker of pytest-xdist warns for all of them.
    if getattr(config, "workerinput", {}).get("workerid", "gw0") != "gw0":
        return False
    # If a file has an error, its tests are missing.
    if session.testsfailed:
        return False
    if any(config.getoption(name, None) for name in ("lf", "ignore", "ignore_glob")):
        return False
    folder = config.invocation_params.dir
    return all(os.path.isdir(os.path.join(folder, argument)) for argument in config.args)


def _runs_tests(config: pytest.Config) -> bool:
    others = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test")
    return not any(config.getoption(name, False) for name in others)


class FiberGuard:
    """Decides before each test that needs the fiber whether it runs, and records the outcome."""

    def __init__(self, config: pytest.Config, settings: Settings, proxy: Proxy) -> None:
        self._config = config
        self._settings = settings
        self._proxy = proxy
        self._runs_tests = _runs_tests(config)
        own = OwnPatience(settings.wait_seconds, self._report_wait)
        # In a worker of pytest-xdist: the channel to its controller.
        self._channel: Any = getattr(config, "workerinput", {}).get(_WORKER_INPUT)
        self._patience: Patience = own
        if self._channel is not None:
            self._patience = WorkersPatience(self._channel, own)
        self.gate = Gate(proxy, self._patience, max_age_seconds=settings.max_age_seconds)
        # By node id, in order. Taken from reports, because with pytest-xdist the tests run in other
        # processes.
        self._ran: dict[str, None] = {}
        self._others: dict[str, None] = {}
        self._skipped: dict[str, str] = {}
        self._lost: dict[str, str] = {}
        self._unmarked: dict[str, None] = {}
        self._failed: dict[str, pytest.TestReport] = {}
        # The count after the last test, if known.
        self._refusals: Optional[int] = None
        self._no_count_before = 0.0
        # The status that replaced pytest's own.
        self._exit_status: Optional[int] = None

    def pytest_report_header(self, config: pytest.Config) -> str:
        where = f"focus-breaker: {self._proxy.url}"
        if not self._runs_tests:
            return where
        return f"{where}, {_state(_safely(self.gate.peek))}"

    # The outermost wrapper: a wait here comes before the timer of pytest-timeout, before pytest-forked's
    # process and before any fixture of the test. After a failure, the proxy is asked when all of these have
    # ended.
    @_hook(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, None]:
        self._failed.pop(item.nodeid, None)
        item.stash[_before_key] = None
        item.stash[_answer_key] = answer = self._asked(item)
        is_marked = item.get_closest_marker(MARKER) is not None
        is_watched = self._runs_tests and self._settings.lists_unmarked and not is_marked
        refusals = self._counted_refusals() if is_watched else None
        outcome = yield
        self._refusals = None
        if is_watched and outcome.excinfo is None:
            self._refusals = self._counted_refusals()
            if refusals is not None and self._refusals is not None and self._refusals > refusals:
                self._record("unmarked", item.nodeid)
        # With pytest-forked the test has set its own value in another process.
        before = item.stash[_before_key] or answer
        has_failed = item.nodeid in self._failed and outcome.excinfo is None
        if has_failed and isinstance(before, Admitted):
            story = _story(before, _safely(partial(self.gate.peek, fresh=True)))
            if story is not None:
                self._record("lost", item.nodeid, story)

    def _counted_refusals(self) -> Optional[int]:
        """How many requests of this run were refused so far; None if unknown."""
        if self._refusals is not None:
            return self._refusals
        if now() < self._no_count_before:
            return None
        count = None
        try:
            count = self._proxy.refusals()
        except (pytest.fail.Exception, pytest.skip.Exception):
            pass
        if count is None:
            # Hundreds of tests must not wait for a timeout each.
            self._no_count_before = now() + MAX_UNREACHABLE_AGE_SECONDS
        return count

    def _is_guarded(self, item: pytest.Item) -> bool:
        return self._runs_tests and item.get_closest_marker(MARKER) is not None

    def _asked(self, item: pytest.Item) -> Optional[Answer]:
        """Returns the answer for a test that needs the fiber, unless its own marks skip it."""
        if not self._is_guarded(item) or _is_skipped_by_marks(item):
            return None
        return _safely(self.gate.admit)

    # Not tryfirst: pytest's own skip marks come first, and a test that they skip does not need the fiber.
    # Fixtures are set up after this in any case.
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        __tracebackhide__ = True
        item.stash[_before_key] = None
        item.stash[_skip_key] = None
        if not self._is_guarded(item):
            return
        answer = item.stash.get(_answer_key, None)
        item.stash[_answer_key] = None
        if answer is None:
            answer = self._asked_again(item)
        if isinstance(answer, Admitted):
            item.stash[_before_key] = answer
            return
        if isinstance(answer, Unreachable):
            what = self._settings.unreachable
            message = f"{answer}. Check its URL, and that it is running."
            if what == "fail":
                message += " --focus-breaker-unreachable=skip skips such tests, and =run runs them"
        else:
            what = self._settings.missing
            message = f"focus-breaker: {answer}"
        if what == "skip":
            item.stash[_skip_key] = str(answer)
            pytest.skip(message)
        elif what == "fail":
            pytest.fail(message, pytrace=False)

    def _asked_again(self, item: pytest.Item) -> Answer:
        """Returns the answer for a rerun (pytest-rerunfailures): the last one was for the first attempt."""
        self.gate.forget()
        settings = item.stash.get(_timer_key, None)
        if settings is None:
            return self.gate.admit()
        # The wait is not part of the test, so its timer does not run during the wait.
        hook = item.config.hook
        hook.pytest_timeout_cancel_timer(item=item)
        try:
            return self.gate.admit()
        finally:
            hook.pytest_timeout_set_timer(item=item, settings=settings)

    @_hook(optionalhook=True, tryfirst=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> None:
        item.stash[_timer_key] = settings

    @_hook(optionalhook=True, tryfirst=True)
    def pytest_timeout_cancel_timer(self, item: pytest.Item) -> None:
        item.stash[_timer_key] = None

    @_hook(hookwrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, Any, None]:
        outcome = yield
        skip = item.stash.get(_skip_key, None)
        if skip is not None and call.when == "setup" and outcome.excinfo is None:
            report = outcome.get_result()
            # A plain value, which pytest-xdist sends to the process that writes the summary.
            report.focus_breaker_skip = skip
            if report.skipped and isinstance(report.longrepr, tuple):
                # The location of the test, not of the plugin, as with pytest's own skip marks.
                path, line, _ = item.reportinfo()
                report.longrepr = (os.fspath(path), (line or 0) + 1, report.longrepr[2])

    @_hook(hookwrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, None, None]:
        skip = getattr(report, "focus_breaker_skip", None)
        if report.failed:
            self._failed[report.nodeid] = report
        if skip is not None:
            self._skipped[report.nodeid] = skip
        # Plugins that rerun a failed test use other outcomes for its attempts. The last attempt counts.
        elif report.outcome not in ("passed", "failed", "skipped"):
            pass
        elif report.skipped and not hasattr(report, "wasxfail"):
            self._others[report.nodeid] = None
        elif report.when == "call" or report.failed:
            self._ran[report.nodeid] = None
        last_failed = getattr(self._config.pluginmanager.getplugin("lfplugin"), "lastfailed", None)
        stays_failed = skip is not None and isinstance(last_failed, dict) and report.nodeid in last_failed
        yield
        # pytest treats a skip as a success: `--lf` would never run the test again.
        if stays_failed and last_failed is not None:
            last_failed[report.nodeid] = True

    @_hook(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Gives a worker of pytest-xdist a channel to this process, its controller."""
        channel = node.gateway.newchannel()
        channel.setcallback(partial(self._handle, channel))
        node.workerinput[_WORKER_INPUT] = channel

    def _handle(self, channel: Any, message: tuple[Any, ...]) -> None:
        """Handles a message of a worker, in a thread of its gateway, before the worker's later messages."""
        kind, *values = message
        if kind == "begin":
            what, waited_for = values
            channel.send(self._patience.begin(what, waited_for))
        elif kind == "renew":
            self._patience.renew()
        else:
            self._record(kind, *values)

    def _record(self, kind: str, nodeid: str, story: str = "") -> None:
        """Records a test for the summary. A worker of pytest-xdist sends it to the controller."""
        if self._channel is not None:
            try:
                self._channel.send((kind, nodeid, story))
            # Without a controller there is no summary.
            except Exception:
                pass
        elif kind == "lost":
            self._lost[nodeid] = story
        else:
            self._unmarked[nodeid] = None

    @_hook(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for nodeid, story in self._lost.items():
            if nodeid in self._failed:
                self._failed[nodeid].sections.append(("focus-breaker", story))
        # A worker of pytest-xdist has seen only part of the tests.
        if hasattr(self._config, "workerinput") or self._settings.all_skipped_exit is None:
            return
        is_all_skipped = bool(self._skipped) and not self._ran
        if session.exitstatus == pytest.ExitCode.OK and is_all_skipped:
            self._exit_status = session.exitstatus = self._settings.all_skipped_exit

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._skipped and not self._lost and not self._unmarked:
            return
        terminalreporter.section("focus-breaker")
        for line in self._summary():
            terminalreporter.write_line(line)

    def _summary(self) -> Iterator[str]:
        if self._skipped:
            total = len(self._skipped.keys() | self._others.keys() | self._ran.keys())
            yield f"{len(self._skipped)} of {_tests(total)} skipped by pytest-focus-breaker:"
            by_reason: dict[str, list[str]] = {}
            for nodeid, reason in self._skipped.items():
                by_reason.setdefault(reason, []).append(nodeid)
            for reason, nodeids in by_reason.items():
                yield f"  {len(nodeids)}: {reason}"
                # For more tests, there is `pytest -rs`.
                if len(nodeids) <= MAX_LISTED_TESTS:
                    yield from (f"     {nodeid}" for nodeid in nodeids)
        if self._lost:
            event = "focus-breaker started to refuse requests or became unreachable"
            yield f"{_tests(len(self._lost))} failed while {event}:"
            for nodeid in self._lost:
                yield f"  {nodeid}"
        if self._unmarked:
            others = ", or of tests that ran at the same time" if self._is_distributed() else ""
            tests = _tests(len(self._unmarked))
            yield f"focus-breaker refused requests of {tests} without {MARKER}{others}:"
            for nodeid in self._unmarked:
                yield f"  {nodeid}"
            yield f"They may have passed or failed because of that. Mark tests that start jobs with {MARKER}."
        if self._exit_status is not None:
            yield f"No test ran, so the exit status is {self._exit_status} (--focus-breaker-all-skipped)."
        yield f"Now: {_state(_safely(self.gate.peek))}."
        if self._skipped:
            given = self._config.getoption("markexpr", "")
            expression = f'"({given}) and {MARKER}"' if given else MARKER
            yield f"To rerun all tests that need the fiber, with your other arguments: pytest -m {expression}"

    def _is_distributed(self) -> bool:
        return self._config.pluginmanager.hasplugin("dsession")

    def _report_wait(self, what: str, seconds: float) -> None:
        """Prints why the run is waiting: minutes of silence look like a hang."""
        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        if terminal is None or self._config.getoption("verbose", 0) < 0:
            return
        try:
            self._write(terminal, what, seconds)
        # A plugin can replace the reporter with a different kind. The wait does not depend on it.
        except Exception:
            pass

    def _write(self, terminal: Any, what: str, seconds: float) -> None:
        prefix = "" if what.startswith("focus-breaker") else "focus-breaker: "
        line = f"{prefix}{what}; waiting up to {seconds:.0f} s"
        if self._is_distributed():
            # This is a thread of a worker's gateway, while the main thread prints results: a single write, on
            # its own line.
            terminal.write(f"\n{line}\n", flush=True)
            return
        # While a test is set up, its output is captured for its report, and would be shown only after the
        # wait.
        capture = self._config.pluginmanager.getplugin("capturemanager")
        with nullcontext() if capture is None else capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(line)
            # CI systems read a pipe, which would buffer the line until more is printed.
            terminal.flush()


def _is_skipped_by_marks(item: pytest.Item) -> bool:
    """Whether pytest will not run the test, including when invalid marks fail its setup."""
    try:
        # Not public: a version of pytest may lack them. Then the setup evaluates the marks.
        from _pytest.skipping import evaluate_skip_marks, evaluate_xfail_marks
    except ImportError:
        return False
    try:
        if evaluate_skip_marks(item) is not None:
            return True
        expected = None if item.config.getoption("runxfail", False) else evaluate_xfail_marks(item)
        return expected is not None and not expected.run
    except (Exception, pytest.fail.Exception):
        return True


def _safely(ask: Callable[[], Answer]) -> Answer:
    """
    Outside a test every exception ends the session, and a suite can raise one at any point of a wait, in a
    signal handler or an audit hook.
    """
    try:
        return ask()
    except pytest.exit.Exception:
        raise
    except SystemExit as error:
        # For example from a SIGTERM handler that calls `sys.exit()`. pytest would report an internal error,
        # and so would pytest-xdist if `pytest.exit()` ended a worker.
        if "PYTEST_XDIST_WORKER" in os.environ:
            return Unreachable(f"SystemExit: {shown(error)}")
        status = error.code if isinstance(error.code, int) else 0
        # Never 0, because some tests did not run.
        pytest.exit(f"SystemExit: {shown(error)}", returncode=status or int(pytest.ExitCode.INTERRUPTED))
    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:
        return Unreachable(shown(error).strip() or type(error).__name__)


def _tests(count: int) -> str:
    return f"{count} test" if count == 1 else f"{count} tests"


def _state(answer: Answer) -> str:
    return "the fiber is connected" if isinstance(answer, Admitted) else str(answer)


def _story(before: Admitted, after: Answer) -> Optional[str]:
    """Describes what happened to the fiber while a failed test ran; None if nothing did."""
    if isinstance(after, Unreachable):
        return f"{after}, after this test had failed"
    if isinstance(after, Refused) and not after.is_momentary:
        is_missing = after.status == "waiting_for_fiber"
        event = "the fiber went missing" if is_missing else "focus-breaker started to refuse requests"
        return f"{event} while this test ran: {after}"
    # The circuit was closed before and has changed since, so it was open in between.
    if before.state == "closed" and after.since != before.since:
        return (
            "the fiber or focus-breaker was unavailable for a moment while this test ran: "
            f"the circuit changed at {after.since}, and had been closed since {before.since}"
        )
    return None


@pytest.fixture(scope="session")
def focus_test_run() -> str:
    """The id of this test run, which is sent in X-Test-Run."""
    return test_run_id()


@pytest.fixture(scope="session")
def focus_session(request: pytest.FixtureRequest) -> Iterator[requests.Session]:
    """
    A requests.Session that sends X-Test-Run; skips if requests is not installed.

    It checks certificates like the plugin, and like the plugin it does not use the environment's proxies.
    """
    requests = pytest.importorskip("requests", reason="focus_session needs requests: pip install requests")
    with requests.Session() as session:
        session.headers.update(focus_headers())
        # Otherwise REQUESTS_CA_BUNDLE overrides `verify`, and http_proxy is used.
        session.trust_env = False
        is_insecure = request.config.stash[_settings_key].insecure
        session.verify = False if is_insecure else ca_bundle() or True
        yield session


@pytest.fixture
def focus_outage(request: pytest.FixtureRequest) -> Iterator[Callable[..., Outage]]:
    """
    Inside `with focus_outage(reason="…", seconds=60):` the proxy refuses every guarded request, of all its
    clients.

    The outage ends with the block, even if the test fails. Skips without a URL or an admin token.
    """
    config = request.config
    if _proxy_key not in config.stash:
        pytest.skip("focus_outage needs focus-breaker: set --focus-breaker-url or FOCUS_BREAKER_URL")
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
    # An outage that was entered manually and never left.
    for left in reversed(made):
        left.end()
