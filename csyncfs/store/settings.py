"""Table ``setting``: what the mount remembers of itself between runs."""

from csyncfs.store.db import Store


def get(store: Store, name: str) -> str | None:
    row = store.one("SELECT value FROM setting WHERE name = ?", (name,))
    return row[0] if row else None


def put(store: Store, name: str, value: str) -> None:
    store.run(
        "INSERT INTO setting (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def remove(store: Store, name: str) -> None:
    store.run("DELETE FROM setting WHERE name = ?", (name,))
