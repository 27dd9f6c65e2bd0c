"""What the operator chose: all settings in one model, from a TOML file, the environment and flags.

Each module declares its own settings where they are used (see relay/settings/declare.py); here they
are put together.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relay.admin.settings import AdminSettings
from relay.core.registry import RegistryLimits
from relay.forwarding.sockets import ListenRequest
from relay.forwarding.supervisor import default_workers
from relay.kernel.config import PREFIX as XDP_PREFIX
from relay.kernel.config import KernelConfig
from relay.limits import Limits
from relay.logs import LEVELS, LogFormat
from relay.settings.addresses import Listen
from relay.settings.arguments import Parser, add_flags, flag_values
from relay.settings.declare import Source, section, setting
from relay.settings.help import EXAMPLES
from relay.settings.kinds import (
    FilePath,
    Flag,
    Integer,
    Seconds,
    Several,
    Text,
    Unfit,
    members,
    words,
)
from relay.settings.load import CONFIG_VARIABLE, Given, Loaded, SettingsError, load
from relay.wire.address import Address

DEFAULT_PORT = 4433

DEFAULT_FILE = Path("/etc/quicpipe/relay.toml")
"""Read if it exists and no other is named."""

DEFAULT_LISTEN = (
    ListenRequest(Address("0.0.0.0", DEFAULT_PORT), optional=True),
    ListenRequest(Address("::", DEFAULT_PORT), optional=True),
)
"""Every address of this machine; without one of the families, the other alone."""

MAX_WORKERS = 64
MAX_LISTENERS = 64
_MIN_LEASE_S, _MAX_LEASE_S = 1.0, 86_400.0


@dataclass(frozen=True, slots=True)
class Config:
    """All that the relay is started with."""

    listen: tuple[ListenRequest, ...] = setting(
        DEFAULT_LISTEN,
        Several(Listen(), at_most=MAX_LISTENERS),
        "IP address and UDP port, IPv6 in brackets; port 0 lets the system choose",
        default_help=f"0.0.0.0:{DEFAULT_PORT} and [::]:{DEFAULT_PORT}",
    )
    certificate: Path | None = setting(
        None,
        FilePath(),
        "certificate chain, PEM",
        default_help="a self-signed one, made once and kept",
        reload=True,
    )
    """PEM chain; None: a self-signed one is kept in `state_directory`."""
    private_key: Path | None = setting(
        None, FilePath(), "its private key, PEM", default_help="", reload=True
    )
    """PEM; None if and only if `certificate` is."""
    state_directory: Path | None = setting(
        None,
        FilePath("FOLDER"),
        "where what must outlive the relay is kept",
        default_help="STATE_DIRECTORY, or quicpipe in XDG_STATE_HOME or ~/.local/state",
    )
    """None: neither the operator nor the environment names a place."""
    state_file: Path | None = setting(
        None,
        FilePath(),
        "where the registrations are kept, for after a crash",
        default_help="registrations in the state directory, unless a port is 0",
    )
    control_socket: Path | None = setting(
        None,
        FilePath(),
        "where commands and a successor reach the relay",
        default_help="control.sock in RUNTIME_DIRECTORY, or in the state directory, unless a "
        "port is 0",
    )
    runtime_directory: Path | None = None
    """Where the environment wants sockets; None: it names no place."""
    token_secret_file: Path | None = setting(
        None,
        FilePath(),
        "what clients' tokens are signed with; 'quicpipe-relay token' makes it, and tokens",
        default_help="",
        reload=True,
    )
    token_secret: str | None = setting(
        None,
        Text("a secret"),
        "the same, itself",
        secret=True,
        sources=Source.ENVIRONMENT,
        reload=True,
    )
    open: bool = setting(False, Flag(), "let everybody in, without a token")
    revoked_file: Path | None = setting(
        None,
        FilePath(),
        "ids of tokens that are not let in, one a line",
        default_help="none",
        reload=True,
    )
    allow_private: bool = setting(
        False,
        Flag(),
        "take peers' addresses on loopback and private networks wherever the relay listens",
        reload=True,
    )
    lease_s: float = setting(
        RegistryLimits().lease_s,
        Seconds(_MIN_LEASE_S, _MAX_LEASE_S),
        "how long a registration outlives its connection and the peer's last packet",
        name="lease",
    )
    """Seconds for which a registration outlives its connection and its last packet."""
    workers: int = setting(
        default_workers(),
        Integer(1, MAX_WORKERS),
        "processes that forward",
        default_help=f"one for each core, at most 4; here: {default_workers()}",
    )
    log_format: LogFormat = setting(LogFormat.TEXT, members(LogFormat), "how log lines look")
    log_level: str = setting("info", words(LEVELS), "what is logged", reload=True)
    limits: Limits = section(Limits(), "how much the relay takes on (docs/operating.md)")
    admin: AdminSettings = section(
        AdminSettings(), "the listener for operators: metrics, API, web page (docs/operating.md)"
    )
    xdp: KernelConfig = section(
        KernelConfig(), "forwarding in the kernel (docs/kernel-path.md)", prefix=XDP_PREFIX
    )

    @property
    def control_path(self) -> Path | None:
        """Where the control socket is, or would be; None: the environment names no place."""
        folder = self.runtime_directory or self.state_directory
        return self.control_socket or (folder / "control.sock" if folder else None)

    @property
    def state_path(self) -> Path | None:
        """Where the state file is, or would be."""
        folder = self.state_directory
        return self.state_file or (folder / "registrations" if folder else None)

    @property
    def is_anywhere(self) -> bool:
        """Whether the system chooses a port: such a relay takes over from nobody unless told to."""
        return any(each.address.port == 0 for each in self.listen)

    @property
    def kernel(self) -> KernelConfig | None:
        """How the kernel is to forward; None: it is not."""
        return self.xdp if self.xdp.interfaces else None

    def problem(self) -> tuple[str, str] | None:
        """What does not fit the rest; see `relay.settings.load.Checked`."""
        if not self.listen:
            return "listen", "names no address to listen on"
        if (self.certificate is None) != (self.private_key is None):
            given = "private_key" if self.certificate is None else "certificate"
            return given, "certificate and private-key belong together: give both, or neither"
        return self._access_problem()

    @property
    def has_secret(self) -> bool:
        """Whether clients need tokens."""
        return self.token_secret_file is not None or self.token_secret is not None

    @property
    def is_on_loopback(self) -> bool:
        """Whether nobody but this machine can reach the relay."""
        return all(ipaddress.ip_address(each.address.host).is_loopback for each in self.listen)

    def _access_problem(self) -> tuple[str, str] | None:
        if self.token_secret_file is not None and self.token_secret is not None:
            return "token_secret", "and token-secret-file are one too many: give one of them"
        if self.open and self.has_secret:
            return "open", "and a token secret contradict each other: give one of them"
        if self.revoked_file is not None and not self.has_secret:
            return "revoked_file", "is of no use without a token secret: give token-secret-file"
        if not (self.open or self.has_secret or self.is_on_loopback):
            return "token_secret_file", (
                "is needed, for the relay listens beyond this machine: make one with"
                " 'quicpipe-relay token --new-secret FILE'; or let everybody in with --open"
            )
        return None


@dataclass(frozen=True)
class Chosen:
    """The flags and the environment of this process: read the file again with `load`."""

    flags: Mapping[tuple[str, ...], Given]
    environment: Mapping[str, str]
    file: Path | None
    """Named by the operator; None: the default one, if it exists."""

    @classmethod
    def of(
        cls,
        environment: Mapping[str, str],
        file: Path | None = None,
        flags: Mapping[tuple[str, ...], Given] | None = None,
    ) -> "Chosen":
        """What `--config` names, or the environment does."""
        named = file or environment.get(CONFIG_VARIABLE, "").strip() or None
        return cls(flags or {}, dict(environment), Path(named) if named else None)

    def load(self, *, check: bool = True) -> Loaded[Config]:
        """All settings as file, environment and flags say now.

        :param check: whether they must fit each other, as for a relay that is to start.
        :raises SettingsError: one of them is not as it should be.
        """
        loaded = load(
            Config,
            flags=self.flags,
            environment=self.environment,
            file=self.file or DEFAULT_FILE,
            must_exist=self.file is not None,
            check=check,
        )
        return replace(loaded, settings=_with_places(loaded.settings, self.environment))


def config_parser(**more: Any) -> Parser:
    """A parser with a flag for every setting; `more` goes to argparse."""
    texts: dict[str, Any] = {
        "prog": "quicpipe-relay",
        "usage": "%(prog)s [--SETTING VALUE ...]\n       %(prog)s COMMAND ...",
        "description": "Forward QUIC packets between registered peers. Peers register over HTTP/3 "
        "on the same UDP port.",
        "epilog": EXAMPLES,
    }
    parser = Parser(**(texts | more))
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"settings, TOML (default: {CONFIG_VARIABLE}, or {DEFAULT_FILE} if it exists)",
    )
    add_flags(parser, Config)
    return parser


def choose(parser: Parser, arguments: Sequence[str], environment: Mapping[str, str]) -> Chosen:
    """Read the command line with that parser.

    :raises SystemExit: as argparse does.
    """
    options = parser.parse_args(arguments)
    try:
        flags = flag_values(options, Config)
    except Unfit as error:
        parser.error(str(error))
    return Chosen.of(environment, options.config, flags)


def load_or_exit(parser: Parser, chosen: Chosen, *, check: bool = True) -> Loaded[Config]:
    """Load the settings, see `Chosen.load`.

    :raises SystemExit: after one line that says what is wrong (code 2).
    """
    try:
        return chosen.load(check=check)
    except SettingsError as error:
        parser.error(str(error))


def parse_config(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Read the command line, without the program's name, and what it names.

    :raises SystemExit: after one line that says what is wrong (code 2), or after --help (0).
    """
    parser = config_parser()
    return load_or_exit(parser, choose(parser, arguments, environment)).settings


def state_directory(environment: Mapping[str, str]) -> Path | None:
    """Where to keep what must outlive the process; systemd names it, or the XDG convention does."""
    if named := environment.get("STATE_DIRECTORY"):
        return Path(named.split(":")[0])  # systemd separates several by colons
    if named := environment.get("XDG_STATE_HOME"):
        return Path(named) / "quicpipe"
    home = environment.get("HOME")
    return Path(home) / ".local/state/quicpipe" if home else None


def _with_places(config: Config, environment: Mapping[str, str]) -> Config:
    """Fill in what only this machine knows."""
    runtime = environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return replace(
        config,
        state_directory=config.state_directory or state_directory(environment),
        runtime_directory=Path(runtime) if runtime else None,
    )
