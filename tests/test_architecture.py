"""Rules of the house that no linter knows."""

import ast
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[1]
COMPONENTS = sorted(path for path in (HOUSE / "components").glob("*.py") if "@dsl.component" in path.read_text())
STEPS = {
    "analyze_ab",
    "gate_theta",
    "generate_embeddings",
    "group_tasks",
    "monitor",
    "push_embeddings",
    "train_theta",
    "validate_data",
}

# A library with one home is imported nowhere else.
HOMES = {
    "boto3": {"limaml/storage.py", "limaml/online/dynamodb_table.py"},
    "botocore": {"limaml/storage.py", "limaml/online/dynamodb_table.py"},
    "lmdb": {"limaml/online/lmdb_generation.py"},
    "pyspark": {"limaml/data/spark.py"},
    "redis": {"limaml/online/redis_store.py"},
}


def _module_level_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_every_component_has_its_file() -> None:
    assert {path.stem for path in COMPONENTS} >= STEPS


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_components_import_only_kfp_and_the_standard_library_at_module_level(path: Path) -> None:
    allowed = {"kfp", "components", *sys.stdlib_module_names}
    assert _module_level_imports(path) <= allowed


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_components_keep_out_of_what_breaks_kfp_signatures(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in STEPS):
        annotations = [argument.annotation for argument in function.args.args if argument.annotation]
        for annotation in filter(None, [*annotations, function.returns]):
            for node in ast.walk(annotation):
                assert not isinstance(node, ast.BinOp), f"{path.name}: `X | Y` in {function.name}'s signature"
                assert not (isinstance(node, ast.Name) and node.id == "Literal")


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_component_bodies_read_no_module_level_name(path: Path) -> None:
    """A body travels alone: what its module defines beside it is not there when it runs."""
    tree = ast.parse(path.read_text())
    outside = {name.id for node in tree.body if isinstance(node, ast.Assign) for name in node.targets}  # type: ignore[union-attr]
    outside |= {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in STEPS):
        used = {node.id for statement in function.body for node in ast.walk(statement) if isinstance(node, ast.Name)}
        assert not used & (outside - {"dsl"}), path.name


def _imports(path: Path) -> set[str]:
    """Every library a file imports, at any depth."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[0] for name in plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}}


def test_only_the_top_of_the_house_names_kubeflow() -> None:
    for folder in ("limaml", "monitoring"):
        for path in (HOUSE / folder).rglob("*.py"):
            assert not _imports(path) & {"kfp", "kubernetes"}, path


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_one_home(library: str) -> None:
    paths = [
        path
        for folder in ("limaml", "monitoring", "components", "pipelines")
        for path in (HOUSE / folder).rglob("*.py")
    ]
    assert {str(path.relative_to(HOUSE)) for path in paths if library in _imports(path)} == HOMES[library]
