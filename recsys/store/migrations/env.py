"""What Alembic runs: the migrations on the connection that `recsys.store.migrate` gives."""

from __future__ import annotations

from alembic import context

from recsys.store.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
