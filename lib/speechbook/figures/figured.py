"""A figure together with its caption, its description for those who cannot see it, and the numbers it draws."""

import base64
import html
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from speechmerge.errors import BookError
from speechmerge.files import atomic_file

from ..study import store
from . import style

SHORTEST_ALT = 40  # characters; anything shorter cannot say what a figure shows


def rendered(fig: Figure, kind: str) -> bytes:
    """Return a drawing as a file of a kind, ``svg`` or ``png``; the same one whenever it is made."""
    with style.applied(), io.BytesIO() as stream:
        fig.savefig(stream, format=kind, metadata={"Date": None} if kind == "svg" else {})
        return stream.getvalue()


@dataclass(frozen=True)
class Figured:
    """A figure with all that belongs to it.

    Attributes:
        fig: the drawing.
        caption: one or two sentences that stand below it.
        alt: what it shows, for those who cannot see it, numbers included.
        data: the numbers drawn, one line a mark.
    """

    fig: Figure
    caption: str
    alt: str
    data: pd.DataFrame

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
        image = base64.b64encode(self.svg).decode()
        alt = html.escape(self.alt)
        return f'<img class="figured" alt="{alt}" src="data:image/svg+xml;base64,{image}" style="max-width: 100%">'

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
