"""/v1/models, /v1/versions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from assay.api.context import (
    ERRORS,
    NOT_FOUND,
    AddressIn,
    ContextIn,
    CursorIn,
    HashIn,
    NameIn,
    NotFound,
    PageIn,
    SessionIn,
    page_out,
    stamp_of,
)
from assay.api.render import STATES, model_item, version_item
from assay.api.routes.nodes import offers_page
from assay.api.schemas import ModelItem, ModelOut, OfferItem, PageOut, VersionItem, VersionOut, VersionState
from assay.api.tagging import TaggedRoute
from assay.db.repositories import models
from assay.db.repositories.nodes import OfferFilter
from assay.db.tables import Cursor, Model, Version

router = APIRouter(prefix="/v1", route_class=TaggedRoute, responses=ERRORS)
MAX_VERSIONS = 100


@router.get("/models", operation_id="list_models", tags=["models"])
def list_models(
    session: SessionIn,
    cursor: CursorIn,
    page: PageIn,
    publisher: Annotated[AddressIn | None, Query()] = None,
    name: Annotated[NameIn | None, Query()] = None,
) -> PageOut[ModelItem]:
    """Registered models, oldest first."""
    return page_out(models.list_models(session, publisher, name, page), cursor, model_item)


@router.get("/models/{model_id}", operation_id="get_model", tags=["models"], responses=NOT_FOUND)
def get_model(session: SessionIn, cursor: CursorIn, model_id: HashIn) -> ModelOut:
    """One model with its versions, by id."""
    return _model_out(session, cursor, models.get_model(session, model_id), model_id)


@router.get("/models/{publisher}/{name}", operation_id="find_model", tags=["models"], responses=NOT_FOUND)
def find_model(session: SessionIn, cursor: CursorIn, publisher: AddressIn, name: NameIn) -> ModelOut:
    """One model with its versions, by the account that registered it and its name."""
    found = models.find_model(session, publisher, name)
    return _model_out(session, cursor, found, f"{publisher}/{name}")


def _model_out(session: Session, cursor: Cursor, model: Model | None, wanted: str) -> ModelOut:
    if model is None:
        raise NotFound(f"no model {wanted} up to block {cursor.number}", "model_unknown")
    versions = models.versions_of(session, model.model_id, MAX_VERSIONS)
    return ModelOut(
        **model_item(model).model_dump(), versions=_version_items(session, versions), **stamp_of(cursor)
    )


def _version_items(session: Session, versions: list[Version]) -> list[VersionItem]:
    offers = models.count_offers(session, [version.version_id for version in versions])
    return [version_item(version, offers.get(version.version_id, 0)) for version in versions]


@router.get("/versions", operation_id="list_versions", tags=["models"])
def list_versions(
    *,
    session: SessionIn,
    cursor: CursorIn,
    page: PageIn,
    model_id: Annotated[HashIn | None, Query()] = None,
    artifact: Annotated[HashIn | None, Query(description="sha256 of the ONNX file")] = None,
    status: Annotated[VersionState | None, Query()] = None,
) -> PageOut[VersionItem]:
    """Published versions, oldest first."""
    code = next((number for number, name in STATES.items() if name == status), None)
    found = models.list_versions(session, models.VersionFilter(model_id, artifact, code), page)
    offers = models.count_offers(session, [version.version_id for version in found.items])
    return page_out(found, cursor, lambda version: version_item(version, offers.get(version.version_id, 0)))


@router.get("/versions/{version_id}", operation_id="get_version", tags=["models"], responses=NOT_FOUND)
def get_version(session: SessionIn, cursor: CursorIn, version_id: HashIn) -> VersionOut:
    """One version."""
    version = models.get_version(session, version_id)
    if version is None:
        raise NotFound(f"no version {version_id} up to block {cursor.number}", "version_unknown")
    (item,) = _version_items(session, [version])
    return VersionOut(**item.model_dump(), **stamp_of(cursor))


@router.get("/versions/{version_id}/offers", operation_id="list_version_offers", tags=["nodes"])
def list_version_offers(
    session: SessionIn, cursor: CursorIn, context: ContextIn, page: PageIn, version_id: HashIn
) -> PageOut[OfferItem]:
    """Who serves a version, cheapest first."""
    return offers_page(session, cursor, context, OfferFilter(None, version_id, True), page)
