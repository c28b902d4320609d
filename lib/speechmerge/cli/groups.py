"""What all commands share: groups that suggest a name, and help with an example."""

import click

from ..errors import nearest


def example(text: str) -> str:
    """Return an epilog that shows how the command is called."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in text.splitlines())


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
