"""Bodies that a training process imports by their names."""

import sys
import time

from services.rl.errors import TrainingError


def told(place, job):
    return {
        "company": job.company_id,
        "key": job.key,
        "now": place.loop.clock.now().isoformat(),
        "zone": place.loop.config.timezone,
        "torch": "torch" in sys.modules,
        "modules": "celery" in sys.modules,
    }


def refused(place, job):
    raise TrainingError("there is no champion to begin from")


def endless(place, job):
    (place.loop.home / "training.begun").touch()
    time.sleep(300)
    return {}
