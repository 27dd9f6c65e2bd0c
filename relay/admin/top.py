"""The command `quicpipe-relay top`: what the relay does, live, in a terminal."""

import contextlib
import curses
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from relay.admin.client import AdminClient, NoAnswer
from relay.admin.orders import ORDERS
from relay.admin.screen import head_of, lines
from relay.admin.settings import DEFAULT_PORT, AdminSettings, AdminTokenError, load_token
from relay.config import Chosen
from relay.settings.arguments import Parser, reader
from relay.settings.kinds import Seconds
from relay.settings.load import SettingsError

_DONE, _FAILED, _WRONG = 0, 1, 2
_ROWS_ONCE = 40
_MOST_ROWS = 500
_ESCAPE = 27

_EXAMPLES = f"""\
keys: q ends it, o changes the order

examples:
  quicpipe-relay top
      the relay of this machine, where its settings say that its admin listener is
  quicpipe-relay top --url http://127.0.0.1:{DEFAULT_PORT} --order bytes
  quicpipe-relay top --once | head -20
      one look, as text

exit code: 0 done, 1 the relay does not answer or refuses, 2 wrong usage
"""


def run_top(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    :raises SystemExit: after --help (0) or a mistake (2).
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    settings = AdminSettings()
    if options.url is None or options.token_file is None:
        try:
            chosen = Chosen.of(os.environ, options.config)
            settings = chosen.load(check=False).settings.admin
        except SettingsError as error:
            parser.error(str(error))
    if options.token_file is not None:
        settings = AdminSettings(token_file=options.token_file, listen=settings.listen)
    try:
        client = AdminClient(options.url or _url(settings), load_token(settings))
    except (ValueError, AdminTokenError) as error:
        parser.error(str(error))
    try:
        return _run(client, options.order, options.interval, once=options.once)
    except NoAnswer as error:
        sys.stderr.write(f"quicpipe-relay top: {error}\n")
        return _FAILED
    except KeyboardInterrupt:
        return _DONE
    finally:
        client.close()


def _run(client: AdminClient, order: str, interval_s: float, *, once: bool) -> int:
    if once or not sys.stdout.isatty():
        size = shutil.get_terminal_size((120, _ROWS_ONCE))
        columns = size.columns if sys.stdout.isatty() else 120
        with contextlib.suppress(BrokenPipeError):
            for line in _look(client, order, columns, _ROWS_ONCE):
                sys.stdout.write(line + "\n")
            sys.stdout.flush()
        return _DONE
    _look(client, order, 80, 24)  # what cannot work says so before the screen is taken
    os.environ.setdefault("ESCDELAY", "25")
    try:
        curses.wrapper(_show, client, order, interval_s)
    except curses.error as error:
        sys.stderr.write(
            f"quicpipe-relay top: this terminal cannot show it ({error}); try --once\n"
        )
        return _FAILED
    return _DONE


def _show(window: "curses.window", client: AdminClient, order: str, interval_s: float) -> None:
    with contextlib.suppress(curses.error):
        curses.curs_set(0)
    shown: list[str] = []
    while True:
        height, width = window.getmaxyx()
        began, trouble = time.monotonic(), ""
        try:
            shown = _look(client, order, width - 1, height)
        except NoAnswer as error:
            trouble = f"{error}; trying again"
        _draw(window, shown, trouble)
        while (left := interval_s - (time.monotonic() - began)) > 0:
            window.timeout(max(1, round(left * 1000)))
            key = window.getch()
            if key in (ord("q"), ord("Q"), _ESCAPE):
                return
            if key in (ord("o"), ord("O")):
                order = ORDERS[(ORDERS.index(order) + 1) % len(ORDERS)]
            if key != -1:
                break


def _draw(window: "curses.window", shown: Sequence[str], trouble: str) -> None:
    window.erase()
    height, width = window.getmaxyx()
    head = head_of(shown)
    for at, line in enumerate(shown[:height]):
        look = curses.A_REVERSE if at == head else curses.A_BOLD if at == 0 else curses.A_NORMAL
        text = f"{line:<{width - 1}}" if at == head else line
        with contextlib.suppress(curses.error):  # the window has become smaller meanwhile
            window.addnstr(at, 0, text, max(0, width - 1), look)
    if trouble:
        with contextlib.suppress(curses.error):
            text = f"{trouble:<{width - 1}}"
            window.addnstr(height - 1, 0, text, max(0, width - 1), curses.A_REVERSE)
    window.refresh()


def _look(client: AdminClient, order: str, width: int, height: int) -> list[str]:
    """One look at the relay."""
    overview = client.get("/v1/overview")
    history = client.get("/v1/history")["steps"]
    rows = max(1, min(height, _MOST_ROWS))
    page = client.get(f"/v1/registrations?order={order}&limit={rows}")
    try:
        return lines(
            overview, history, page["registrations"], order=order, width=width, height=height
        )
    except (KeyError, TypeError):
        raise NoAnswer(f"{client.url} is of another version than this command") from None


def _url(settings: AdminSettings) -> str:
    """Where this machine's relay has its admin listener."""
    if not settings.listen:
        return f"http://127.0.0.1:{DEFAULT_PORT}"
    address = settings.listen[0]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{address.port}"


def _parser() -> Parser:
    parser = Parser(
        prog="quicpipe-relay top",
        description="Show what a relay does, live. It asks the relay's admin listener.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "--url", metavar="URL", help="of the admin listener (default: as the relay's settings say)"
    )
    parser.add_argument(
        "--token-file", metavar="FILE", type=Path, help="the token, where reading wants it"
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="the relay's settings, TOML")
    parser.add_argument(
        "--order", choices=ORDERS, default=ORDERS[0], help="which registrations come first"
    )
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=reader(Seconds(0.2, 3600.0)),
        default=1.0,
        help="between two looks (default: 1)",
    )
    parser.add_argument("--once", action="store_true", help="look once, and print it")
    return parser
