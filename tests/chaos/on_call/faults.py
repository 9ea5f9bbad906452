"""The one list of faults that on-call may meet."""

from __future__ import annotations

from tests.chaos.on_call import (
    faults_attacks,
    faults_drops,
    faults_models,
    faults_runs,
    faults_servers,
    faults_silence,
)

_MODULES = (
    faults_models,
    faults_servers,
    faults_drops,
    faults_runs,
    faults_silence,
    faults_attacks,
)
FAULTS = {fault.name: fault for module in _MODULES for fault in module.FAULTS}
