"""Fixtures every test may ask for."""

pytest_plugins = ["tests.support.fixtures_s3"]
