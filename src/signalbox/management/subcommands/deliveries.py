"""``manage.py signalbox deliveries``: show, retry, discard and replay deliveries of durable receivers."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from django.core.management import CommandError
from django.db import connections

from signalbox.management.output.attempts import ATTEMPT_COLUMNS, build_attempt_cells
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.management.subcommands import options as shared
from signalbox.models import Delivery, to_microseconds
from signalbox.outbox import health, manual_changes, queue, unknown_receivers
from signalbox.outbox.queue import SECOND_US, now_us
from signalbox.queries.delivery_filters import DeliveryTokens
from signalbox.queries.filters import EventFilter
from signalbox.queries.json_objects import attempt_to_dict, delivery_to_dict
from signalbox.queries.trace_deliveries import get_attempts

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Mapping, Sequence

ACTIONS = ("health", "list", "show", "retry", "discard", "replay")

COLUMNS = (
    Column(title="ID", width=10, min_width=4, align_right=True),
    Column(title="STATE", width=9, min_width=9),
    Column(title="ATTEMPTS", width=8, min_width=8, align_right=True),
    Column(title="RECEIVER", width=48, min_width=20, keep_end=True),
    Column(title="SIGNAL", width=14, min_width=9, drop_order=3),
    Column(title="SENDER", width=20, min_width=9, drop_order=2),
    Column(title="KEY", width=12, min_width=4, drop_order=1),
    Column(title="DUE", width=9, min_width=7, drop_order=2, align_right=True),
    Column(title="ERROR", width=60, min_width=12, drop_order=1),
)


def _parse_id(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ArgumentTypeError(f"{text[:40]!r} is not the id of a delivery, a number of at most 19 digits")
    return int(text)


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "action", nargs="?", choices=ACTIONS, default="health", help=f"one of {', '.join(ACTIONS)}; health by default"
    )
    parser.add_argument("ids", nargs="*", type=_parse_id, metavar="ID", help="deliveries, for show, retry and discard")
    parser.add_argument("--json", action="store_true", help="write JSON; for list and show, one object per line")
    parser.add_argument(
        "--using",
        choices=tuple(connections),
        metavar="ALIAS",
        help=f"the database that has them, one of {', '.join(connections)}; by default the router's, for health all",
    )
    parser.add_argument(
        "--state", choices=manual_changes.STATES, metavar="STATE", help=f"one of {', '.join(manual_changes.STATES)}"
    )
    parser.add_argument(
        "--receiver", default="", metavar="NAME", help="dotted name or a part of it; for replay, the whole name"
    )
    parser.add_argument("--queue", default="", metavar="NAME", help="deliveries of this queue")
    parser.add_argument("--key", metavar="KEY", help="deliveries with this ordering key")
    parser.add_argument(
        "--filter",
        default="",
        metavar="TEXT",
        help="for list, retry and discard: tokens such as 'state:dead error:TimeoutError', as on the page",
    )
    shared.add_limit_option(parser, "for list: show at most this many", 50)
    parser.add_argument(
        "--before",
        type=shared.positive_int,
        metavar="ID",
        help="for list: show older deliveries than this one: the next page",
    )
    parser.add_argument(
        "--all", action="store_true", help="for retry and discard: every delivery that matches the options"
    )
    parser.add_argument("--since", metavar="TIME", help='for replay: "2h" or "3d" ago, a day, or a moment')
    parser.add_argument("--until", metavar="TIME", help="for replay: a time as for --since")
    parser.add_argument(
        "--missing", action="store_true", help="for replay: only events that were never delivered to the receiver"
    )
    parser.add_argument("--dry-run", action="store_true", help="for replay: count the events, and change nothing")


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Run the action. Return 1 if deliveries are not processed, or nothing was found."""
    screen = Screen(stdout, options)
    if options["action"] == "health":
        return _health(screen, options)
    alias = options["using"] or queue.get_deliveries_database()
    match options["action"]:
        case "list":
            return _list(screen, alias, options)
        case "show":
            return _show(screen, alias, options)
        case "replay":
            return _replay(screen, alias, options)
    change = manual_changes.retry if options["action"] == "retry" else manual_changes.discard
    chosen = _select_deliveries(alias, options)
    number = change(chosen, alias)
    screen.write_text(
        f"{number} of {len(chosen)} deliveries: {'to be run now' if change is manual_changes.retry else 'discarded'}."
    )
    return 0 if number else 1


def _health(screen: Screen, options: Mapping[str, Any]) -> int:
    aliases = (
        [options["using"]] if options["using"] else queue.get_delivery_databases() or [queue.get_deliveries_database()]
    )
    databases = [health.get_health(alias) for alias in aliases]
    unknown = {alias: unknown_receivers.find_unknown_receivers(alias) for alias in aliases}
    if options["json"]:
        found = health.build_report(databases)
        for one in found["databases"]:
            one["unknown_receivers"] = [asdict(receiver) for receiver in unknown[one["database"]]]
        screen.write_json(found)
        return 0 if found["healthy"] else 1
    for figures in databases:
        if len(aliases) > 1:
            screen.write_text(f"{'database':10} {figures.database:>8}")
        for name in ("pending", "due", "running", "retrying", "blocked", "dead", "unknown"):
            screen.write_text(f"{name:10} {getattr(figures, name):>8}")
        if figures.due:
            screen.write_text(f"{'oldest':10} {figures.oldest_due_seconds:>8.1f} s due")
        screen.write_text(f"{'rate':10} {figures.done_per_second:>8.2f} done a second, over a minute")
        for receiver in unknown[figures.database]:
            screen.write_text(str(receiver), "yellow")
    if not all(figures.is_processing for figures in databases):
        screen.write_text("No worker is running: start manage.py signalbox work.", "red")
    return 0 if all(figures.is_healthy for figures in databases) else 1


