"""Datasets of lineage events, named and described as the OpenLineage standard wants it.

Tables are ``postgres://<host>:<port>`` and ``<database>.<schema>.<table>``, prefixes of the bucket
are ``s3://<bucket>`` and the prefix. Source: OpenLineage, "Naming Conventions".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    DatasetFacet,
    column_lineage_dataset,
    data_quality_assertions_dataset,
    data_quality_metrics_dataset,
    dataset_version_dataset,
    documentation_dataset,
    output_statistics_output_dataset,
    ownership_dataset,
    schema_dataset,
)

from nightshift.telemetry.lineage.load_facts import table_of

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.telemetry.lineage.gate_results import GateCheck
    from nightshift.telemetry.lineage.load_facts import ColumnFact, LoadSummary, ModelOwner

_URI = re.compile(r"(s3://[^/]+)/(.+)")
# Severities of ours in the words of the standard.
_SEVERITIES = {"critical": "error", "warning": "warn", "info": "warn"}


ColumnOrigins = dict[str, column_lineage_dataset.Fields]
"""What a column is made from, by its name."""
_COPIED = column_lineage_dataset.Transformation("DIRECT", "IDENTITY")
_COMPUTED = column_lineage_dataset.Transformation("DIRECT", "TRANSFORMATION")


@dataclass(frozen=True)
class OutputFacts:
    """What is known of a dataset that a load has written.

    Attributes:
        comment: Of its table in the catalog.
        owner: Of the model; None for data of no model.
        origins: Of its columns, where that is known.
    """

    load: LoadSummary
    columns: Sequence[ColumnFact]
    comment: str
    owner: ModelOwner | None
    origins: ColumnOrigins


class DatasetNames:
    """How the standard names the tables and prefixes of one deployment."""

    def __init__(self, settings: Settings) -> None:
        """Prepare the namespaces."""
        host, port = settings.warehouse_host, settings.warehouse_port
        self._tables = f"postgres://{host}:{port}"
        self._database = settings.warehouse_database
        self._bucket = f"s3://{settings.s3_bucket}"

    def of_table(self, dataset: str) -> tuple[str, str]:
        """Return namespace and name of a dataset's table."""
        schema, table = table_of(dataset)
        return self._tables, f"{self._database}.{schema}.{table}"

    def of_prefix(self, prefix: str) -> tuple[str, str]:
        """Return namespace and name of a prefix of the bucket."""
        return self._bucket, prefix

    def of_uri(self, uri: str) -> tuple[str, str]:
        """Return namespace and name of an S3 URI."""
        match = _URI.fullmatch(uri)
        return (match[1], match[2]) if match else self.of_prefix(uri)


def input_table(
    names: DatasetNames, dataset: str, checks: Sequence[GateCheck] = ()
) -> InputDataset:
    """Return a dataset that was read, with the checks that were made of it."""
    namespace, name = names.of_table(dataset)
    if not checks:
        return InputDataset(namespace, name)
    assertions = [
        data_quality_assertions_dataset.Assertion(
            assertion=check.expectation,
            success=check.has_passed,
            column=check.column or None,
            severity=_SEVERITIES.get(check.severity, "error"),
        )
        for check in checks
    ]
    facet = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(assertions)
    return InputDataset(namespace, name, inputFacets={"dataQualityAssertions": facet})


def output_table(names: DatasetNames, facts: OutputFacts) -> OutputDataset:
    """Return a dataset that a load has written, as its table and its profile describe it."""
    load, owner = facts.load, facts.owner
    namespace, name = names.of_table(load.dataset)
    facets = _table_facets(facts)
    if owner and owner.owner:
        owners = [ownership_dataset.Owner(f"team:{owner.owner}", "MAINTAINER")]
        facets["ownership"] = ownership_dataset.OwnershipDatasetFacet(owners)
    if facts.origins:
        lineage = column_lineage_dataset.ColumnLineageDatasetFacet(facts.origins)
        facets["columnLineage"] = lineage
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=load.n_rows
    )
    return OutputDataset(
        namespace,
        name,
        facets=facets,
        outputFacets={"outputStatistics": statistics},
    )


def output_prefix(
    name: tuple[str, str], version: str, n_rows: int | None, n_bytes: int | None
) -> OutputDataset:
    """Return a prefix of the bucket that was written."""
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=n_rows,
        size=n_bytes,
    )
    return OutputDataset(
        *name,
        facets={"version": dataset_version_dataset.DatasetVersionDatasetFacet(version)},
        outputFacets={"outputStatistics": statistics},
    )


def _table_facets(facts: OutputFacts) -> dict[str, DatasetFacet]:
    load, columns = facts.load, facts.columns
    fields = [
        schema_dataset.SchemaDatasetFacetFields(
            name=column.name,
            type=column.type,
            description=column.description,
            ordinal_position=position,
        )
        for position, column in enumerate(columns, start=1)
    ]
    facets: dict[str, DatasetFacet] = {"schema": schema_dataset.SchemaDatasetFacet(fields)}
    # Counts only: smallest, largest and frequent values are values of rows.
    metrics = {
        column.name: data_quality_metrics_dataset.ColumnMetrics(
            nullCount=column.n_missing,
            distinctCount=column.n_distinct,
        )
        for column in columns
        if column.n_missing is not None
    }
    facets["dataQualityMetrics"] = data_quality_metrics_dataset.DataQualityMetricsDatasetFacet(
        columnMetrics=metrics,
        rowCount=load.n_rows,
    )
    if load.last_content_hash:
        # Equal content has an equal version, also when it was loaded twice.
        version = dataset_version_dataset.DatasetVersionDatasetFacet(load.last_content_hash)
        facets["version"] = version
    if facts.comment:
        facets["documentation"] = documentation_dataset.DocumentationDatasetFacet(facts.comment)
    return facets


def raw_origins(names: DatasetNames, load: LoadSummary, contract: DatasetContract) -> ColumnOrigins:
    """Return which column of the delivered files each raw column was copied from."""
    origins = [names.of_uri(source) for source in load.sources]
    columns: ColumnOrigins = {}
    if not origins:
        return columns
    for column in contract.columns:
        fields = [
            column_lineage_dataset.InputField(
                *origin,
                field=column.delivered_name,
                transformations=[_COPIED],
            )
            for origin in origins
        ]
        columns[column.name] = column_lineage_dataset.Fields(inputFields=fields)
    return columns


def score_origins(names: DatasetNames, spec: ModelSpec) -> ColumnOrigins:
    """Return what a score is computed from: every feature of the model."""
    table = names.of_table(spec.features_dataset)
    fields = [
        column_lineage_dataset.InputField(*table, field=feature, transformations=[_COMPUTED])
        for feature in spec.features.names
    ]
    return {"score": column_lineage_dataset.Fields(inputFields=fields)}
