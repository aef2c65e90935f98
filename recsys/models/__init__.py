"""What ranks: one file per algorithm, numpy only, so that the service can import it. What fits them: `recsys.models.fit`."""
