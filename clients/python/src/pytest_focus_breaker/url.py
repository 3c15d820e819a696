"""Parses the URL of the proxy in the same way as the commands `check` and `wait` of focus-breaker."""

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
    """The URL of the proxy: `base` has no credentials, no `/-/` and no trailing slash."""

    base: str
    # Not in the representation, which --showlocals may print.
    authorization: Optional[str] = field(repr=False)


def read_url(text: str) -> ProxyUrl:
    """Parses a URL; a ValueError shows what was given, without credentials."""
    # Some parsers treat a backslash as a slash, others as part of the name.
    is_url = re.search(r"[^\x21-\x7e]|[\\?#]", text) is None
    host, port, why = "", None, ""
    parts = urlsplit("")
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        # Accessing it validates the port.
        port = parts.port
        place = parts.netloc.rpartition("@")[2]
        if "[" in place or "]" in place:
            host = str(ipaddress.IPv6Address(host))
            is_url = is_url and re.search(r"^\[[^]]*\](:\d*)?$", place) is not None
    except ValueError as error:
        is_url = False
        # The supposed port may be part of a password.
        why = "" if "@" in text else f" ({error})"
    if not is_url or parts.scheme not in ("http", "https") or not host or "%" in host or port == 0:
        raise ValueError(f"{without_credentials(text)!r}{why}")
    authority = f"[{host}]" if ":" in host else host
    if port is not None:
        authority += f":{port}"
    # The URL of the proxy's page is accepted too.
    path = re.sub(r"(/-)?/*$", "", parts.path)
    return ProxyUrl(f"{parts.scheme}://{authority}{path}", _authorization(parts.username, parts.password))


def without_credentials(text: str) -> str:
    """Returns `http://user:secret@host/` as `http://***@host/`, even if the secret makes the URL invalid."""
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", r"\1***@", text, flags=re.DOTALL)


def _authorization(user: Optional[str], password: Optional[str]) -> Optional[str]:
    """Returns the credentials as basic authentication (RFC 7617)."""
    if not user and not password:
        return None
    credentials = f"{unquote(user or '')}:{unquote(password or '')}"
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"
