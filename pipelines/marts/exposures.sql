-- Grain: one item shown in one answer. Key: request_id, item_id.
WITH numbered AS (
    SELECT
        raw_exposures.*,
        ROW_NUMBER() OVER (PARTITION BY request_id, item_id ORDER BY position, occurred_at) AS copy
    FROM raw_exposures
    WHERE request_id IS NOT NULL AND item_id IS NOT NULL AND occurred_at IS NOT NULL
)

SELECT
    request_id, item_id, position, occurred_at, user_id, session_id, COALESCE(surface, '') AS surface,
    COALESCE(source, '') AS source, COALESCE(served_by, '') AS served_by, COALESCE(model_version, '') AS model_version,
    COALESCE(degraded, FALSE) AS degraded
FROM numbered
WHERE copy = 1
