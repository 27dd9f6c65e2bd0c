"""How a relay lives: state file, hand-over, reload, drain, service manager."""
