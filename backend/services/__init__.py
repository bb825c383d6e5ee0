"""Services of the dispatch backend."""
