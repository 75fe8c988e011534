"""The rules of the house as functions over source text: each takes a module and returns its offences in words.

Everything is read from the syntax tree, not by importing, so that an import inside a function or behind
`if TYPE_CHECKING` is seen as well, and a module that cannot be imported here is still checked.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

MAX_FILE, MAX_FUNCTION = 400, 60  # physical lines: docstrings, comments and blank lines are counted
VAGUE = {"utils", "util", "common", "helpers", "misc"}
PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    path: PurePosixPath  # from the folder that holds the package: inscape/core/gate.py
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def name(self) -> str:
        return ".".join(self.path.with_suffix("").parts).removesuffix(".__init__")

    @property
    def package(self) -> str:
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @cached_property
    def imports(self) -> tuple[tuple[str, str | None], ...]:
        """(module, name or None) of every import anywhere in the file, relative ones resolved."""
        return tuple(_imports(self))


def read_modules(root: Path) -> tuple[Module, ...]:
    """Every Python file under `root`."""
    return tuple(
        Module(PurePosixPath(path.relative_to(root).as_posix()), path.read_text(encoding="utf-8"))
        for path in sorted(root.rglob("*.py"))
    )


def _imports(module: Module) -> Iterator[tuple[str, str | None]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.package.split(".")
                base = ".".join(parents[: len(parents) - node.level + 1] + ([base] if base else []))
            yield from ((base, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node).split(".")[-1] in ("import_module", "__import__"):
            yield from ((str(a.value), None) for a in node.args[:1] if isinstance(a, ast.Constant))


def _called(call: ast.Call) -> str:
    """The dotted name that is called: torch.load."""
    return ast.unparse(call.func) if isinstance(call.func, ast.Attribute | ast.Name) else ""


def _reaches(module: Module, *targets: str) -> list[str]:
    """The imports of `module` that lead into one of the packages `targets`."""
    wholes = {f"{base}.{name}" if name else base for base, name in module.imports}
    return sorted(w for w in wholes if any(w == t or w.startswith(f"{t}.") for t in targets))


def core_stands_alone(module: Module) -> list[str]:
    """The core imports no torch, and of this package nothing but the core."""
    if not module.name.startswith("inscape.core"):
        return []
    own = [w for w in _reaches(module, "inscape") if not w.startswith("inscape.core")]
    return [f"{module.path}: the core imports {what}" for what in own + _reaches(module, "torch")]


def studies_stay_apart(module: Module) -> list[str]:
    """No study imports another."""
    parts = module.path.parts
    if parts[:2] != ("inscape", "studies") or len(parts) < 4:
        return []
    own = f"inscape.studies.{parts[2]}"
    reached = [w for w in _reaches(module, "inscape.studies") if w != own and not w.startswith(own + ".")]
    return [f"{module.path}: a study imports {what}" for what in reached]


def report_reads_only(module: Module) -> list[str]:
    """A report imports no study and no torch: it reads run directories. Its command names the studies of today."""
    if not module.name.startswith("inscape.report") or module.name == "inscape.report.__main__":
        return []
    return [f"{module.path}: the report imports {w}" for w in _reaches(module, "inscape.studies", "torch")]


def names_say_something(module: Module) -> list[str]:
    """No drawer of odds and ends, neither as a file nor as a folder."""
    return [f"{module.path}: {part} says nothing" for part in module.name.split(".") if part in VAGUE]


def files_are_short(module: Module) -> list[str]:
    """400 lines a file: every physical line counts."""
    lines = len(module.source.splitlines())
    return [f"{module.path}: {lines} lines, {MAX_FILE} allowed"] if lines > MAX_FILE else []


def functions_are_short(module: Module) -> list[str]:
    """60 lines a function: from `def` (decorators are not counted) to its last line, inner functions included."""
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION:
                found.append(f"{module.path}:{node.lineno}: {node.name} has {lines} lines, {MAX_FUNCTION} allowed")
    return found


def opens_with_a_docstring(module: Module) -> list[str]:
    """Every file says why it exists."""
    return [] if ast.get_docstring(module.tree) else [f"{module.path}: no docstring"]


def nothing_is_pickled(module: Module) -> list[str]:
    """No pickle, neither by name nor through torch or numpy."""
    found = [f"imports {w}" for w in _reaches(module, *PICKLERS)]
    for call in (node for node in ast.walk(module.tree) if isinstance(node, ast.Call)):
        words = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
        given, name = {k.arg for k in call.keywords}, _called(call)
        if name == "torch.save":
            found.append("torch.save pickles")
        if name == "torch.load" and words.get("weights_only") is not True:
            found.append("torch.load without weights_only=True")
        if "allow_pickle" in given and words.get("allow_pickle") is not False:
            found.append("allow_pickle is not False")
    found += [f"torch.{n} by its bare name" for b, n in module.imports if b == "torch" and n in ("save", "load")]
    return [f"{module.path}: {what}" for what in found]


def declared_names(module: Module) -> list[str] | None:
    """`__all__`, or None where there is none."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return None


def all_is_sorted_and_true(module: Module) -> list[str]:
    """`__all__` is in order (CONSTANTS, Classes, functions) and names only what exists, once."""
    declared = declared_names(module)
    if declared is None:
        return []
    found = [f"{name} is in __all__ and not defined" for name in declared if name not in _defined_names(module)]
    order = sorted(declared, key=lambda n: (0 if n.isupper() else 1 if n[:1].isupper() else 2, n))
    if declared != order or len(set(declared)) < len(declared):
        found.append(f"__all__ is not sorted: {', '.join(order)}")
    return [f"{module.path}: {what}" for what in found]


def _defined_names(module: Module) -> set[str]:
    """What a module defines at its top level, and what its `__getattr__` speaks of."""
    names: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            if node.name == "__getattr__":
                names |= {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif not isinstance(node, ast.Expr):
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names


def imported_names_are_declared(modules: Iterable[Module]) -> list[str]:
    """What one module of the package takes from another is in that other's `__all__`: the list is true of its use."""
    by_name: Mapping[str, Module] = {module.name: module for module in modules}
    found = []
    for module in by_name.values():
        for base, name in module.imports:
            giver = by_name.get(base)
            if giver is None or name is None or f"{base}.{name}" in by_name:
                continue
            if name not in (declared_names(giver) or ()):
                found.append(f"{module.path}: takes {name} from {base}, which does not declare it in __all__")
    return found


MODULE_RULES = (
    core_stands_alone,
    studies_stay_apart,
    report_reads_only,
    names_say_something,
    files_are_short,
    functions_are_short,
    opens_with_a_docstring,
    nothing_is_pickled,
    all_is_sorted_and_true,
)
