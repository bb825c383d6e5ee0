"""What Celery runs: thin names for the bodies in `services.learning`, and when they are due."""
