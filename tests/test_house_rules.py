"""The house rules that can be read off the source. Each failure lists the places and says what to do instead.

An exemption is an entry in `EXEMPT` with its reason; the list only shrinks. Rules about the database are in
`test_house_data.py`, the arrows between rooms in `test_import_linter.py`.
"""

import ast
import importlib
import pkgutil
import re
import statistics
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import msgspec
import pytest

import gimle
from gimle.foundation import errors
from gimle.foundation.config import Settings

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "gimle"
CODE = ("src", "tests", "scripts", "bench", "examples")
BANNED_WORDS = {
    "utils", "util", "helpers", "helper", "common", "misc",
    "manager", "factory", "wrapper", "processor", "impl", "base",
}  # fmt: skip

# The only places that may catch every exception, each with what it does with it.
BOUNDARIES = {
    "src/gimle/jobs/worker.py": "records the failure of a job, whatever it was",
    "src/gimle/interfaces/http/edge.py": "answers 500 with a request id, and the server lives on",
    "src/gimle/interfaces/cli/main.py": "ends the program with a message instead of a traceback",
    "src/gimle/foundation/lifecycle.py": "logs the death of a background task that nobody awaits",
}

# rule -> place -> reason. A place is `path` or `path:name`.
EXEMPT: dict[str, dict[str, str]] = {
    "forwarder": {
        "src/gimle/gateway/engines/builtin.py:open": "an engine is opened by its module; this one is ready at once",
    },
    "getattr": {},
    "protocol": {},
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules(*folders: str) -> dict[str, ast.Module]:
    """Path from the root -> syntax tree, for every Python file in the folders."""
    found = (file for folder in folders for file in sorted((ROOT / folder).rglob("*.py")))
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text("utf-8")) for file in found}


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Yield every function with its qualified name, nested ones too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
            yield from functions(node, f"{prefix}{node.name}.<locals>.")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def classes(tree: ast.AST) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def report(rule: str, places: list[str], instead: str) -> None:
    """Fail with the places that no exemption names, and with the exemptions that nothing needs any more."""
    exempt = EXEMPT.get(rule, {})
    guilty = [place for place in places if place.split(" ")[0] not in exempt]
    stale = [place for place in exempt if not any(found.split(" ")[0] == place for found in places)]
    assert not guilty, f"{instead}\n  " + "\n  ".join(guilty)
    assert not stale, f"These exemptions from {rule!r} are needed no more: {stale}"


def test_no_file_is_longer_than_600_lines() -> None:
    lengths = {path: len((ROOT / path).read_text("utf-8").splitlines()) for path in modules(*CODE)}
    report("file", [f"{path} {n}" for path, n in lengths.items() if n > 600], "Split by subject:")


def _length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_no_function_is_longer_than_60_lines() -> None:
    long = [
        f"{path}:{name} {_length(function)}"
        for path, tree in modules(*CODE).items()
        for name, function in functions(tree)
        if _length(function) > 60
    ]
    report("function", long, "One concern a function, said in its name:")


def test_nine_of_ten_functions_have_at_most_35_lines() -> None:
    lengths = [_length(f) for tree in modules("src").values() for _, f in functions(tree)]
    assert statistics.quantiles(lengths, n=10)[-1] <= 35


def test_no_function_takes_more_than_7_parameters() -> None:
    places = []
    for path, tree in modules(*CODE).items():
        for name, function in functions(tree):
            args = function.args
            named = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs) if a.arg not in ("self", "cls")]
            if len(named) > 7:
                places.append(f"{path}:{name} {len(named)}")
    report("parameters", places, "Group what belongs together in a Struct:")


def test_ruff_finds_nothing() -> None:
    """Complexity, broad excepts, naive datetimes, print and the banned calls are ruff's part; see pyproject.toml."""
    ruff = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--quiet", "--output-format", "concise", "."],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ruff.returncode == 0, ruff.stdout + ruff.stderr


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


def test_no_name_says_nothing() -> None:
    files = [path for path in modules(*CODE) if BANNED_WORDS & _words(Path(path).stem)]
    named = [
        f"{path}:{cls.name}"
        for path, tree in modules(*CODE).items()
        for cls in classes(tree)
        if BANNED_WORDS & _words(cls.name)
    ]
    report("name", files + named, "Name the thing for what it is or does:")


def _catches_all(node: ast.AST) -> TypeGuard[ast.ExceptHandler | ast.Call]:
    """Whether an exception of any kind ends here. Cleaning up and raising it again is not catching it."""
    if isinstance(node, ast.ExceptHandler):
        if isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None:
            return False
        caught = node.type
        kinds = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        kinds = list(node.args)
    else:
        return False
    return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds)


