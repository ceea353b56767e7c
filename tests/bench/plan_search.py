"""How long the placement of a hundred layers is looked for, as after each edit of a plan.

    python tests/bench/plan_search.py

Best of seven, in processor time; models of which all layers have one size, two, or each its own.
"""

from __future__ import annotations

import sys
import timeit
from pathlib import Path
from time import process_time

import machine
from table import Goal, Table

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.planning.search.layers import ROOMS, hundreds, place

_GOAL = Goal("ms", 50, "ms")


def main() -> None:
    """Measure, and print the table."""
    print(machine.describe())
    table = Table("model", "room on the GPU", "in RAM", "policy", "ms", "goal")
    for name, sizes in hundreds().items():
        for room in ROOMS:
            for policy in ("auto", "prefix"):
                took_s = timeit.repeat(
                    lambda sizes=sizes, room=room, policy=policy: place(sizes, room, policy),
                    number=1,
                    repeat=7,
                    timer=process_time,
                )
                ms = 1000 * min(took_s)
                shares = [f"{share:.0%}" for share in room]
                table.add(name, *shares, policy, f"{ms:.1f}", _GOAL.verdict(ms))
    print(table)


if __name__ == "__main__":
    main()
