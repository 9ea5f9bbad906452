"""Write the JSON Schema of the settings of notices, for editors and for checks in CI.

``python -m nightshift.notices.settings_schema docs`` writes ``schemas/notices.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nightshift.contracts.reference_page import json_schema
from nightshift.notices.notice_settings import NoticeSettings

SCHEMA_FILE = "notices.json"


def schema_text() -> str:
    """Return the schema as JSON."""
    schema = json_schema(NoticeSettings)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) / "schemas" / SCHEMA_FILE
    target.write_text(schema_text(), encoding="utf-8")
