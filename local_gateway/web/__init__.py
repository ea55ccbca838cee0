"""The dashboard: a page at `/`, and the routes under `/ui` that it reads."""
