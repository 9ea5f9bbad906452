"""Exit with 0 if this container's server answers at NIGHTSHIFT_HEALTH_URL."""  # noqa: INP001

import os
import sys
import urllib.request

URL = os.environ.get("NIGHTSHIFT_HEALTH_URL", "http://127.0.0.1:8080/api/v2/monitor/health")

try:
    urllib.request.urlopen(URL, timeout=8).close()  # noqa: S310 - the address is the operator's
except OSError as error:
    sys.exit(f"{URL}: {error}")
