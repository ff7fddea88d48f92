"""The house rules of docs/design.md, read from the page and held against the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kinetext
from kinetext import interfaces

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "kinetext"
SOURCES = sorted(PACKAGE.rglob("*.py"))
EVERYTHING = sorted([*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
ROLE_FOLDERS = ("codecs", "datasets", "encoders", "fusion", "generators", "methods", "metrics", "tasks")
# files of a role folder that hold no component: how samples become batches, and what frozen encoders make of them
NOT_COMPONENTS = {"datasets.encoded", "datasets.loader"}
# each is known to exactly one module
THIRD_PARTY_HOMES = {"av": "video", "ray": "cluster"}
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "joblib", "torchvision.io", "decord"}


def module_of(path: Path) -> str:
    """src/kinetext/nn/norm.py -> "nn.norm"; a folder's __init__.py -> "nn"; the root's -> ""."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imported(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that the code imports, `from a import b` as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not read here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class Layers:
    """The table of section 3: who sits where, and what each may import."""

    def __init__(self, page: str) -> None:
        self.layer: dict[str, int] = {}
        self.legal: dict[int, set[int]] = {}
        self.extra: dict[str, set[str]] = {}
        rows = re.findall(r"^\| (\d) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
        for number, modules, may in rows:
            names = re.findall(r"`([\w/*]+)`", modules)
            self.layer.update((name.removesuffix("/*"), int(number)) for name in names)
            first, _, rest = may.partition(";")
            self.legal[int(number)] = set()
            for low, high in re.findall(r"\b(\d)(?:-(\d))?", first):
                self.legal[int(number)] |= set(range(int(low), int(high or low) + 1))
            for name in names:
                self.extra[name.removesuffix("/*")] = set(re.findall(r"`(\w+)`", first))
            for who, others in re.findall(r"`(\w+)` also ((?:`\w+`(?:, )?)+)", rest):
                self.extra[who] |= set(re.findall(r"`(\w+)`", others))
            if "files of one folder each other" in rest:
                for name in names:
                    self.extra[name.removesuffix("/*")].add(name.removesuffix("/*"))

    def unit(self, module: str) -> str:
        """nn.norm -> nn, train -> train: what the table has a row for."""
        return module.split(".")[0]

    def wrong(self, module: str, other: str) -> str | None:
        """What is wrong with ``module`` importing ``other``, or None."""
        mine, theirs = self.unit(module), self.unit(other)
        if other == "" or (module == mine == theirs):
            return None  # the version in the root; a folder's own __init__.py
        for unit in (mine, theirs):
            if unit not in self.layer:
                return f"{unit} has no row in docs/design.md, section 3"
        if self.layer[theirs] in self.legal[self.layer[mine]] or theirs in self.extra[mine]:
            return None
        return f"{module} (layer {self.layer[mine]}) imports {other} (layer {self.layer[theirs]})"


@pytest.fixture(scope="module")
def layers() -> Layers:
    return Layers((ROOT / "docs" / "design.md").read_text(encoding="utf-8"))


def own_imports(tree: ast.AST, known: set[str]) -> set[str]:
    """The kinetext modules that the code imports, "" for the root itself."""
    found = set()
    for name in imported(tree):
        if name.split(".")[0] == "kinetext":
            inner = name.partition(".")[2]
            while inner and inner not in known:
                inner = inner.rpartition(".")[0]
            found.add(inner)
    return found


def test_layers_table_is_read(layers: Layers) -> None:
    assert layers.layer["types"] == 0
    assert layers.layer["nn"] == 1
    assert layers.legal[5] == {0, 1, 2, 3, 4}
    assert layers.legal[8] == {0, 6, 7}
    assert layers.extra["cli"] == {"cli", "config", "making"}
    assert layers.wrong("nn.attention", "nn.norm") is None
    assert layers.wrong("checkpoint", "config") is None
    assert layers.wrong("encoders", "encoders.transformer") is None
    for module, other in [
        ("types", "interfaces"),
        ("encoders.a", "encoders.b"),
        ("encoders.a", "encoders"),
        ("tasks.a", "encoders.b"),
        ("config", "assemble"),
        ("config", "checkpoint"),
        ("train", "cli"),
        ("cli", "assemble"),
        ("cli.making", "assemble"),
        ("nowhere", "types"),
    ]:
        assert layers.wrong(module, other), (module, other)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_arrows(path: Path, layers: Layers) -> None:
    module = module_of(path)
    if module == "":
        return  # the public API reaches everywhere, on first use only
    known = {module_of(source) for source in SOURCES}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = [layers.wrong(module, other) for other in sorted(own_imports(tree, known))]
    assert not [message for message in wrong if message]


def smells(source: str, module: str) -> list[str]:
    """What docs/design.md, sections 3 and 10, forbid in one file."""
    tree = ast.parse(source)
    found = [f"imports {name}" for name in imported(tree) for bad in FORBIDDEN_IMPORTS if is_in(name, bad)]
    found += [
        f"imports {name}; only {home} may"
        for name in imported(tree)
        for library, home in THIRD_PARTY_HOMES.items()
        if is_in(name, library) and not is_in(module, home)
    ]
    if is_in(module, "cli") or module == "__main__" or module.startswith("serve."):
        found += [f"imports {name}" for name in imported(tree) if is_in(name, "torch") or is_in(name, "numpy")]
    if len(source.splitlines()) > 400:
        found.append(f"{len(source.splitlines())} lines, at most 400")
    for node in ast.walk(tree):
        found += smells_of(node)
    return found


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def smells_of(node: ast.AST) -> list[str]:
    where = f"line {getattr(node, 'lineno', 0)}: "
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        found = []
        if (lines := length(node)) > 60:
            found.append(f"{where}{node.name} has {lines} lines, at most 60")
        if node.args.kwarg and node.name in ("__init__", "forward"):
            found.append(f"{where}{node.name} takes **{node.args.kwarg.arg}")
        return found
    if isinstance(node, ast.ExceptHandler) and catches_all(node) and all(is_nothing(s) for s in node.body):
        return [f"{where}swallows every error"]
    if isinstance(node, ast.Call):
        return smells_of_call(node, where)
    return []


def smells_of_call(node: ast.Call, where: str) -> list[str]:
    name = ast.unparse(node.func)
    options = {option.arg: ast.unparse(option.value) for option in node.keywords}
    if name == "torch.load" and options.get("weights_only") != "True":
        return [f"{where}torch.load without weights_only=True"]
    if name.endswith("np.load") and options.get("allow_pickle", "False") != "False":
        return [f"{where}np.load with pickle"]
    if name.endswith("suppress") and any(ast.unparse(a) in ("Exception", "BaseException") for a in node.args):
        return [f"{where}swallows every error"]
    return []


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, the docstring apart."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def catches_all(node: ast.ExceptHandler) -> bool:
    return node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")


def is_nothing(statement: ast.stmt) -> bool:
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant or isinstance(statement, ast.Pass | ast.Continue)


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_smells(path: Path) -> None:
    module = module_of(path) if path.is_relative_to(PACKAGE) else "video"  # tests may look into containers
    assert smells(path.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from torchvision import io",
        "from torchvision.io import read_video",
        "import av",
        "def f():\n" + "    x = 1\n" * 60,
        "x = 1\n" * 401,
        "class A:\n    def __init__(self, **kwargs): self.x = kwargs",
        "class A:\n    def forward(self, x, **options): return x",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "try:\n    f()\nexcept Exception:\n    pass",
        "for x in y:\n    try:\n        f()\n    except:\n        continue",
        "import contextlib\nwith contextlib.suppress(Exception):\n    f()",
    ],
)
def test_every_smell_is_found(source: str) -> None:
    assert smells(source, "train")


