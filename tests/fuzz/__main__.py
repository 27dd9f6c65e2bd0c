"""`python -m tests.fuzz`: fuzz each target for a while. Needs atheris: `pip install atheris`.

Inputs that reach new code are added to build/fuzz/TARGET and used in the next run; those worth
keeping are in tests/fuzz/corpus, and `make test` feeds them to the targets. A finding ends the
target's run; its input is in build/fuzz, and belongs into the corpus with the repair.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")
FOUND = Path("build/fuzz")
LONGEST_INPUT = 4096
"""Bytes: more than any datagram or body that is read to its end."""
SLOWEST_S = 10
"""A single input that takes longer is a finding: a hang."""
MOST_MEMORY_MB = 2048
GRACE_S = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if there was a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=600, help="for each target (%(default)s)")
    options = parser.parse_args(arguments)
    unknown = set(options.targets) - TARGETS.keys()
    if unknown:
        parser.error(
            f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}"
        )
    try:
        import atheris  # noqa: F401  # to say it here, once, and not in each process
    except ImportError:
        parser.error("atheris is not installed: make fuzz installs it, or pip install atheris")
    findings = [name for name in options.targets or TARGETS if not _fuzz(name, options.seconds)]
    if findings:
        print(f"findings in: {', '.join(findings)}; the inputs are in {FOUND}", file=sys.stderr)
    return 1 if findings else 0


def _fuzz(name: str, seconds: int) -> bool:
    """Whether it ran to its end without a finding."""
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    kept = CORPUS / name
    command = [sys.executable, "-m", "tests.fuzz.one", name]
    command += [f"-max_total_time={seconds}", f"-max_len={LONGEST_INPUT}"]
    command += [f"-timeout={SLOWEST_S}", f"-rss_limit_mb={MOST_MEMORY_MB}"]
    command += [f"-artifact_prefix={found}-", "-print_final_stats=1", "-verbosity=0"]
    command += [str(found), *([str(kept)] if kept.is_dir() else [])]
    print(f"{name}: {seconds} s", flush=True)
    log = FOUND / f"{name}.log"
    start = time.monotonic()
    with log.open("w") as output:
        try:
            done = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds + GRACE_S,
                env=os.environ | {"PYTHONHASHSEED": "0"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"{name}: did not end in time; see {log}", flush=True)
            return False
    text = log.read_text(errors="replace")
    runs = next((line.split()[-1] for line in text.splitlines() if "executed_units" in line), "?")
    verdict = "no finding" if done.returncode == 0 else f"FINDING, see {log}"
    print(f"{name}: {runs} inputs in {time.monotonic() - start:.0f} s: {verdict}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
