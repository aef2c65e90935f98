-- Grain: one answer and one experiment that it was part of. Key: request_id, experiment.
SELECT request_id, experiment, MIN(arm) AS arm, MIN(unit) AS unit
FROM raw_arms
WHERE arm IS NOT NULL AND unit IS NOT NULL
GROUP BY request_id, experiment
