"""The command line. Each subcommand is a file of its own, imported when it is asked for."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module

from .. import __version__

COMMANDS = {
    "train": "train a model and save it",
    "compare": "train several models and print a table",
    "tune": "search the options of models on validation",
    "evaluate": "score a saved model",
    "recommend": "recommend items to users of a saved model",
    "export": "write the embeddings of a saved model for other programs",
    "report": "make one page of tables and figures of runs",
    "inspect": "print what a data set and its channels hold",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``infodcl-geo``; 0 on success, 1 on an error that the user can mend, 2 on wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without a sign shows another
    if words[:1] == ["--version"]:
        print(f"infodcl-geo {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    command = words.pop(0)
    if command not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
        print(f"infodcl-geo: there is no command {command!r}; {hint}", file=sys.stderr)
        return 2
    return _run(command, words)


def _overview() -> str:
    lines = [
        "usage: infodcl-geo COMMAND [OPTIONS]",
        "",
        "Train, evaluate and query InfoDCL and its baselines on user-item interactions.",
        "",
        "commands:",
        *(f"  {name:<12}{text}" for name, text in COMMANDS.items()),
        "",
        "infodcl-geo COMMAND --help shows the options of a command; infodcl-geo --version the version.",
    ]
    return "\n".join(lines)


def _run(command: str, words: list[str]) -> int:
    import warnings

    # torch announces on the first product that its CSR layout is young.
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    warnings.showwarning = _show_warning
    from ..errors import NO_MEMORY, InfodclGeoError, out_of_memory
    from ..text import escape, shortened

    # As Ctrl-C: what is kept is kept whole, and one line says that it was asked to end.
    asked_to_end = signal.getsignal(signal.SIGTERM)
    own = threading.current_thread() is threading.main_thread() and asked_to_end is signal.SIG_DFL
    if own:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _set_threads(words)
        from ..environment import is_one_of_several

        if command != "train" and is_one_of_several():
            from ..errors import OptionError

            raise OptionError(f"{command} is for one process; of several, torchrun starts train alone")
        return int(import_module(f".{command}", __name__).main(words))
    except InfodclGeoError as error:
        print(f"infodcl-geo: {shortened(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read has gone; what is kept was kept before it was shown.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the interpreter ends
        return 0
    except OSError as error:
        from ..files import reason_of

        where = f"{error.filename}: " if error.filename else ""
        print(f"infodcl-geo: {shortened(escape(f'{where}{reason_of(error)}'))}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print(f"infodcl-geo: {NO_MEMORY}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = {"compare": "; the same command goes on with what --out keeps"}
        goes_on["tune"] = "; the same command goes on with what --journal keeps"
        print(f"infodcl-geo: interrupted{goes_on.get(command, '')}", file=sys.stderr)
        return 130
    finally:
        if own:
            signal.signal(signal.SIGTERM, asked_to_end)


def _set_threads(words: Sequence[str]) -> None:
    from ..errors import OptionError

    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--threads":
            given = value if equals else "".join(words[place + 1 : place + 2])
            if not given.isdecimal() or not 1 <= int(given) <= 4096:
                raise OptionError(f"--threads takes a whole number from 1, not {given!r}")
            import torch

            torch.set_num_threads(int(given))


def _show_warning(message: Warning | str, category: type[Warning], *rest: object, **named: object) -> None:
    ours = category.__module__.startswith("infodcl_geo")
    from ..text import escape, shortened

    print(f"warning: {'' if ours else category.__name__ + ': '}{shortened(escape(message))}", file=sys.stderr)
