"""Run every scenario of `benchmarks/scenarios` and put the results where people read them.

    python benchmarks/run_all.py MODEL                   # all of them, about an hour on two quiet cores
    python benchmarks/run_all.py MODEL --only photo      # one; repeatable
    python benchmarks/run_all.py --only cost-curves      # one that needs no MODEL
    python benchmarks/run_all.py --list                  # names, what they do and how long they take
    python benchmarks/run_all.py --pages                 # measure nothing: write the pages again from the results
    python benchmarks/run_all.py --agree DIR             # what came of a second run into DIR beside the results

MODEL is a bundle, as `sr-deploy export CHECKPOINT --fp16 --int8` makes it; scripts that bring their own network need
none. A scenario is a TOML file: either a
`[bench]` table with the arguments of `sr-deploy bench`, or a `[script]` table with the words that start another script
of this folder and the name of what it writes. Results go to `results/NAME.json` and `NAME.md`; the table of the README
and the tables of docs/benchmarking.md are rewritten from them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agreement import write_agreement
from bench_pages import RESULTS, update_pages, write_tables
from pydantic import BaseModel, model_validator

from sr_deploy.backends.registry import get_backend
from sr_deploy.bench.choices import parse_candidate
from sr_deploy.bench.report import BenchReport
from sr_deploy.config import load_config
from sr_deploy.files import write_text

FOLDER = Path(__file__).parent
MODEL = "{model}"


class _Section(BaseModel, frozen=True, extra="forbid"):
    """Part of a scenario's file."""


class BenchArguments(_Section):
    """What `sr-deploy bench` is given."""

    shapes: tuple[str, ...]
    """Inputs, each `NxHxW`."""
    backends: tuple[str, ...]
    """Candidates beside the baseline; what does not run on a machine is named in the results. PyTorch in BF16 is left
    out where it has no instructions for it and takes a minute for a frame."""
    seconds: float
    """For the rounds of each candidate and shape."""


class ScriptArguments(_Section):
    """Another script of this folder."""

    words: tuple[str, ...]
    """Its name and arguments; `{model}` stands for the model."""
    results: str
    """Name of the files that it writes into `results`, without suffix."""


class Scenario(_Section):
    """Something that people do, to be measured."""

    description: str
    """What it is, in one line."""
    model: str | None = None
    """In place of the model on the command line."""
    minutes: float
    """How long it takes on two cores, about."""
    bench: BenchArguments | None = None
    """Either this..."""
    script: ScriptArguments | None = None
    """... or this."""

    @property
    def needs_model(self) -> bool:
        """Whether it measures the model on the command line."""
        return self.model is None and (self.script is None or MODEL in self.script.words)

    @model_validator(mode="after")
    def _one_of_two(self) -> Scenario:
        if (self.bench is None) == (self.script is None):
            raise ValueError("a scenario has either [bench] or [script]")
        return self


def read_scenarios(folder: Path = FOLDER / "scenarios") -> dict[str, Scenario]:
    """All scenarios, by name."""
    return {path.stem: load_config(path, Scenario) for path in sorted(folder.glob("*.toml"))}


def make_command(scenario: Scenario, model: str, out: Path) -> list[str]:
    """What runs it; `sr-deploy bench` prints its report, a script writes its results into `out`."""
    if scenario.script is not None:
        name, *words = scenario.script.words
        given = [model if word == MODEL else word for word in words]
        return [sys.executable, str(FOLDER / name), *given, "--out", str(out)]
    assert scenario.bench is not None  # one of the two, as validated
    command = [sys.executable, "-m", "sr_deploy", "bench", model, "--json", "--seconds", f"{scenario.bench.seconds:g}"]
    choices = {one: parse_candidate(one).backend for one in scenario.bench.backends}
    backends = [one for one, choice in choices.items() if get_backend(choice.backend).why_untimed(choice) is None]
    for option, values in (("--shape", scenario.bench.shapes), ("--backend", backends)):
        command += [word for value in values for word in (option, value)]
    return command


def run_scenario(name: str, scenario: Scenario, model: Path, out: Path) -> None:
    """Run it and write its results; a scenario that needs no model takes any path."""
    print(f"{name}: {scenario.description} (about {scenario.minutes:g} min)", file=sys.stderr, flush=True)
    # Where the model lies, so that no other folder of this machine is named in the results.
    command = make_command(scenario, scenario.model or model.name, out)
    prints = scenario.bench is not None
    done = subprocess.run(
        command, cwd=model.parent, check=True, text=True, stdout=subprocess.PIPE if prints else sys.stderr
    )
    if prints:
        report = BenchReport.model_validate_json(done.stdout)
        write_text(out / f"{name}.json", report.model_dump_json(indent=2) + "\n")
        write_tables([name], out)


def choose(scenarios: Mapping[str, Scenario], only: Sequence[str]) -> dict[str, Scenario]:
    """Those that were asked for; all if none was."""
    unknown = sorted(set(only) - set(scenarios))
    if unknown:
        raise SystemExit(f"no scenario named {', '.join(unknown)}; known: {', '.join(scenarios)}")
    return {name: one for name, one in scenarios.items() if not only or name in only}


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a bundle with fp32, fp16 and int8 graphs")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this scenario; repeatable")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--pages", action="store_true", help="write the pages again; measure nothing")
    parser.add_argument("--agree", type=Path, metavar="DIR", help="compare with a second run; measure nothing")
    options = parser.parse_args()
    scenarios = choose(read_scenarios(), options.only)
    if options.list:
        for name, scenario in scenarios.items():
            print(f"{name:16} {scenario.minutes:4g} min  {scenario.description}")
        return
    if options.agree is not None:
        write_agreement(RESULTS, options.agree, [name for name, one in scenarios.items() if one.bench is not None])
        return
    out = options.out.resolve()
    benches = {name: one.description for name, one in read_scenarios().items() if one.bench is not None}
    if options.pages:
        write_tables(benches, out)
    else:
        if options.model is None and any(one.needs_model for one in scenarios.values()):
            parser.error("which MODEL? a bundle, as sr-deploy export makes it")
        out.mkdir(parents=True, exist_ok=True)
        for name, scenario in scenarios.items():
            run_scenario(name, scenario, (options.model or FOLDER).resolve(), out)
    if out == RESULTS.resolve():  # results elsewhere are for --compare
        update_pages(benches)


if __name__ == "__main__":
    main()
