"""Who decides a booking in an experiment, and when an experiment must stop."""