def test_what_is_allowed_does_not_smell() -> None:
    documented = 'def f():\n    """' + "\n" * 50 + '"""\n' + "    x = 1\n" * 55
    assert smells(documented, "train") == []
    assert smells("import torch\ntorch.load('x', weights_only=True)", "train") == []
    assert smells("import av", "video") == []
    assert smells("try:\n    f()\nexcept OSError:\n    pass", "train") == []
    assert smells("import torch", "cli") == ["imports torch"]


def test_no_junk_drawers() -> None:
    junk = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [path for path in SOURCES if path.stem in junk or re.search(r"_v\d+$|^legacy_", path.stem)]


def test_two_levels_never_three() -> None:
    assert not [path for path in SOURCES if len(path.relative_to(PACKAGE).parts) > 2]


@pytest.mark.parametrize("folder", ROLE_FOLDERS)
def test_registry_is_a_literal_named_after_files(folder: str) -> None:
    module = importlib.import_module(f"kinetext.{folder}")
    files = {p.stem for p in (PACKAGE / folder).glob("*.py")} - {"__init__"}
    files -= {name.partition(".")[2] for name in NOT_COMPONENTS if name.startswith(f"{folder}.")}
    registry = getattr(module, "REGISTRY", {})
    if not files:
        assert not registry
        return
    if folder == "metrics" and not registry:
        return  # chosen by the task, not by name
    assert files == set(registry)
    for key, cls in registry.items():
        assert cls.__module__ == f"kinetext.{folder}.{key}"
    tree = ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"))
    values = [n.value for n in tree.body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == "REGISTRY"]
    assert [type(value) for value in values] == [ast.Dict]


def import_all() -> None:
    for info in pkgutil.walk_packages(kinetext.__path__, "kinetext."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)


def descendants(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from descendants(child)


def test_classes_are_abstract_or_final() -> None:
    import_all()
    roles = [cls for _, cls in inspect.getmembers(interfaces, inspect.isclass) if cls.__module__ == interfaces.__name__]
    assert interfaces.Encoder in roles
    ours = {c for role in roles for c in descendants(role) if c.__module__.startswith("kinetext.")}
    assert ours
    for cls in ours - set(roles):
        assert not inspect.isabstract(cls), f"{cls} is abstract, and not in interfaces.py"
        assert not [c for c in cls.__subclasses__() if c in ours], f"{cls} is final, and has subclasses"


@pytest.mark.parametrize("folder", ROLE_FOLDERS[:-1])
def test_options_are_keyword_only_and_flat(folder: str) -> None:
    """The constructor signature is the configuration: `Cls()` builds, and every option is a flat value."""
    if folder in ("methods", "metrics"):
        return  # made by the assembly, around a task
    registry = importlib.import_module(f"kinetext.{folder}").REGISTRY
    for cls in registry.values():
        for parameter in inspect.signature(cls).parameters.values():
            assert parameter.kind is parameter.KEYWORD_ONLY, f"{cls}: {parameter.name}"
            assert parameter.default is not parameter.empty, f"{cls}: {parameter.name} has no default"


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    ).stdout.strip()


@pytest.mark.parametrize("module", ["kinetext", "kinetext.cli"])
def test_nothing_heavy_at_start(module: str) -> None:
    heavy = ("torch", "numpy", "pandas", "pyarrow", "av", "sklearn", "torchmetrics", "accelerate")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code) == "[]"


def test_public_names() -> None:
    assert len(kinetext.__all__) <= 25
    assert list(kinetext.__all__) == sorted(kinetext.__all__)
    for name in kinetext.__all__:
        assert getattr(kinetext, name) is not None
        assert name in dir(kinetext)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kinetext.nothing
