"""The same from a script without an event loop; it needs the Redis of the workers.

Run it with `REDIS_URL=redis://localhost python -m hub.examples.notifications.notify ann "Your report is ready"`.
"""

from __future__ import annotations

import sys

from hub.examples.notifications.app import settings
from hub.sync import Publisher

if __name__ == "__main__":
    user, text = sys.argv[1:]
    with Publisher(settings) as publisher:
        publisher.publish(f"inbox:#{user}", {"text": text, "kind": "done"})
