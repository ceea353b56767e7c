"""Messages that a page could send: commands, broken commands, and anything else that is JSON."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

_KEYS = ("v", "id", "name", "body", "text", "runtime", "turn", "__proto__", "__class__", "", "\x00")
_TEXTS = (
    *("", " ", "0", "-1", "1e9", "nan", "\u0663", "0x10", "6GiB", "auto", "\x00", "\ud800"),
    *("__proto__", "../../etc/passwd", "path:", "path:\x00", "a/b@c", "hf:", "@", "~", "\u202e"),
    *("<script>alert(1)</script>", "{0.__class__}", "%s%n", "\x1b[2J", "\ufdfd" * 40, "x" * 5_000),
)
_NUMBERS = (0, 1, -1, 2, 0.5, -0.0, 2**53 + 1, 10**400, 1e308, float("nan"), float("inf"))
_DEEPEST = 300


class Fuzzer:
    """Makes one message after the other, the same ones for the same seed.

    Parameters
    ----------
    commands
        A valid message of each command.
    known
        Texts that mean something to the kernel under test. Every text of a valid command is
        replaced, so that none names anything else.
    """

    def __init__(self, seed: int, commands: Sequence[Message], known: Sequence[str]) -> None:
        self._random = random.Random(seed)
        self._commands = commands
        self._texts = (*_TEXTS, *known * (len(_TEXTS) // len(known) + 1))
        self._count = 0

    def next(self) -> Any:
        """Give the next message."""
        draw = self._random.random()
        if draw < 0.2:
            return self._anything(4)
        message = self._command()
        if draw < 0.65:
            for _ in range(self._random.randint(1, 3)):
                self._break(message)
        return message

    def _command(self) -> Message:
        self._count += 1
        message = copy.deepcopy(self._random.choice(self._commands))
        message["id"] = f"fuzzed-{self._count}"
        for key, value in message["body"].items():
            if isinstance(value, bool):
                message["body"][key] = self._random.random() < 0.5
            elif key not in ("field", "preset"):
                message["body"][key] = self._random.choice(self._texts)
        return message

    def _break(self, message: Message) -> None:
        body = message.get("body")
        inside = isinstance(body, dict) and self._random.random() < 0.5
        place: Message = body if inside else message
        key = self._random.choice([*place, *_KEYS])
        if self._random.random() < 0.3:
            place.pop(key, None)
        else:
            place[key] = self._anything(2)

    def _anything(self, depth: int) -> Any:
        kind = self._random.randrange(7 if depth else 4)
        match kind:
            case 0:
                return self._random.choice((None, True, False))
            case 1:
                return self._random.choice(_NUMBERS)
            case 2 | 3:
                return self._random.choice(self._texts)
            case 4:
                return [self._anything(depth - 1) for _ in range(self._random.randint(0, 4))]
            case 5 if self._random.random() < 0.02:
                nested: Any = []
                for _ in range(_DEEPEST):
                    nested = [nested]
                return nested
            case _:
                keys = self._random.choices(_KEYS, k=self._random.randint(0, 4))
                return {key: self._anything(depth - 1) for key in keys}
