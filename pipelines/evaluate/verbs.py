"""Other packages' verbs, called as a person calls them: found by entry point, known by their arguments only."""

from __future__ import annotations

from collections.abc import Sequence

from manifests.errors import UsageError

__all__ = ["run_verb"]


def run_verb(arguments: Sequence[str]) -> int:
    """Run `dataforge ARGUMENTS...` in this process; its exit code.

    Raises what the verb raises, and `UsageError` E505 where no installed package has it.
    """
    from importlib.metadata import entry_points

    import typer

    for entry in sorted(entry_points(group="dataforge.verbs"), key=lambda entry: entry.name):
        verbs = typer.Typer(rich_markup_mode=None)
        verbs.callback()(lambda: None)  # a group, also where there is one verb only
        verbs.add_typer(entry.load())
        group = typer.main.get_command(verbs)
        if arguments[0] in getattr(group, "commands", {}):
            return int(group.main(list(arguments), prog_name="dataforge", standalone_mode=False) or 0)
    raise UsageError(f"the verb `{arguments[0]}` is not installed: `pip install 'dataforge[models]'`.", code="E505")
