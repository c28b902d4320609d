"""A figure together with its caption, its description for those who cannot see it, and the numbers it draws."""

import hashlib
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from speechmerge.errors import BookError
from speechmerge.files import atomic_file

from ..study import store
from . import style

ElementTree.register_namespace("", SVG := "http://www.w3.org/2000/svg")
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")

STYLE = "max-width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt"  # the latter two are matplotlib's
SHORTEST_ALT = 40  # characters; anything shorter cannot say what a figure shows


def _apart(drawing: str, prefix: str) -> str:
    """Give the names in a drawing a prefix of their own, for several drawings stand on one page."""
    return re.sub(r'( id="|"#|url\(#)', rf"\g<1>f{prefix}-", drawing)


def rendered(fig: Figure, kind: str) -> bytes:
    """Return a drawing as a file of a kind, ``svg`` or ``png``; the same one whenever it is made."""
    with style.applied(), io.BytesIO() as stream:
        fig.savefig(stream, format=kind, metadata={"Date": None} if kind == "svg" else {})
        return stream.getvalue()


class Told(dict[str, list[str]]):
    """What the marks of a figure say to somebody who points at them: texts by the name of a group of marks."""

    def mark(self, artist: Artist, texts: Iterable[str]) -> None:
        """Give each mark of a line of marks a text, in their order."""
        name = f"told-{len(self)}"
        artist.set_gid(name)
        self[name] = list(texts)


@dataclass(frozen=True)
class Figured:
    """A figure with all that belongs to it.

    Attributes:
        fig: the drawing.
        caption: one or two sentences that stand below it.
        alt: what it shows, for those who cannot see it, numbers included.
        data: the numbers drawn, one line a mark.
        told: what marks say when they are pointed at.
    """

    fig: Figure
    caption: str
    alt: str
    data: pd.DataFrame
    told: Told = field(default_factory=Told)

    def __post_init__(self) -> None:
        """Refuse a figure that cannot be described or has no data behind it, and lay it out once and for all."""
        if len(self.alt) < SHORTEST_ALT or not self.caption:
            raise BookError(
                f"a figure has alt text {self.alt!r} and caption {self.caption!r}; both must say what it shows."
            )
        if self.data.empty:
            raise BookError(f"the figure {self.caption!r} has no data; load the rows it draws before drawing it.")
        with style.applied():
            self.fig.draw_without_rendering()
            self.fig.set_layout_engine("none")  # else every saving moves things a little

    @cached_property
    def svg(self) -> bytes:
        """The drawing as it is shown and saved, which is made once."""
        return rendered(self.fig, "svg")

    def _repr_html_(self) -> str:
        """Return the drawing as a part of the page, for a browser tells only there what a mark says."""
        root = ElementTree.fromstring(self.svg)
        for group in root.iter(f"{{{SVG}}}g"):
            marks = group.iter(f"{{{SVG}}}use")
            for mark, text in zip(list(marks), self.told.get(group.get("id", ""), ()), strict=False):
                ElementTree.SubElement(mark, f"{{{SVG}}}title").text = text
        for about in root.findall(f"{{{SVG}}}metadata"):
            root.remove(about)
        for rules in root.iter(f"{{{SVG}}}style"):
            rules.text = ""  # they would hold for the whole page; STYLE says the same of the drawing alone
        root.attrib |= {"class": "figured", "role": "img", "aria-label": self.alt, "style": STYLE}
        return _apart(ElementTree.tostring(root, encoding="unicode"), hashlib.sha256(self.svg).hexdigest()[:8])

    def save(self, folder: Path, name: str) -> Path:
        """Write ``NAME.svg``, ``NAME.png`` and the numbers as ``NAME.csv``; return the path of the SVG."""
        for kind, drawing in (("png", rendered(self.fig, "png")), ("svg", self.svg)):
            with atomic_file(Path(folder) / f"{name}.{kind}") as file:
                file.write_bytes(drawing)
        with atomic_file(Path(folder) / f"{name}.csv") as file:
            self.data.to_csv(file, index=False, float_format="%.6g")
        return Path(folder) / f"{name}.svg"

    def show(self, name: str) -> None:
        """Hand the figure to the page, which shows it as ``NAME-figure`` with ``NAME-caption``."""
        from myst_nb import glue  # of the extra "book", which the library itself does not need

        glue(f"{name}-figure", self, display=False)
        glue(f"{name}-caption", self.caption, display=False)

    def publish(self, profile: str, name: str) -> None:
        """Save the figure among the profile's committed results and show it."""
        self.save(store.results_folder(profile) / "figures", name)
        self.show(name)
