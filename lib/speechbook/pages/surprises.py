"""The page of findings, from the headers of the scripts in ``findings/`` that show them."""

import re
from pathlib import Path

from speechmerge.errors import BookError

PAGE = Path("book") / "surprises.md"
LISTED = re.compile(r"^(\d+\.|-) ")


def render(folder: Path) -> str:
    """Write a section for each script of a folder, in the order of their names: what it found, and how to see it.

    Raises:
        BookError: a script does not begin with a comment that says what it shows.
    """
    return "\n\n".join(_section(script) for script in sorted(folder.glob("*.sh")))


def _section(script: Path) -> str:
    title, *blocks = _blocks(script)
    text = "\n\n".join(block for block in blocks if not block.startswith("Exits "))
    return f"## {title.rstrip('. ')}\n\n{text}\n\n```bash\nbash findings/{script.name}\n```"


def _blocks(script: Path) -> list[str]:
    """Return the paragraphs and numbered points of the comment that opens a script; the first sentence is alone."""
    first, *lines = script.read_text(encoding="utf-8").splitlines()
    found: list[str] = [""]
    for line in lines:
        if not line.startswith("#"):
            break
        told = line.removeprefix("#").strip()
        if not told or LISTED.match(told) or told.startswith("Exits "):
            found.append(told)
        else:
            found[-1] = f"{found[-1]} {told}".strip()
    found = [block for block in found if block]
    if not first.startswith("#!") or not found:
        raise BookError(f"{script}: expected a line '#!' and then a comment that says what the script shows.")
    title, point, rest = found[0].partition(". ")
    return [title + point, *([rest] if rest else []), *found[1:]]
