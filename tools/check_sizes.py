"""Size limits: files of at most 500 lines, functions of at most 80. Prints every excess and ends with exit code 1.

A function that only fills a table (assignments, returns and calls, without branches or loops) may be longer.

    python tools/check_sizes.py src tests benchmarks tools
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES, FUNCTION_LINES = 500, 80
_LOGIC = (ast.If, ast.For, ast.While, ast.Try, ast.With, ast.Match, ast.FunctionDef, ast.AsyncFunctionDef)


def excesses(path: Path) -> Iterator[str]:
    """What is too long in one file."""
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > FILE_LINES:
        yield f"{path}: {lines} lines, at most {FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES and not is_table(node):
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}"


def is_table(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the function holds data only."""
    return not any(isinstance(node, _LOGIC) for statement in function.body for node in ast.walk(statement))


def main(folders: list[str]) -> int:
    """Check every Python file below the folders; the number of excesses."""
    files = sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
    found = [line for path in files for line in excesses(path)]
    for line in found:
        print(line)
    print(f"{len(files)} files, {len(found)} too long or with functions too long")
    return len(found)


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:] or ["src"]) else 0)
