"""`helm test`: a scorer lives, knows its name, and serves a release or says there is none: APPLICATION URL."""

import json
import sys
import time
import urllib.error
import urllib.request

application, root = sys.argv[1:]


def get(path: str) -> tuple[int, dict]:
    """Status and body; a Service may take a moment to know its pods."""
    for left in range(30, -1, -1):
        try:
            with urllib.request.urlopen(root + path, timeout=5) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError as error:
            if not left:
                raise SystemExit(
                    f"{root}{path}: {error}; kubectl get pods -l app.kubernetes.io/component=scorer"
                ) from error
            time.sleep(2)
    raise AssertionError


assert get("/v2/health/live") == (200, {"live": True})
assert get("/v2")[1]["name"] == "limaml"
status, model = get(f"/v2/models/{application}")
if status == 503:
    print(f"{application}: lives at {root}; no release is loaded yet, so requests are answered 503")
else:
    assert status == 200, model
    assert model["name"] == application, model
    print(f"{application}: serves model {model['versions']} at {root}")
