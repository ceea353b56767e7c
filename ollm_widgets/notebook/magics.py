"""``%ollm`` and ``%%ollm``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class

if TYPE_CHECKING:
    from ollm_widgets.notebook.commands import Commands


@magics_class
class OllmMagics(Magics):
    """The magics; what they do is in `commands`, imported when one is first used."""

    @line_cell_magic
    def ollm(self, line: str, cell: str | None = None) -> Any:
        """Run language models in this kernel.

        %ollm                       open the workbench
        %ollm plan MODEL [--why]    what would run, does it fit, how fast
        %ollm load MODEL            load it; returns the runtime
        %ollm list                  the catalog, and models on this machine
        %ollm search WORDS          models on this machine and on the hub
        %ollm info [MODEL]          what a model is and can do
        %ollm download MODEL        bring its files to this machine
        %ollm rm MODEL              delete its files; asks first
        %ollm unload [MODEL]        give its memory back
        %ollm kv [list|info|rm]     what prompts have left on disk
        %ollm doctor [--measure]    what this machine is, and what to mend

        %%ollm [MODEL] [--into NAME] [--max-new-tokens N] [--temperature T]
        Send the cell to the model and stream its answer.

        MODEL is an alias (smollm2-135m), a hub id (org/name), a folder or a GGUF file.
        %ollm --help, %ollm load --help and %%ollm --help list all options.
        """
        from ollm_widgets.errors import OllmError
        from ollm_widgets.notebook.arguments import HelpShown

        try:
            if cell is None:
                return self._commands().line(line)
            return self._commands().cell(line, cell)
        except HelpShown:
            return None
        except OllmError as error:
            # IPython shows a UsageError as one line, without a traceback.
            raise UsageError(str(error)) from error

    def _commands(self) -> Commands:
        from ollm_widgets.notebook.commands import Commands
        from ollm_widgets.session.session import default_session

        if self.shell is None:
            raise UsageError("%ollm needs a running IPython shell.")
        return Commands(self.shell, default_session())
