"""``python -m speechmerge`` is the ``speechmerge`` command (``accelerate launch -m speechmerge train ...`` uses it)."""

from .cli import main

main()
