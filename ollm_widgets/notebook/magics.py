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
        %ollm list                  models in memory, of the catalog and on this machine
        %ollm search WORDS          models on this machine and on the hub
        %ollm info [MODEL]          what a model is and can do
        %ollm download MODEL        bring its files to this machine
        %ollm rm MODEL              delete its files; asks first
        %ollm memory                what is in memory, and how full that is
        %ollm unload [MODEL]        give its memory back; --force stops its answer, --all all
        %ollm pin|unpin [MODEL]     keep it in memory; let it leave again
        %ollm demote [MODEL]        move it from the GPU to RAM, until the next question
        %ollm config [NAME VALUE]   how many models stay in memory, and for how long
        %ollm kv [list|info|rm]     what prompts have left on disk
        %ollm doctor [--measure]    what this machine is, and what to mend

        %%ollm [MODEL]              send the cell to the model and stream its answer
               --fill               replace {expression} in the cell by its value
               --into NAME          keep the answer, with its figures, in a variable
               --chat NAME          go on with a conversation, a list in a variable
               --system TEXT        instruction before the question
               --image PATH         show it an image
               --max-new-tokens N, --temperature T, --top-p P, --top-k N, --seed N, --stop TEXT

        MODEL is an alias (smollm2-135m), a hub id (org/name), a folder or a GGUF file.
        %ollm --help, %ollm load --help and %%ollm --help list all options.
        """
        from ollm_widgets.errors import OllmError
        from ollm_widgets.notebook.arguments import HelpShown
        from ollm_widgets.render.text import printable

        try:
            if cell is None:
                return self._commands().line(line)
            return self._commands().cell(line, cell)
        except HelpShown:
            return None
        except KeyboardInterrupt:
            if cell is None:
                raise
            # Before the answer began, which ends in the same way.
            print("[stopped]")
            return None
        except OllmError as error:
            # IPython shows a UsageError as one line, without a traceback.
            raise UsageError(printable(str(error))) from error

    def _commands(self) -> Commands:
        from ollm_widgets.notebook.commands import Commands
        from ollm_widgets.session.session import default_session

        if self.shell is None:
            raise UsageError("%ollm needs a running IPython shell.")
        return Commands(self.shell, default_session())
