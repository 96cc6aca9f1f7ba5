"""Models and their versions."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, contains_eager, joinedload

from assay.db.repositories.paging import Page, PageRequest, fetch_page
from assay.db.tables import Model, Offer, Version


@dataclass(frozen=True, slots=True)
class VersionFilter:
    model_id: str | None = None
    artifact: str | None = None
    status: int | None = None


def _versions() -> Select[Version]:
    query = select(Version).join(Version.model)
    return query.options(contains_eager(Version.model), joinedload(Version.program_check))


def list_models(session: Session, publisher: str | None, name: str | None, page: PageRequest) -> Page[Model]:
    query = select(Model)
    if publisher is not None:
        query = query.where(Model.publisher == publisher)
    if name is not None:
        query = query.where(Model.name == name)
    return fetch_page(session, query, (Model.block_number, Model.log_index), page)


def get_model(session: Session, model_id: str) -> Model | None:
    return session.get(Model, model_id)


def find_model(session: Session, publisher: str, name: str) -> Model | None:
    """By the account that registered it: that is what `model_id` commits to."""
    return session.scalars(select(Model).where(Model.registered_by == publisher, Model.name == name)).first()


def list_versions(session: Session, wanted: VersionFilter, page: PageRequest) -> Page[Version]:
    query = _versions()
    if wanted.model_id is not None:
        query = query.where(Version.model_id == wanted.model_id)
    if wanted.artifact is not None:
        query = query.where(Version.artifact == wanted.artifact)
    if wanted.status is not None:
        query = query.where(Version.status == wanted.status)
    return fetch_page(session, query, (Version.block_number, Version.log_index), page)


def versions_of(session: Session, model_id: str, limit: int) -> list[Version]:
    """Newest first."""
    query = _versions()
    return list(
        session.scalars(
            query.where(Version.model_id == model_id).order_by(Version.number.desc()).limit(limit)
        )
    )


def get_version(session: Session, version_id: str) -> Version | None:
    query = _versions()
    return session.scalars(query.where(Version.version_id == version_id)).first()


def count_offers(session: Session, version_ids: list[str]) -> dict[str, int]:
    """Active offers of each version; versions without one are left out."""
    query = (
        select(Offer.version_id, func.count())
        .where(Offer.version_id.in_(version_ids), Offer.active.is_(True))
        .group_by(Offer.version_id)
    )
    return {version_id: count for version_id, count in session.execute(query)}
