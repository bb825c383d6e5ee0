"""HTTP: thin routes over the tables and the library; one blueprint per topic."""
