"""The command line: its options, its commands, and what becomes of errors.

Every error is one line on standard error: no traceback, and no password, for `Settings` shows none.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final

import typer

from neverstale.drive.connection import REDIS_ERRORS, unavailable
from neverstale.errors import NeverstaleError, RedisUnavailable, UsageError

from . import ending, entries, examining, figures, listing, warming
from .output import Output, plain
from .tool import AWAY, FOUND, INTERRUPTED, OK, USAGE, Refused, Tool

__all__ = ["app", "run"]

HELP = """Look at a Neverstale cache, invalidate by hand, examine its Redis, fill it.

Where Redis is and what the cache is called is read from REDIS_URL, NEVERSTALE_NAMESPACE and
NEVERSTALE_VERSION, as the application reads it, so run it with the application's environment.
The options below say otherwise; they may stand anywhere on the line.

Writes tables to a terminal and JSON to anything else. Exit status: 0 fine; 1 a negative answer
(not there, nothing matched, something is wrong); 2 wrong usage; 3 Redis is away or refuses.
"""

app = typer.Typer(
    name="neverstale",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ping", short_help="Does Redis answer, and how fast.")(figures.ping)
app.command("stats", short_help="What all processes have counted, by prefix.")(figures.stats)
app.command("top", short_help="Watch rates, hit rates, what is hot, Redis.")(figures.top)
app.command("get", short_help="What is stored under a key, and is it served.")(entries.get)
app.command("keys", short_help="List keys that match a pattern.")(listing.keys)
app.add_typer(ending.invalidating, name="invalidate", short_help="Invalidate by hand: keys, a pattern, tags.")
app.command("clear", short_help="Invalidate the whole namespace.")(ending.clear)
app.command("doctor", short_help="Examine Redis and its keys; mend TTLs.")(examining.doctor)
app.command("warm", short_help="Fill the cache by an application's jobs.")(warming.warm_command)

#: Options of `neverstale` itself, and whether they take a value.
_GLOBAL: Final = {
    "--url": True,
    "--namespace": True,
    "--version-number": True,
    "--prefix": True,
    "--json": False,
    "--no-json": False,
}


def _release(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"neverstale {version('neverstale')}")
        except PackageNotFoundError:
            raise Refused("which release this is cannot be told: it is not installed", FOUND) from None
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            help="Where Redis is, instead of REDIS_URL. A password given here can be seen in the list of processes.",
            show_default=False,
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(help="The application, instead of NEVERSTALE_NAMESPACE.", show_default=False),
    ] = None,
    version_number: Annotated[
        int | None,
        typer.Option(help="Of what is cached, instead of NEVERSTALE_VERSION.", show_default=False),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="What keys and patterns are relative to, like 'api:'.", show_default=False)
    ] = "",
    as_json: Annotated[
        bool | None,
        typer.Option(
            "--json/--no-json", help="JSON, or tables, whatever it is written to.", show_default=False
        ),
    ] = None,
    release: Annotated[
        bool,
        typer.Option("--version", help="Print the release of neverstale.", callback=_release, is_eager=True),
    ] = False,
) -> None:
    given = {"url": url, "namespace": namespace, "version": version_number}
    overrides: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    context.obj = Tool(overrides, prefix, Output(as_json))


def run(arguments: list[str]) -> int:
    """Run a command; return the exit status."""
    if not arguments:
        # Some versions of click take this for a wish, others for a mistake.
        run(["--help"])
        return USAGE
    try:
        _check_version(arguments)
        status: Any = app(_hoisted(arguments), prog_name="neverstale", standalone_mode=False)
        # An Exit inside of a command is what it returns here, or an exception, by the version of typer.
        return status if isinstance(status, int) else OK
    except typer.Exit as done:
        return int(done.exit_code)
    except Refused as problem:
        return _say(problem, problem.status)
    except UsageError as problem:
        return _say(problem, USAGE)
    except RedisUnavailable as problem:
        return _say(problem, AWAY)
    except NeverstaleError as problem:
        return _say(problem, FOUND)
    except REDIS_ERRORS as problem:
        return _say(unavailable(problem), AWAY)
    except (KeyboardInterrupt, typer.Abort):
        # A progress bar that was interrupted while it began has hidden the cursor.
        sys.stderr.write("\x1b[?25h\n" if sys.stderr.isatty() else "\n")
        return INTERRUPTED
    except Exception as problem:
        # typer's own errors, whichever copy of click it brings along.
        shown = getattr(problem, "format_message", None)
        if shown is None:
            raise
        text = str(shown()).strip()
        if type(problem).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{text}\n")
            return USAGE
        # The command that was meant, as far as it was understood: "neverstale invalidate tag".
        path = getattr(getattr(problem, "ctx", None), "command_path", "") or "neverstale"
        stop = "" if text.endswith((".", "?", "!")) else "."
        return _say(f"{text}{stop} Try '{path} --help'." if text else f"see '{path} --help'", USAGE)


def _say(problem: object, status: int) -> int:
    sys.stderr.write(f"neverstale: {plain(' '.join(str(problem).split()))}\n")
    return status


def _check_version(arguments: list[str]) -> None:
    """Refuse `--version` beside anything else: whoever wrote `clear --version 2` meant what is cached."""
    options_ = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if len(arguments) > 1 and any(each.partition("=")[0] == "--version" for each in options_):
        raise Refused(
            "--version prints the release, and stands alone; the version of what is cached is --version-number"
        )


def _hoisted(arguments: list[str]) -> list[str]:
    """Return the arguments with the options of `neverstale` itself in front, wherever they stood."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in _GLOBAL:
            front.append(argument)
            if _GLOBAL[argument]:
                value = next(waiting, None)
                if value is None:
                    raise Refused(f"option {argument} needs a value. Try 'neverstale --help'.")
                front.append(value)
        elif argument.partition("=")[0] in _GLOBAL and "=" in argument:
            front.append(argument)
        else:
            rest.append(argument)
    return front + rest
