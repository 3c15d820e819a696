"""The URL of the proxy, read as the commands `check` and `wait` of focus-breaker read it."""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Optional
from urllib.parse import unquote, urlsplit

EXPECTED = "an http or https URL like http://focus-breaker:8080, without query or fragment"


@dataclass(frozen=True)
class ProxyUrl:
    """Where the proxy answers: `base` has no credentials, no `/-/` and no slash at its end."""

    base: str
    # Left out of the representation, which may be printed by --showlocals.
    authorization: Optional[str] = field(repr=False)


def read_url(text: str) -> ProxyUrl:
    """Reads a URL; a ValueError says what was given, without credentials."""
    # A backslash is a slash for some and a part of the name for others.
    is_url = re.search(r"[^\x21-\x7e]|[\\?#]", text) is None
    host, port, why = "", None, ""
    parts = urlsplit("")
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        # Reading it is what checks the port.
        port = parts.port
        place = parts.netloc.rpartition("@")[2]
        if "[" in place or "]" in place:
            host = str(ipaddress.IPv6Address(host))
            is_url = is_url and re.search(r"^\[[^]]*\](:\d*)?$", place) is not None
    except ValueError as error:
        is_url = False
        # What was taken for a port may be a part of a password.
        why = "" if "@" in text else f" ({error})"
    if not is_url or parts.scheme not in ("http", "https") or not host or "%" in host or port == 0:
        raise ValueError(f"{without_credentials(text)!r}{why}")
    authority = f"[{host}]" if ":" in host else host
    if port is not None:
        authority += f":{port}"
    # The address of its page will do as well.
    path = re.sub(r"(/-)?/*$", "", parts.path)
    return ProxyUrl(f"{parts.scheme}://{authority}{path}", _authorization(parts.username, parts.password))


def without_credentials(text: str) -> str:
    """`http://user:secret@host/` as `http://***@host/`, also where the secret makes it no URL."""
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", r"\1***@", text, flags=re.DOTALL)


def _authorization(user: Optional[str], password: Optional[str]) -> Optional[str]:
    """The credentials as basic authentication (RFC 7617)."""
    if not user and not password:
        return None
    credentials = f"{unquote(user or '')}:{unquote(password or '')}"
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"
