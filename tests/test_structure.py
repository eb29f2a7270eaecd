"""The shape of the code base: who imports whom, what is banned, how long things may be, what is pinned."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vsae_search"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}

# A room imports only from rooms to its left.
ROOMS = (
    *("errors", "atomic", "space", "subjects", "activations", "saes", "training"),
    *("evaluation", "search", "tracking", "frontier", "report", "analysis", "export", "cli"),
)
# Library to the rooms that may import it.
CONFINED = {
    "ray": {"activations", "search", "cli"},
    "optuna": {"search", "report"},
    "mlflow": {"tracking", "cli"},
    "torch": {"subjects", "activations", "saes", "training", "evaluation", "search", "analysis", "export", "cli"},
    "transformer_lens": {"subjects"},
    "datasets": {"subjects"},
    "typer": {"cli"},
    "rich": {"cli"},
    "plotly": {"report"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
}
HEAVY = ("torch", "ray", "mlflow", "optuna", "pandas", "plotly", "matplotlib", "transformers", "scipy.stats")
# Loading one of these formats runs code that the file brings along.
BANNED_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}
BANNED_CALLS = {
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "joblib.load",
    "os.system",
    "os.popen",
    "commands.getoutput",
}
BANNED_BUILTINS = {"eval", "exec", "compile", "__import__"}
# The GELU-1L models, and the autoencoders of dictionary_learning, are published as files of torch.save only. The first
# file reads them, the second is handed to users; both with torch's restricted reader, which builds nothing but tensors.
# The known ways around it need a torch that the project refuses to install with.
RESTRICTED_READER = "vsae_search/subjects/language_model/checkpoint.py"
RESTRICTED_READERS = {RESTRICTED_READER, "vsae_search/export/loaders/untied_gate_dictionary.py"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 60

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def room_of(path: str) -> str:
    return Path(path).parts[1].removesuffix(".py")


def imported(path: str) -> list[tuple[str, int]]:
    """Absolute dotted names that a file imports, wherever in the file, with their lines."""
    package = list(Path(path).parts[:-1])
    found: list[tuple[str, int]] = []
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def direction_faults(path: str) -> list[str]:
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return (
            []
            if room == "__main__"
            else [f"{path}:{line}: imports {name}" for name, line in imported(path) if name.startswith("vsae_search.")]
        )
    faults = []
    for name, line in imported(path):
        parts = name.split(".")
        if parts[0] != "vsae_search" or len(parts) < 2 or parts[1] == "__version__":
            continue
        if parts[1] not in ROOMS or ROOMS.index(parts[1]) > ROOMS.index(room):
            faults.append(f"{path}:{line}: {room} imports {name}")
    return faults


def confinement_faults(path: str) -> list[str]:
    room = room_of(path)
    return [
        f"{path}:{line}: {room} imports {name}"
        for name, line in imported(path)
        if (library := name.split(".")[0]) in CONFINED and room not in CONFINED[library]
    ]


def is_restricted_read(call: ast.Call, path: str) -> bool:
    """torch.load in a file that may call it, with the restriction written out."""
    restricted = [word.value for word in call.keywords if word.arg == "weights_only"]
    literal = [value.value for value in restricted if isinstance(value, ast.Constant)]
    return path in RESTRICTED_READERS and dotted(call.func) == "torch.load" and literal == [True]


def call_faults(call: ast.Call, path: str) -> list[str]:
    name = dotted(call.func)
    faults = []
    if (name in BANNED_CALLS or name in BANNED_BUILTINS) and not is_restricted_read(call, path):
        faults.append(name)
    for keyword in call.keywords:
        off = isinstance(keyword.value, ast.Constant) and keyword.value.value in (False, None)
        if keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and not off:
            faults.append(f"{keyword.arg}=")
        if (
            keyword.arg == "typ"
            and isinstance(keyword.value, ast.Constant)
            and keyword.value.value in ("unsafe", "base")
        ):
            faults.append(f"typ={keyword.value.value}")
    return faults


def banned(tree: ast.Module, path: str) -> list[str]:
    faults = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Call):
            names = call_faults(node, path)
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in BANNED_MODULES]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            names = [module] if module.split(".")[0] in BANNED_MODULES else []
            names += [f"{module}.{alias.name}" for alias in node.names if f"{module}.{alias.name}" in BANNED_CALLS]
        faults += [f"{path}:{getattr(node, 'lineno', 0)}: {name}" for name in names]
    return faults


def prints(tree: ast.Module) -> list[int]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    streams = ("sys.stdout.write", "sys.stderr.write", "sys.__stdout__.write")
    return [call.lineno for call in calls if dotted(call.func) in ("print", "pprint", "pprint.pprint", *streams)]


def undocumented(node: ast.Module | ast.ClassDef, where: str) -> list[str]:
    """Public modules, classes, functions and methods without a docstring; nested functions are private."""
    faults = [] if ast.get_docstring(node) else [where]
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            faults += undocumented(child, f"{where}:{child.name}")
        elif isinstance(child, FUNCTIONS) and not child.name.startswith("_"):
            marks = {dotted(mark).rpartition(".")[2] for mark in child.decorator_list}
            if not marks & {"override", "overload", "setter"} and not ast.get_docstring(child):
                faults.append(f"{where}:{child.name}")
    return faults


@pytest.mark.parametrize("path", TREES)
def test_a_room_imports_only_from_rooms_to_its_left(path: str) -> None:
    assert room_of(path) in (*ROOMS, "__init__", "__main__"), f"{path}: give the new room a place in ROOMS"
    assert direction_faults(path) == []


@pytest.mark.parametrize("path", TREES)
def test_libraries_stay_in_their_rooms(path: str) -> None:
    assert confinement_faults(path) == []


@pytest.mark.parametrize("path", TREES)
def test_nothing_loads_code_from_data(path: str) -> None:
    assert banned(TREES[path], path) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib",
        "import yaml",
        "torch.load('a')",
        "from torch import load",
        "eval('1')",
        "exec('1')",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=flag)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "np.load('x', allow_pickle=True)",
        "YAML(typ='unsafe')",
        "os.system('ls')",
    ],
)
def test_the_ban_notices(line: str) -> None:
    assert banned(ast.parse(line), "x")


@pytest.mark.parametrize(
    ("path", "line", "passes"),
    [
        *((reader, "torch.load(path, weights_only=True)", True) for reader in sorted(RESTRICTED_READERS)),
        *((reader, "torch.load(path)", False) for reader in sorted(RESTRICTED_READERS)),
        *((reader, "torch.load(path, weights_only=False)", False) for reader in sorted(RESTRICTED_READERS)),
        *((reader, "torch.load(path, weights_only=flag)", False) for reader in sorted(RESTRICTED_READERS)),
        ("vsae_search/saes/storage.py", "torch.load(path, weights_only=True)", False),
    ],
)
def test_two_files_read_weights_of_torch_save(path: str, line: str, passes: bool) -> None:
    assert (banned(ast.parse(line), path) == []) is passes


@pytest.mark.parametrize("line", ["model.eval()", "re.compile('a')", "YAML(typ='safe')", "run(x, shell=False)"])
def test_the_ban_lets_pass(line: str) -> None:
    assert banned(ast.parse(line), "x") == []


@pytest.mark.parametrize("path", [path for path in TREES if room_of(path) != "cli"])
def test_only_the_command_line_prints(path: str) -> None:
    assert prints(TREES[path]) == []


@pytest.mark.parametrize("path", TREES)
def test_everything_public_is_documented(path: str) -> None:
    assert undocumented(TREES[path], path) == []


@pytest.mark.parametrize("path", TREES)
def test_files_and_functions_are_short(path: str) -> None:
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE, path
    nodes = [node for node in ast.walk(TREES[path]) if isinstance(node, FUNCTIONS)]
    long = [
        f"{path}:{node.lineno}: {node.name}"
        for node in nodes
        if (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
    ]
    assert long == []


def test_tests_mirror_the_package() -> None:
    rooms = [folder for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()]
    without = [room.name for room in rooms if not list((ROOT / "tests" / room.name).glob("test_*.py"))]
    assert without == []
    foreign = {folder.parent.name for folder in (ROOT / "tests").glob("*/test_*.py")} - {room.name for room in rooms}
    assert foreign <= {"cluster", "conformance", "faults", "peers", "security"}


def test_test_files_have_unique_names() -> None:
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def heavy_after(code: str) -> list[str]:
    script = (
        f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules], sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.split()


def test_help_imports_nothing_heavy() -> None:
    code = """
