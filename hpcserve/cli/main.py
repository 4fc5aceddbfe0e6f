"""The entry point ``hpcserve``: runs a command, and turns whatever ends it into a line and an exit code.

Decides how errors look and what the process's exit code is; the commands only raise. Nothing is imported before it
is needed, so that ``hpcserve --help`` is quick, and nothing but ``sys`` before :func:`main` runs, so that a Ctrl-C
during an import is as quiet as any other.
"""

from __future__ import annotations

import sys

INTERRUPTED = 130
READER_GONE = 141

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hpcserve.errors import HpcserveError


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments without the program's name; None: this process's.

    Returns:
        The exit code: see ``docs/reference/cli.md``.
    """
    try:
        if argv is None:
            from hpcserve.cli.streams import guard

            guard()
        return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        from hpcserve.cli.streams import discard_output

        discard_output()
        return READER_GONE


def _run(argv: list[str]) -> int:
    from hpcserve.cli.app import command
    from hpcserve.cli.options import Options
    from hpcserve.errors import HpcserveError

    options = Options()
    try:
        code = command().main(argv or ["--help"], prog_name="hpcserve", standalone_mode=False, obj=options)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except SystemExit as error:
        # Told not to end the process, Typer does it all the same in one case: the reader has gone.
        raise BrokenPipeError from error
    except HpcserveError as error:
        from hpcserve.cli.broken_site import in_full
        from hpcserve.cli.exits import exit_code
        from hpcserve.cli.streams import OutputLost, discard_output
        from hpcserve.cli.terminal import show_error

        if isinstance(error, OutputLost):
            discard_output()
        show_error(in_full(error), debug=options.debug)
        _tell_of_stopped(error, options.service)
        return exit_code(error)
    except Exception as error:  # noqa: BLE001 (whatever it is, the user gets one line)
        return _unexpected(error, debug=options.debug)
    return code if isinstance(code, int) else 0


def _tell_of_stopped(error: HpcserveError, service: str | None) -> None:
    """Where nobody answers in time, and that may be since processes of the daemon stand still: what to do."""
    from hpcserve.errors import DeadlineExceeded, ServiceUnavailable

    if not isinstance(error, DeadlineExceeded | ServiceUnavailable):
        return
    from hpcserve.cli.daemon_pids import standstill_in_words
    from hpcserve.cli.terminal import note

    told = standstill_in_words(service)
    if told:
        note(told)


def _unexpected(error: Exception, *, debug: bool) -> int:
    """What the parser of the command line says, or a bug."""
    from hpcserve.cli.exits import BUG, USAGE
    from hpcserve.cli.terminal import complain, show_traceback

    # Typer's releases disagree on where the classes live: some bring click, some need it.
    told = getattr(error, "format_message", None)
    if told is not None:
        context = getattr(error, "ctx", None)
        complain(_usage(told(), error, "hpcserve" if context is None else context.command_path))
        return USAGE
    if type(error).__name__ == "Abort":
        return INTERRUPTED
    complain(f"{type(error).__name__}: {error}; this is a bug" + ("" if debug else "; run again with hpcserve --debug"))
    if debug:
        show_traceback(error)
    return BUG


def _usage(told: str, error: Exception, path: str) -> str:
    """What the parser says of wrong usage, in the form of all other errors."""
    from hpcserve.core.spelling import nearest

    option, possible = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if option is not None and possible is not None:
        told = f"no such option {option!r}{nearest(option, possible) if possible else ''}"
    told = told[:1].lower() + told[1:].rstrip(".")
    return told if told.endswith("?") else f"{told}; see: {path} --help"


if __name__ == "__main__":
    sys.exit(main())
