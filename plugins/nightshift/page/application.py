"""The web application: routes, the gate before them, and the headers of every answer.

Every route is a GET and changes nothing. ``?format=json`` gives the document of a page as JSON, so
that the page, its JSON and the views in the warehouse say the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import HTMLResponse, JSONResponse, Response

from nightshift.errors import NightshiftError, stack_of
from nightshift.lake.object_store import ObjectStore
from nightshift.page import stored_pages
from nightshift.page.documents import acts, data, drift, models, now, partitions
from nightshift.page.documents.requests import MissingPageError, parse_day
from nightshift.page.gates import STYLE_PATH
from nightshift.page.reader import PageBusyError, PageReader
from nightshift.page.rendering import render, stylesheet

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.page.gates import Gate
    from nightshift.page.reader import PageSnapshot
    from nightshift.page.stored_pages import StoredPage
    from nightshift.settings import Settings

logger = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
"""No script at all. Only Airflow's own interface, which has the same origin, frames the page."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}

RENEW_SECONDS = 60
"""As often as `nightshift watch` looks."""

Build = Callable[["PageSnapshot"], dict[str, Any]]


def create_app(settings: Settings, gate: Gate) -> FastAPI:
    """Return the application.

    Args:
        settings: Warehouse, bucket, and the folder of contracts.
        gate: Who may see it.
    """
    reader = PageReader(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        reader.close()

    app = FastAPI(
        title="nightshift", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan
    )
    # One line per route: what the page has is what is listed here.
    pages = Routes(settings, reader)
    app.get("/")(pages.show_now)
    app.get("/models")(pages.show_models)
    app.get("/models/{model}")(pages.show_model)
    app.get("/drift")(pages.show_drift)
    app.get("/drift/{model}/{feature}/{day}")(pages.show_cell)
    app.get("/partitions")(pages.show_calendar)
    app.get("/partitions/{day}")(pages.show_partition)
    app.get("/data")(pages.show_datasets)
    app.get("/data/{dataset:path}")(pages.show_dataset)
    app.get("/acts")(pages.show_acts)
    app.get("/stored/report/{model}/{day}")(pages.show_report)
    app.get("/stored/evidence/{promotion_id}")(pages.show_evidence)
    app.get("/stored/gate/{day}/{dataset:path}")(pages.show_gate)
    app.get("/stored/figure/{model}/{version}/{name}")(pages.send_figure)
    app.get(STYLE_PATH)(send_stylesheet)
    app.add_exception_handler(NightshiftError, answer_error)
    app.add_exception_handler(404, answer_missing)
    app.add_exception_handler(405, answer_missing)
    app.add_exception_handler(RequestValidationError, answer_missing)

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await gate.refusal(request)
        if response is None:
            try:
                response = await answer(request)
            # The framework's own answer would lack the headers, and raise again in the server.
            except Exception as error:  # noqa: BLE001
                response = await answer_error(request, error)
        # A stored page brings a policy of its own.
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return app


class Routes:
    """The routes.

    Args:
        settings: Bucket and folder of contracts.
        reader: The warehouse.
    """

    def __init__(self, settings: Settings, reader: PageReader) -> None:
        self._settings = settings
        self._reader = reader

    def show_now(self, request: Request) -> Response:
        """Answer with what is broken now; a browser asks again until a reader stops it."""
        response = self._answer(request, "now", now.now_document)
        if request.query_params.get("renew") != "no":
            response.headers["Refresh"] = str(RENEW_SECONDS)
        return response

    def show_models(self, request: Request) -> Response:
        """Answer with all models."""
        return self._answer(
            request,
            "models",
            models.models_document,
        )

    def show_model(self, request: Request, model: str, metric: str | None = None) -> Response:
        """Answer with one model."""
        return self._answer(
            request,
            "model",
            lambda snapshot: models.model_document(
                snapshot,
                model,
                metric,
            ),
        )

    def show_drift(
        self,
        request: Request,
        model: str | None = None,
        n_days: int = Query(drift.DEFAULT_DAYS, alias="days"),
        last: str | None = None,
    ) -> Response:
        """Answer with the heat map of a model's features."""
        day = parse_day(last) if last else None
        return self._answer(
            request,
            "drift",
            lambda snapshot: drift.drift_document(
                snapshot,
                model,
                n_days,
                day,
            ),
            drift.with_cells,
        )

    def show_cell(self, request: Request, model: str, feature: str, day: str) -> Response:
        """Answer with a feature's two distributions on a day."""
        partition = parse_day(day)
        return self._answer(
            request,
            "cell",
            lambda snapshot: self._cell(
                drift.cell_document(
                    snapshot,
                    model,
                    feature,
                    partition,
                )
            ),
        )

    def show_calendar(self, request: Request, model: str | None = None) -> Response:
        """Answer with a model's calendar."""
        return self._answer(
            request,
            "calendar",
            lambda snapshot: partitions.calendar_document(snapshot, model),
        )

    def show_partition(self, request: Request, day: str, model: str | None = None) -> Response:
        """Answer with one day."""
        partition = parse_day(day)
        return self._answer(
            request,
            "partition",
            lambda snapshot: partitions.partition_document(
                snapshot,
                partition,
                model,
            ),
        )

    def show_datasets(self, request: Request, layer: str = data.LAYERS[0]) -> Response:
        """Answer with the datasets of a layer."""
        contracts = self._contracts()
        return self._answer(
            request,
            "datasets",
            lambda snapshot: data.datasets_document(
                snapshot,
                contracts,
                layer,
            ),
        )

    def show_dataset(self, request: Request, dataset: str) -> Response:
        """Answer with one dataset."""
        contracts = self._contracts()
        return self._answer(
            request,
            "dataset",
            lambda snapshot: data.dataset_document(
                snapshot,
                contracts,
                dataset,
            ),
        )

    def show_acts(self, request: Request, actor: str | None = None) -> Response:
        """Answer with what people did."""
        return self._answer(
            request, "acts", lambda snapshot: acts.acts_document(snapshot, actor or None)
        )

    def show_report(self, request: Request, model: str, day: str) -> Response:
        """Answer with Evidently's report of a partition."""
        partition = parse_day(day)
        return self._frame(
            request,
            lambda snapshot: stored_pages.drift_report(
                snapshot,
                model,
                partition,
            ),
        )

    def show_evidence(self, request: Request, promotion_id: int) -> Response:
        """Answer with the evidence page of a decision."""
        return self._frame(
            request, lambda snapshot: stored_pages.evidence_page(snapshot, promotion_id)
        )

    def show_gate(self, request: Request, day: str, dataset: str) -> Response:
        """Answer with the page of a gate."""
        partition = parse_day(day)
        return self._frame(
            request,
            lambda snapshot: stored_pages.gate_page(
                snapshot,
                dataset,
                partition,
            ),
        )

    def send_figure(self, model: str, version: int, name: str) -> Response:
        """Answer with a figure of a training."""
        with self._reader.snapshot() as snapshot:
            figure = stored_pages.training_figure(
                snapshot,
                model,
                version,
                name,
            )
        return self._stored(figure)

    def _frame(self, request: Request, find: Callable[[PageSnapshot], StoredPage]) -> Response:
        """Answer with a page of the lake, in a frame below our own navigation."""
        with self._reader.snapshot() as snapshot:
            page = find(snapshot)
        # The frame requests the same address with `raw`.
        if request.query_params.get("raw"):
            return self._stored(page)
        return HTMLResponse(render(request, "stored", {"title": page.title}))

    def _stored(self, page: StoredPage) -> Response:
        content = stored_pages.read_page(self._store, page)
        headers = {"Content-Security-Policy": page.policy}
        return Response(
            content,
            media_type=page.content_type,
            headers=headers,
        )

    def _answer(
        self,
        request: Request,
        template: str,
        build: Build,
        for_programs: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> Response:
        """Answer with a document as a page, or as JSON.

        Args:
            request: What was asked for.
            template: Name of the page.
            build: Makes the document.
            for_programs: Gives the same figures the form that the JSON has.
        """
        with self._reader.snapshot() as snapshot:
            document = build(snapshot)
            document["absent"] = snapshot.absent
        # The same document, so both say the same.
        if request.query_params.get("format") == "json":
            text = json.dumps(
                for_programs(document),
                default=str,
                allow_nan=False,
                indent=1,
            )
            return Response(text, media_type="application/json")
        return HTMLResponse(render(request, template, document))

    def _cell(self, document: dict[str, Any]) -> dict[str, Any]:
        """Add the two distributions, whose reference is an object of the lake."""
        profile, file = document.pop("profile"), document.pop("reference_file")
        document |= {"bins": [], "problem": None}
        if profile is None:
            document["problem"] = "The partition has no profile (`nightshift profile` makes one)."
            return document
        if file is None:
            document["problem"] = "The champion of that day is not in the registry."
            return document
        page = stored_pages.StoredPage(
            file["metadata_key"], "The reference profile", sha256=file["metadata_sha256"]
        )
        # The digest of the registry: another reference would show another drift.
        try:
            content = stored_pages.read_page(self._store, page)
        # The figures of the warehouse are shown all the same.
        except NightshiftError as error:
            document["problem"] = error.what
            return document
        document["bins"] = drift.distributions(
            document["measured"],
            profile,
            content,
        )
        return document

    @cached_property
    def _store(self) -> ObjectStore:
        """Return the bucket; a client takes 0.2 s to make, so the pages share one."""
        return ObjectStore.open(self._settings)

    def _contracts(self) -> dict[str, DatasetContract]:
        from nightshift.contracts.datasets import read_contracts

        return dict(read_contracts(self._settings.datasets_dir).documents)


def send_stylesheet() -> Response:
    """Answer with the style sheet; it has no data and needs no login."""
    return Response(
        stylesheet(),
        media_type="text/css",
        headers={"Cache-Control": "max-age=3600"},
    )


async def answer_error(request: Request, error: Exception) -> Response:
    """Answer with an error's code and what to do; of other errors only that there was one."""
    status = 500
    if isinstance(error, MissingPageError):
        status = 404
    elif isinstance(error, PageBusyError):
        status = 503
    document = {"code": "NS-CORE-000", "what": "The page could not be made.", "todo": None}
    if isinstance(error, NightshiftError):
        document = {"code": error.code, "what": error.what, "todo": error.todo}
    else:
        # The text of a foreign error may hold a value: no reader gets it, the log without values.
        logger.error("the page could not be made:\n%s", stack_of(error))
    if request.query_params.get("format") == "json":
        return JSONResponse(document, status)
    return HTMLResponse(
        render(request, "error", document),
        status,
    )


async def answer_missing(request: Request, _: Exception) -> Response:
    """Answer to an address that is no page."""
    return await answer_error(request, MissingPageError("There is no such page."))
