"""Options that do not go together, or not with the command's way."""

from .options import Options, is_code


def complaint(options: Options) -> str | None:
    """What is wrong with the options as a whole, for the user; None: nothing."""
    for check in (_original, _code, _dial, _accept, _identity):
        found = check(options)
        if found is not None:
            return found
    return None


def _original(options: Options) -> str | None:
    if not options.original:
        return None
    if options.peers or _has_key_option(options):
        return "--original authenticates nobody: it does not go with --peer or a pairing key"
    if options.peer is not None or options.listen or options.code:
        return "--original needs an invite that is handed over: the original has no rendezvous"
    if options.direct_only:
        return "--original and --direct-only exclude each other: the original knows no direct path"
    return None


def _code(options: Options) -> str | None:
    with_code = options.code or (options.peer is not None and is_code(options.peer))
    if options.save is not None and not with_code:
        return "--save keeps whom a code has led to: give a code, or --code, too"
    if options.command == "accept":
        if options.qr and not options.code:
            return "--qr shows the code of --code: give both, or neither"
        if options.code and (options.listen or options.invite is not None):
            return "--code is a way of its own: it does not go with --listen or --invite"
    elif options.qr and options.peer is not None:
        return "--qr shows the invite that is made without PEER: leave one of them away"
    if with_code and (options.peers or _has_key_option(options)):
        return "a code authenticates both ends: it does not go with --peer or a pairing key"
    return None


def _dial(options: Options) -> str | None:
    if options.command != "dial" or options.peer is None:
        return None
    if options.invite is not None or options.expires_s is not None:
        return "the relay delivers the invite to PEER: --invite and --expires have no effect then"
    return None


def _accept(options: Options) -> str | None:
    if options.command != "accept":
        return None
    if not options.listen:
        for given, option in (
            (options.name is not None, "--name"),
            (options.anyone, "--anyone"),
            (options.keep_open, "--keep-open"),
        ):
            if given:
                return f"{option} has no effect without --listen: give both, or neither"
    elif options.invite is not None:
        return "--listen waits for the relay to deliver the invite: it does not go with --invite"
    elif options.anyone and (options.peers or _has_key_option(options)):
        return "--anyone lets everybody in: it does not go with --peer or a pairing key"
    return None


def _identity(options: Options) -> str | None:
    if options.command not in {"dial", "accept"} or options.identity is None:
        return None
    if options.peers or options.listen or options.code or options.peer is not None:
        return None
    return "--identity has no effect without --peer FINGERPRINT: give both, or neither"


def _has_key_option(options: Options) -> bool:
    return options.pairing_key_file is not None or options.pairing_key_prompt
