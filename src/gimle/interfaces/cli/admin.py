"""`gimle key`, `gimle tenant`: who may ask."""

import click

from gimle.client import Client
from gimle.interfaces.cli import options
from gimle.interfaces.cli.output import note, print_json, say, table, when

_tenant = click.option("--tenant", metavar="TENANT", help="Of another tenant, by id or name. Else your own.")


@click.group(cls=options.ListFirst)
def key_command() -> None:
    """Create, list and revoke API keys.

    \b
    Examples:
      gimle key create "reporting script"
      gimle key list
      gimle key revoke key_0197…
    """


@key_command.command("create")
@click.argument("name")
@click.option("--admin", is_flag=True, help="It may manage tenants, keys and providers.")
@_tenant
@options.as_json
@options.connected
def create_key(client: Client, name: str, admin: bool, tenant: str | None, as_json: bool) -> None:
    """Create a key. It is shown once, on standard output alone, and kept nowhere.

    \b
    Examples:
      gimle key create "reporting script"
      export GIMLE_KEY=$(gimle key create ci)
    """
    key = client.create_key(name, admin=admin, tenant=tenant)
    if as_json:
        print_json(key)
        return
    say(key["token"])
    note(f"Key {key['id']} for tenant {key['tenant']}. Keep it now: it can't be shown again.")


@key_command.command("list")
@_tenant
@options.as_json
@options.connected
def list_keys(client: Client, tenant: str | None, as_json: bool) -> None:
    """List keys, ended ones included; never what they are, only that they are.

    \b
    Example:
      gimle key list
    """
    keys = list(client.keys(tenant))
    if as_json:
        print_json({"items": keys})
        return
    lines = (
        (k["id"], k["name"], "admin" if k["admin"] else "", when(k["created_at"]), when(k.get("revoked_at")))
        for k in keys
    )
    table(("key", "name", "rights", "created", "revoked"), lines, "There are no keys.")


@key_command.command("revoke")
@click.argument("key_id", metavar="KEY")
@_tenant
@options.as_json
@options.connected
def revoke_key(client: Client, key_id: str, tenant: str | None, as_json: bool) -> None:
    """End a key, on all nodes within a second.

    \b
    Example:
      gimle key revoke key_0197…
    """
    client.revoke_key(key_id, tenant)
    if as_json:
        print_json({"id": key_id, "revoked": True})
    else:
        note(f"{key_id} is revoked.")


@click.group(cls=options.ListFirst)
def tenant_command() -> None:
    """Create and list tenants: each has its own documents, keys and jobs, and sees no other's.

    \b
    Examples:
      gimle tenant create acme
      gimle key create "first key" --tenant acme
      gimle tenant list
    """


@tenant_command.command("create")
@click.argument("name")
@options.as_json
@options.connected
def create_tenant(client: Client, name: str, as_json: bool) -> None:
    """Create a tenant.

    \b
    Example:
      gimle tenant create acme
    """
    tenant = client.create_tenant(name)
    if as_json:
        print_json(tenant)
        return
    say(tenant["id"])
    note(f'Created. `gimle key create "first key" --tenant {tenant["id"]}` lets it in.')


@tenant_command.command("list")
@options.as_json
@options.connected
def list_tenants(client: Client, as_json: bool) -> None:
    """List the tenants.

    \b
    Example:
      gimle tenant list
    """
    tenants = list(client.tenants())
    if as_json:
        print_json({"items": tenants})
        return
    table(("tenant", "name", "created"), ((t["id"], t["name"], when(t["created_at"])) for t in tenants), "No tenants.")
