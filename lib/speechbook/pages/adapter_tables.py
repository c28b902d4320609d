"""What the page on checkpoints says of adapters, written from the tables by which they are read."""

from pathlib import Path

from speechmerge.merging.adapter_config import EMPTY, FIELDS, METHODS, NONE, USED, Field

from .cards import table

PAGE = Path("book") / "checkpoints.md"
KINDS = ("used", "no effect", "refused")
METHOD_ROWS = {
    "merge": "refused with the command that makes a full model of it, which is then merged as any other",
    "none": "refused: what it does depends on the input or is no change of weights, so no full model does the same",
}


def render() -> str:
    """Return the tables of fields and methods as Markdown."""
    rows = sorted(FIELDS.items(), key=lambda item: KINDS.index(_kind(item[1])))
    fields = [(f"`{name}`", _kind(field), _effect(field)) for name, field in rows]
    fields.append(("any other", "refused", "if it is not empty, for it may change numbers"))
    methods = [(", ".join(f"`{name}`" for name in names), METHOD_ROWS[way]) for way, names in METHODS.items()]
    methods.insert(0, ("`LORA`, with or without DoRA", "read"))
    lines = table(("field of `adapter_config.json`", "", "what it gives"), fields, words=3)
    return "\n".join([*lines, "", *table(("method (`peft_type`)", "what it gives"), methods, words=2)])


def _kind(field: Field) -> str:
    """Return one of :data:`KINDS`."""
    return "refused" if field.accepted is not None else "used" if field.effect.startswith(USED) else "no effect"


def _effect(field: Field) -> str:
    text = field.effect.removeprefix(USED).removeprefix(NONE)
    if field.accepted is None or field.accepted == EMPTY:
        return text
    words = ", ".join(f"`{word}`" for word in field.accepted if isinstance(word, str))
    return f"unless it is `true`, `false` or one of {words}; otherwise {text}"
