"""Run the dbt project: parse it once, build models in a child process, compile feature views."""
