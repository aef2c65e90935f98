"""HTTP over a published bundle: answers, events, health, metrics and a small storefront."""
