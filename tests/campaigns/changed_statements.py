"""Mutants of a module: one statement changed in one place, by rules that seldom give equal code."""

import ast
import copy
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum",
    "maximum": "minimum", "floor": "ceil", "ceil": "floor", "argmin": "argmax", "argmax": "argmin",
}  # fmt: skip
BODIES = ("body", "orelse", "finalbody", "handlers", "cases")
SYMMETRIC = {"isinstance", "getattr", "setting", "zip", "DataError", "ConfigError"}
SAID = {"print", "info", "warning", "warn", "debug", "log", "say", "tell"}  # whose words may change


Steps = tuple[tuple[str, int | None], ...]


class Mutant(NamedTuple):
    """What is changed; `name` stays the same wherever the statement moves in its file.

    `statement` counts the file's statements, and `steps` lead from it to the changed part.
    """

    file: str
    function: str
    line: int
    header: str
    before: str
    after: str
    statement: int
    steps: Steps

    @property
    def name(self) -> str:
        """The file, the function, the statement, and its part before and after."""
        part = "" if self.before == self.header else f"{self.before} -> "
        return f"{self.file}: {self.function}: {self.header}: {part}{self.after}"


def draw(file: str, text: str, count: int, seed: int) -> list[Mutant]:
    """Some of a file's mutants, the same ones for a seed and a text."""
    found = {mutant.name: mutant for mutant in list_mutants(file, text)}

    def rank(name: str) -> str:
        return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()

    return [found[name] for name in sorted(found, key=rank)[:count]]


def count_statements(text: str) -> int:
    """Those that can be changed."""
    return sum(1 for _ in _statements(ast.parse(text)))


def list_mutants(file: str, text: str) -> Iterator[Mutant]:
    """All mutants of a module, in the order of its statements."""
    for number, (function, statement) in enumerate(_statements(ast.parse(text))):
        header = _header(statement)
        for steps, changed in _changes(statement):
            before = ast.unparse(_walk(statement, steps)) if steps else header
            after = "nothing" if isinstance(changed, ast.Pass) else ast.unparse(changed)
            yield Mutant(file, function, statement.lineno, header, before, after, number, steps)


def mutate(mutant: Mutant, text: str) -> str:
    """The module's text with the change."""
    tree = ast.parse(text)
    statement = list(_statements(tree))[mutant.statement][1]
    changed = next(
        changed
        for steps, changed in _changes(statement)
        if steps == mutant.steps
        and mutant.after == ("nothing" if isinstance(changed, ast.Pass) else ast.unparse(changed))
    )
    if mutant.steps:
        field, index = mutant.steps[-1]
        _put(_walk(statement, mutant.steps[:-1]), field, index, changed)
    else:
        for node in ast.walk(tree):
            for field, value in ast.iter_fields(node):
                if isinstance(value, list) and any(each is statement for each in value):
                    _put(node, field, [each is statement for each in value].index(True), changed)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _walk(node: ast.AST, steps: Steps) -> ast.AST:
    for field, index in steps:
        node = getattr(node, field) if index is None else getattr(node, field)[index]
    return node


def _put(node: ast.AST, field: str, index: int | None, changed: ast.AST) -> None:
    if index is None:
        setattr(node, field, changed)
    else:
        getattr(node, field)[index] = changed


def _statements(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Every statement that runs, with the qualified name of its function."""

    def visit(body: list[ast.stmt], name: str) -> Iterator[tuple[str, ast.stmt]]:
        for statement in body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{name}.{statement.name}" if name else statement.name
                if statement.name not in ("__repr__", "__str__"):
                    yield from visit(statement.body, inner)
                continue
            if _is_guard(statement):
                continue
            yield name or "<module>", statement
            for field in ("body", "orelse", "finalbody"):
                yield from visit(getattr(statement, field, []), name)
            for handler in getattr(statement, "handlers", []):
                yield from visit(handler.body, name)
            for case in getattr(statement, "cases", []):
                yield from visit(case.body, name)

    yield from visit(tree.body, "")


def _is_guard(statement: ast.stmt) -> bool:
    """Docstrings, imports, and what only types or a command line need."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return True
    if isinstance(statement, ast.If):
        return "TYPE_CHECKING" in ast.unparse(statement.test) or "__main__" in ast.unparse(
            statement.test
        )
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass | ast.Global)


