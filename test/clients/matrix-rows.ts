/** The possible states of the fiber, or of the proxy, while a suite runs. */
export const fiberStates = ['connected', 'missing', 'lost in the middle', 'proxy gone', 'proxy late'] as const

/** One of them. */
export type FiberState = (typeof fiberStates)[number]

/** The final outcome of a test. */
export type Outcome = 'passed' | 'failed' | 'skipped' | 'error'

interface Run {
  readonly name: string
  /** Python modules that the row needs; without them it is skipped for a set of libraries. */
  readonly needs: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** Files in addition to those of `matrix.test.ts`, or replacing them. */
  readonly files?: Readonly<Record<string, string>>
}

/**
 * A way in which pytest runs a suite: the files of `matrix.test.ts` plus `files`. A test needs the fiber if its name
 * says so (`test_needs…`), and every other test passes, whatever happens to the fiber.
 */
export interface SuiteRow extends Run {
  readonly args?: readonly string[]
  /** Expected outcomes of the tests that need the fiber, where they differ from those of `matrix.test.ts`. */
  readonly outcomes?: Partial<Readonly<Record<FiberState, Readonly<Record<string, readonly Outcome[]>>>>>
  /** How often pytest reports that it waits while the fiber is missing. */
  readonly waits?: number
  /**
   * A file that the suite must have written after it ran with the fiber, and that contains no request of the plugin.
   */
  readonly records?: string
}

/**
 * A client program without pytest. It calls `signal("begun")` of `signals.py` before its first configure and
 * `signal("lost")` before a later one, so that the test can remove the fiber, or delay the proxy, at these points.
 */
export interface ProgramRow extends Run {
  /** The arguments for Python. */
  readonly args: readonly string[]
  /** The exit code of the program. */
  readonly codes: Readonly<Record<FiberState, number>>
}

const wait = '--focus-breaker-missing=wait=2'
/** A timer that is shorter than the wait. Both are long, so that a test on a busy machine does not hit the timer. */
const timer = ['--focus-breaker-missing=wait=9', '-p', 'pytest_timeout', '--timeout=8']

/** A client without a network: it knows from the files of the suite whether the fiber is connected. */
const MOCKED_CLIENT = `
import pathlib

def configure():
    assert not pathlib.Path("fiber.lost").exists(), "503"
`

