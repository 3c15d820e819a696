"""Selects tests that need the fiber by name: the patterns of `focus_breaker_needs_fiber`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

# A word ends at a space, but not inside brackets: in `test_x[a b]` they are part of the name.
_WORD = re.compile(r"""!?(?:"([^"]*)"|'([^']*)')(?!\S)|(?:\[[^\]\n]*\]|\S)+""")


class Test:
    """The names of a test that patterns are compared with. `function` is its name without the parameters."""

    # Otherwise pytest collects the class as a test.
    __test__ = False

    def __init__(self, node_id: str, name: str, function: str) -> None:
        above = node_id[: -len(name)] if node_id.endswith(f"::{name}") else f"{node_id}::"
        path, *classes = above[:-2].split("::")
        places = path.split("/")
        first = ["", *["/"] * (len(places) - 1), *["::"] * (len(classes) + 1)]
        parts = list(zip(first, [*places, *classes, function]))
        last = [*parts[:-1], (parts[-1][0], name)]
        # The ids of the folders, the file, the classes, the test without its parameters, and the test.
        self.ids = [_joined(parts[: end + 1]) for end in range(len(parts))] + [_joined(last)]
        self.names = [function, name]
        # As shown in the heading of a failure.
        self.headings = [".".join([*classes, function]), ".".join([*classes, name])]
        # All of these, and their ends that start at the file, a class or the name.
        self.literals = {*self.ids, *self.headings}
        for whole in [*(parts[:end] for end in range(len(places), len(parts) + 1)), last]:
            self.literals |= {_joined(whole[start:]) for start in range(len(whole))}


def _joined(parts: Sequence[tuple[str, str]]) -> str:
    (_, first), *others = parts
    return first + "".join(separator + text for separator, text in others)


class Names:
    """
    The patterns, in order: the last one that matches a test counts, and one with a `!` excludes it.

    `root` is pytest's root folder, which a pasted path may start with.
    """

    def __init__(self, patterns: Sequence[str], root: str) -> None:
        self._patterns = [_Pattern(text, root) for text in patterns]
        self._has_seen_tests = False

    def needs_fiber(self, test: Test) -> bool:
        """Whether the patterns include the test."""
        self._has_seen_tests = True
        needs = False
        for pattern in self._patterns:
            if pattern.matches(test):
                needs = pattern.includes
        return needs

    @property
    def unused(self) -> list[str]:
        """The patterns that matched none of the tests; empty if there was no test."""
        return [pattern.text for pattern in self._patterns if self._has_seen_tests and not pattern.is_used]


def split_patterns(text: str) -> list[str]:
    """Splits the patterns of an ini file. A backslash is part of a Windows path and escapes nothing."""
    patterns = []
    for match in _WORD.finditer(text):
        quoted = match[1] if match[1] is not None else match[2]
        exclusion = "!" if quoted is not None and match[0].startswith("!") else ""
        patterns.append(match[0] if quoted is None else exclusion + quoted)
    return [pattern for pattern in patterns if pattern.strip("!")]


class _Pattern:
    """One pattern, compared in two ways: as the exact text of a name or an id, and with its wildcards."""

    def __init__(self, text: str, root: str) -> None:
        self.text = text
        self.includes = not text.startswith("!")
        self.is_used = False
        wanted = text if self.includes else text[1:]
        head, parameters = _split(wanted)
        head = _with_slashes(head, root)
        self._literals = {wanted, head + parameters}
        self._is_id = "/" in head or "::" in head or head.endswith(".py")
        self._is_heading = "." in head
        # The brackets of parameters are not a set of characters.
        glob = head + parameters.replace("[", "[[]")
        self._matches = re.compile(fnmatch.translate(glob)).match if head else None

    def matches(self, test: Test) -> bool:
        matches = not self._literals.isdisjoint(test.literals)
        if not matches and self._matches is not None:
            texts = test.ids if self._is_id else test.headings if self._is_heading else test.names
            matches = any(map(self._matches, texts))
        self.is_used = self.is_used or matches
        return matches


def _split(wanted: str) -> tuple[str, str]:
    """Splits off the parameters of a pattern: from the first bracket of the last part to the end."""
    depth = start = 0
    for index, character in enumerate(wanted):
        if character == "[":
            depth += 1
        elif character == "]":
            depth = max(0, depth - 1)
        elif depth == 0 and character in "/\\:":
            start = index + 1
    opened = wanted.find("[", start)
    if opened == -1 or not wanted.endswith("]"):
        return wanted, ""
    return wanted[:opened], wanted[opened:]


def _with_slashes(head: str, root: str) -> str:
    """Converts a path to an id: with slashes, below the root, without `./`, `../` and a trailing slash."""
    path = head.replace("\\", "/")
    root = root.replace("\\", "/").rstrip("/") + "/"
    if path.lower().startswith(root.lower()):
        path = path[len(root) :]
    return re.sub(r"^(?:\.{1,2}/)+", "", path).rstrip("/")
