"""From a shop's exports to interaction tables: ingest (sources, as text), staging (typed), marts (what others read)."""
