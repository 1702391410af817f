"""`flash`: what people type. Reads manifests, prints plans and findings; commands of local mode and of models join in.

Exit codes: 0 = all right, 1 = the manifest (or the file compared) is wrong, 2 = wrong options or unreadable files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from flash_api.manifest import Manifests
    from flash_api.problems import Problem

CRD_FOLDER: Final = Path("crds")
REFERENCE_FOLDER: Final = Path("docs/reference")
COMMANDS_GROUP: Final = "flashplane.commands"
"""Entry points that add commands to this program: the data plane's, which the control plane does not import."""
EXIT_WRONG: Final = 1
EXIT_USAGE: Final = 2

out = Console(highlight=False)
err = Console(highlight=False, stderr=True)

app = typer.Typer(
    name="flash",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Serve a Flash-class model from one manifest, on this machine or on a cluster.

    Start here:

    - `flash up -f examples/quickstart.yaml` serves it on this machine
    - `flash chat` talks to it
    - `flash lint -f FILE` says what is wrong with a manifest
    - `kubectl apply -f FILE` serves the same manifest on a cluster
    - `flash status` shows what is served here, `flash status --cluster` (or `kubectl flash status`) what a cluster does
    - `flash doctor` examines a cluster and says what to mend
    """,
)

Files = Annotated[
    list[Path],
    typer.Option(
        "--file", "-f", help="Manifest; - reads standard input. May be given more than once.", show_default=False
    ),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="For objects that name none.")]


class Format(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"


@app.command(rich_help_panel="Manifests")
def lint(
    file: Files,
    namespace: Namespace = "default",
    output: Annotated[Format, typer.Option("--output", "-o", help="text for people, json for tools.")] = Format.TEXT,
) -> None:
    """Check manifests as the API server would, without one.

    Every finding names the field, its value, the rule and what to write instead. A manifest that is valid but that this
    release cannot serve is a finding too.

    Example: flash lint -f examples/quickstart.yaml
    """
    from flash_operator.linting import unserved
    from flash_operator.sources import label

    found = [(path, _parse(path, namespace)) for path in file]
    problems = [
        problem for path, parsed in found for problem in (*parsed.problems, *unserved(parsed, file=label(path)))
    ]
    if output is Format.JSON:
        # Plain text, so that a long line is not wrapped.
        print(json.dumps([_as_json(problem) for problem in problems], indent=2))
    else:
        _print(problems)
        if not problems:
            deployments = sum(len(parsed.deployments) for _, parsed in found)
            models = sum(len(parsed.models) for _, parsed in found)
            said = (
                [f"{deployments} FlashDeployment{'s' if deployments != 1 else ''}"] if deployments or not models else []
            )
            said += [f"{models} FlashModel{'s' if models != 1 else ''}"] if models else []
            err.print(f"{' and '.join(said)}: no findings")
    raise typer.Exit(EXIT_WRONG if problems else 0)


@app.command(rich_help_panel="Manifests")
def plan(
    file: Files,
    namespace: Namespace = "default",
    name: Annotated[str | None, typer.Option(help="Only the FlashDeployment or FlashModel of this name.")] = None,
) -> None:
    """Print every object that the operator would make of a manifest, as YAML, without touching anything.

    Example: flash plan -f examples/quickstart.yaml | kubectl diff -f -
    """
    from flash_operator.linting import unserved
    from flash_operator.plan import PlanSettings, model_plan
    from flash_operator.plan import plan as plan_of
    from flash_operator.rendering import as_yaml
    from flash_operator.shared_model import shared_model
    from flash_operator.sources import label

    objects: list[Mapping[str, Any]] = []
    for path in file:
        parsed = _parse(path, namespace)
        problems = (*parsed.problems, *unserved(parsed, file=label(path)))
        if problems:
            _print(problems)
            raise typer.Exit(EXIT_WRONG)
        models = {(model.metadata.namespace, model.metadata.name): model for model in parsed.models}
        for model in models.values():
            if name in (None, model.metadata.name):
                objects += model_plan(model, PlanSettings()).objects
        for deployment in parsed.deployments:
            if name in (None, deployment.metadata.name):
                ref = deployment.spec.model.model_ref
                found = models.get((deployment.metadata.namespace, ref.name)) if ref is not None else None
                shared = shared_model(found) if found is not None else None
                objects += plan_of(deployment, PlanSettings(), shared=shared).objects
    if not objects:
        _fail(
            f"no FlashDeployment or FlashModel{f' called {name}' if name else ''} in {', '.join(map(label, file))}",
            EXIT_WRONG,
        )
    sys.stdout.write(as_yaml(objects))


@app.command(rich_help_panel="Manifests")
def crds(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when a file is out of date.")] = False,
    docs: Annotated[bool, typer.Option("--docs", help="The reference pages instead, into docs/reference.")] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Folder, or one .yaml file for all; - prints.", show_default="crds"),
    ] = None,
) -> None:
    """Write the CustomResourceDefinitions, or the reference pages, that the API's types define.

    Example: flash crds -f - | kubectl apply --server-side -f -
    """
    pages = _reference_pages() if docs else _definitions()
    target = file or (REFERENCE_FOLDER if docs else CRD_FOLDER)
    if str(target) == "-":
        sys.stdout.write("".join(pages.values()))
        return
    whole = target.suffix in (".yaml", ".yml")
    files = {target: "".join(pages.values())} if whole else {target / name: text for name, text in pages.items()}
    for path, text in files.items():
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            err.print(f"wrote {path}")
        elif not path.is_file() or path.read_text() != text:
            _fail(f"{path} is out of date: run flash crds{' --docs' * docs} and commit the result", EXIT_WRONG)


def _definitions() -> dict[str, str]:
    from flash_api.crd import RESOURCES, custom_resource_definition
    from flash_operator.rendering import as_yaml

    header = "# Generated by `flash crds` from operator/flash_api; change the types, not this file.\n"
    return {resource.file: f"{header}---\n{as_yaml([custom_resource_definition(resource)])}" for resource in RESOURCES}


def _reference_pages() -> dict[str, str]:
    from flash_api.reference import pages

    return pages()


def _parse(path: Path, namespace: str) -> Manifests:
    from flash_api.manifest import parse_manifests
    from flash_operator.sources import UnreadableError, label, manifest_text

    try:
        text = manifest_text(path)
    except UnreadableError as error:
        _fail(str(error), EXIT_USAGE)
    return parse_manifests(text, file=label(path), namespace=namespace)


def _print(problems: Sequence[Problem]) -> None:
    for problem in problems:
        line = Text()
        line.append(f"{problem.place}: ", style="dim")
        line.append(problem.field, style="bold")
        line.append(f"{' (' + problem.value + ')' if problem.value else ''} ".lstrip() if not problem.field else "")
        if problem.field:
            line.append(f" ({problem.value}) " if problem.value else " ", style="red")
        line.append(problem.rule)
        err.print(line, soft_wrap=True)
        if problem.remedy:
            err.print(Text(f"    {problem.remedy}", style="green"), soft_wrap=True)


def _as_json(problem: Problem) -> dict[str, object]:
    return {
        key: getattr(problem, key) for key in ("file", "document", "line", "column", "field", "value", "rule", "remedy")
    }


def _fail(message: str, code: int) -> NoReturn:
    err.print(Text(f"error: {message}", style="red"), soft_wrap=True)
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the console script `flash`."""
    _assemble()
    app()


def kubectl_main() -> None:
    """Entry point of `kubectl flash`: the same program, whose commands look at the cluster without being told."""
    from flash_operator.cockpit.commands import AS_KUBECTL_PLUGIN

    _assemble()
    app(prog_name="kubectl flash", obj=AS_KUBECTL_PLUGIN)


def _assemble() -> None:
    from flash_operator.cockpit.commands import register as register_cockpit
    from flash_operator.local.commands import register as register_local
    from flash_operator.traffic.commands import register as register_traffic

    register_local(app)
    register_cockpit(app)
    register_traffic(app)
    for plugin in entry_points(group=COMMANDS_GROUP):
        plugin.load()(app)
