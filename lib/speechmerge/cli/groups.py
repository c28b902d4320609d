"""What all commands share: groups that suggest a name, options of several commands, and help with an example."""

import functools
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import click

from ..errors import nearest

PLUGINS = "speechmerge.commands"  # entry points by which another package adds commands


def example(text: str) -> str:
    """Return an epilog that shows how the command is called."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in text.splitlines())


def with_options(*options: Callable) -> Callable:
    """Return the decorator that adds options to a command, which shows them in this order."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


class Group(click.Group):
    """A group that lists its commands in the order of the work and names the nearest when one is misspelt."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names in the order they were added."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        """Find the command; an unknown name ends with a suggestion."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}.{nearest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


class Root(Group):
    """The outermost group: its own commands, and those that other installed packages add."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, added ones last."""
        return [*super().list_commands(ctx), *_added()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; one that is added is imported now."""
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in (added := _added()):
            return _loaded(added[cmd_name])
        return found


def _added() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=PLUGINS)}


def _loaded(point: EntryPoint) -> click.Command:
    """Import an added command; where what it needs is not installed, return one that says so."""
    try:
        return point.load()
    except ModuleNotFoundError as error:
        told = f"it needs {error.name}, which is not installed; run `pip install 'speechmerge[book]'`."

        @click.command(point.name, help=f"Not installed: {told}", context_settings={"ignore_unknown_options": True})
        @click.argument("words", nargs=-1)
        def missing(words: tuple[str, ...]) -> None:
            raise click.ClickException(f"{point.name}: {told}")

        return missing
