"""Bring a model to this machine, saying what happens: ``prepare_model.py smollm2-135m``."""

import os
import sys

from ollm_widgets import RuntimeLoader
from ollm_widgets.backends.base import LoadProgress


def main(reference: str) -> int:
    os.environ["TQDM_DISABLE"] = "1"  # one line a stage is enough
    stages: set[str] = set()

    def show(progress: LoadProgress) -> None:
        if progress.stage not in stages:
            stages.add(progress.stage)
            print(f"   {progress.stage}", flush=True)

    print(f"== preparing {reference} (half a minute the first time)", flush=True)
    RuntimeLoader().download(reference, progress=show)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