def _changes(statement: ast.stmt) -> Iterator[tuple[Steps, ast.AST]]:
    """What can stand instead of a part of the statement, or of the whole of it."""
    if isinstance(statement, ast.Expr | ast.AugAssign | ast.Raise | ast.Delete):
        called = statement.value if isinstance(statement, ast.Expr) else None
        if not (isinstance(called, ast.Call) and _called_name(called) in SAID):
            yield (), ast.Pass()
    if isinstance(statement, ast.Return) and not isinstance(statement.value, ast.Constant | None):
        yield (), ast.Return(ast.Constant(None))
    if isinstance(statement, ast.If | ast.While):
        yield (("test", None),), ast.UnaryOp(ast.Not(), statement.test)
    for path, node in _expressions(statement, ()):
        yield from ((path, changed) for changed in _exchange(node))


def _expressions(node: ast.AST, path: Steps) -> Iterator[tuple[Steps, ast.expr]]:
    """The expressions of one statement without its types, its texts, and the statements in it."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns") or (field in BODIES and isinstance(value, list)):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if isinstance(child, ast.Call) and _called_name(child) in SAID | {"cast", "TypeVar"}:
                continue
            here = (*path, (field, index))
            if isinstance(child, ast.expr):
                yield here, child
            if not isinstance(child, ast.stmt) and not _is_type(child):
                yield from _expressions(child, here)


def _is_type(node: ast.AST) -> bool:
    """Float[Array, "b c"] and the like."""
    return (
        isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Tuple)
        and any(
            isinstance(each, ast.Constant) and isinstance(each.value, str)
            for each in node.slice.elts
        )
    )


def _exchange(node: ast.expr) -> Iterator[ast.expr]:
    """Each other expression that may stand in this one's place."""
    changed = copy.deepcopy(node)
    match changed:
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            changed.ops = [COMPARISONS[type(op)]()]
            yield changed
        case ast.BinOp(op=op) if type(op) in ARITHMETIC and not _is_text(changed):
            changed.op = ARITHMETIC[type(op)]()
            yield changed
        case ast.BoolOp(op=op):
            changed.op = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield changed
        case ast.UnaryOp(op=ast.Not()):
            yield changed.operand
        case ast.IfExp():
            changed.body, changed.orelse = changed.orelse, changed.body
            yield changed
        case ast.Constant(value=bool()):
            yield ast.Constant(not changed.value)
        case ast.Constant(value=int() | float() as number):
            yield ast.Constant(number + 1)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            yield from _exchange_call(changed, name)


def _exchange_call(call: ast.Call, name: str) -> Iterator[ast.expr]:
    if name in NAMES:
        other = copy.deepcopy(call)
        if isinstance(other.func, ast.Name):
            other.func.id = NAMES[name]
        elif isinstance(other.func, ast.Attribute):
            other.func.attr = NAMES[name]
        yield other
    elif len(call.args) > 1 and name not in SYMMETRIC:
        first, second = call.args[:2]
        is_starred = isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
        if not is_starred and ast.dump(first) != ast.dump(second):
            call.args[:2] = second, first
            yield call


def _is_text(node: ast.BinOp) -> bool:
    texts = (ast.JoinedStr, ast.List, ast.Tuple)
    return any(
        isinstance(side, texts) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in (node.left, node.right)
    )


def _called_name(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _header(statement: ast.stmt) -> str:
    """The statement without those in it, on one line."""
    alone = copy.copy(statement)
    for field in BODIES:
        if isinstance(getattr(alone, field, None), list):
            setattr(alone, field, [ast.Pass()] if field == "body" else [])
    if isinstance(alone, ast.Try | ast.Match):
        return type(alone).__name__.lower()
    return " ".join(ast.unparse(alone).removesuffix("pass").split())
