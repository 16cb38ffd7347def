"""The Autobahn test suite against `hub serve`: `make compliance`. See README.md."""
