"""``csyncfs-admin login``: a person signs in once, mounts go on with it."""

import sys

import click

from csyncfs import config
from csyncfs.errors import AccessDenied, ConfigError


@click.group()
def login() -> None:
    """Sign in to a store, for all mounts of this user."""


@login.command()
@click.option("--client-id", required=True, help="Id of the app registration (a public client).")
@click.option("--tenant", default="common", show_default=True, help="Id, domain, or consumers.")
@click.option("--authority", help="Sign-in service of another cloud, as a URL.")
@click.option("--endpoint", help="Microsoft Graph of another cloud, as a URL.")
@click.option("--sharepoint", is_flag=True, help="Libraries of sites as well.")
def onedrive(
    client_id: str, tenant: str, authority: str | None, endpoint: str | None, sharepoint: bool
) -> None:
    """Sign in to OneDrive by a code that is entered in a browser, on whatever machine.

    A mount that lost its sign-in goes on by itself.
    """
    try:
        from csyncfs.backends.onedrive import signin
        from csyncfs.backends.onedrive.options import GRAPH
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"signing in to OneDrive needs Microsoft's SDK: {config.way_to_get('onedrive')}"
        ) from exc
    wish = signin.Wish(
        client_id, tenant, authority, signin.resource_of(endpoint or GRAPH), sharepoint
    )
    try:
        name = signin.log_in(config.read_host().state_base / "login", wish, _prompt)
    except OSError:
        raise
    except Exception as exc:
        # Its text may quote what was sent.
        reason = "the code was not entered, or not accepted"
        raise AccessDenied(f"not signed in: {reason} ({type(exc).__name__})") from exc
    print(f"signed in as {name}")


def _prompt(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
