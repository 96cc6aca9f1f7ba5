"""`assay model`: from an ONNX file to a published version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from assay.chain.views import Version
from assay.cli.connect import Connection, Money, connection_options
from assay.cli.model_exact import check, quantize
from assay.cli.model_project import CARD, FILE, Project, init_project, load_project
from assay.cli.output import (
    command_errors,
    console,
    emit_json,
    emit_table,
    json_option,
    progress_console,
)
from assay.cli.publishing import Plan, Published, plan_publication, publish_project, push_project
from assay.client import Client
from assay.client.resolve import parse_reference
from assay.client.verify import time_text
from assay.commitments.identifiers import check_model_name, cid
from assay.errors import RequestError
from assay.exact.lowering import UnsupportedModel
from assay.settings import Settings
from assay.types import ZERO_HASH, Address, Assurance, Hash32, TensorSpec

folder_option = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="the current one",
    help=f"where {FILE} is",
)
hub_option = click.option("--hub", help="URL of the artifact hub; default ASSAY_HUB_URL")


@click.group()
def command() -> None:
    """Init, check, quantize, push, publish, list and show models."""


command.add_command(check)
command.add_command(quantize)


@command.command()
@click.argument("name")
@click.option(
    "--onnx",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="the model's file",
)
@click.option(
    "--licence", default="Apache-2.0", show_default=True, help="SPDX identifier of the model's licence"
)
@click.option(
    "--royalty-bps",
    default=0,
    show_default=True,
    type=click.IntRange(0, 5000),
    help="hundredths of a per cent of what consumers pay",
)
@folder_option
@json_option
@command_errors
def init(*, name: str, onnx: Path, licence: str, royalty_bps: int, folder: Path, as_json: bool) -> None:
    """Write model.toml and a model card for the model NAME from an ONNX file's inputs and outputs."""
    check_model_name(name)
    inspection = init_project(folder, name, onnx, licence, royalty_bps)
    if as_json:
        emit_json(
            {
                "model": str(folder / FILE),
                "inputs": _specs(inspection.inputs),
                "outputs": _specs(inspection.outputs),
            }
        )
        return
    rows = [("input", *_row(spec)) for spec in inspection.inputs]
    rows += [("output", *_row(spec)) for spec in inspection.outputs]
    emit_table(
        f"{name}: one row takes {inspection.run_seconds * 1000:.1f} ms", ("", "name", "type", "shape"), rows
    )
    console().print(
        f"wrote {folder / FILE} and {folder / CARD}; fill in the card, then `assay model publish`"
    )


@command.command()
@folder_option
@hub_option
@json_option
@command_errors
def push(folder: Path, hub: str | None, as_json: bool) -> None:
    """Check the model and store artifact, manifest, card and self-test in the hub."""
    project = load_project(folder)
    digests = push_project(hub or Settings().hub_url, project)
    if as_json:
        emit_json({name: digest.hex() for name, digest in digests.items()})
    else:
        rows = [(name.replace("_", " "), digest.hex(), cid(digest)) for name, digest in digests.items()]
        emit_table(f"{project.config.name} in the hub", ("what", "sha256", "CID"), rows)


@command.command()
@folder_option
@hub_option
@click.option(
    "--exact/--signed-only",
    "exact",
    default=None,
    help="refuse a model outside the exact profile; or publish without the program root  [default: with the "
    "root if there is one]",
)
@click.option("--program-root", help="the root that you expect; another is refused")
@click.option("--force", is_flag=True, help="publish although an equal version is there")
@click.option("--yes", is_flag=True, help="do not ask before spending gas")
@connection_options
@json_option
@command_errors
def publish(
    *,
    folder: Path,
    hub: str | None,
    exact: bool | None,
    program_root: str | None,
    force: bool,
    yes: bool,
    connection: Connection,
    as_json: bool,
) -> None:
    """Push the model and publish it as a new version; registers the model if it is new.

    A version is immutable. The same artifact and manifest are not published twice without --force. Files that
    no node would serve are refused before anything is spent.

    A model in the exact profile gets its program root on-chain, so that wrong answers of it are provable; its
    self-test must come out alike by ONNX Runtime and by the exact evaluator. Of a model outside the profile
    it says so, and receipts are worth `signed`; --exact refuses to publish it.
    """
    project = load_project(folder, signed_only=exact is False)
    check_root(project, exact, program_root)
    hub_url = hub or connection.settings.hub_url
    with connection.open_funded() as client:
        plan = plan_publication(client, project, signed_only=exact is False)
        _warn(plan, project)
        if plan.existing is not None and not force:
            _show_existing(plan, as_json)
            return
        digests = push_project(hub_url, project)
        if not (as_json or yes):
            _ask(plan, project.config.royalty_bps)
        uri = f"{hub_url.rstrip('/')}/v1/artifacts/{digests['artifact'].hex()}"
        published = publish_project(client, project, plan, uri)
    _show_published(plan, published, digests, as_json)