import runpy, sys
sys.argv = ["vsae_search", "--help"]
try:
    runpy.run_module("vsae_search", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
else:
    raise AssertionError("--help did not exit")
"""
    assert heavy_after(code) == []


@pytest.mark.parametrize("module", ["vsae_search.errors", "vsae_search.space", "vsae_search.cli.app"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    assert heavy_after(f"import {module}") == []


@pytest.mark.parametrize("room", ["saes", "training", "evaluation", "frontier"])
def test_the_numerical_rooms_know_no_services(room: str) -> None:
    code = f"import vsae_search.{room}"
    assert not {"ray", "optuna", "mlflow"} & set(heavy_after(code))


def project() -> dict[str, list[Requirement]]:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": data["dependencies"], **data["optional-dependencies"]}
    return {name: [Requirement(line) for line in lines] for name, lines in groups.items()}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    exact = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line) for line in lines]
    assert all(exact), [line for line, match in zip(lines, exact, strict=True) if not match]
    found = {canonicalize_name(match[1]): match[2] for match in exact if match}
    assert len(found) == len(lines), "a package is pinned twice"
    return found


@pytest.mark.parametrize(
    ("name", "refused", "accepted"),
    [("ray", "2.53.0", "2.54.0"), ("mlflow", "3.16.0", "3.17.0"), ("torch", "2.5.1", "2.6.0")],
)
def test_versions_with_known_holes_are_refused(name: str, refused: str, accepted: str) -> None:
    requirement = next(item for item in project()[""] if item.name == name)
    assert not requirement.specifier.contains(refused)
    assert requirement.specifier.contains(accepted)


def test_every_dependency_is_pinned_inside_its_range() -> None:
    pinned = pins()
    for requirement in [item for group in project().values() for item in group]:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} does not admit {version}"


def test_the_environment_is_the_pinned_one() -> None:
    from importlib import metadata

    installed = {canonicalize_name(item.metadata["Name"]): item.version for item in metadata.distributions()}
    different = {
        name: (version, installed[name])
        for name, version in pins().items()
        if name in installed and installed[name].partition("+")[0] != version
    }
    assert different == {}


def test_top_level_modules_are_the_known_ones() -> None:
    assert {file.name for file in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "atomic.py", "errors.py"}
