"""From booking history and public trips to days and demand models."""
