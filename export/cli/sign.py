"""``edge-export sign``: vouch for a bundle."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("sign")
@click.argument("folder", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Ed25519 private key, PEM.")
def sign_command(folder: Path, key: Path) -> None:
    """Sign BUNDLE, so that devices can refuse any other.

    Writes bundle.json.sig, which covers every file of BUNDLE.  Keys are OpenSSL's; the public one goes to the
    devices, for --require-signature:

    \b
      openssl genpkey -algorithm ed25519 -out private.pem
      openssl pkey -in private.pem -pubout -out public.pem
    """
    from export.signing import PassphraseNeeded, sign
    from sdk.bundle import SIGNATURE

    try:
        signer = sign(folder, key)
    except PassphraseNeeded:
        if not _may_ask():
            raise
        signer = sign(folder, key, click.prompt(f"passphrase of {key}", hide_input=True, err=True))
    click.echo(f"{folder / SIGNATURE}: signed by the key {signer}")


def _may_ask() -> bool:
    """Whether there is somebody to answer."""
    return sys.stdin.isatty()