def test_everything_is_caught_at_the_named_boundaries_only() -> None:
    places = {
        path: node.lineno for path, tree in modules("src").items() for node in ast.walk(tree) if _catches_all(node)
    }
    guilty = [f"{path}:{line}" for path, line in places.items() if path not in BOUNDARIES]
    report("except", guilty, "Name the exceptions that you expect, and let the others reach a boundary:")


def test_ruff_knows_the_same_boundaries() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
    allowed = {path for path, rules in ruff["per-file-ignores"].items() if "BLE001" in rules}
    assert allowed == set(BOUNDARIES)


def test_a_protocol_has_two_implementations() -> None:
    """Structural typing can't be asked, so a class or a module counts when it defines every method's name."""
    sources = modules("src")
    offers = [{name for name, _ in functions(cls) if "." not in name} for t in sources.values() for cls in classes(t)]
    offers += [{n.name for n in tree.body if isinstance(n, Function)} for tree in sources.values()]
    places = []
    for path, tree in sources.items():
        for cls in classes(tree):
            if not any(ast.unparse(b).split("[")[0] in ("Protocol", "typing.Protocol") for b in cls.bases):
                continue
            asked = {name for name, _ in functions(cls) if "." not in name} - {"__init__"}
            # The protocol itself is among the offers.
            if asked and asked != {"__call__"} and sum(asked <= offer for offer in offers) < 3:
                places.append(f"{path}:{cls.name}")
    report("protocol", places, "A Protocol needs two implementations, or one and the fake in gimle.testing:")


def test_no_abstract_base_classes() -> None:
    abstract = [
        f"{path}:{node.lineno}"
        for path, tree in modules("src").items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and node.module == "abc")
        or (isinstance(node, ast.Import) and any(a.name == "abc" for a in node.names))
    ]
    report("abc", abstract, "Use a Protocol, or no interface at all:")


