"""`helm test`: every scorer lives, knows its name, and serves a release or says there is none: APPLICATION=URL…"""

import json
import sys
import time
import urllib.error
import urllib.request


def get(url: str) -> tuple[int, dict]:
    """Status and body; a Service may take a moment to know its pods."""
    for left in range(30, -1, -1):
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError as error:
            if not left:
                raise RuntimeError(f"{url}: {error}; kubectl get pods -l app.kubernetes.io/component=scorer") from error
            time.sleep(2)
    raise AssertionError


def look(application: str, root: str) -> str:
    """What one scorer is found to be."""
    assert get(root + "/v2/health/live") == (200, {"live": True})
    assert get(root + "/v2")[1]["name"] == "limaml"
    status, model = get(f"{root}/v2/models/{application}")
    if status == 503:
        return f"lives at {root}; no release is loaded yet, so requests are answered 503"
    assert status == 200, model
    assert model["name"] == application, model
    return f"serves model {model['versions']} at {root}"


wrong = []
for each in sys.argv[1:]:
    application, _, root = each.partition("=")
    try:
        print(f"{application}: {look(application, root)}")
    except (AssertionError, RuntimeError) as error:
        print(f"{application}: WRONG at {root}: {type(error).__name__} {error}")
        wrong.append(application)
if wrong:
    raise SystemExit(f"not as they should be: {', '.join(wrong)}")
