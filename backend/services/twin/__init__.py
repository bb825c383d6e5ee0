"""A company and its city, played against the real API and database: the production twin."""