def _forwards(function: Function) -> bool:
    """Whether the body does nothing but pass the function's own arguments on, as they are and in their order."""
    body = [node for node in function.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    if function.decorator_list or function.name.startswith("__") or len(body) != 1:
        return False
    value = body[0].value if isinstance(body[0], ast.Return | ast.Expr) else None
    value = value.value if isinstance(value, ast.Await) else value
    if not isinstance(value, ast.Call):
        return False
    own = [a.arg for a in (*function.args.args, *function.args.kwonlyargs) if a.arg not in ("self", "cls")]
    passed = [ast.unparse(arg) for arg in value.args] + [ast.unparse(k.value) for k in value.keywords]
    return bool(own) and own == passed


def test_no_function_only_forwards() -> None:
    places = [
        f"{path}:{name}"
        for path, tree in modules("src").items()
        if path != "src/gimle/client.py"
        for name, function in functions(tree)
        # A closure binds what a caller can't pass.
        if "<locals>" not in name and _forwards(function)
    ]
    report("forwarder", places, "Call what it calls:")


def test_no_getattr_tricks() -> None:
    places = [
        f"{path}:{name}"
        for path, tree in modules("src").items()
        for name, function in functions(tree)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr")
    ]
    report("getattr", sorted(set(places)), "Give the thing a type:")


def _grouped(tree: ast.Module) -> set[str]:
    """The names bound to a task group by `async with`."""
    return {
        ast.unparse(item.optional_vars)
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if item.optional_vars is not None and "TaskGroup" in ast.unparse(item.context_expr)
    }


def test_no_task_runs_unheld() -> None:
    places = [
        f"{path}:{node.lineno}"
        for path, tree in modules("src").items()
        if path != "src/gimle/foundation/lifecycle.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("create_task", "ensure_future")
        and ast.unparse(node.func.value) not in _grouped(tree)
    ]
    report("task", places, "Use a TaskGroup, or hold the task in foundation.lifecycle.Tasks:")


def test_a_package_begins_with_its_purpose_and_nothing_else() -> None:
    places = []
    for path, tree in modules("src").items():
        # A dialect of several files puts itself together in its `__init__`: there its one name, DIALECT, is looked for.
        if path.endswith("__init__.py") and not path.startswith("src/gimle/gateway/dialects/"):
            rest = tree.body[1:] if ast.get_docstring(tree) else tree.body
            simple = path == "src/gimle/__init__.py" and all(isinstance(n, ast.Assign | ast.AnnAssign) for n in rest)
            if not ast.get_docstring(tree) or (rest and not simple):
                places.append(path)
    report("init", places, "A room's __init__.py is a docstring: what the room is for, what it may import:")


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    places = [
        f"{file.relative_to(ROOT)}:{number}"
        for folder in ("src", "scripts", "docs")
        for file in sorted((ROOT / folder).rglob("*"))
        if file.suffix in (".py", ".sql", ".md", ".toml")
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    report("todo", places, "Do it, or open an issue:")


def leaves(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all settings."""
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from leaves(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def test_each_setting_is_read() -> None:
    """As an attribute, in a module that has to do with its section."""
    kinds = {section.name: getattr(section.type, "__name__", "") for section in msgspec.structs.fields(Settings)}
    read: defaultdict[str, list[set[str]]] = defaultdict(list)
    for path, tree in modules("src").items():
        if path.endswith("foundation/config.py"):
            continue
        nodes = list(ast.walk(tree))
        attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        for section, kind in kinds.items():
            if section in attributes or kind in names:
                read[section].append(attributes)
    unread = [
        key
        for key in leaves(Settings)
        if not any(key.rsplit(".", 1)[-1] in attributes for attributes in read[key.split(".")[0]])
    ]
    report("setting", unread, "A setting that nothing reads is a promise that nobody keeps:")


def test_each_setting_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    undocumented = [key for key in leaves(Settings) if f"`{key}`" not in page]
    report("documented", undocumented, "Run `make docs`:")


def test_each_setting_is_tested() -> None:
    tests = [set(re.findall(r"\w+", file.read_text("utf-8"))) for file in (ROOT / "tests").rglob("*.py")]
    kinds = {section.name: getattr(section.type, "__name__", "") for section in msgspec.structs.fields(Settings)}
    untested = []
    for key in leaves(Settings):
        section, name = key.split(".")[0], key.rsplit(".", 1)[-1]
        if not any(name in words and (section in words or kinds[section] in words) for words in tests):
            untested.append(key)
    report("tested", untested, "Show in a test what the setting does:")


def plugins() -> list[tuple[str, str]]:
    """`(package, name)` of every plugin: a Python module or a TOML file in a folder that serves as a registry."""
    kinds = [
        folder
        for folder in PACKAGE.rglob("*")
        if folder.name in ("engines", "dialects", "providers", "parsers", "chunkers", "stores", "analyzers")
    ]
    return [
        (folder.relative_to(PACKAGE.parent).as_posix().replace("/", "."), file.stem)
        for folder in kinds
        for file in sorted(folder.iterdir())
        if file.suffix in (".py", ".toml") and file.stem != "__init__"
    ]


@pytest.mark.parametrize("package,name", plugins())
def test_each_plugin_is_tested_with_its_kind(package: str, name: str) -> None:
    """A suite a kind; each plugin that is code brings `tests/fixtures/<kind>/<name>.*`, or tests under its own name."""
    kind = package.rsplit(".", 1)[-1]
    tests = ROOT / "tests"
    assert (tests / "conformance" / f"test_{kind}.py").is_file(), f"{package} needs a suite in tests/conformance"
    own = [*(tests / "fixtures" / kind).glob(f"{name}.*"), *tests.rglob(f"test_{name}*.py")]
    assert own or kind == "providers", f"The plugin {package}.{name} needs fixtures: tests/fixtures/{kind}/{name}.*"


def _all_errors() -> list[type[errors.GimleError]]:
    for module in pkgutil.walk_packages(gimle.__path__, "gimle."):
        if not module.name.endswith(("__main__", "minilm_convert")):
            importlib.import_module(module.name)
    found, queue = [], [errors.GimleError]
    while queue:
        kind = queue.pop()
        found.append(kind)
        queue += kind.__subclasses__()
    return [kind for kind in found if kind.__module__.startswith("gimle.")]


def test_each_error_has_its_own_code_class_and_message() -> None:
    kinds = _all_errors()
    codes = [kind.code for kind in kinds]
    assert len(codes) == len(set(codes)), f"Two errors share a code: {sorted(c for c in codes if codes.count(c) > 1)}"
    for kind in kinds:
        assert "code" in vars(kind), f"{kind.__name__} has no code of its own"
        assert kind.__doc__, f"{kind.__name__} has no docstring, which is its message"
        assert kind.__module__ == "gimle.foundation.errors", f"{kind.__name__} belongs in foundation/errors.py"
        assert kind.__name__ in (errors.__doc__ or ""), f"{kind.__name__} is missing in the drawing of errors.py"
        assert 400 <= kind.status < 600