/** What suites do and the plugin must cope with. */
export const suiteRows: readonly SuiteRow[] = [
  { name: 'as it is', needs: [] },
  { name: 'quietly', needs: [], args: ['-q'] },
  {
    name: 'with options in pyproject.toml',
    needs: [],
    files: {
      'pyproject.toml': `
[tool.pytest.ini_options]
focus_breaker_needs_fiber = ["test_needs*", "!test_needs_never*"]
focus_breaker_max_age = 0.5
focus_breaker_insecure = true
`,
    },
    args: ['--strict-config', '--strict-markers', '-rs', '--junitxml=junit.xml'],
  },
  {
    name: 'with every warning an error',
    needs: [],
    args: ['-W', 'error', '--strict-markers', '--junitxml=junit.xml'],
  },
  {
    name: 'with patterns, one of which matches no test, and every warning an error',
    needs: [],
    args: ['-W', 'error', '--strict-markers'],
    files: {
      'pytest.ini': `
[pytest]
focus_breaker_needs_fiber = test_z.py::test_needs_last_by_name[a b] test_of_last_year
`,
      'test_z.py': `
import pytest

@pytest.mark.parametrize("kind", ["a b"])
def test_needs_last_by_name(kind):
    pass
`,
    },
  },
  { name: 'without a terminal', needs: [], args: ['-p', 'no:terminal'] },
  { name: 'with a wait', needs: [], args: [wait], waits: 1 },
  {
    name: 'with a proxy of the machine',
    needs: [],
    env: {
      http_proxy: 'http://127.0.0.1:1',
      HTTP_PROXY: 'http://127.0.0.1:1',
      all_proxy: 'http://127.0.0.1:1',
    },
  },
  {
    name: 'with a wait and the timer of pytest-timeout by signal',
    needs: ['pytest_timeout'],
    args: [...timer, '--timeout-method=signal'],
    waits: 1,
  },
  {
    name: 'with a wait and the timer of pytest-timeout by thread',
    needs: ['pytest_timeout'],
    args: [...timer, '--timeout-method=thread'],
    waits: 1,
  },
  {
    name: 'with a wait and a process for each test',
    needs: ['pytest_forked'],
    args: [wait, '-p', 'pytest_forked', '--forked'],
    waits: 1,
  },
  {
    name: 'with reruns',
    needs: ['pytest_rerunfailures', 'xdist'],
    args: ['-p', 'xdist.plugin', '-p', 'pytest_rerunfailures', '--reruns=2'],
    outcomes: { 'lost in the middle': { test_needs_loses: ['skipped'] } },
  },
  {
    name: 'with reruns, a wait and the timer of pytest-timeout',
    needs: ['pytest_rerunfailures', 'xdist', 'pytest_timeout'],
    args: [...timer, '-p', 'xdist.plugin', '-p', 'pytest_rerunfailures', '--reruns=2'],
    outcomes: { 'lost in the middle': { test_needs_loses: ['skipped'] } },
    waits: 1,
  },
  {
    name: 'in several processes',
    needs: ['xdist'],
    args: ['-p', 'xdist.plugin', '-n2'],
    outcomes: {
      'lost in the middle': {
        test_needs_first: ['passed', 'failed', 'skipped'],
        test_needs_loses: ['failed', 'skipped'],
        test_needs_last: ['passed', 'failed', 'skipped'],
      },
      'proxy late': anyOf('passed', 'error'),
    },
  },
  {
    name: 'in several processes, with a wait and the timer of pytest-timeout',
    needs: ['xdist', 'pytest_timeout'],
    args: [...timer, '--timeout-method=thread', '-p', 'xdist.plugin', '-n2'],
    outcomes: {
      'lost in the middle': {
        test_needs_first: ['passed', 'failed', 'skipped'],
        test_needs_loses: ['failed', 'skipped'],
        test_needs_last: ['passed', 'failed', 'skipped'],
      },
    },
    waits: 1,
  },
  {
    name: 'in several processes, with reruns',
    needs: ['pytest_rerunfailures', 'xdist'],
    args: ['-p', 'xdist.plugin', '-n2', '-p', 'pytest_rerunfailures', '--reruns=1'],
    outcomes: {
      'lost in the middle': {
        test_needs_first: ['passed', 'skipped'],
        test_needs_loses: ['skipped'],
        test_needs_last: ['passed', 'skipped'],
      },
      'proxy late': anyOf('passed', 'error'),
    },
  },
  {
    name: 'with tests of asyncio',
    needs: ['pytest_asyncio'],
    args: ['-p', 'pytest_asyncio.plugin', '--asyncio-mode=auto'],
    files: {
      'test_z_asyncio.py': `
import asyncio, pytest

@pytest.mark.needs_fiber
async def test_needs_last_asyncio():
    await asyncio.sleep(0)

async def test_asyncio():
    await asyncio.sleep(0)
`,
    },
  },
  {
    name: 'with tests of unittest',
    needs: [],
    files: {
      'test_z_unittest.py': `
import unittest, pytest

class TestThem(unittest.TestCase):
    @pytest.mark.needs_fiber
    def test_needs_last_unittest(self):
        pass

    def test_unittest(self):
        pass
`,
    },
  },
  {
    name: 'with scenarios of pytest-bdd',
    needs: ['pytest_bdd'],
    args: ['-p', 'pytest_bdd.plugin'],
    files: {
      'jobs.feature': `
Feature: jobs
    Scenario: a job
        Given a fiber
        Then a job starts
`,
      'test_z_bdd.py': `
import pytest
from pytest_bdd import given, scenario, then

@pytest.mark.needs_fiber
@scenario("jobs.feature", "a job")
def test_needs_last_bdd():
    pass

@given("a fiber")
def a_fiber():
    pass

@then("a job starts")
def a_job_starts():
    pass
`,
    },
  },
  {
    name: 'under VCR.py, which records new requests',
    needs: ['vcr'],
    files: {
      'conftest.py': `
import pytest, vcr

recorder = vcr.VCR(record_mode="new_episodes")

@pytest.fixture(scope="session", autouse=True)
def of_the_session():
    with recorder.use_cassette("session.yaml"):
        yield

@pytest.fixture(autouse=True)
def of_the_test(of_the_session):
    with recorder.use_cassette("test.yaml"):
        yield
`,
    },
    // It serves the second configure from its recording of the first.
    outcomes: { 'lost in the middle': { test_needs_loses: ['passed'] } },
    records: 'test.yaml',
  },
  {
    name: 'under VCR.py, which blocks new requests',
    needs: ['vcr'],
    files: {
      'client.py': MOCKED_CLIENT,
      'conftest.py': `
import pytest, vcr

@pytest.fixture(scope="session", autouse=True)
def recorded():
    with vcr.use_cassette("session.yaml", record_mode="none"):
        yield
`,
    },
  },
  {
    name: 'under HTTPretty',
    needs: ['httpretty'],
    files: {
      'client.py': MOCKED_CLIENT,
      'conftest.py': `
import httpretty, pytest

httpretty.enable(verbose=False, allow_net_connect=False)
`,
    },
  },
  {
    name: 'with sockets that are blocked',
    needs: [],
    files: {
      'client.py': MOCKED_CLIENT,
      'conftest.py': `
import http.client, select, selectors, socket, ssl, time, urllib.request
import pytest

def blocked(*args, **kwargs):
    pytest.fail("a test must not use the network")

class Blocked(socket.socket):
    __init__ = __new__ = blocked

patch = pytest.MonkeyPatch()
for name in ("connect", "connect_ex", "send", "sendall", "recv", "recv_into"):
    patch.setattr(socket.socket, name, blocked)
for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname"):
    patch.setattr(socket, name, Blocked if name == "socket" else blocked)
patch.setattr(http.client, "HTTPConnection", blocked)
patch.setattr(urllib.request, "build_opener", blocked)
patch.setattr(urllib.request, "urlopen", blocked)
patch.setattr(ssl, "create_default_context", blocked)
`,
    },
  },
  {
    name: 'with sockets that an audit hook reports',
    needs: [],
    files: {
      'client.py': MOCKED_CLIENT,
      'conftest.py': `
import sys
import pytest

def report(event, args):
    if event.startswith("socket."):
        pytest.fail("a test must not use the network")

sys.addaudithook(report)
`,
    },
    // Such a hook affects every request, so the proxy is unreachable throughout.
    outcomes: {
      connected: anyOf('error'),
      missing: anyOf('error'),
      'lost in the middle': anyOf('error'),
      'proxy late': anyOf('error'),
    },
  },
  {
    name: 'with a frozen clock',
    needs: ['freezegun'],
    files: {
      'client.py': MOCKED_CLIENT,
      'conftest.py': `
import freezegun

freezegun.freeze_time("2026-01-01").start()
`,
    },
    args: [wait],
    waits: 1,
  },
  {
    name: 'with the greenlets of gevent',
    needs: ['gevent'],
    files: {
      'conftest.py': `
from gevent import monkey

monkey.patch_all()
`,
    },
  },
]

