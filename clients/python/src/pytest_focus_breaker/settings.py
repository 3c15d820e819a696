"""The options of the plugin: each is a flag, and an ini option with underscores instead of hyphens."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from typing import Optional

import pytest

from pytest_focus_breaker.names import split_patterns
from pytest_focus_breaker.url import EXPECTED, ProxyUrl, read_url

# A longer wait is a mistake.
MAX_WAIT_SECONDS = 86_400

_HELP = {
    "url": "the URL of focus-breaker, such as http://focus-breaker:8080, with focus-server's prefix if it "
    "has one; or FOCUS_BREAKER_URL (default: none; no test is skipped)",
    "missing": "what to do with tests that need the fiber while it is missing: skip, fail, or "
    "wait=SECONDS to wait once per outage and then skip (default: skip)",
    "unreachable": "what to do with them if focus-breaker does not respond: fail, skip or run "
    "(default: fail)",
    "all-skipped": "ok, or exitN such as exit9: the exit status if no test ran and this plugin skipped at "
    "least one; pytest itself uses 0 to 5 (default: ok)",
    "unmarked": "list: the summary lists tests without needs_fiber whose requests were refused; or "
    "ignore (default: ignore)",
    "max-age": "how many seconds an answer of focus-breaker is used (default: 3)",
    "admin-token": "the proxy's admin token, for focus_outage; FOCUS_BREAKER_ADMIN_TOKEN is safer, because "
    "other users can read a command line",
}
_METAVARS = {
    "url": "URL",
    "missing": "WHAT",
    "unreachable": "WHAT",
    "all-skipped": "WHAT",
    "unmarked": "WHAT",
    "max-age": "SECONDS",
    "admin-token": "TOKEN",
}
# The proxy reads every FOCUS_BREAKER_… variable as one of its options, so there are only these two.
_VARIABLES = {"url": "FOCUS_BREAKER_URL", "admin-token": "FOCUS_BREAKER_ADMIN_TOKEN"}

NAMES_INI = "focus_breaker_needs_fiber"


@dataclass(frozen=True)
class Settings:
    """The options as the plugin uses them."""

    url: Optional[ProxyUrl]
    insecure: bool
    # `skip` or `fail`: what to do when the wait has ended.
    missing: str
    wait_seconds: float
    unreachable: str
    all_skipped_exit: Optional[int]
    lists_unmarked: bool
    max_age_seconds: float
    # Not in the representation, which --showlocals may print.
    admin_token: Optional[str] = field(repr=False)


def add_options(parser: pytest.Parser) -> None:
    """Adds the flags and the ini options."""
    group = parser.getgroup("focus-breaker", "tests that need focus-server's fiber")
    for name, text in _HELP.items():
        # The text as given: pytest-xdist sends only plain values to its workers.
        group.addoption(f"--focus-breaker-{name}", metavar=_METAVARS[name], default=None, help=text)
        parser.addini(_ini(name), text, default="")
    insecure = "accept any certificate of an https URL"
    group.addoption("--focus-breaker-insecure", action="store_true", default=False, help=insecure)
    parser.addini("focus_breaker_insecure", insecure, default="")
    # Not of the type `args`, which drops backslashes, and quotes that are part of a name.
    parser.addini(
        NAMES_INI,
        "tests that need the fiber, as if marked needs_fiber, by name, id, file, folder or pattern: "
        "test_configure_* tests/load tests/test_x.py::test_wf[1]; the last match counts, and !NAME excludes",
        default="",
    )


def read_settings(config: pytest.Config) -> Settings:
    """Reads the options; a pytest.UsageError names an invalid one."""
    missing, wait_seconds = _missing(*_given(config, "missing"))
    return Settings(
        url=_url(*_given(config, "url")),
        insecure=config.getoption("--focus-breaker-insecure") or _flag(config, "focus_breaker_insecure"),
        missing=missing,
        wait_seconds=wait_seconds,
        unreachable=_choice(*_given(config, "unreachable"), ("fail", "skip", "run")),
        all_skipped_exit=_exit_status(*_given(config, "all-skipped")),
        lists_unmarked=_choice(*_given(config, "unmarked"), ("ignore", "list")) == "list",
        max_age_seconds=_max_age(*_given(config, "max-age")),
        admin_token=_token(*_given(config, "admin-token")),
    )


def _ini(name: str) -> str:
    return f"focus_breaker_{name.replace('-', '_')}"


def _given(config: pytest.Config, name: str) -> tuple[str, str]:
    """Returns where an option was set, for messages, and its text, which is empty if it was not set."""
    flag = f"--focus-breaker-{name}"
    value = config.getoption(flag)
    if value is not None:
        return flag, value.strip()
    variable = _VARIABLES.get(name, "")
    value = os.environ.get(variable, "").strip()
    if value:
        return variable, value
    ini = _ini(name)
    value = _ini_value(config, ini)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _usage(_source(ini), "a text or a number", _kind(name, value))
    return _source(ini), str(value).strip()


def _flag(config: pytest.Config, ini: str) -> bool:
    value = _ini_value(config, ini)
    text = str(value).strip().lower()
    if isinstance(value, (bool, str, int)) and text in ("", "0", "no", "off", "false"):
        return False
    if isinstance(value, (bool, str, int)) and text in ("1", "yes", "on", "true"):
        return True
    raise _usage(_source(ini), "true or false", repr(value))


def read_patterns(config: pytest.Config) -> list[str]:
    """Reads the patterns of the tests that need the fiber; a pytest.UsageError if they are not texts."""
    value = _ini_value(config, NAMES_INI)
    if isinstance(value, str):
        return split_patterns(value)
    if not isinstance(value, list):
        raise _usage(_source(NAMES_INI), "a list of texts", repr(value))
    for index, pattern in enumerate(value):
        if not isinstance(pattern, str):
            raise _usage(f"{_source(NAMES_INI)}[{index}]", "a text", repr(pattern))
    return [pattern.strip() for pattern in value if pattern.strip().strip("!")]


def _ini_value(config: pytest.Config, ini: str) -> object:
    """Returns the value in the file. With native TOML, pytest 9 raises if it has another type."""
    try:
        return config.getini(ini)
    except TypeError as error:
        # Not public.
        files = getattr(config, "_inicfg", None)
        if isinstance(files, dict) and ini in files:
            return getattr(files[ini], "value", files[ini])
        raise pytest.UsageError(str(error)) from None


def _source(ini: str) -> str:
    return f"ini option {ini}"


def _kind(name: str, value: object) -> str:
    return f"a {type(value).__name__}" if name in ("url", "admin-token") else repr(value)


def _usage(source: str, expected: str, given: str) -> pytest.UsageError:
    return pytest.UsageError(f"{source}: expected {expected}, given {given}")


def _url(source: str, text: str) -> Optional[ProxyUrl]:
    if not text:
        return None
    try:
        return read_url(text)
    except ValueError as error:
        raise _usage(source, EXPECTED, str(error)) from None


def _missing(source: str, text: str) -> tuple[str, float]:
    if text in ("", "skip"):
        return "skip", 0.0
    if text == "fail":
        return "fail", 0.0
    wait = re.fullmatch(r"wait=(\d+(?:\.\d+)?)s?", text)
    if wait is None or not 0 < float(wait[1]) <= MAX_WAIT_SECONDS:
        expected = f"skip, fail, or wait=SECONDS with 1 to {MAX_WAIT_SECONDS} seconds"
        raise _usage(source, expected, repr(text))
    return "skip", float(wait[1])


def _choice(source: str, text: str, choices: tuple[str, ...]) -> str:
    if text and text not in choices:
        raise _usage(source, f"one of {', '.join(choices)}", repr(text))
    return text or choices[0]


def _exit_status(source: str, text: str) -> Optional[int]:
    if text in ("", "ok"):
        return None
    match = re.fullmatch(r"exit(\d{1,3})", text)
    if match is None or not 1 <= int(match[1]) <= 255:
        raise _usage(source, "ok, or exitN with N from 1 to 255, like exit9", repr(text))
    return int(match[1])


def _max_age(source: str, text: str) -> float:
    try:
        seconds = float(text or "3")
    except ValueError:
        seconds = math.nan
    # NaN is in no range.
    if not 0 <= seconds <= 3600:
        raise _usage(source, "seconds from 0 to 3600", repr(text))
    return seconds


def _token(source: str, text: str) -> Optional[str]:
    # The error of http.client would show a token that is not valid in a header.
    if text and re.fullmatch(r"[\x21-\x7e]+", text) is None:
        raise _usage(source, "the proxy's admin.token, ASCII without spaces", "another text, not shown here")
    return text or None