def _list(screen: Screen, alias: str, options: Mapping[str, Any]) -> int:
    found = _filter_deliveries(alias, options)
    if options["before"]:
        found = found.filter(id__lt=options["before"])
    rows = list(found[: options["limit"]])
    if options["json"]:
        for one in rows:
            screen.write_json(_build_record(one))
    elif rows:
        screen.write_table(COLUMNS, [_build_cells(one) for one in rows])
    else:
        screen.write_text("No deliveries match.")
    return 0 if rows else 1


def _show(screen: Screen, alias: str, options: Mapping[str, Any]) -> int:
    for one in _get_deliveries(alias, options["ids"]):
        attempts = get_attempts(one.pk, alias)
        record = _build_record(one) | {"payload": one.payload, "traceback": one.traceback}
        if options["json"]:
            screen.write_json(record | {"attempts_made": [attempt_to_dict(attempt) for attempt in attempts]})
        else:
            for name, value in record.items():
                text = "" if value is None else f"\n{value}" if name == "traceback" else value
                screen.write_text(f"{name:16} {text}")
            if attempts:
                screen.write_line()
                screen.write_table(ATTEMPT_COLUMNS, map(build_attempt_cells, attempts))
    return 0


def _get_deliveries(alias: str, ids: Sequence[int]) -> list[Delivery]:
    """Return the deliveries with these ids. Raises ``CommandError`` if one does not exist, or if none is given."""
    if not ids:
        raise CommandError("show needs the ids of deliveries.", returncode=2)
    storable = [number for number in ids if 0 < number < 2**63]
    found = list(manual_changes.filter_deliveries(alias).filter(id__in=storable).order_by("id"))
    if missing := sorted({*ids} - {delivery.id for delivery in found}):
        numbers = ", ".join(map(str, missing))
        raise CommandError(
            f"These deliveries do not exist in the database {alias!r}: {numbers}. The list shows the stored ones: "
            "manage.py signalbox deliveries list. Name another database with --using.",
            returncode=1,
        )
    return found


def _replay(screen: Screen, alias: str, options: Mapping[str, Any]) -> int:
    if not options["receiver"] or not options["since"]:
        raise CommandError("replay needs --receiver NAME and --since TIME.", returncode=2)
    times = EventFilter.parse({"since": options["since"], "until": options["until"]})
    since, until = (None if time is None else to_microseconds(time) for time in (times.since, times.until))
    try:
        number = manual_changes.replay(
            options["receiver"],
            alias,
            since=since or 0,
            until=until,
            missing=options["missing"],
            dry_run=options["dry_run"],
        )
    except LookupError as error:
        raise CommandError(str(error.args[0]), returncode=2) from error
    screen.write_text(f"{number} events {'would be' if options['dry_run'] else 'are to be'} delivered.")
    return 0


def _select_deliveries(alias: str, options: Mapping[str, Any]) -> list[Delivery]:
    if options["ids"]:
        return _get_deliveries(alias, options["ids"])
    if not options["all"]:
        raise CommandError(
            f"{options['action']} needs the ids of deliveries, or --all with --state and others.", returncode=2
        )
    state = options["state"] or ("" if _parse_tokens(options).has_states else "dead")
    return list(_filter_deliveries(alias, {**options, "state": state}).order_by("id"))


def _filter_deliveries(alias: str, options: Mapping[str, Any]) -> Any:
    found = manual_changes.filter_deliveries(
        alias,
        state=options["state"] or "",
        receiver=options["receiver"],
        queue=options["queue"],
        key=options["key"],
    )
    return found.filter(_parse_tokens(options).to_q(alias))


def _parse_tokens(options: Mapping[str, Any]) -> DeliveryTokens:
    tokens = DeliveryTokens.parse(options["filter"])
    if tokens.error:
        raise CommandError(tokens.error, returncode=2)
    return tokens


def _build_record(delivery: Delivery) -> dict[str, Any]:
    return {**delivery_to_dict(delivery), "status": manual_changes.get_status(delivery)}


def _build_cells(delivery: Delivery) -> list[Cell]:
    shown = manual_changes.get_status(delivery)
    style = {"dead": "red", "retrying": "yellow", "abandoned": "yellow", "running": "green"}.get(shown, "")
    due = (delivery.run_at - now_us()) / SECOND_US
    return [
        Cell(str(delivery.id)),
        Cell(shown, style),
        Cell(str(delivery.attempts)),
        Cell(delivery.receiver),
        Cell(delivery.signal),
        Cell(delivery.sender),
        Cell(delivery.ordering_key),
        Cell(f"{due:+.0f} s" if delivery.state == Delivery.PENDING else ""),
        Cell(delivery.error),
    ]
