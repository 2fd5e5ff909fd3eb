"""The verbs ``rilievo alerts`` and ``rilievo alerts test``."""

from __future__ import annotations

from typing import Annotated

import typer

from acquisition.verbs import Data, Database, Json
from drivers.errors import InputError

alerts_app = typer.Typer(help="What somebody outside is told.", invoke_without_command=True, rich_markup_mode=None)


@alerts_app.callback()
def alerts(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Also what was delivered.")] = False,
    data: Data = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Show which alerts wait to be delivered, and which could not be."""
    from acquisition import board, terminal
    from acquisition.app import open_laboratory
    from acquisition.outbox import Outbox
    from acquisition.tables import ALERT_STATES

    if context.invoked_subcommand is not None:
        return
    with open_laboratory(data, db, create=False) as laboratory:
        found = Outbox(laboratory.log).alerts(ALERT_STATES if every else ("waiting", "failed"))
        configured = (laboratory.folder / "alerts.yaml").exists()
        where = laboratory.folder / "alerts.yaml"
    if as_json:
        terminal.emit_json([board.alert_json(alert) for alert in found])
    elif found:
        board.show_alerts(found)
    elif configured:
        terminal.console().print("no alert waits; rilievo alerts test tries the ways")
    else:
        terminal.console().print(f"nobody is told anything: there is no {where}", soft_wrap=True)


@alerts_app.command("test")
def send_test(
    within: Annotated[str, typer.Option("--within", help="How long to wait for each way.")] = "60 s",
    data: Data = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Send a test on every way, and say which do not deliver."""
    from acquisition import board, terminal
    from acquisition.alert_settings import FILE
    from acquisition.alerts import Alerts
    from acquisition.app import open_laboratory
    from drivers.units import parse_quantity, si

    seconds = si(parse_quantity(within, "second"))
    with open_laboratory(data, db) as laboratory:
        found = Alerts.of(laboratory.folder, laboratory.log)
        if found is None or not found.settings.ways:
            raise InputError("there are no ways yet; describe who is to be told", str(laboratory.folder / FILE))
        found.start()
        try:
            tested = found.test(seconds)
        finally:
            found.close(1.0)
    if as_json:
        terminal.emit_json([board.alert_json(alert) for alert in tested])
    else:
        board.show_tested(tested)
    if any(alert.state != "sent" for alert in tested):
        raise typer.Exit(1)
