"""The commands that talk to a running relay: status, reload, drain, upgrade."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relay.config import DEFAULT_FILE, Chosen, load_or_exit
from relay.lifecycle.ask import Asking, NoRelay, RelayGone
from relay.lifecycle.local_socket import Message
from relay.settings.arguments import Parser, reader
from relay.settings.kinds import Seconds
from relay.settings.load import CONFIG_VARIABLE

_DONE, _FAILED = 0, 1
_INTERRUPTED = 130
_ANSWER_PATIENCE_S = 10.0
_UPGRADE_PATIENCE_S = 120.0
_DRAIN_PATIENCE_S = 30.0
"""Seconds between two of the relay's words while it drains."""
_PAUSE_S = 0.02

_FINDING = """\
The relay is found by its control socket, which the settings name: give this command the same
--config or environment as the relay has, or --control-socket.

exit code: 0 done, 1 not done, 2 wrong usage
"""


def run_status(arguments: Sequence[str]) -> int:
    """Show what a relay does; returns the exit code.

    :raises SystemExit: after --help (0) or a mistake (2).
    """
    parser = _parser("status", "Show what the relay that runs here does.")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    answer = _ask(parser, options, {"command": "status"})
    if answer is None:
        return _FAILED
    status = answer.get("status", {})
    if options.json:
        _say(json.dumps(status, indent=2))
    else:
        for name, value in status.items():
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            _say(f"{name.replace('_', ' ')}: {shown}")
    return _DONE


def run_reload(arguments: Sequence[str]) -> int:
    """Let a relay read its settings again; returns the exit code.

    :raises SystemExit: after --help (0) or a mistake (2).
    """
    parser = _parser(
        "reload",
        "Let the relay read its settings, certificate and revoked tokens anew. No pipe breaks. If "
        "anything is wrong, everything stays as it is.",
    )
    answer = _ask(parser, parser.parse_args(arguments), {"command": "reload"})
    if answer is None:
        return _FAILED
    _say(f"reloaded; {answer.get('reloaded')}")
    return _DONE


def run_drain(arguments: Sequence[str]) -> int:
    """Let a relay run dry; returns the exit code.

    :raises SystemExit: after --help (0) or a mistake (2).
    """
    parser = _parser(
        "drain",
        "Let the relay take no new registrations, and end when the last one has ended. Pipes that "
        "there are go on till then, and may register more connection IDs.",
    )
    parser.add_argument(
        "--deadline",
        metavar="TIME",
        type=reader(Seconds(0.0, 366 * 86_400.0)),
        help="end after that time at the latest, as in 90s, 10m, 2h (default: wait for ever)",
    )
    parser.add_argument("--no-wait", action="store_true", help="say so, and do not wait for it")
    parser.add_argument("--cancel", action="store_true", help="take new registrations again")
    options = parser.parse_args(arguments)
    request: Message = {"command": "drain", "cancel": options.cancel, "wait": not options.no_wait}
    if options.deadline is not None:
        request["deadline_s"] = options.deadline
    try:
        with Asking(_path(parser, options), _ANSWER_PATIENCE_S) as asking:
            asking.send(request)
            return _follow_drain(asking)
    except NoRelay as error:
        return _fail(str(error))
    except RelayGone:
        return _fail("the relay does not answer")
    except KeyboardInterrupt:
        _say("the relay goes on draining; 'quicpipe-relay drain --cancel' ends that")
        return _INTERRUPTED


def run_upgrade(arguments: Sequence[str]) -> int:
    """Let a new process go on with a relay's work; returns the exit code.

    :raises SystemExit: after --help (0) or a mistake (2).
    """
    parser = _parser(
        "upgrade",
        "Let the relay start its command anew, with the settings and the version that are there "
        "now. The new process takes over sockets and registrations; no pipe breaks. If it cannot, "
        "the relay goes on as before.",
    )
    path = _path(parser, parser.parse_args(arguments))
    try:
        with Asking(path, _UPGRADE_PATIENCE_S) as asking:
            asking.send({"command": "upgrade"})
            for answer in asking.receive_all():
                if "error" in answer:
                    return _fail(str(answer["error"]))
                if "upgraded" in answer:
                    _wait_for(answer["upgraded"], path)
                    _say(f"process {answer['upgraded']} goes on with the work of {asking.pid}")
                    return _DONE
    except (NoRelay, RelayGone) as error:
        return _fail(str(error) or "the relay does not answer")
    return _fail("the relay ended without a word")


def _wait_for(pid: int, path: Path) -> None:
    """Until this process answers commands: it forwards already."""
    deadline = time.monotonic() + _ANSWER_PATIENCE_S
    while time.monotonic() < deadline:
        try:
            with Asking(path, _ANSWER_PATIENCE_S) as asking:
                if asking.pid in (pid, None):
                    return
        except NoRelay:
            pass
        time.sleep(_PAUSE_S)


def _follow_drain(asking: Asking) -> int:
    answer = asking.receive()
    if "error" in answer:
        return _fail(str(answer["error"]))
    if answer.get("draining") is False:
        _say("the relay takes new registrations again")
        return _DONE
    _say(f"the relay drains; registrations left: {answer.get('registrations')}")
    left = answer.get("registrations")
    for answer in asking.receive_all(_DRAIN_PATIENCE_S):
        if "ended" in answer:
            _say(f"the relay ends; registrations left: {answer.get('registrations')}")
        elif answer.get("registrations") != left:
            left = answer.get("registrations")
            _say(f"registrations left: {left}")
    return _DONE


def _ask(parser: Parser, options: Any, request: Message) -> Message | None:
    """The answer to a request that has one; None: it failed, and that was said."""
    try:
        with Asking(_path(parser, options), _ANSWER_PATIENCE_S) as asking:
            asking.send(request)
            answer = asking.receive()
    except NoRelay as error:
        _fail(str(error))
        return None
    except RelayGone:
        _fail("the relay does not answer")
        return None
    if "error" in answer:
        _fail(str(answer["error"]))
        return None
    return answer


def _parser(name: str, description: str) -> Parser:
    parser = Parser(prog=f"quicpipe-relay {name}", description=description, epilog=_FINDING)
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"the relay's settings (default: {CONFIG_VARIABLE}, or {DEFAULT_FILE} if it exists)",
    )
    parser.add_argument(
        "--control-socket", metavar="FILE", type=Path, help="of the relay, instead of the settings'"
    )
    return parser


def _path(parser: Parser, options: Any) -> Path:
    if options.control_socket is not None:
        return Path(options.control_socket)
    chosen = Chosen.of(os.environ, options.config)
    path = load_or_exit(parser, chosen, check=False).settings.control_path
    if path is None:
        parser.error("nothing says where the relay's control socket is: give --control-socket")
    return path


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _fail(text: str) -> int:
    sys.stderr.write(f"quicpipe-relay: {text}\n")
    return _FAILED