def check_root(project: Project, exact: bool | None, expected: str | None) -> None:
    """Raises UnsupportedModel where an exact model is asked for, RequestError `program_root` where another
    root is.
    """
    if project.report.program is None and (exact or expected is not None):
        raise UnsupportedModel(project.report.findings)
    if expected is None:
        return
    if exact is False:
        raise RequestError("--program-root and --signed-only exclude each other", code="program_root")
    found = "0x" + (project.program_root or ZERO_HASH).hex()
    if expected.lower() != found:
        raise RequestError(
            f"{project.artifact} lowers to program root {found}, not to the {expected} given: it is another "
            "model, or another release of the lowering made that root",
            code="program_root",
        )


def _warn(plan: Plan, project: Project) -> None:
    """What the version's receipts will be worth, where that is less than one might hope."""
    findings = project.report.findings
    if findings:
        progress_console().print(
            f"outside the exact profile ({len(findings)} findings, first: {findings[0]}); receipts will be "
            f"worth `signed`: nobody can prove a wrong answer. `assay model check {project.artifact}` says "
            "what to do",
            soft_wrap=True,
        )
    elif plan.program_root != ZERO_HASH and plan.assurance is Assurance.SIGNED:
        progress_console().print(
            "this deployment has no dispute game: the program root is published, receipts are worth `signed`"
        )


def _ask(plan: Plan, royalty_bps: int) -> None:
    what = f"version {plan.version_count + 1} of {plan.publisher}/{plan.name}"
    console().print(
        f"publishes {what}, assurance {plan.assurance}, royalty {royalty_bps / 100:g} %, about "
        f"{plan.gas} gas, {plan.cost / 1e18:.6f} of the chain's coin at the present price",
        soft_wrap=True,
    )
    click.confirm("Publish?", default=True, abort=True, err=True)


def _show_existing(plan: Plan, as_json: bool) -> None:
    reference = f"{plan.publisher}/{plan.name}@{plan.existing}"
    if as_json:
        emit_json({"reference": reference, "number": plan.existing, "published": False})
    else:
        console().print(
            f"{reference} is this artifact and manifest already; nothing was sent (--force publishes it "
            "again)",
            soft_wrap=True,
        )


def _show_published(plan: Plan, published: Published, digests: dict[str, Hash32], as_json: bool) -> None:
    reference = f"{plan.publisher}/{plan.name}@{published.number}"
    gas = sum(receipt.gas_used for receipt in published.receipts)
    cost = sum(receipt.gas_used * receipt.effective_gas_price for receipt in published.receipts)
    if as_json:
        emit_json(
            {
                "reference": reference,
                "number": published.number,
                "published": True,
                "version_id": published.version_id,
                "artifact": digests["artifact"],
                "manifest_hash": digests["manifest"],
                "program_root": _root_or_none(plan.program_root),
                "assurance": str(plan.assurance),
                "transactions": ["0x" + receipt.transaction_hash.hex() for receipt in published.receipts],
                "gas_used": gas,
                "cost_wei": str(cost),
            }
        )
        return
    console().print(f"published {reference}", soft_wrap=True)
    console().print(f"version id 0x{published.version_id.hex()}", soft_wrap=True)
    root = _root_or_none(plan.program_root)
    shown = "no program root" if root is None else f"program root 0x{root.hex()}"
    console().print(f"assurance {plan.assurance}, {shown}", soft_wrap=True)
    console().print(
        f"{gas} gas in {len(published.receipts)} transactions, {cost / 1e18:.6f} of the chain's coin"
    )


@command.command(name="list")
@click.option("--publisher", help="only this account's models")
@connection_options
@json_option
@command_errors
def list_models(publisher: str | None, connection: Connection, as_json: bool) -> None:
    """Every registered model, from the chain's events."""
    with connection.open(with_key=False) as client:
        rows = [
            {"model_id": event["model_id"], "publisher": event["publisher"], "name": event["name"],
             "versions": client.models.model(event["model_id"]).version_count}
            for event in client.resolver.registered()
            if publisher is None or event["publisher"].lower() == publisher.lower()
        ]  # fmt: skip
    if as_json:
        emit_json(rows)
    else:
        lines = [(row["name"], row["publisher"], row["versions"]) for row in rows]
        emit_table(f"{len(rows)} models", ("name", "publisher", "versions"), lines)