const JOB = `
import os, sys
from pytest_focus_breaker.refusal import refusal_of
from signals import signal

url = os.environ["FOCUS_BREAKER_URL"] + "/configure"
job = {"displayInfo": {"height": 200}, "channels": {"min": 11, "max": 31}, "nfftSelection": 1024,
       "frequencyRange": {"min": 0, "max": 1000}, "displayTimeAxisDuration": 30, "view_type": "0"}
`

/** Exit codes of these programs: 10 for a refusal, 11 for a missing proxy. */
const codes = {
  connected: 0,
  missing: 10,
  'lost in the middle': 10,
  'proxy gone': 11,
  'proxy late': 0,
} as const

/** Clients that recognise a refusal. */
export const programRows: readonly ProgramRow[] = [
  {
    name: 'a session of requests with RefusalAwareRetry',
    needs: ['requests'],
    files: {
      'program.py': `
import os, sys
import requests
from requests.adapters import HTTPAdapter
from pytest_focus_breaker.retry import RefusalAwareRetry
from signals import signal

session = requests.Session()
session.trust_env = False
retry = RefusalAwareRetry(total=3, backoff_factor=0.1, status_forcelist=[502, 503, 504], allowed_methods=None)
session.mount("http://", HTTPAdapter(max_retries=retry))
job = {"displayInfo": {"height": 200}, "channels": {"min": 11, "max": 31}, "nfftSelection": 1024,
       "frequencyRange": {"min": 0, "max": 1000}, "displayTimeAxisDuration": 30, "view_type": "0"}

for place in ("begun", "lost"):
    signal(place)
    try:
        answer = session.post(os.environ["FOCUS_BREAKER_URL"] + "/configure", json=job, timeout=20)
    except requests.ConnectionError:
        sys.exit(11)
    if answer.status_code == 503 and answer.json()["status"] == "waiting_for_fiber":
        sys.exit(10)
    assert answer.status_code == 200, answer.text
`,
    },
    args: ['program.py'],
    codes: { connected: 0, missing: 10, 'lost in the middle': 10, 'proxy gone': 11, 'proxy late': 0 },
  },
  {
    name: 'a client of httpx',
    needs: ['httpx'],
    files: {
      'program.py': `${JOB}
import httpx
from pytest_focus_breaker.httpx import RefusalAwareTransport

with httpx.Client(transport=RefusalAwareTransport(), timeout=20) as client:
    for place in ("begun", "lost"):
        signal(place)
        try:
            answer = client.post(url, json=job)
        except httpx.TransportError:
            sys.exit(11)
        if refusal_of(answer.headers) == "waiting for fiber":
            sys.exit(10)
        assert answer.status_code == 200, answer.text
`,
    },
    args: ['program.py'],
    codes,
  },
  {
    name: 'a client of httpx with asyncio',
    needs: ['httpx'],
    files: {
      'program.py': `${JOB}
import asyncio
import httpx
from pytest_focus_breaker.httpx import AsyncRefusalAwareTransport

async def main():
    async with httpx.AsyncClient(transport=AsyncRefusalAwareTransport(), timeout=20) as client:
        for place in ("begun", "lost"):
            await asyncio.to_thread(signal, place)
            try:
                answer = await client.post(url, json=job)
            except httpx.TransportError:
                return 11
            if refusal_of(answer.headers) == "waiting for fiber":
                return 10
            assert answer.status_code == 200, answer.text

sys.exit(asyncio.run(main()))
`,
    },
    args: ['program.py'],
    codes,
  },
  {
    name: 'a client of aiohttp',
    needs: ['aiohttp'],
    files: {
      'program.py': `${JOB}
import asyncio
import aiohttp
from pytest_focus_breaker.aiohttp import RefusalAwareSession

async def main():
    async with RefusalAwareSession(aiohttp.ClientSession()) as client:
        for place in ("begun", "lost"):
            await asyncio.to_thread(signal, place)
            try:
                async with client.post(url, json=job) as answer:
                    if refusal_of(answer.headers) == "waiting for fiber":
                        return 10
                    assert answer.status == 200, await answer.text()
            except aiohttp.ClientConnectionError:
                return 11

sys.exit(asyncio.run(main()))
`,
    },
    args: ['program.py'],
    codes,
  },
  {
    name: 'a load test of Locust',
    needs: ['locust'],
    files: {
      'locustfile.py': `${JOB}
import pytest_focus_breaker.locust
from locust import HttpUser, constant, events, task
from pytest_focus_breaker.locust import FiberAware

# Three questions without a response end within the run.
pytest_focus_breaker.locust.POLL_SECONDS = 0.3

class User(FiberAware, HttpUser):
    host = os.environ["FOCUS_BREAKER_URL"]
    wait_time = constant(0.2)
    parked_exit_code = 10
    configures = 0

    @task
    def configure(self):
        if self.configures == 1:
            signal("lost")
        self.configures += 1
        self.client.post("/configure", json=job)

@events.init.add_listener
def begin(**_):
    signal("begun")
`,
    },
    args: ['-m', 'locust', '--headless', '--only-summary', '-u', '1', '-t', '4s', '--stop-timeout', '2'],
    // Without a proxy the users continue, and their requests fail.
    codes: { ...codes, 'proxy gone': 1 },
  },
]

function anyOf(...outcomes: readonly Outcome[]): Readonly<Record<string, readonly Outcome[]>> {
  return { test_needs_first: outcomes, test_needs_loses: outcomes, test_needs_last: outcomes }
}
