"""The `lepjax` command: one file of this folder per subcommand. Listing them imports none of them (nor JAX)."""

from __future__ import annotations

import ast
import importlib
import pathlib
import sys
import time

from lepjax import __version__
from lepjax.core.errors import DONE, UserError, guarded, nearest
from lepjax.run.memory import keep_freed_memory

STARTED = time.perf_counter()


def commands() -> dict[str, str]:
    """{command: the first line of its file's docstring}."""
    found = {}
    for path in sorted(pathlib.Path(__file__).parent.glob("*.py")):
        if not path.stem.startswith("_") and path.stem != "main":
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = docstring.splitlines()[0]
    return found


def usage() -> str:
    lines = ["usage: lepjax COMMAND ...", ""]
    lines += [f"  {name:<10} {help_}" for name, help_ in commands().items()]
    return "\n".join([*lines, "", "lepjax COMMAND --help tells more."])


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return DONE
    if arguments[0] == "--version":
        print(f"lepjax {__version__}")
        return DONE
    name, rest = arguments[0], arguments[1:]
    if name not in commands():
        raise UserError(f"no command {name!r}", fix=nearest(name, commands()))
    keep_freed_memory()
    return importlib.import_module(f"lepjax.cli.{name}").run(rest)


def main() -> None:
    sys.exit(guarded(lambda: run(sys.argv[1:])))
