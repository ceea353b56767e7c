"""Completion of what follows ``%ollm`` and ``%%ollm``, without network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from IPython.core.completer import SimpleCompletion, SimpleMatcherResult, context_matcher

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext
    from IPython.core.interactiveshell import InteractiveShell

# A magic, or a name that takes its result; of a cell, only the line with the cursor is looked at.
_LINE = re.compile(r"\s*(?:[\w.\[\]'\", ]+=\s*)?(%%?ollm\s.*)", re.DOTALL)
_IDENTIFIER = "ollm"


def add_completion(shell: InteractiveShell) -> None:
    """Complete arguments of the magics in `shell`."""

    # Unlike a `complete_command` hook, a matcher keeps Python's names out of the suggestions.
    @context_matcher(identifier=_IDENTIFIER)  # type: ignore[untyped-decorator]
    def complete(context: CompletionContext) -> SimpleMatcherResult:
        found = _LINE.match(context.text_until_cursor)
        if found is None:
            return SimpleMatcherResult(completions=[], suppress=False)
        typed, words = suggest(found[1], shell.user_ns)
        return SimpleMatcherResult(
            completions=[SimpleCompletion(text=word) for word in words],
            matched_fragment=typed,
            ordered=True,
            suppress=bool(words),
        )

    remove_completion(shell)
    shell.Completer.custom_matchers.append(complete)


def remove_completion(shell: InteractiveShell) -> None:
    """Take the completion away again."""
    matchers = shell.Completer.custom_matchers
    matchers[:] = [
        each for each in matchers if getattr(each, "matcher_identifier", "") != _IDENTIFIER
    ]


def suggest(line: str, variables: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the word that stands at the end of `line`, and words that begin so.

    Parameters
    ----------
    line
        What stands before the cursor, from the magic on.
    variables
        The notebook's.
    """
    from ollm_widgets.notebook.suggestions import words_for

    typed = re.split(r"[\s=]", line)[-1]
    words = words_for(line, variables)
    fitting = [word for word in words if word.startswith(typed)]
    folded = typed.casefold()
    return typed, fitting or [word for word in words if word.casefold().startswith(folded)]
