"""The engine beside its peers: llama.cpp, transformers and vLLM on the same weights, measured in turn in one run.

Environment: `QUICK=1` a short form, `CASES=decode-1,prefill-512` some cases, `PEERS=llama` some peers (llama,
transformers, vllm; `none` for none), `THREADS=2` some thread counts. Rows of other cases stay in the results file, so
a run may be cut into pieces.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import generation
import report
import whole
from bench import Bench
from chart import chart
from prepare import Artefacts
from probe import Probe
from rich.console import Console
from sides import FAMILIES, Crew

NAMES: Final = (
    "agreement",
    *generation.CASES,
    *(name for name in whole.CASES if name != "agreement"),
)


class BadOption(Exception):
    """An environment variable that cannot be honoured: its name, its value and what is known."""


@dataclass(frozen=True)
class Options:
    """What to run."""

    quick: bool
    cases: tuple[str, ...]
    families: frozenset[str]
    threads: tuple[int, ...]

    @classmethod
    def read(cls, environment: Mapping[str, str], cores: int) -> Options:
        """From environment variables. Raises BadOption."""
        quick = bool(environment.get("QUICK"))
        # Starting vLLM takes as long as the rest of a quick run.
        usual = [family for family in FAMILIES if not (quick and family == "vllm")]
        usual_cases = [name for name in NAMES if not (quick and name in generation.NOT_QUICK)]
        counts = [2] if quick else [2, 1]
        threads = _choice(environment, "THREADS", list(map(str, counts)), list(map(str, range(1, cores + 1))))
        return cls(
            quick=quick,
            cases=_choice(environment, "CASES", usual_cases, NAMES),
            families=frozenset(_choice(environment, "PEERS", usual, [*FAMILIES, "none"])),
            threads=tuple(sorted({min(int(count), cores) for count in threads}, reverse=True)),
        )


def _choice(environment: Mapping[str, str], name: str, usual: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    asked = [word for word in environment.get(name, "").replace(",", " ").split() if word]
    known = tuple(known)
    if unknown := [word for word in asked if word not in known]:
        raise BadOption(f"{name} ({unknown[0]}) must be of: {', '.join(known)}")
    return tuple(asked) or tuple(usual)


def selected(names: Iterable[str], threads: int, *, explicit: bool) -> list[str]:
    """The cases that make sense with so many threads; asked for by name, any does."""
    both = generation.ONE_THREAD | whole.ONE_THREAD
    return [name for name in names if explicit or threads > 1 or name in both]


def run(
    options: Options, bench: Bench, artefacts: Artefacts, *, explicit: bool
) -> Generator[list[report.Row], None, None]:
    """The rows of each case asked for, as they come."""
    logs = Path(tempfile.mkdtemp(prefix="flash-bench-logs-"))
    for threads in options.threads:
        crew = Crew(artefacts, threads, options.families, bench.console, logs)
        try:
            for name in selected(options.cases, threads, explicit=explicit):
                case = generation.CASES.get(name)
                yield case.run(bench, crew) if case else whole.CASES[name](bench, crew)
        finally:
            crew.close()


def main() -> int:
    console = Console()
    try:
        options = Options.read(os.environ, len(os.sched_getaffinity(0)))
    except BadOption as error:
        console.print(error, style="red", markup=False)
        return 2
    artefacts = Artefacts(console)
    bench = Bench(Probe(artefacts.probe), console, options.quick, repeats=3 if options.quick else 7)
    begin = time.monotonic()
    name = "engine-quick" if options.quick else "engine"
    titles = [*(case.title for case in generation.CASES.values()), *whole.TITLES]
    rows = report.load(name)
    with contextlib.closing(run(options, bench, artefacts, explicit=bool(os.environ.get("CASES")))) as measured:
        for fresh in measured:
            rows = report.merged(rows, fresh, titles)
            report.save(name, rows)  # an interrupted run keeps what it has
    report.publish(name, rows)
    chart(report.of_this_machine(rows), console)
    console.print(f"measured in {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
