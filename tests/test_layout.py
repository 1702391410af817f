"""The shape of the tree: rules that keep imports, tests and files where the next reader looks for them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON_FILES = sorted(
    p for top in ("operator", "runtime", "kind", "tests", "benchmarks") for p in (ROOT / top).rglob("*.py")
)
PRODUCT_FILES = [p for p in PYTHON_FILES if p.relative_to(ROOT).parts[0] in ("operator", "runtime")]


def test_operator_is_a_folder_and_never_a_package() -> None:
    """With an __init__.py it would shadow the standard library's `operator` for every python started here."""
    assert not (ROOT / "operator" / "__init__.py").exists()
    subprocess.run([sys.executable, "-c", "import json, operator; operator.add"], cwd=ROOT, check=True)


def test_tests_are_not_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("path", PRODUCT_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_opens_with_its_purpose(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{path} has no module docstring"
    assert len(docstring) >= 30, f"{path} says too little about itself"


@pytest.mark.parametrize("path", PRODUCT_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_fit_on_a_few_screens(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    ("module", "owners"),
    [
        ("kubernetes", {"operator/flash_operator/cluster"}),
        ("kopf", {"operator/flash_operator/handlers.py", "operator/flash_operator/__main__.py"}),
        ("triton_python_backend_utils", {"runtime/flash_runtime/backend"}),
        ("tritonclient", {"runtime/flash_runtime/gateway", "runtime/flash_runtime/backend/draft_link.py"}),
        ("torch", {"runtime/flash_runtime/kernels/cuda/extra.py", "runtime/flash_runtime/training"}),
        ("triton", {"runtime/flash_runtime/kernels/cuda/extra.py"}),
        ("transformers", set()),
        ("obstore", {"runtime/flash_runtime/model/object_store.py"}),
    ],
)
def test_each_outside_system_has_one_owner(module: str, owners: set[str]) -> None:
    users = [p.relative_to(ROOT).as_posix() for p in PRODUCT_FILES if module in imports_of(p)]
    strangers = [u for u in users if not any(u == o or u.startswith(f"{o}/") for o in owners)]
    assert strangers == [], f"only {owners or 'nobody'} may import {module}"


def test_contract_imports_nothing_but_pydantic_and_the_standard_library() -> None:
    allowed = set(sys.stdlib_module_names) | {"pydantic", "pydantic_core", "flash_api", "yaml", "annotated_types"}
    for path in (ROOT / "operator" / "flash_api").rglob("*.py"):
        assert imports_of(path) <= allowed, path


def test_module_names_are_nouns_and_not_drawers() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [p for p in PRODUCT_FILES if p.stem in drawers or p.parent.name in drawers] == []


def test_no_file_names_a_package_registry_or_the_developers_folder() -> None:
    hosts = re.compile(
        "|".join(["files" r"\.pythonhosted", "proxy" r"\.golang", "registry" r"\.npmjs", r"\.\./shared" "/"])
    )
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    texts = [f for f in files if not f.endswith((".svg", ".png", ".npz", ".gif", "go.sum")) and (ROOT / f).is_file()]
    assert [f for f in texts if hosts.search((ROOT / f).read_text(errors="replace"))] == []
