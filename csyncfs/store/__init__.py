"""The store: SQLite truth about names, versions and promises.

``db`` owns the connection and transactions; the other modules are plain functions, one
module a table. No other package imports ``sqlite3``.
"""
