"""A trained system on disk, and the upstreams of a set made ready for a task."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import CheckpointError
from ..files import atomic_folder
from . import features, heads, interfaces, upstreams
from .alignment import Normaliser
from .answering import Options, System
from .examples import Example, Task
from .hearing import Hearing

WEIGHTS, ABOUT = "system.safetensors", "system.json"


def hearing_of(names: Sequence[str], examples: Sequence[Example], *, whole: bool, window: str = "full") -> Hearing:
    """Let the upstreams of a set hear all examples, unless their stores hold them, and return what they heard.

    Args:
        names: of the upstreams, in order; each once, a second use as ``NAME#2``.
        examples: any number.
        whole: whether all frames of a clip are kept.
        window: what Whisper's encoder hears.

    Raises:
        SourceError: an upstream cannot be had, or stands twice.
        CheckpointError: a store is damaged.
    """
    upstreams.check_set(names)
    clips, known = [one.clip for one in examples], {}
    for name in map(upstreams.plain, names):
        if name not in known:
            known[name] = features.extract(name, upstreams.load(name, window), clips, whole=whole, window=window)
    return Hearing([known[upstreams.plain(name)] for name in names], whole=whole)


def save(
    system: System, names: Sequence[str], interface: str, window: str, folder: Path, *, overwrite: bool = False
) -> None:
    """Write a trained system: its weights, and all that is needed to make and use it again."""
    about = {
        "task": system.task.name,
        "kind": system.task.kind,
        "title": system.task.title,
        "classes": list(system.classes),
        "upstreams": list(names),
        "fingerprints": [one.fingerprint for one in system.hearing.features],
        "window": window,
        "shapes": system.hearing.shapes,
        "interface": interface,
        "options": asdict(system.options),
        "rate": system.rate,
        "dev": system.dev,
    }
    state = {f"interface.{name}": value for name, value in system.interface.state_dict().items()}
    state |= {f"head.{name}": value for name, value in system.head.state_dict().items()}
    for place, pair in enumerate(system.hearing.normalise.statistics):
        state |= {f"normalise.{place}.{what}": value for what, value in zip(("mean", "sd"), pair, strict=True)}
    with atomic_folder(folder, overwrite=overwrite, marks=[ABOUT]) as made:
        save_file({name: value.contiguous() for name, value in state.items()}, made / WEIGHTS)
        (made / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def about(folder: Path) -> dict:
    """Return what a folder with a trained system says of it.

    Raises:
        CheckpointError: it holds none.
    """
    try:
        return json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} holds no fused system ({error}); make one with `speechmerge fuse train`."
        ) from error


def read(folder: Path, task: Task, hearing: Hearing) -> System:
    """Read a trained system.

    Args:
        folder: that :func:`save` wrote.
        task: of the same kind.
        hearing: of the same upstreams, not normalised.

    Raises:
        CheckpointError: it is damaged, or was trained with other upstreams.
    """
    told = about(folder)
    for name, was, one in zip(told["upstreams"], told["fingerprints"], hearing.features, strict=True):
        if was != one.fingerprint:
            raise CheckpointError(
                f"{folder}: trained with {name} {was[:12]}, found {one.fingerprint[:12]}; use the weights of then."
            )
    options = Options(**told["options"])
    interface = interfaces.build(told["interface"], hearing.shapes, options.width)
    classes = "".join(told["classes"]) if told["kind"] == "characters" else told["classes"]
    head = heads.made(told["kind"], interface.out, classes, options.head)
    try:
        state = load_file(folder / WEIGHTS)
        for prefix, module in (("interface.", interface), ("head.", head)):
            module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged or another system's ({error}); train it again."
        ) from error
    pairs = [
        (state[f"normalise.{place}.mean"], state[f"normalise.{place}.sd"])
        for place in range(len(hearing.features))
        if f"normalise.{place}.mean" in state
    ]
    made = Hearing(hearing.features, whole=hearing.whole, normalise=Normaliser(options.normalise, pairs))
    interface.eval(), head.eval()
    return System(task, interface, head, classes, made, options, told["rate"], told["dev"])
