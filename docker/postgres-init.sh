#!/bin/bash
# Runs once, on an empty data folder: one database and owner for each of warehouse, Airflow and MLflow.
# The server's own databases are closed too: analysts have no limits there.
set -euo pipefail
create() {
    psql --username=postgres --dbname=postgres --set=ON_ERROR_STOP=1 --quiet --set=role="$1" --set=database="$2" --set=password="$3" <<'SQL'
create role :"role" login password :'password';
create database :"database" owner :"role";
revoke all on database :"database" from public;
SQL
}
create nightshift warehouse "$NIGHTSHIFT_WAREHOUSE_PASSWORD"
create airflow airflow "$AIRFLOW_DATABASE_PASSWORD"
create mlflow mlflow "$MLFLOW_DATABASE_PASSWORD"
psql --username=postgres --dbname=postgres --set=ON_ERROR_STOP=1 --quiet --set=password="$NIGHTSHIFT_ANALYST_PASSWORD" <<'SQL'
create role analyst login password :'password';
revoke all on database postgres, template1 from public;
alter system set reserved_connections = 40;
SQL