@command.command()
@click.argument("model")
@connection_options
@json_option
@command_errors
def show(model: str, connection: Connection, as_json: bool) -> None:
    """MODEL (publisher/name or publisher/name@version): its versions, signature and offers."""
    with connection.open(with_key=False) as client:
        data = _describe(client, model)
    if as_json:
        emit_json(data)
        return
    columns = ("version", "status", "assurance", "royalty", "published", "artifact")
    rows = [
        (item["number"], item["status"], item["assurance"], f"{item['royalty_bps'] / 100:g} %",
         time_text(item["published_at"]), item["cid"])
        for item in data["versions"]
    ]  # fmt: skip
    emit_table(f"{data['publisher']}/{data['name']}", columns, rows)
    for item in data["versions"]:
        if item["index"] is not None and item["index"]["assurance"] != item["assurance"]:
            console().print(
                f"the index holds version {item['number']} to be {item['index']['assurance']}: "
                f"{item['index']['reason']}",
                soft_wrap=True,
            )
    tensors = [("input", *item.values()) for item in data["inputs"]]
    tensors += [("output", *item.values()) for item in data["outputs"]]
    emit_table("signature of the newest", ("", "name", "type", "shape"), tensors)
    offers = [(item["node"], item["endpoint"], item["price_shown"]) for item in data["offers"]]
    emit_table("offers of the newest", ("node", "endpoint", "price"), offers)


def _describe(client: Client, text: str) -> dict[str, Any]:
    reference = parse_reference(text)
    publisher = client.resolver.publisher(reference)
    model, versions = client.resolver.versions(publisher, reference.name)
    shown = [row for row in versions if reference.number in (None, row[1].number)]
    if not shown and versions:
        raise RequestError(
            f"{reference.name} has no version {reference.number}", status=404, code="model_unknown"
        )
    inputs, outputs, offers = _newest(client, publisher, reference.name, shown)
    money = Money.of(client)
    return {
        "publisher": publisher,
        "owner": model.publisher,
        "name": reference.name,
        "payee": model.payee,
        "metadata_uri": model.metadata_uri,
        "versions": [_version(client, identifier, version) for identifier, version in shown],
        "inputs": inputs,
        "outputs": outputs,
        "offers": [offer | {"price_shown": money.show(int(offer["price"]))} for offer in offers],
    }


def _newest(
    client: Client, publisher: Address, name: str, shown: list[tuple[Hash32, Version]]
) -> tuple[list[Any], list[Any], list[dict[str, Any]]]:
    """(inputs, outputs, offers) of the last version shown; the signature is empty if no hub has the
    manifest.
    """
    if not shown:
        return [], [], []
    identifier, version = shown[-1]
    manifest = client.manifests.fetch(version)
    offers = [
        {"node": offer.node, "endpoint": offer.endpoint, "price": str(offer.price)}
        for offer in client.directory.offers(identifier)
    ]
    if manifest is None:
        return [], [], offers
    return _specs(manifest.inputs), _specs(manifest.outputs), offers


def _version(client: Client, identifier: Hash32, version: Version) -> dict[str, Any]:
    """`assurance` is the chain's claim; `index` what an index that recomputed the program makes of it."""
    recheck = client.accelerator.assurance(identifier) if client.accelerator else None
    return {
        "number": version.number,
        "version_id": identifier,
        "status": version.status.name.lower(),
        "assurance": str(client.deployment.assurance_of(has_program=version.has_program)),
        "index": None if recheck is None else {"assurance": str(recheck[0]), "reason": recheck[1]},
        "artifact": version.artifact,
        "cid": cid(version.artifact),
        "program_root": _root_or_none(version.program_root),
        "manifest_hash": version.manifest_hash,
        "royalty_bps": version.royalty_bps,
        "published_at": version.published_at,
        "uri": version.uri,
    }


def _root_or_none(root: Hash32) -> Hash32 | None:
    return None if root == ZERO_HASH else root


def _specs(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs]


def _row(spec: TensorSpec) -> tuple[str, str, list[int]]:
    return spec.name, spec.dtype, list(spec.shape)
