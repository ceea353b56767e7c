"""Run contenders one at a time, each in a process of its own with a time limit.

A script lists its contenders and calls `main`. Each result is a line of JSON, so that a run can
be continued in another, and its table printed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import machine
import shapes
from figures import Bench, Figures, Result, Results, as_result, read_results
from shapes import Shape

ROOT = Path(__file__).resolve().parents[2]
_MARK = "RESULT "
_MAKE_LIMIT_S = 200


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of a benchmark.

    Parameters
    ----------
    name, title
        On the command line, and in the table.
    run
        Measures, in a process of its own.
    shape
        The checkpoint that must be there.
    limit_s
        Seconds after which it is killed.
    needs_gpu
        Left out where there is no GPU.
    large
        Run only when it is named, or ``--large`` is given.
    """

    name: str
    title: str
    run: Callable[[Bench], Figures]
    shape: Shape
    limit_s: int = 100
    needs_gpu: bool = False
    large: bool = False


def main(
    doc: str | None,
    contenders: Sequence[Contender],
    table: Callable[[Results, Bench], str],
    *,
    prefix: str,
    cpu_only: bool = False,
) -> None:
    """Read the command line, run what it names, and print the table.

    Parameters
    ----------
    table
        Makes the table of all results so far.
    prefix
        Of the file of results in the bench folder.
    cpu_only
        Leave a GPU alone.
    """
    options = _options(doc, contenders)
    bench = Bench(options.dir, options.quick, options.tiny, cpu_only)
    by_name = {contender.name: contender for contender in contenders}
    if options.child:
        _be_child(by_name[options.child], bench, making=options.make)
        return
    bench.folder.mkdir(parents=True, exist_ok=True)
    file = f"{'tiny-' * bench.tiny}{prefix}results.jsonl"
    path = options.reprint or options.results or bench.folder / file
    if not options.reprint:
        _run_all(_chosen(contenders, options, path), bench, path, options)
    results = read_results(path)
    print(f"\n{_heading(results)}\n{table(results, bench)}", flush=True)


def _options(doc: str | None, contenders: Sequence[Contender]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [contender.name for contender in contenders]
    parser.add_argument("contenders", nargs="*", help=f"of {', '.join(names)}; all by default")
    default = os.environ.get("OLLM_BENCH_DIR") or Path(tempfile.gettempdir()) / "ollm-bench"
    parser.add_argument("--dir", type=Path, default=Path(default), help="OLLM_BENCH_DIR")
    parser.add_argument("--quick", action="store_true", help="a quarter of the tokens")
    parser.add_argument(
        "--tiny", action="store_true", help="toy shapes: shows that it works, measures nothing"
    )
    parser.add_argument("--limit", type=int, default=0, help="seconds for each contender")
    parser.add_argument(
        "--total", type=int, default=570, help="seconds after which no contender starts or runs on"
    )
    parser.add_argument("--results", type=Path, help="file of JSON lines to continue")
    parser.add_argument(
        "--missing", action="store_true", help="run what the file of results has no figures of"
    )
    parser.add_argument("--large", action="store_true", help="the large contenders too")
    parser.add_argument(
        "--from", dest="reprint", type=Path, metavar="RESULTS", help="only print the table again"
    )
    parser.add_argument("--child", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.contenders) - set(names):
        parser.error(f"no contender {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return options


def _chosen(
    contenders: Sequence[Contender], options: argparse.Namespace, path: Path
) -> list[Contender]:
    if options.contenders:
        return [each for each in contenders if each.name in options.contenders]
    done = read_results(path) if options.missing else {}
    return [
        each
        for each in contenders
        if (options.large or not each.large)
        and (each.name not in done or done[each.name].figures is None)
    ]


def _run_all(
    contenders: Sequence[Contender], bench: Bench, path: Path, options: argparse.Namespace
) -> None:
    end = time.monotonic() + options.total
    path.parent.mkdir(parents=True, exist_ok=True)
    for contender in contenders:
        if not shapes.is_made(bench.shape(contender.shape), bench.folder):
            limit_s = min(_MAKE_LIMIT_S, end - time.monotonic())
            made = _run_one(contender, bench, limit_s, options, "--make")
            _say(f"made {bench.shape(contender.shape).name}", made)
            if made.error:
                continue
        limit_s = min(options.limit or contender.limit_s, end - time.monotonic())
        result = _run_one(contender, bench, limit_s, options)
        with path.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(result)) + "\n")
        _say(contender.name, result)


def _run_one(
    contender: Contender,
    bench: Bench,
    limit_s: float,
    options: argparse.Namespace,
    *more: str,
) -> Result:
    """Run a contender in a process of its own, which does not outlive its limit."""
    if limit_s < 5:
        return Result(contender.name, None, "not run: no time left")
    command = [sys.executable, sys.argv[0], "--child", contender.name, "--dir", str(bench.folder)]
    command += ["--quick"] * options.quick + ["--tiny"] * options.tiny + list(more)
    start = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(bench),
            start_new_session=True,  # so that what it starts is killed with it
        )
        try:
            process.wait(limit_s)
            problem = "" if process.returncode == 0 else f"exit {process.returncode}"
        except subprocess.TimeoutExpired:
            problem = f"killed after {limit_s:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        lines = output.read().decode(errors="replace").splitlines()
    found = [line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)]
    wall_s = round(time.monotonic() - start, 1)
    if not found:
        last = [line for line in lines if line.strip()][-3:]
        error = f"{problem or 'no result'}: {' | '.join(last)}"
        return Result(contender.name, None, error[:1500], wall_s=wall_s)
    return dataclasses.replace(as_result(found[-1]), wall_s=wall_s)


def _be_child(contender: Contender, bench: Bench, *, making: bool) -> None:
    error, figures = "", None
    try:
        if making:
            shapes.make(bench.shape(contender.shape), bench.folder, bench.device)
            figures = Figures()
        elif contender.needs_gpu and not machine.has_gpu() and not bench.tiny:
            error = "needs a GPU"
        else:
            figures = contender.run(bench)
    except Exception as problem:
        traceback.print_exc()
        error = f"{type(problem).__name__}: {problem}"[:1500]
    at = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    result = Result(contender.name, figures, error, machine.describe(), at)
    print(_MARK + json.dumps(dataclasses.asdict(result)), flush=True)
    # A library's thread or a broken driver must not hold the process back.
    os._exit(0)


def _environment(bench: Bench) -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if bench.cpu_only else {}
    return {
        **os.environ,
        **hidden,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OLLM_CACHE_DIR": str(bench.folder / "cache"),
    }


def _say(name: str, result: Result) -> None:
    if result.figures is None:
        print(f"{name}: {result.error} ({result.wall_s:.1f} s)", flush=True)
        return
    shown = {each.name: getattr(result.figures, each.name) for each in dataclasses.fields(Figures)}
    text = ", ".join(f"{name} {_brief(value)}" for name, value in shown.items() if value)
    print(f"{name}: {text} ({result.wall_s:.1f} s)", flush=True)


def _brief(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_brief(each)}" for name, each in value.items())
    if isinstance(value, tuple | list):
        return "/".join(_brief(each) for each in value)
    return f"{value:.4g}" if isinstance(value, float | int) else str(value)


def _heading(results: Results) -> str:
    lines = {f"{each.machine}; {each.at[:10]}" for each in results.values() if each.machine}
    return "\n".join(sorted(lines))
