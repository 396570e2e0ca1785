"""The command ``edge-export sign``: sign a bundle with an Ed25519 key."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sdk.host.terminal import echo


@click.command("sign")
@click.argument("folder", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Ed25519 private key, PEM.")
@click.option(
    "--bundle-version",
    "version",
    metavar="N",
    type=click.IntRange(1, 2**63 - 1),
    help="Write this version into the bundle first; devices can refuse an older one.",
)
@click.option("--purpose", metavar="TEXT", help="Write this purpose first; devices can insist on theirs.")
def sign_command(folder: Path, key: Path, version: int | None, purpose: str | None) -> None:
    """Sign BUNDLE, so that devices can refuse any other.

    Writes bundle.json.sig, which covers every file of BUNDLE. Keys are OpenSSL's; the public one goes to the
    devices, for --require-signature:

    \b
      openssl genpkey -algorithm ed25519 -out private.pem
      openssl pkey -in private.pem -pubout -out public.pem
    """
    from export.signing import PassphraseNeeded, sign
    from sdk.bundle import SIGNATURE

    try:
        signer = sign(folder, key, version=version, purpose=purpose)
    except PassphraseNeeded:
        if not _may_ask():
            raise
        passphrase = click.prompt(f"passphrase of {key}", hide_input=True, err=True)
        signer = sign(folder, key, passphrase, version=version, purpose=purpose)
    echo(f"{folder / SIGNATURE}: signed by the key {signer}")


def _may_ask() -> bool:
    """Whether a person can answer."""
    return sys.stdin.isatty()
