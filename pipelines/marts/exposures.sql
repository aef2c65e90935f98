-- Grain: one item shown in one answer. Key: request_id, item_id.
WITH numbered AS (
    SELECT
        raw_exposures.*,
        ROW_NUMBER() OVER (PARTITION BY request_id, item_id ORDER BY position, occurred_at) AS copy
    FROM raw_exposures
    WHERE request_id IS NOT NULL AND item_id IS NOT NULL AND occurred_at IS NOT NULL
),

seen AS (
    SELECT DISTINCT request_id, item_id FROM raw_renders
)

SELECT
    e.request_id, e.item_id, e.position, e.occurred_at, e.user_id, e.session_id, COALESCE(e.surface, '') AS surface,
    COALESCE(e.source, '') AS source, COALESCE(e.served_by, '') AS served_by, COALESCE(e.model_version, '') AS model_version,
    COALESCE(e.degraded, FALSE) AS degraded, e.phase, e.page_id, e.seconds, e.propensity, e.team,
    whole.request_id IS NOT NULL OR one.request_id IS NOT NULL AS is_seen
FROM numbered AS e
LEFT JOIN seen AS whole ON whole.request_id = e.request_id AND whole.item_id IS NULL
LEFT JOIN seen AS one ON one.request_id = e.request_id AND one.item_id = e.item_id
WHERE e.copy = 1
